"""Metrics against golden vectors of the public implementations, brute force and properties; a panel of judges."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from torch.utils._python_dispatch import TorchDispatchMode

import sida.eval.metrics.precision_recall
from sida.config.datasets import dataset_spec
from sida.eval.measuring import trial
from sida.eval.measuring.measure import measure
from sida.eval.measuring.protocol import load_protocol
from sida.eval.metrics.inception_score import InceptionScoreSums, inception_score
from sida.eval.metrics.kernel_distance import kernel_distance
from sida.eval.metrics.kinds import METRIC_KINDS, value_fault
from sida.eval.metrics.precision_recall import neighbour_shares, radii
from sida.eval.results.trial_files import record_identity
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


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_sorted_is_an_order_that_chance_gives_once_in_a_million(classes):
    """By SciPy's G test of independence of splits and classes."""
    found = []
    for count in range(500, 640, 4):
        table = np.array([[count, 1000 - count], [1000 - count, count]])
        table = (
            np.concatenate([table, np.full((2, classes - 2), 300)], 1) if classes > 1 else table.sum(1, keepdims=True)
        )
        sums = InceptionScoreSums(int(table.sum()), 2, classes)
        sums.update(torch.eye(classes)[np.concatenate([np.repeat(np.arange(classes), row) for row in table])], 0)
        chance = chi2_contingency(table, correction=False, lambda_="log-likelihood").pvalue if classes > 1 else 1.0
        assert sums.is_sorted() == (chance < 1e-6), count
        found.append(sums.is_sorted())
    assert found[0] is False
    assert found[-1] == (classes > 1)


def test_faults_of_scores():
    refused("softmax", inception_score, np.random.default_rng(0).standard_normal((20, 4)), 10)
    refused("splits", inception_score, random_probabilities(5), 10)
    refused(r"shape \(N, K\)", inception_score, np.ones(5), 10)
    # Precision recall faults.
    rows = np.zeros((10, 3), np.float32)
    refused("more than 3 samples", neighbour_shares, rows, rows[:3], 3, "float32")
    refused("one extractor", neighbour_shares, rows, rows[:, :2], 3, "float32")
    refused("k must be", neighbour_shares, rows, rows, 0, "float32")


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
        result = neighbour_shares(sets[reference], sets[generated], int(k[1:]), "float16" if half else "float32")[:2]
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
        patch.setattr(sida.eval.metrics.precision_recall, "_BLOCK_ELEMENTS", block)
        shares = neighbour_shares(real, generated, k, "float32")
        assert shares[:2] == pytest.approx(brute_force(real, generated, k))
        distances = np.linalg.norm(real[:, None] - real[None], axis=-1) + np.diag(np.full(n, np.inf))
        assert shares.nearest_distance == pytest.approx(distances.min(1).mean(), rel=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_that_are_not_finite_have_no_neighbours(value, dtype):
    good = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)
    bad = good[::-1].copy()
    bad[3, 2] = value
    for sides in ((good, bad), (bad, good)):
        refused("features have values that are not finite; make them again", neighbour_shares, *sides, 3, dtype)
    refused("not finite", radii, bad, 3)


def test_kernel_distance_golden(golden, monkeypatch):
    arrays, _ = golden("metrics/features")
    expected, _ = golden("metrics/sid")
    indices = expected["sid/kid_indices_gen_real_alternating"]
    drawn = iter(indices)
    choose = SimpleNamespace(choice=lambda count, size, replace: next(drawn))
    monkeypatch.setattr(np.random, "RandomState", lambda seed: choose)
    value = kernel_distance(arrays["B"], arrays["A"], len(indices) // 2, indices.shape[1], 0)
    assert value == pytest.approx(float(expected["sid/kid_A_vs_B"]), rel=1e-5)
    assert next(drawn, None) is None


def test_kernel_distance_is_seeded_and_about_zero_for_one_distribution():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 300, 8))
    np.random.seed(3)
    untouched = np.random.random()
    np.random.seed(3)
    values = [kernel_distance(a, b, 20, 200, seed) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    assert np.random.random() == untouched
    near, far = values[0], kernel_distance(a, b + 1, 20, 200, 0)
    assert abs(near) < 0.02 * far
    refused("two samples", kernel_distance, a[:1], b, 20, 200, 0)
    refused("shapes", kernel_distance, a, b[:, :3], 20, 200, 0)


def test_precision_and_recall_hold_one_block_of_distances_at_a_time(monkeypatch):
    """At a tenth of the published 50,000 × 50,000 images, with a block of a sixteenth of the published one."""

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            self.numbers = max(self.numbers, made.numel() if isinstance(made, torch.Tensor) else 0)
            return made

    block = 1 << 22
    monkeypatch.setattr(sida.eval.metrics.precision_recall, "_BLOCK_ELEMENTS", block)
    features = torch.randn(5_000, 256, generator=torch.Generator().manual_seed(0))
    with Largest() as largest:
        shares = neighbour_shares(features, features + 0.01, 3, "float32")
    assert min(shares[:2]) > 0.9
    assert 1_000_000 < largest.numbers <= block


@pytest.mark.parametrize("features", [8, 256])
def test_ties_of_distances_are_not_decided_by_rounding(features):
    """Whole numbers far from zero: many distances equal a limit; the same set twice has a density of about one."""
    rng = np.random.default_rng(features)
    real, generated = (rng.integers(0, 3, (120, features)).astype(np.float32) + 1000 for _ in range(2))
    real[7] = real[3]  # a duplicate
    shares = neighbour_shares(real, generated, 3, "float32")
    squares = np.square(generated[:, None].astype(np.float64) - real[None]).sum(-1)
    limits = []
    for rows in (real.astype(np.float64), generated.astype(np.float64)):
        own = np.square(rows[:, None] - rows[None]).sum(-1)
        np.fill_diagonal(own, -1)  # the sample itself comes first
        limits.append(np.sort(own, 1)[:, 3])
    assert shares.precision == (squares <= limits[0]).any(1).mean()
    assert shares.recall == (squares <= limits[1][:, None]).any(0).mean()
    assert shares.density == (squares < limits[0]).sum() / (3 * 120)
    assert shares.coverage == (squares < limits[0]).any(0).mean()
    assert radii(real, 1)[[3, 7]].tolist() == [0, 0]


@pytest.mark.parametrize("k", [1, 3, 5, 10])
def test_density_and_coverage_of_prdc(k):
    found, _ = load("measures/density_coverage")
    shares = neighbour_shares(found["in/real"], found["in/generated"], k, "float32")
    assert shares[:4] == pytest.approx(tuple(found[f"out/k{k}"]))


def test_kernel_distance_of_clean_fid_on_any_features():
    found, _ = load("measures/kernel")
    rows, size = found["draw/clean_fid"].shape
    value = kernel_distance(found["in/real"], found["in/generated"], rows // 2, size, 11)
    assert value == pytest.approx(float(found["out/clean_fid"]), rel=1e-4)


PANEL = {
    "name": "panel", "resolution": 8, "channels": 1, "num_samples": 200, "trials": 1, "cov_ddof": 1,
    "references": {
        "train": {"kind": "dataset", "dataset": "digits-train", "fixed": True},
        "heldout": {"kind": "dataset", "dataset": "digits-heldout", "fixed": True},
    },
    "metrics": [
        {"key": "digits", "kind": "frechet", "extractor": "digits", "reference": "train"},
        {"key": "glyphs", "kind": "frechet", "extractor": "glyphs", "reference": "heldout"},
        {"key": "mean", "kind": "mean", "of": ["digits", "glyphs"]},
        {"key": "kernel", "kind": "kernel", "extractor": "glyphs", "reference": "heldout", "subset_size": 50},
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


@pytest.mark.parametrize(
    ("settings", "possible", "impossible", "limits"),
    [
        ("frechet extractor=vgg16", [0.0, -1e-7, 1e6], [-1e-3], "0 or more"),
        ("kernel extractor=vgg16", [-0.1, 7.0], [], ""),
        ("precision extractor=vgg16", [0.0, 1.0, 1 + 1e-7], [-1e-3, 1.001], "0 to 1"),
        ("recall extractor=vgg16", [0.0, 1.0], [-1e-3, 1.001], "0 to 1"),
        ("coverage extractor=vgg16", [0.0, 1.0], [-1e-3, 1.001], "0 to 1"),
        ("density extractor=vgg16", [0.0, 1.5], [-1e-3], "0 or more"),
        ("accuracy extractor=digits", [0.0, 1.0], [-1e-3, 1.001, 98.0], "0 to 1"),
        # A score is at most the number of classes.
        ("inception_score extractor=inception", [1.0, 1008.0], [0.99, 1009.0], "1 to 1008"),
        ("inception_score splits=10 extractor=digits", [1.0, 10.0], [0.99, 10.1], "1 to 10"),
        ("inception_score extractor=own:network", [1.0, 1e6], [0.99], "1 or more"),
        ("own:Kind extractor=vgg16", [-1.0, 1e9], [], ""),
        ("", [-1.0], [], ""),
    ],
)
def test_a_value_beyond_the_limits_of_its_kind_is_told(settings, possible, impossible, limits):
    assert [value_fault(settings, value) for value in possible] == [None] * len(possible)
    for value in impossible:
        fault, remedy = value_fault(settings, value)
        assert fault.endswith(f" is {limits}")
        assert ("per cent" in remedy) == (1 < value <= 100 and limits == "0 to 1")


DEFAULTS = {
    "frechet": ({}, "lower", 3), "inception_score": ({"splits": 10}, "higher", 3),
    "kernel": ({"subsets": 100, "subset_size": 1000}, "lower", 3), "accuracy": ({}, "higher", 3),
    **dict.fromkeys(("precision", "recall", "density", "coverage"), ({"k": 3, "dtype": "float32"}, "higher", 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_of_a_kind_are_those_of_the_published_tools(name):
    """EDM's and EDM2's FID, the ten splits of the inception score, clean-fid's KID, and k = 3."""
    settings, better, decimals = DEFAULTS[name]
    metric = METRIC_KINDS[name](kind=name, key="x", extractor="inception", reference="data")
    assert {key: getattr(metric, key) for key in settings} == settings
    assert (metric.better, metric.decimals) == (better, decimals)
    assert (name == "frechet") == metric.selects
    assert (name in ("inception_score", "accuracy")) == metric.classifies


def made(name, **settings):
    return METRIC_KINDS[name](kind=name, key="x", extractor="vgg16", **settings)


@pytest.mark.parametrize(
    ("metric", "samples", "fault"),
    [
        (made("inception_score", splits=10), 10, None),
        (made("inception_score", splits=10), 9, "splits: 10 of 9 images"),
        (made("recall", reference="data", k=3), 4, None),
        (made("recall", reference="data", k=3), 3, "k: 3 neighbours among 3 images"),
    ],
)
def test_a_kind_needs_images_enough(metric, samples, fault):
    assert metric.fault(samples) == fault
    fewer = metric.for_samples(samples)
    assert getattr(fewer, "splits", 3) == min(getattr(metric, "splits", 3), samples)


def test_kinds_of_classes_say_which_extractor_has_none_and_which_class_is_wrong():
    features = SimpleNamespace(logits=None)
    for name in ("inception_score", "accuracy"):
        refused("extractor 'vgg16' has no class", made(name).update, features, torch.zeros(2, dtype=torch.int64), 0, 2)
    metric, logits = made("accuracy"), SimpleNamespace(logits=torch.eye(3))
    metric.update(logits, None, 0, 3)
    assert metric.compute(SimpleNamespace(num_samples=3)) == (
        None,
        {"note": "not measured: images without requested classes"},
    )
    for wrong in (-1, 3):
        refused(
            f"class {wrong}, extractor 'vgg16' has the classes 0-2",
            metric.update,
            logits,
            torch.tensor([0, wrong]),
            0,
            3,
        )
    metric.update(logits, torch.tensor([0, 2, 2]), 0, 3)
    other = made("accuracy")
    other.update(logits, torch.tensor([0, 1, 2]), 3, 6)
    metric.merge(other)
    assert metric.compute(SimpleNamespace(num_samples=6)) == (5 / 6, {})


def test_a_mean_lacks_a_value_where_one_of_its_metrics_does():
    mean = METRIC_KINDS["mean"](kind="mean", key="x", of=("a", "b", "c"))
    assert mean.compute(SimpleNamespace(values={"a": 1.0, "b": 0.0, "c": 5.0})) == (2.0, {})
    assert mean.compute(SimpleNamespace(values={"a": 1.0, "c": None})) == (None, {"note": "not measured: no b, c"})


@pytest.mark.parametrize(("size", "told"), [(40, False), (41, True)])
def test_subsets_of_fewer_images_than_asked_for_are_told(size, told):
    rows = np.random.default_rng(0).standard_normal((2, 60, 4)).astype(np.float32)
    sides = SimpleNamespace(real_features=rows[0], features=rows[1, :40], seed=3)
    value, details = made("kernel", reference="data", subsets=7, subset_size=size).compute(sides)
    assert value == kernel_distance(rows[0], rows[1, :40], 7, 40, 3)
    expected = ["subsets have 40 images, not 41, since a set has no more"]
    assert details == ({"warnings": expected} if told else {})


@pytest.mark.parametrize("size", [2, 30, 250, 601])
def test_both_ways_to_sum_a_kernel_equal_its_definition(size, monkeypatch):
    """Products of all rows once, or of each subset: (xᵀy/C + 1)³ without the pairs of a row with itself."""
    rows = np.random.default_rng(size).standard_normal((2, 601, 5)).astype(np.float32)
    for real, fake, subsets in ((rows[0], rows[1, :size], 1), (rows[0, :size], rows[1, :size], 9)):
        random, total = np.random.RandomState(5), 0.0
        least = min(len(real), len(fake), 250)
        drawn = [[random.choice(len(x), least, replace=False) for x in (fake, real)] for _ in range(subsets)]
        for of_fake, of_real in drawn:
            x, y = fake[of_fake].astype(np.float64), real[of_real].astype(np.float64)
            within, across = [((a @ b.T / 5 + 1) ** 3) for a, b in ((x, x), (y, y))], (x @ y.T / 5 + 1) ** 3
            pairs = sum(k.sum() - np.trace(k) for k in within) / (least * (least - 1))
            total += pairs - 2 * across.mean()
        found = kernel_distance(real, fake, subsets, 250, 5)
        assert found == pytest.approx(total / subsets, rel=1e-4, abs=1e-5)
