"""Nearest training images: against brute force, on copies, fresh draws and images far away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import eval.precision_recall
from eval.memorisation import memorisation, nearest
from sida.errors import UserError


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
    monkeypatch.setattr(eval.precision_recall, "_BLOCK_ELEMENTS", 700)
    for whole, parts in zip(expected, nearest(rows, data)):
        assert torch.equal(whole, parts)


def test_copies_are_told_whatever_their_place_in_feature_space():
    data, fresh = draw(400, 0) + 1e3, draw(200, 1) + 1e3  # far from the origin, where ‖a − b‖² cancels
    found = memorisation(data[:100], data, fresh)
    assert (found.share, found.ratio, found.median_generated, found.tail) == (1, 0, 0, 1)
    assert found.z > 10


def test_fresh_draws_are_no_copies_and_noisy_copies_lie_between():
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


@pytest.mark.parametrize(
    "change", [{"training": draw(5, 0, 4)}, {"held_out": draw(0, 0)}, {"generated": draw(5, 0)[0]}]
)
def test_faults(change):
    sets = {"generated": draw(5, 0), "training": draw(5, 1), "held_out": draw(5, 2)} | change
    with pytest.raises(UserError, match=r"both must be \(N, C\) of one extractor"):
        memorisation(**sets)
