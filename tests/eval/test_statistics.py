"""Feature statistics: exact merging, files, faults."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics.statistics import BLOCK, ExactSum, FeatureStatistics
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
@given(st.data())
def test_merging_shards_in_any_order_and_grouping_gives_the_same_bits(data):
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=2, max_size=6))
    scale = data.draw(st.sampled_from([1e-6, 1.0, 1e4]))
    shards = [features(size, 3, seed) * np.float32(scale) for seed, size in enumerate(sizes)]

    def shard(index: int) -> FeatureStatistics:
        return FeatureStatistics().update(shards[index])

    left = FeatureStatistics()
    for index in range(len(sizes)):
        left.merge(shard(index))
    order = data.draw(st.permutations(range(len(sizes))))
    parts = [shard(index) for index in order]
    while len(parts) > 1:  # merge random neighbours: every tree of merges may occur
        position = data.draw(st.integers(0, len(parts) - 2))
        parts[position : position + 2] = [parts[position].merge(parts[position + 1])]
    assert bits(parts[0]) == bits(left)
    assert np.array_equal(parts[0].cov, left.cov)
    everything = np.concatenate(shards)
    assert relative_error(left.mean, everything.mean(0, dtype=np.float64)) < 1e-9


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 900), min_size=1, max_size=6), st.integers(0, 2))
def test_batch_sizes_do_not_matter_nor_do_shards_at_block_boundaries(sizes, cut):
    rows = features(BLOCK * 2 + 300)
    whole = FeatureStatistics().update(rows)
    batched, position = FeatureStatistics(), 0
    while position < len(rows):
        size = sizes[position % len(sizes)]
        batched.update(torch.from_numpy(rows[position : position + size]))
        position += size
    assert bits(batched) == bits(whole)
    second = FeatureStatistics().update(rows[cut * BLOCK :])
    first = FeatureStatistics().update(rows[: cut * BLOCK]) if cut else FeatureStatistics()
    assert bits(second.merge(first)) == bits(whole)


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


def test_exact_sum_of_terms_that_floats_would_lose():
    terms = [1e12, 1.0, -1e12, 2.0**-30, -1.0, 3e5] * 50
    expected = 50 * (2.0**-30 + 3e5)
    for seed in range(3):
        shuffled = random.Random(seed).sample(terms, len(terms))
        total = ExactSum((1,))
        for term in shuffled:
            total.add(torch.tensor([term], dtype=torch.float64))
        assert total.value().item() == expected
    # Exact sum refuses an overflow.
    total = ExactSum((1,))
    total.add(torch.tensor([1.1e15], dtype=torch.float64))
    refused("1e15", total.add, torch.tensor([1.1e15], dtype=torch.float64))
