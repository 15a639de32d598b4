"""Metrics against golden vectors of the public implementations, brute force and properties; a panel of judges."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import eval.metrics.precision_recall
from eval.measuring import trial
from eval.measuring.measure import measure
from eval.measuring.protocol import load_protocol
from eval.measuring.references import Reference
from eval.metrics.inception_score import InceptionScoreSums, inception_score
from eval.metrics.kernel_distance import kernel_distance
from eval.metrics.kinds import METRIC_KINDS
from eval.metrics.memorisation import memorisation, nearest
from eval.metrics.metric import Sides
from eval.metrics.precision_recall import neighbour_shares, precision_recall, radii
from eval.metrics.sliced import sliced_distance
from eval.metrics.statistics import FeatureStatistics
from eval.results.measurements import record_identity
from sida.config.datasets import dataset_spec
from sida.files.atomic import json_text
from tests.golden.vectors import load
from tests.near import assert_near
from tests.refused import refused


def random_probabilities(count: int, classes: int = 5, seed: int = 0) -> torch.Tensor:
    logits = torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.softmax(2 * logits, 1)


def test_inception_score_golden(golden):
    probs = golden("metrics/features")[0]["probs"]
    expected, _ = golden("metrics/sid")
    for n, splits in ((500, 1), (500, 7), (500, 10), (497, 10)):
        score = inception_score(probs[:n], splits)
        assert_near(score, expected[f"sid/is_n{n}_splits{splits}"], 1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 60), st.integers(1, 7), st.lists(st.integers(1, 25), min_size=1, max_size=4), st.booleans())
def test_inception_score_streams_and_merges(count, splits, sizes, backwards):
    probs = random_probabilities(count)
    shards, position = [], 0
    while position < count:
        size = sizes[len(shards) % len(sizes)]
        shard = InceptionScoreSums(count, splits, probs.shape[1])
        shard.update(probs[position : position + size], position)
        shards.append(shard)
        position += size
    total = InceptionScoreSums(count, splits, probs.shape[1])
    for shard in reversed(shards) if backwards else shards:
        total.merge(shard)
    assert total.score() == pytest.approx(inception_score(probs, splits), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("classes", [10, 100])
def test_a_random_order_is_not_sorted_and_a_slightly_sorted_one_is(classes):
    random = np.random.default_rng(0)
    order = random.integers(0, classes, 20_000)
    # In every second split a tenth of the images is of the first class.
    unlike = np.where((np.arange(20_000) // 2000 % 2 == 0) & (random.random(20_000) < 0.1), 0, order)
    for indices, expected in ((order, False), (unlike, True), (np.sort(order), True)):
        sums = InceptionScoreSums(20_000, 10, classes)
        sums.update(torch.eye(classes)[torch.from_numpy(indices)], 0)
        assert sums.is_sorted() == expected


def test_faults_of_scores():
    refused("softmax", inception_score, np.random.default_rng(0).standard_normal((20, 4)))
    refused("splits", inception_score, random_probabilities(5), 10)
    refused(r"shape \(N, K\)", inception_score, np.ones(5))
    # Precision recall faults.
    rows = np.zeros((10, 3), np.float32)
    refused("more than 3 samples", precision_recall, rows, rows[:3])
    refused("one extractor", precision_recall, rows, rows[:, :2])
    refused("k must be", precision_recall, rows, rows, k=0)
    refused(r"both must be \(N, C\) of one extractor", memorisation, draw(5, 0), draw(5, 1, 4), draw(5, 2))


@pytest.mark.parametrize("source", ["sid", "guided_diffusion"])
def test_precision_recall_golden(golden, source):
    arrays, _ = golden("metrics/features")
    sets = {"A": arrays["A"], "B": arrays["B"], "A_small": arrays["A"][:40]}
    expected, _ = golden(f"metrics/{source}")
    prefix = "sid/pr_" if source == "sid" else "pr_"
    cases = [key for key in expected if key.startswith(prefix)]
    assert len(cases) >= 6
    for key in cases:
        dtype, rest = key.removeprefix(prefix).split("_", 1)
        generated, rest = rest.split("_vs_")
        reference, k = rest.split("_")[:2]
        half = dtype == "fp16"
        result = precision_recall(
            sets[reference], sets[generated], k=int(k[1:]), dtype="float16" if half else "float32"
        )
        sizes = np.array([len(sets[generated]), len(sets[reference])])
        # Exact in float32; half precision may move a sample or two across a border.
        assert (np.abs(np.array(result) - expected[key]) * sizes <= (2.01 if half else 1e-3)).all(), key


def brute_force(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, float]:
    def inside(samples: np.ndarray, manifold: np.ndarray) -> float:
        own = np.linalg.norm(manifold[:, None] - manifold[None], axis=-1)
        limits = np.sort(own, axis=1)[:, k]
        return float((np.linalg.norm(samples[:, None] - manifold[None], axis=-1) <= limits).any(1).mean())

    return inside(generated, real), inside(real, generated)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 1000), st.integers(6, 40), st.integers(6, 40), st.integers(1, 4), st.sampled_from([37, 200, 1 << 20])
)
def test_precision_recall_equals_brute_force_whatever_the_block(seed, n, m, k, block):
    rng = np.random.default_rng(seed)
    real = rng.standard_normal((n, 3)).astype(np.float32) + 7
    generated = 1.3 * rng.standard_normal((m, 3)).astype(np.float32) + 7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval.metrics.precision_recall, "_BLOCK_ELEMENTS", block)
        assert tuple(precision_recall(real, generated, k)) == pytest.approx(brute_force(real, generated, k))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_that_are_not_finite_have_no_neighbours(value, dtype):
    good = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)
    bad = good[::-1].copy()
    bad[3, 2] = value
    for sides in ((good, bad), (bad, good)):
        refused("features have values that are not finite; make them again", precision_recall, *sides, dtype=dtype)
    refused("not finite", radii, bad, 3)
    good, bad = torch.from_numpy(good), torch.from_numpy(bad)
    for sets in ((bad, good, good), (good, bad, good), (good, good, bad)):
        refused("not finite", memorisation, *sets)


def test_kernel_distance_golden(golden, monkeypatch):
    arrays, _ = golden("metrics/features")
    expected, _ = golden("metrics/sid")
    indices = expected["sid/kid_indices_gen_real_alternating"]
    drawn = iter(indices)
    choose = SimpleNamespace(choice=lambda count, size, replace: next(drawn))
    monkeypatch.setattr(np.random, "RandomState", lambda seed: choose)
    value = kernel_distance(arrays["B"], arrays["A"], len(indices) // 2, indices.shape[1])
    assert value == pytest.approx(float(expected["sid/kid_A_vs_B"]), rel=1e-5)
    assert next(drawn, None) is None


def test_kernel_distance_is_seeded_and_about_zero_for_one_distribution():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 300, 8))
    np.random.seed(3)
    untouched = np.random.random()
    np.random.seed(3)
    assert kernel_distance(a, b, 20, 200) == kernel_distance(a, b, 20, 200) != kernel_distance(a, b, 20, 200, seed=1)
    assert np.random.random() == untouched
    near, far = kernel_distance(a, b, 20, 200), kernel_distance(a, b + 1, 20, 200)
    assert abs(near) < 0.02 * far
    refused("two samples", kernel_distance, a[:1], b)
    refused("shapes", kernel_distance, a, b[:, :3])


def test_precision_and_recall_hold_one_block_of_distances_at_a_time(monkeypatch):
    """At a tenth of the published 50,000 × 50,000 images, with a block of a sixteenth of the published one."""

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            self.numbers = max(self.numbers, made.numel() if isinstance(made, torch.Tensor) else 0)
            return made

    block = 1 << 22
    monkeypatch.setattr(eval.metrics.precision_recall, "_BLOCK_ELEMENTS", block)
    features = torch.randn(5_000, 256, generator=torch.Generator().manual_seed(0))
    with Largest() as largest:
        result = precision_recall(features, features + 0.01)
    assert min(result) > 0.9
    assert 1_000_000 < largest.numbers <= block


def draw(count: int, seed: int, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(2, 40), st.integers(3, 30), st.integers(0, 99))
def test_agrees_with_brute_force_and_scipy_also_where_distances_tie(count, training, held, seed):
    from scipy.stats import mannwhitneyu

    # Few integers: many distances tie, some are 0.
    rows, data, fresh = (
        torch.randint(0, 3, (n, 3), generator=torch.Generator().manual_seed(seed + k)).float()
        for k, n in enumerate((count, training, held))
    )
    found = memorisation(rows, data, fresh)
    near = [(part[:, None] - data[None]).square().sum(2).sqrt().amin(1) for part in (rows, fresh)]
    assert nearest(rows, data)[0].tolist() == pytest.approx(near[0].tolist(), abs=1e-6)
    wins = sum((a < b) + 0.5 * (a == b) for a in near[0].tolist() for b in near[1].tolist())
    assert found.share == pytest.approx(wins / (count * held))
    assert found.share == pytest.approx(mannwhitneyu(near[1], near[0]).statistic / (count * held))
    assert found.median_generated == pytest.approx(np.median(near[0]), abs=1e-6)
    assert found.tail == pytest.approx(np.mean(near[0].numpy() < np.quantile(near[1], 0.05)), abs=1e-9)


def test_blocks_do_not_matter_and_neighbours_are_named(monkeypatch):
    rows, data = draw(200, 0), draw(300, 1)
    expected = nearest(rows, data)
    assert torch.equal(expected[1], torch.cdist(rows, data).argmin(1))
    monkeypatch.setattr(eval.metrics.precision_recall, "_BLOCK_ELEMENTS", 700)
    for whole, parts in zip(expected, nearest(rows, data)):
        assert torch.equal(whole, parts)


def test_copies_fresh_draws_and_noisy_copies_are_told_apart():
    data, fresh = draw(400, 0) + 1e3, draw(200, 1) + 1e3  # far from the origin, where ‖a − b‖² cancels
    found = memorisation(data[:100], data, fresh)
    assert (found.share, found.ratio, found.median_generated, found.tail) == (1, 0, 0, 1)
    assert found.z > 10
    # Fresh draws are no copies and noisy copies lie between.
    data, fresh = draw(500, 0), draw(1000, 1)
    new = memorisation(draw(1000, 2), data, fresh)
    assert new.share == pytest.approx(0.5, abs=0.04)
    assert abs(new.z) < 3
    assert new.ratio == pytest.approx(1, abs=0.1)
    assert new.tail == pytest.approx(0.05, abs=0.03)
    noisy = memorisation(data + 0.3 * draw(500, 3), data, fresh)
    assert 0.7 < noisy.share < 1
    assert noisy.z > 5
    far = memorisation(3 * draw(1000, 4), data, fresh)
    assert far.share < 0.3
    assert far.z < -5


@pytest.mark.parametrize("name", ["generated", "mixed"])
def test_z_is_dgm_evals_with_the_other_sign_and_without_its_continuity_correction(name):
    arrays, _ = load("measures/memorisation")
    rows, data, fresh = (torch.from_numpy(arrays[f"in/{part}"]) for part in (name, "train", "test"))
    correction = 0.5 / (len(rows) * len(fresh) * (len(rows) + len(fresh) + 1) / 12) ** 0.5
    found = memorisation(rows, data, fresh)
    # Its distances are float32.
    assert correction - found.z == pytest.approx(float(arrays[f"out/zu_{name}"]), abs=1e-3)
    assert (found.z > 3) == (name == "mixed")
    # Of its cells, too: those of two clusters, which it weighs to C_T.
    kinds = [arrays[f"in/cells_{name}_{part}"] for part in ("rows", "train", "test")]
    for cell, expected in enumerate(arrays[f"out/zu_cells_{name}"]):
        parts = [part[kind == cell] for part, kind in zip((rows, data, fresh), kinds)]
        n, m = len(parts[0]), len(parts[2])
        found = 0.5 / (n * m * (n + m + 1) / 12) ** 0.5 - memorisation(*parts).z
        assert found == pytest.approx(float(expected), abs=1e-3)


def cmmd(real, features, unit_length):
    """Value of the metric kind for two sets of features."""
    about = {"key": "cmmd", "kind": "mmd", "extractor": "clip", "reference": "train"}
    metric = METRIC_KINDS["mmd"](**about, unit_length=unit_length)
    return metric.compute(SimpleNamespace(real_features=real, features=features))[0]


def test_cmmd_of_the_public_codes():
    found, _ = load("measures/cmmd")
    value = cmmd(*(torch.from_numpy(found[f"in/embeddings_{side}"]) for side in ("real", "generated")), False)
    assert value == pytest.approx(float(found["out/cmmd_pytorch_float64"]), rel=1e-9)
    for other in ("cmmd_pytorch", "cmmd_jax", "fdloss_sigma10_scale1000"):  # in float32
        assert value == pytest.approx(float(found[f"out/{other}"]), abs=2e-4)


def test_cmmd_divides_both_sets_of_features_by_their_lengths():
    real, features = (random_probabilities(20, seed=seed) for seed in (0, 1))
    value = {}
    for lengths in ((1, 1), (3, 1), (1, 3)):
        value[lengths] = [cmmd(lengths[0] * real, lengths[1] * features, unit) for unit in (True, False)]
    assert value[3, 1][0] == pytest.approx(value[1, 1][0]) == pytest.approx(value[1, 3][0])
    assert len({round(plain, 6) for _, plain in value.values()}) == 3


def test_mind_of_torch_fidelity():
    found, _ = load("measures/sliced")
    real, generated = found["in/real"], found["in/generated"]
    for directions in (16, 1000):
        value = sliced_distance(real, generated, directions)
        assert value == pytest.approx(float(found[f"out/mind_{directions}"]), rel=2e-5)
    assert sliced_distance(real[:180], generated, 16, 5) == pytest.approx(
        float(found["out/mind_16_equal_seed5"]), rel=2e-5
    )
    refused("sliced", sliced_distance, real, generated[:, :3])


@pytest.mark.parametrize("k", [1, 3, 5, 10])
def test_density_and_coverage_of_prdc(k):
    found, _ = load("measures/density_coverage")
    assert neighbour_shares(found["in/real"], found["in/generated"], k) == pytest.approx(tuple(found[f"out/k{k}"]))


def test_kernel_distance_of_clean_fid_on_any_features():
    found, _ = load("measures/kernel")
    rows, size = found["draw/clean_fid"].shape
    value = kernel_distance(found["in/real"], found["in/generated"], rows // 2, size, 11)
    assert value == pytest.approx(float(found["out/clean_fid"]), rel=1e-4)


class Sums:
    """Moments of one space of features."""

    def __init__(self, rows):
        self.statistics = {"x": FeatureStatistics().update(torch.from_numpy(rows))}


def test_held_out_images_that_are_training_images_give_no_memorisation():
    rows, fresh = draw(20, 0), draw(20, 1)
    kind = METRIC_KINDS["memorisation"](key="c", kind="memorisation", extractor="x", reference="r", held_out="h")
    for held_out, known in ((rows, False), (fresh, True)):
        found = dict(memorisation(draw(20, 2), rows, held_out)._asdict())
        assert math.isfinite(found["ratio"]) == known
        value, detail = kind.compute(Sides(kind, None, {}, "cpu", {("memorisation", "x", ("r", "h")): found}))
        assert (value is not None, "note" not in detail) == (known, known)
        assert json_text(detail)
    assert memorisation(rows, rows, rows).ratio == 1


def test_fdr6_of_fd_loss():
    found, info = load("measures/fdr")
    values = {}
    for space, (name, printed) in enumerate(zip(info["order"], found["out/normalisers"])):
        rows, real = found[f"in/{space}_generated"], FeatureStatistics().update(found[f"in/{space}_real"])
        settings = {"key": name, "kind": "ratio", "extractor": "x", "reference": "r", "normaliser": float(printed)}
        ratio = METRIC_KINDS["ratio"](**settings)
        references = {"r": Reference("r", "", {"x": real.moments})}
        values[name], detail = ratio.compute(Sides(ratio, Sums(rows), references, "cpu", {}))
        assert detail["distance"] == pytest.approx(found["out/fd"][space], rel=1e-9)
        assert values[name] == pytest.approx(found["out/fdr"][space], rel=1e-9)
        # The other form measures the normaliser: here the generated rows are the held-out ones.
        measured = METRIC_KINDS["ratio"](**settings | {"normaliser": None, "held_out": "h"})
        both = references | {"h": Reference("h", "", {"x": Sums(rows).statistics["x"].moments})}
        assert measured.compute(Sides(measured, Sums(rows), both, "cpu", {}))[0] == pytest.approx(1)
        # The reference itself is no held-out set, although its distance to itself may be a rounding error.
        value, detail = measured.compute(Sides(measured, Sums(rows), references | {"h": references["r"]}, "cpu", {}))
        assert (value, list(detail)) == (None, ["note"])
    mean = METRIC_KINDS["mean"](key="fdr6", kind="mean", of=tuple(values))
    assert mean.compute(Sides(mean, None, {}, "cpu", {("values",): values}))[0] == pytest.approx(
        float(found["out/fdr6"]), rel=1e-9
    )
    del values["mae_cls"]
    assert mean.compute(Sides(mean, None, {}, "cpu", {("values",): values}))[0] is None


PANEL = {
    "name": "panel", "resolution": 8, "channels": 1, "num_samples": 200, "trials": 1, "cov_ddof": 1,
    "references": {
        "train": {"kind": "dataset", "dataset": "digits-train", "fixed": True},
        "heldout": {"kind": "dataset", "dataset": "digits-heldout", "fixed": True},
    },
    "metrics": [
        {"key": "digits", "kind": "ratio", "extractor": "digits", "reference": "train", "held_out": "heldout"},
        {"key": "glyphs", "kind": "ratio", "extractor": "glyphs", "reference": "train", "held_out": "heldout"},
        {"key": "mean", "kind": "mean", "of": ["digits", "glyphs"]},
        {"key": "mmd", "kind": "mmd", "extractor": "glyphs", "reference": "heldout"},
        {"key": "sliced", "kind": "sliced", "extractor": "glyphs", "reference": "heldout", "directions": 32},
        {"key": "density", "kind": "density", "extractor": "glyphs", "reference": "heldout"},
        {"key": "coverage", "kind": "coverage", "extractor": "glyphs", "reference": "heldout"},
    ],
}  # fmt: skip


def test_a_panel_is_one_trial_of_images_read_once_with_the_identities_of_its_parts(tmp_path, monkeypatch):
    seen = []

    def extract(images, networks, *rest, real=trial.extract):
        seen.append((len(images), len(networks)))
        return real(images, networks, *rest)

    monkeypatch.setattr(trial, "extract", extract)
    spec = {
        "run": "x",
        "method": "data",
        "label": "x",
        "sampler": {"kind": "data"},
        "dataset": dataset_spec("digits-train", "here"),
    }
    (record,) = measure(spec | {"protocol": PANEL}, tmp_path, [0])
    assert (sum(count for count, _ in seen), {networks for _, networks in seen}) == (200, {2})
    values = record["metrics"]
    assert values["mean"] == pytest.approx((values["digits"] + values["glyphs"]) / 2)
    assert 0 < values["coverage"] <= 1
    whole = record_identity(record, "mean")
    assert whole.networks == {"digits", "glyphs"}
    assert "" not in (whole.reference, whole.extractor)
    other = [PANEL["metrics"][0], PANEL["metrics"][2] | {"of": ["digits"]}]
    (alone,) = measure(spec | {"protocol": PANEL | {"metrics": other}}, tmp_path / "b", [0])
    assert record_identity(alone, "mean") != whole
    assert measure(spec | {"protocol": PANEL}, tmp_path, [0]) == []
    # A mean is measured again with its parts if it joins a protocol.
    assert [metric.key for metric in load_protocol(PANEL).part(["mean"]).metrics] == ["digits", "glyphs", "mean"]
