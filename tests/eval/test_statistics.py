"""Feature statistics: moments, files, faults."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.statistics import FeatureStatistics
from tests.golden.vectors import relative_error
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
            assert relative_error(statistics.mean, expected[mean.format(name)]) < 1e-13
            assert relative_error(statistics.cov, expected[cov.format(name)]) < 1e-12


def test_agrees_with_numpy_for_large_offsets():
    rows = features(3000).astype(np.float64) + 1000
    statistics = FeatureStatistics(ddof=1).update(rows)
    assert statistics.count == 3000
    assert relative_error(statistics.cov, np.cov(rows, rowvar=False)) < 1e-7
    assert relative_error(statistics.covariance(0), np.cov(rows, rowvar=False, ddof=0)) < 1e-7


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.sampled_from([1e-6, 1.0, 1e4]))
def test_shards_give_the_moments_of_all_rows(sizes, scale):
    shards = [features(size, 3, seed) * np.float32(scale) for seed, size in enumerate(sizes)]
    whole = FeatureStatistics()
    for shard in shards:
        whole.merge(FeatureStatistics().update(shard))
    everything = np.concatenate(shards).astype(np.float64)
    assert whole.count == len(everything)
    assert relative_error(whole.mean, everything.mean(0)) < 1e-12
    assert relative_error(whole.cov, np.cov(everything, rowvar=False)) < 1e-10


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=6))
def test_batch_sizes_do_not_matter(sizes):
    rows = features(2300)
    whole = FeatureStatistics().update(rows)
    batched, position = FeatureStatistics(), 0
    while position < len(rows):
        size = sizes[position % len(sizes)]
        batched.update(torch.from_numpy(rows[position : position + size]))
        position += size
    assert bits(batched) == bits(whole)


def test_update_copies_a_buffer_that_the_caller_reuses():
    rows = features(20)
    buffer = rows.copy()
    statistics = FeatureStatistics().update(buffer)
    buffer[:] = 0
    assert np.allclose(statistics.mean, rows.mean(0))


def test_save_and_load_give_the_same_bits(tmp_path):
    statistics = FeatureStatistics(ddof=0).update(features(50))
    statistics.save(tmp_path / "a.safetensors", {"extractor": "x"})
    loaded = FeatureStatistics.load(tmp_path / "a.safetensors")
    assert bits(loaded) == bits(statistics)
    assert (loaded.count, loaded.ddof) == (50, 0)
    assert np.array_equal(loaded.cov, statistics.cov)


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_cut_off_file_is_one_clear_line(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    FeatureStatistics().update(features(50)).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    refused("no feature statistics", FeatureStatistics.load, path)


def test_faults():
    statistics = FeatureStatistics().update(features(5))
    refused("width 4, earlier ones 6", statistics.update, features(5, 4))
    refused("width", statistics.merge, FeatureStatistics().update(features(5, 7)))
    refused(r"shape \(N, C\)", statistics.update, np.zeros(3, np.float32))
    refused("no features yet", lambda: FeatureStatistics().mean)
    refused("too few for a covariance", lambda: FeatureStatistics().update(features(1)).cov)
    broken = features(5)
    broken[2, 2] = np.nan
    refused("not finite", lambda: FeatureStatistics().update(broken).mean)
