"""Feature statistics and the Fréchet distance: golden parity, properties, conditioning, files, faults."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.eval.metrics.frechet import FrechetReport, frechet_distance, frechet_report, moments_report
from sida.eval.metrics.statistics import FeatureStatistics
from tests.near import assert_near, same_bits
from tests.refused import refused


def features(count: int, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.5, 2, (count, width)).astype(np.float32)


def bits(statistics: FeatureStatistics) -> bytes:
    return b"".join(t.numpy().tobytes() for _, t in sorted(statistics.tensors().items()))


def test_golden_moments(golden):
    arrays, _ = golden("metrics/features")
    for tool, ddof, mean, cov in (("sid", 0, "sid/{}_mean", "sid/{}_cov"), ("edm2", 1, "{}_mu", "{}_sigma")):
        expected, _ = golden(f"metrics/{tool}")
        for name in "AB":
            statistics = FeatureStatistics(ddof=ddof).update(arrays[name])
            assert_near(statistics.mean, expected[mean.format(name)])
            assert_near(statistics.cov, expected[cov.format(name)])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.sampled_from([1e-6, 1.0, 1e4]), st.booleans())
def test_shards_give_the_moments_of_all_rows(sizes, scale, far):
    """Also far from the origin, where sums of squares cancel."""
    shards = [(features(size, 3, seed) + 1000 * far) * np.float32(scale) for seed, size in enumerate(sizes)]
    whole = FeatureStatistics()
    for shard in shards:
        whole.merge(FeatureStatistics().update(shard))
    everything = np.concatenate(shards).astype(np.float64)
    assert whole.count == len(everything)
    assert_near(whole.mean, everything.mean(0))
    for ddof in (0, 1):
        found, expected = whole.covariance(ddof), np.cov(everything, rowvar=False, ddof=ddof)
        assert_near(found, expected, 1e-7 if far else 1e-10)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=6))
def test_batch_sizes_do_not_matter(sizes):
    rows = features(2300)
    whole = FeatureStatistics().update(rows)
    batched, position = FeatureStatistics(), 0
    while position < len(rows):
        size = sizes[position % len(sizes)]
        buffer = torch.from_numpy(rows[position : position + size].copy())
        batched.update(buffer)
        buffer.zero_()  # as a caller who uses it again
        position += size
    assert bits(batched) == bits(whole)


def test_sums_come_back_as_they_were():
    rows = features(50)
    statistics = FeatureStatistics(ddof=0).update(rows)
    again = FeatureStatistics.from_tensors(statistics.tensors(), ddof=0)
    assert (bits(again), again.count) == (bits(statistics), 50)
    assert same_bits(statistics.cov, again.cov)


def test_faults_of_statistics():
    statistics = FeatureStatistics().update(features(5))
    refused("width 4, earlier ones 6", statistics.update, features(5, 4))
    refused("width", statistics.merge, FeatureStatistics().update(features(5, 7)))
    refused(r"shape \(N, C\)", statistics.update, np.zeros(3, np.float32))
    refused("no features yet", lambda: FeatureStatistics().mean)
    refused("no features yet", FeatureStatistics().tensors)
    refused("too few for a covariance", lambda: FeatureStatistics().update(features(1)).cov)
    broken = features(5)
    broken[2, 2] = np.nan
    refused("not finite", lambda: FeatureStatistics().update(broken).mean)


@pytest.mark.parametrize("rows", [3, 12])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: {**x, "count": x["count"] + 1},
        lambda x: {**x, "sum": x["sum"].float()},
        lambda x: {**x, "sum": x["sum"][1:]},
        lambda x: {name: tensor[1:] if name in ("rows", "products") else tensor for name, tensor in x.items()},
        lambda x: {name: tensor for name, tensor in x.items() if name in ("sum", "count")},
    ],
    ids=["count", "precision", "width", "rows", "nothing"],
)
def test_tensors_that_are_no_statistics_are_refused(rows, change, request):
    """Few rows are kept as they are, and many as sums, whose count nothing else says."""
    tensors = FeatureStatistics().update(features(rows)).tensors()
    assert ("rows" in tensors) == (rows == 3)
    kind = request.node.callspec.id.split("-")[0]
    if (kind, rows) in (("count", 12), ("precision", 3)):
        assert FeatureStatistics.from_tensors(change(tensors), 1).count == rows + (kind == "count")
        return
    with pytest.raises((KeyError, ValueError)):
        FeatureStatistics.from_tensors(change(tensors), 1)


def golden_sets(golden) -> dict[str, np.ndarray]:
    arrays, _ = golden("metrics/features")
    a, b = arrays["A"], arrays["B"]

    def singular(rows: np.ndarray, constant: float) -> np.ndarray:
        rows = rows.copy()
        rows[:, 5] = constant
        rows[:, 7] = rows[:, 6]
        return rows

    return {
        "A": a,
        "B": b,
        "A_small": a[:40],
        "B_small": b[:36],
        "A_singular": singular(a, 0.25),
        "B_singular": singular(b, 0.5),
        "A_first_300": a[:300],
    }


@pytest.mark.parametrize(("tool", "ddof"), [("sid", 0), ("edm", 1), ("edm2", 1), ("guided_diffusion", 1)])
def test_golden(golden, tool, ddof):
    sets = golden_sets(golden)
    expected, _ = golden(f"metrics/{tool}")
    cases = [key for key in expected if "fid_" in key]
    assert len(cases) >= 7
    for key in cases:
        generated, reference = key.split("fid_")[1].split("_vs_")
        first, second = (FeatureStatistics(ddof=ddof).update(sets[name]) for name in (generated, reference))
        value = frechet_distance(first.mean, first.cov, second.mean, second.cov)
        if generated == reference:
            assert abs(value) < 1e-9, key
            continue
        loose = tool == "guided_diffusion" or "small" in key or "singular" in key
        assert value == pytest.approx(float(expected[key]), rel=1e-6 if loose else 1e-8), key


def test_commuting_covariances_have_a_closed_form():
    rng = np.random.default_rng(0)
    d = 40
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    first, second = rng.uniform(0.01, 3, d), rng.uniform(0.01, 3, d)
    mu = rng.standard_normal(d)
    value = frechet_distance(mu, basis * first @ basis.T, np.zeros(d), basis * second @ basis.T)
    assert value == pytest.approx((mu**2).sum() + ((first**0.5 - second**0.5) ** 2).sum(), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.integers(2, 30),
    st.integers(2, 30),
    st.sampled_from([1e-4, 1.0, 50.0]),
)
def test_symmetric_non_negative_and_zero_on_itself(seed, d, n, m, scale):
    rng = np.random.default_rng(seed)
    a, b = scale * rng.standard_normal((n, d)), scale * rng.standard_normal((m, d)) @ rng.standard_normal((d, d))
    moments = [(rows.mean(0), np.atleast_2d(np.cov(rows, rowvar=False))) for rows in (a, b)]
    size = scale**2 * d * 10
    forward = frechet_distance(*moments[0], *moments[1])
    assert forward >= -1e-9 * size
    assert forward == pytest.approx(frechet_distance(*moments[1], *moments[0]), abs=1e-7 * size)
    assert abs(frechet_distance(*moments[0], *moments[0])) <= 1e-9 * size
    # Rotating both sets changes nothing.
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    turned = [(turn @ mean, turn @ cov @ turn.T) for mean, cov in moments]
    assert frechet_distance(*turned[0], *turned[1]) == pytest.approx(forward, abs=1e-6 * size)


def test_report_says_when_a_covariance_is_singular(golden):
    sets = golden_sets(golden)
    small, full = (FeatureStatistics(ddof=1).update(sets[name]) for name in ("A_small", "B"))
    report = frechet_report(small.mean, small.cov, full.mean, full.cov, (small.count, full.count))
    assert report.ranks == (39, 96)
    assert "40 images for 96 features" in report.warnings[0]
    assert report.numerical_error < 1e-5
    healthy = FeatureStatistics(ddof=1).update(sets["A"])
    assert not frechet_report(healthy.mean, healthy.cov, full.mean, full.cov, (500, 400)).warnings


SOUND = {
    "value": 2.0, "mean_term": 1.0, "num_features": 8, "ranks": (8, 8), "counts": (9, 9), "most_negative": 0.0,
    "numerical_error": 0.0,
}  # fmt: skip
FEW = "the covariance is singular and the distance biased upwards: compare only with equal n"


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, None),
        ({"counts": (8, 9)}, f"first set: 8 images for 8 features; {FEW}"),
        (
            {"counts": (9, 2000), "num_features": 2000},
            f"first and second set: 9 and 2,000 images for 2,000 features; {FEW}",
        ),
        # With enough images a lower rank is that of constant features; without their number it is told.
        ({"ranks": (7, 8)}, None),
        ({"ranks": (7, 8), "counts": (None, None)}, "first set: covariance has rank 7 of 8"),
        ({"counts": (None, None)}, None),
        ({"ranks": (8, 0), "counts": (None, 1)}, "second set: no feature varies; its images are all alike"),
        ({"ranks": (8, 1)}, None),
        ({"most_negative": -1e-8}, None),
        ({"most_negative": -2e-8}, "an eigenvalue of -2.0e-08 relative to the largest was set to 0"),
        # One in ten thousand of the value, or of one in ten thousand.
        ({"numerical_error": 2e-4}, None),
        ({"numerical_error": 2.1e-4}, "rounding error up to 2.1e-04"),
        ({"value": 0.0, "numerical_error": 1e-8}, None),
        ({"value": 0.0, "numerical_error": 1.1e-8}, "rounding error up to 1.1e-08"),
    ],
)
def test_warnings_of_a_report_begin_at_their_borders(changes, warning):
    assert FrechetReport(**SOUND | changes).warnings == ([warning] if warning else [])


@pytest.mark.parametrize(("width", "offset", "spread"), [(1, 0.0, 0.0), (2, 1.0, 1e-7), (64, 100.0, 1e-7)])
def test_equal_rows_have_the_distance_to_one_point(width, offset, spread):
    """What sums of equal rows leave of a covariance is rounding, of either sign and of any rank."""
    rng = np.random.default_rng(width)
    point = np.abs(rng.standard_normal(width)).astype(np.float32) + np.float32(offset)
    rows = np.repeat(point[None], 2500, 0)
    rows[::7] *= np.float32(1 + spread)  # another batch size may change the last bit of a feature
    collapsed = FeatureStatistics().update(rows)
    real = FeatureStatistics().update(rng.standard_normal((3000, width)))
    moments, counts = (real.mean, real.cov), (collapsed.count, real.count)
    report = frechet_report(collapsed.mean, collapsed.cov, *moments, counts)
    exact = np.square(point - real.mean).sum() + np.trace(real.cov)
    assert report.value == pytest.approx(exact, rel=1e-6)
    assert abs(report.value - exact) <= report.numerical_error + 1e-6 * exact
    assert report.warnings == ["first set: no feature varies; its images are all alike"]
    assert frechet_distance(*moments, collapsed.mean, collapsed.cov) == pytest.approx(exact, rel=1e-6)
    twice = frechet_report(collapsed.mean, collapsed.cov, collapsed.mean, collapsed.cov)
    assert twice.value == pytest.approx(0, abs=1e-9 * max(1, offset) ** 2)
    assert len(twice.warnings) >= 2


def test_a_covariance_rounded_to_float32_is_repaired_and_reported():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((30, 60))  # rank 29 of 60
    cov = np.cov(rows, rowvar=False).astype(np.float32).astype(np.float64)
    assert np.linalg.eigvalsh(cov)[0] < 0
    exact = np.cov(rows, rowvar=False)
    report = frechet_report(np.zeros(60), cov, np.zeros(60), np.eye(60))
    assert report.most_negative < 0
    assert report.value == pytest.approx(frechet_distance(np.zeros(60), exact, np.zeros(60), np.eye(60)), rel=1e-2)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_negative_eigenvalue_counts_by_its_share_of_the_largest(scale):
    zero, basis = np.zeros(20), np.linalg.qr(np.random.default_rng(0).standard_normal((20, 20)))[0]

    def cov(lowest):
        made = basis * (scale * np.r_[lowest, np.linspace(0.5, 4, 19)]) @ basis.T
        return (made + made.T) / 2

    report = frechet_report(zero, cov(-4e-4), zero, scale * np.eye(20))
    assert report.most_negative == pytest.approx(-1e-4, rel=1e-2)
    refused("not a covariance", frechet_distance, zero, cov(-4e-2), zero, scale * np.eye(20))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mu1": np.zeros(4)}, "4 and 3 features"),
        ({"cov1": np.eye(4)}, "first covariance has shape"),
        ({"cov2": np.full((3, 3), np.nan)}, "second covariance has values that are not finite"),
        ({"cov1": np.diag([1.0, 1.0, -1.0])}, "not a covariance"),
        ({"cov1": np.array([[1, 0.9, 0], [0.1, 1, 0], [0, 0, 1]])}, "not symmetric"),
        ({"cov1": np.eye(3) + np.array([[0, 2e-3, 0], [0, 0, 0], [0, 0, 0]])}, "not symmetric"),
        ({"cov2": 1 - np.eye(3)}, "a zero diagonal but other entries"),
    ],
)
def test_faults(changes, message):
    arguments = {"mu1": np.zeros(3), "cov1": np.eye(3), "mu2": np.zeros(3), "cov2": np.eye(3)} | changes
    refused(message, frechet_distance, **arguments)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(2, 30), st.integers(2, 30)),
    st.integers(31, 90),
    st.sampled_from([0.0, 1.0, 300.0]),
    st.integers(0, 1),
    st.booleans(),
    st.integers(0, 9),
)
def test_few_images_give_the_distance_of_their_covariances(counts, width, far, ddof, repeats, seed):
    """Also with equal rows, whose covariance has a lower rank, and in any batches."""
    sets = [(features(n, width, seed + i) + far).astype(np.float32) for i, n in enumerate(counts)]
    if repeats:
        sets[0][1:] = sets[0][:1]
    first, second = (FeatureStatistics(ddof=ddof) for _ in sets)
    for statistics, rows in zip((first, second), sets):
        for part in np.array_split(rows, 1 + seed % 3):
            statistics.update(part)
    moments = [m for x in sets for m in (x.mean(0, dtype=np.float64), np.cov(x.astype(np.float64).T, ddof=ddof))]
    exact, report = frechet_report(*moments, counts), moments_report(first.moments, second.moments)
    size = report.mean_term + np.trace(moments[1]) + np.trace(moments[3])
    assert report.value == pytest.approx(exact.value, rel=1e-9, abs=1e-7 * size)
    assert report.ranks == (0 if repeats else counts[0] - 1, counts[1] - 1)
    assert all(name in " ".join(report.warnings) for name in ("first", "second"))
    assert moments_report(second.moments, second.moments).value <= 1e-12 * size


@pytest.mark.parametrize(("scale", "told"), [(1.0, False), (1e6, True)])
def test_rounding_that_exceeds_the_distance_of_few_images_is_told(scale, told):
    rows = FeatureStatistics().update(scale * features(5, 30)).moments
    report = moments_report(rows, rows)
    assert report.value <= report.numerical_error
    assert any("rounding" in warning for warning in report.warnings) == told


def test_pixels_of_large_pictures_need_no_covariance():
    """A covariance of 786,432 features would take 5 TB."""
    rows = np.random.default_rng(0).random((12, 3 * 512 * 512), np.float32)
    first, second = (FeatureStatistics(expected=6).update(part) for part in (rows[:6], rows[6:]))
    report = moments_report(first.moments, second.moments)
    # Independent values of variance 1/12: both sets lie far from each other and from their means.
    assert report.value == pytest.approx(rows.shape[1] / 12 * (2 / 6 + 2), rel=0.02)
    assert report.ranks == (5, 5)
    again = FeatureStatistics.from_tensors(first.tensors(), 1)
    assert moments_report(again.moments, second.moments) == report
    many = FeatureStatistics(expected=10**6)
    refused("features", many.update, rows)


def test_effective_rank_counts_directions_by_their_variance():
    """Roy and Vetterli 2007: C for equal variances, 1 for one direction, exp of the entropy of the shares between.

    0 where no feature varies.
    """
    axes = np.sqrt(500) * np.concatenate([np.diag([3.0, 1.0, 1.0, 0.0]), np.diag([-3.0, -1.0, -1.0, 0.0])])
    moments = {}
    for name, rows in {
        "axes": axes,
        "equal": np.sign(axes)[[0, 1, 4, 5]][:, :2],
        "one": axes[[0, 4]],
        "none": axes[[3, 7]],
    }.items():
        statistics = FeatureStatistics()
        statistics.update(torch.from_numpy(rows))
        moments[name] = statistics.moments
    shares = np.array([9, 1, 1]) / 11
    assert moments["axes"].effective_rank == pytest.approx(np.prod(shares**-shares), rel=1e-12)
    assert moments["equal"].effective_rank == pytest.approx(2)
    assert moments["one"].effective_rank == pytest.approx(1)
    assert moments["none"].effective_rank == 0


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_effective_rank_is_the_same_from_few_rows_and_from_their_covariance(offset):
    statistics = FeatureStatistics()
    statistics.update(torch.from_numpy(features(20, 30) + offset))
    moments = statistics.moments
    assert moments.rows
    assert moments.effective_rank == pytest.approx(dataclasses.replace(moments, rows=()).effective_rank, rel=1e-9)


def test_means_of_float32_lose_no_digits_by_it():
    """As those of an npz of another tool; the right side is exact arithmetic."""
    means = [np.array(values, np.float32) for values in ([1e4, 1 / 3, 0], [1e4 - 1 / 3, 0, 1e-3])]
    exact = sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(*means, strict=True))
    assert frechet_distance(means[0], np.eye(3), means[1], np.eye(3)) == pytest.approx(float(exact), rel=1e-12)
