"""FD-Loss: distances, statistics and whole steps as recorded from its official code."""

import copy
import dataclasses
import subprocess
import sys
import types

import pytest
import torch

from sida.config.lookup import ALLOW, ROOT
from sida.errors import SettingError
from sida.plugins.rivals.fd_loss import FD_LOSS, CosineSchedule, FDLossOptions, FrechetLoss, FrechetTerm, moments
from sida.training.batches import MicroBatch
from sida.training.processes import ALONE
from tests.golden.vectors import load_tensors
from tests.near import assert_near, is_copy
from tests.training.test_identity import digest
from tests.training.toy import DATASET

#: Values went through float32 in the official code.
VALUE, GRADIENT, STEP = 1e-6, 1e-10, 3e-6


#: A program that reads the settings of a monitor and of a judge in a process of its own, and prints them.
WITHOUT_TORCH = """
import sys
from sida.config.recipe import EvaluationSettings
from sida.config.settings import from_mapping
from sida.errors import UserError

spec = {"every_kimg": 1, "monitor": "sida.eval.measuring.monitor:make_monitor", "kwargs": {"trails": 2}}
assert "sida.eval" not in sys.modules
try:
    from_mapping(EvaluationSettings, spec, "spec.evaluation")
except UserError as error:
    print(error)

from sida.plugins.rivals.fd_loss import FDLossOptions
print(FDLossOptions().assets(32))
assert "torch" not in sys.modules
"""


def test_judges_and_monitors_are_known_without_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True)
    monitor, assets = done.stdout.splitlines()
    # A monitor's name brings the package that registers its arguments.
    assert monitor.startswith("spec.evaluation.kwargs.trails: ")
    assert "trials" in monitor
    assert assets == "['inception']"


def arrays_of(name):
    return load_tensors(f"rivals/fdloss_{name}")


def term_of(arrays, features=None, prefix="in/", **options):
    mean, cov = (arrays[f"{prefix}reference_{name}"] for name in ("mean", "cov"))
    return FrechetTerm(types.SimpleNamespace(mean=mean, cov=cov, features=features), FDLossOptions(**options))


@pytest.mark.parametrize("judges", [(), ("inception", "inception")])
def test_judges_are_one_or_more_each_once(judges):
    with pytest.raises(SettingError, match="judges"):
        FDLossOptions(judges=judges)


def test_distance_and_its_slope():
    """Two forms of the root in the official code give one distance; the slope is compared after symmetrisation."""
    arrays, _ = arrays_of("distance")
    mean, cov, term = arrays["in/moments_mean"], arrays["in/moments_cov"], term_of(arrays)
    distance, slope = term.distance(mean, cov)
    for root in ("eigvalsh", "eigvals"):
        assert_near(distance, arrays[f"{root}/moments/value"], VALUE)
        expected = arrays[f"{root}/moments/grad_cov"]
        assert_near(slope, (expected + expected.T) / 2, GRADIENT)
        assert_near(2 * (mean - term.mean), arrays[f"{root}/moments/grad_mean"], GRADIENT)
    equal, _ = term.distance(term.mean, term.judge.cov)
    assert abs(float(equal) - float(arrays["equal/value"])) < 1e-6
    # A covariance without full rank has a finite slope.
    rows = arrays["in/features"][:3]
    distance, slope = term.distance(rows.mean(0), torch.cov(rows.T))
    assert_near(distance, arrays["few/value"], VALUE)
    assert_near((rows - rows.mean(0)) @ slope + 2 / 3 * (rows.mean(0) - term.mean), arrays["few/grad_features"], 1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "limits"),
    [
        ("sums", {"statistics": "queue", "population": 12}, (GRADIENT, VALUE, VALUE)),
        # Float32 in the official code.
        ("snapshot", {"statistics": "queue", "population": 12}, (GRADIENT, 1e-4, 1e-4)),
        ("ema0.9", {"decay": 0.9, "population": 12}, (GRADIENT, VALUE, VALUE)),
        ("ema0.999", {"decay": 0.999, "population": 12}, (GRADIENT, VALUE, VALUE)),
    ],
)
def test_statistics_step_by_step(kind, options, limits):
    arrays, info = arrays_of("statistics")
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
        assert_near(mean, arrays[f"{kind}/{step}/mean"], limits[0])
        assert_near(cov, arrays[f"{kind}/{step}/cov"], limits[0])
        assert_near(distance, arrays[f"{kind}/{step}/value"], limits[1])
        # Ours counts the batch's images, so that a mean over them has the official gradient.
        assert_near(gradient / len(rows), arrays[f"{kind}/{step}/grad_new"], limits[2])
    if "queue" in state:
        assert is_copy(state["queue"], arrays[f"{kind}/after/feats"])


def test_whole_steps():
    """Fill, two judges, normalised loss, gradients at the generator's parameters, rate: six steps."""
    arrays, info = arrays_of("step_f64")
    kinds = {"ema0.9": {"decay": 0.9}, "sums": {"statistics": "queue", "population": info["queue"]}}
    terms = {}
    for number, judge in enumerate(info["judges"]):
        w, b = arrays[f"judge{number}/w"], arrays[f"judge{number}/b"]
        features = lambda images, w=w, b=b: (images.flatten(1) / 255 @ w + b).tanh()
        terms[f"j{number}"] = term_of(arrays, features, f"judge{number}/", **kinds[judge["statistics"]])
    generator = {name: arrays[f"generator/{name}"].clone().requires_grad_() for name in ("w", "b", "e")}

    def generated(labels, latents):
        hidden = latents.flatten(1) @ generator["w"] + generator["e"][labels] + generator["b"]
        return hidden.tanh().reshape(len(latents), 1, 4, 4)

    fills = len([key for key in arrays if key.startswith("fill/")]) // 2
    with torch.no_grad():
        for number in range(fills):
            images = generated(arrays[f"fill/{2 * number}"], arrays[f"fill/{2 * number + 1}"])
            for term in terms.values():
                term.fill(term.judge.features(images * 127.5 + 127.5))
    assert_near(terms["j0"].state()["first"], arrays["judge0/start/mu_ema"], STEP)
    loss = FrechetLoss(terms, lambda: ALONE, None)
    optimizer = torch.optim.AdamW(generator.values(), betas=tuple(info["betas"]), eps=info["eps"], weight_decay=0)
    images = info["batch"] / 1000
    schedule = CosineSchedule(0, None, total_kimg=info["steps"] * images, lr_rampup_kimg=info["warmup"] * images)
    for step in range(info["steps"]):
        optimizer.param_groups[0]["lr"] = info["lr"] * schedule.at(step * info["batch"]).lr_factor
        assert optimizer.param_groups[0]["lr"] == pytest.approx(float(arrays[f"{step}/lr"]), abs=1e-12)
        found = loss(MicroBatch(generated(arrays[f"{step}/labels"], info["noise_scale"] * arrays[f"{step}/z"]), None))
        optimizer.zero_grad()
        found["fd"].mean().backward()
        assert_near(found["fd"].mean(), arrays[f"{step}/loss"], STEP)
        for name in terms:
            assert_near(found[f"fd_{name}"].mean(), arrays[f"{step}/fid_{name}"], STEP)
        for name, parameter in generator.items():
            assert_near(parameter.grad, arrays[f"{step}/grad/{name}"], STEP)
        optimizer.step()
    assert_near(terms["j0"].state()["second"], arrays["judge0/after/m2_ema"], STEP)
    assert_near(terms["j1"].state()["queue"], arrays["judge1/after/feats"], STEP)


def test_features_that_are_not_finite_change_nothing():
    arrays, _ = arrays_of("distance")
    parts = {"finite": slice(0, 5), "not": slice(5, 10)}
    judges = {
        name: term_of(arrays, lambda images, part=part: images.flatten(1)[:, part], population=24)
        for name, part in parts.items()
    }
    for term in judges.values():
        term.fill(arrays["in/features"])
    before = copy.deepcopy({name: term.state() for name, term in judges.items()})
    images = torch.zeros(4, 1, 4, 4, dtype=torch.float64)
    images[1, 0, 1, 2] = float("nan")
    given = MicroBatch(images, None)
    terms = FrechetLoss(judges, lambda: ALONE, None)(given)
    assert given.dropped == 4
    assert all(len(values) == 0 for values in terms.values())
    for judge, term in judges.items():
        assert is_copy(term.state(), before[judge])


OWN = dataclasses.replace(FD_LOSS, name="own", saw=FD_LOSS.exposure)


@pytest.mark.parametrize("method", ["fd-loss", f"{__name__}:OWN"])
def test_digest_holds_the_judges_networks(monkeypatch, method):
    monkeypatch.setenv(ALLOW, __name__)
    spec = {"name": "x", "method": method, "dataset": DATASET, "teacher": "t", "init": "t", "total_kimg": 1}
    spec |= {"batch_size": 16, "lr": 1e-3, "options": {"judges": ["digits"]}}
    before = digest(spec)
    monkeypatch.setattr("sida.eval.features.digits.weights_digest", lambda state: "another network")
    assert digest(spec) != before
