import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.data import InfiniteSampler
from sida.data.dataset import ORDERS, EDM2Order


@settings(max_examples=25)
@given(size=st.integers(1, 50), seed=st.integers(0, 1000), epoch=st.integers(0, 5))
def test_an_epoch_visits_every_item_once(size, seed, epoch):
    visited = InfiniteSampler(size, seed).indices(epoch * size, size)
    assert sorted(visited) == list(range(size))


def test_epochs_seeds_and_purposes_differ():
    given = (((0,), 0), ((0,), 200), ((1,), 0), ((0, "psi"), 0))
    orders = [InfiniteSampler(200, *seed).indices(start, 200) for seed, start in given]
    assert all((a != b).mean() > 0.9 for a, b in itertools.combinations(orders, 2))


@pytest.mark.parametrize(("name", "size"), [("tiny_rgb_labels", 12), ("tiny_rgb_nolabels", 6)])
def test_edm2s_order_matches_the_golden_one(golden, name, size):
    arrays, _ = golden(f"dataset/{name}")
    for start in (0, 24, 31):
        expected = arrays[f"infinite_sampler_edm2/seed3_start{start}"]
        np.testing.assert_array_equal(EDM2Order(size, 3).indices(start, len(expected)), expected)


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(ORDERS)),
    size=st.integers(1, 50),
    seed=st.integers(0, 2**31),
    asked=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), min_size=1, max_size=5),
)
def test_every_order_is_the_same_in_whatever_pieces_it_is_asked_for(name, size, seed, asked):
    """As by a run that is resumed, or by devices that share a batch."""
    whole = ORDERS[name](size, seed, "teacher").indices(0, 360)
    pieces = ORDERS[name](size, seed, "teacher")
    for start, count in asked:
        np.testing.assert_array_equal(pieces.indices(start, count), whole[start : start + count])
    assert set(whole) <= set(range(size))
