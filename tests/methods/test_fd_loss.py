"""FD-Loss: distances, statistics and whole steps as recorded from its official code."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sida.methods.fd_loss import CosineSchedule, FDLossOptions, FrechetLoss, FrechetTerm, moments
from sida.training.batches import MicroBatch
from sida.training.processes import ALONE
from tests.golden.vectors import load, relative_error

#: Values went through float32 in the official code.
VALUE, GRADIENT, STEP = 1.2e-7, 1e-10, 3e-6


@dataclasses.dataclass
class Judge:
    mean: torch.Tensor
    cov: torch.Tensor
    features: object = None


def arrays_of(name):
    arrays, info = load(f"rivals/{name}")
    return {key: torch.from_numpy(value) for key, value in arrays.items()}, info


def term_of(arrays, features=None, prefix="in/", **options):
    judge = Judge(arrays[f"{prefix}reference_mean"], arrays[f"{prefix}reference_cov"], features)
    return FrechetTerm(judge, FDLossOptions(**options))


@pytest.mark.parametrize("root", ["eigvalsh", "eigvals"])
def test_distance_and_its_slope(root):
    """Two forms of the root in the official code give one distance; the slope is compared after symmetrisation."""
    arrays, _ = arrays_of("fdloss_distance")
    mean, cov = arrays["in/moments_mean"], arrays["in/moments_cov"]
    term = term_of(arrays)
    distance, slope = term.distance(mean, cov)
    assert relative_error(distance, arrays[f"{root}/moments/value"].numpy()) < VALUE
    expected = arrays[f"{root}/moments/grad_cov"]
    assert relative_error(slope, ((expected + expected.T) / 2).numpy()) < GRADIENT
    assert relative_error(2 * (mean - term.mean), arrays[f"{root}/moments/grad_mean"].numpy()) < GRADIENT
    equal, _ = term.distance(term.mean, term.judge.cov)
    assert abs(float(equal) - float(arrays["equal/value"])) < 1e-6


def test_a_covariance_without_full_rank_has_a_finite_slope():
    arrays, _ = arrays_of("fdloss_distance")
    rows = arrays["in/features"][:3]
    distance, slope = term_of(arrays).distance(rows.mean(0), torch.cov(rows.T))
    assert relative_error(distance, arrays["few/value"].numpy()) < VALUE
    gradient = (rows - rows.mean(0)) @ slope + 2 / 3 * (rows.mean(0) - arrays["in/reference_mean"])
    assert relative_error(gradient, arrays["few/grad_features"].numpy()) < 1e-6


@pytest.mark.parametrize(
    ("kind", "options", "limits"),
    [
        ("sums", {"statistics": "queue", "population": 12}, (GRADIENT, VALUE, 1.2e-7)),
        # Float32 in the official code.
        ("snapshot", {"statistics": "queue", "population": 12}, (GRADIENT, 1e-4, 1e-4)),
        ("ema0.9", {"decay": 0.9, "population": 12}, (GRADIENT, VALUE, 1.2e-7)),
        ("ema0.999", {"decay": 0.999, "population": 12}, (GRADIENT, VALUE, 1.2e-7)),
    ],
)
def test_statistics_step_by_step(kind, options, limits):
    arrays, info = arrays_of("fdloss_statistics")
    term = term_of(arrays, **options)
    term.fill(arrays["in/first"][:7])
    term.fill(arrays["in/first"][7:])
    for step in range(info["steps"]):
        rows = arrays[f"in/new/{step}"]
        distance, gradient = term(rows, moments(rows))
        state = term.state()
        if "queue" in state:
            mean, cov = state["queue"].double().mean(0), torch.cov(state["queue"].double().T)
        else:
            mean = state["first"]
            cov = state["second"] - torch.outer(mean, mean)
        assert relative_error(mean, arrays[f"{kind}/{step}/mean"].numpy()) < limits[0]
        assert relative_error(cov, arrays[f"{kind}/{step}/cov"].numpy()) < limits[0]
        assert relative_error(distance, arrays[f"{kind}/{step}/value"].numpy()) < limits[1]
        # Ours counts the batch's images, so that a mean over them has the official gradient.
        assert relative_error(gradient / len(rows), arrays[f"{kind}/{step}/grad_new"].numpy()) < limits[2]
    if "queue" in state:
        assert torch.equal(state["queue"], arrays[f"{kind}/after/feats"])


def test_whole_steps():
    """Fill, two judges, normalised loss, gradients at the generator's parameters, rate: six steps."""
    arrays, info = arrays_of("fdloss_step_f64")
    kinds = {"ema0.9": {"decay": 0.9}, "sums": {"statistics": "queue", "population": info["queue"]}}
    terms = {}
    for number, judge in enumerate(info["judges"]):
        w, b = arrays[f"judge{number}/w"], arrays[f"judge{number}/b"]
        features = lambda images, w=w, b=b: (images.flatten(1) / 255 @ w + b).tanh()
        terms[f"j{number}"] = term_of(arrays, features, f"judge{number}/", **kinds[judge["statistics"]])
    names = ("w", "b", "e")
    parameters = [arrays[f"generator/{name}"].clone().requires_grad_() for name in names]

    def generated(labels, latents):
        w, b, e = parameters
        return (latents.flatten(1) @ w + e[labels] + b).tanh().reshape(len(latents), 1, 4, 4)

    fills = len([key for key in arrays if key.startswith("fill/")]) // 2
    with torch.no_grad():
        for number in range(fills):
            images = generated(arrays[f"fill/{2 * number}"], arrays[f"fill/{2 * number + 1}"])
            for term in terms.values():
                term.fill(term.judge.features(images * 127.5 + 127.5))
    assert relative_error(terms["j0"].state()["first"], arrays["judge0/start/mu_ema"].numpy()) < STEP
    loss = FrechetLoss(terms, lambda: ALONE, None)
    optimizer = torch.optim.AdamW(parameters, betas=tuple(info["betas"]), eps=info["eps"], weight_decay=0)
    images = info["batch"] / 1000
    schedule = CosineSchedule(0, None, total_kimg=info["steps"] * images, lr_rampup_kimg=info["warmup"] * images)
    for step in range(info["steps"]):
        optimizer.param_groups[0]["lr"] = info["lr"] * schedule.at(step * info["batch"]).lr_factor
        assert optimizer.param_groups[0]["lr"] == pytest.approx(float(arrays[f"{step}/lr"]), abs=1e-12)
        found = loss(MicroBatch(generated(arrays[f"{step}/labels"], info["noise_scale"] * arrays[f"{step}/z"]), None))
        optimizer.zero_grad()
        found["fd"].mean().backward()
        assert relative_error(found["fd"].mean(), arrays[f"{step}/loss"].numpy()) < STEP
        for name in terms:
            assert relative_error(found[f"fd_{name}"].mean(), arrays[f"{step}/fid_{name}"].numpy()) < STEP
        for name, parameter in zip(names, parameters):
            assert relative_error(parameter.grad, arrays[f"{step}/grad/{name}"].numpy()) < STEP
        optimizer.step()
    assert relative_error(terms["j0"].state()["second"], arrays["judge0/after/m2_ema"].numpy()) < STEP
    assert relative_error(terms["j1"].state()["queue"], arrays["judge1/after/feats"].numpy()) < STEP


def test_features_that_are_not_finite_change_nothing():
    arrays, _ = arrays_of("fdloss_distance")
    judges = {
        "finite": term_of(arrays, features=lambda images: images.flatten(1)[:, :5], population=24),
        "not": term_of(arrays, features=lambda images: images.flatten(1)[:, 5:10], population=24),
    }
    for term in judges.values():
        term.fill(arrays["in/features"])
    before = {judge: {name: value.clone() for name, value in term.state().items()} for judge, term in judges.items()}
    images = torch.zeros(4, 1, 4, 4, dtype=torch.float64)
    images[1, 0, 1, 2] = float("nan")
    given = MicroBatch(images, None)
    terms = FrechetLoss(judges, lambda: ALONE, None)(given)
    assert given.dropped == 4
    assert all(len(values) == 0 for values in terms.values())
    for judge, term in judges.items():
        assert all(torch.equal(value, before[judge][name]) for name, value in term.state().items())
