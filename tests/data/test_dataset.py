"""Data sets in themselves: the order in which items are visited, and which images of one set are in another one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.data import InfiniteSampler
from sida.data.dataset import InMemory, Sketch, join_sketches, read_sketch
from sida.data.order import ORDERS, EDM2Order
from tests.near import same_integers


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
        assert same_integers(EDM2Order(size, 3).indices(start, len(expected)), expected)


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
        assert same_integers(pieces.indices(start, count), whole[start : start + count])
    assert set(whole) <= set(range(size))


# Which images of one set are in another one, whatever their archives are


def drawn(count, seed=0, side=4):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8)


def sketch(pixels, **views):
    return InMemory("drawn", pixels, None, **views).sketch


def test_a_set_of_all_images_and_one_of_the_first_ones_hold_a_part():
    train, test = drawn(60), drawn(20, seed=1)
    both, alone = np.concatenate([train, test]), sketch(test)
    assert [sketch(part).shared(alone) for part in (both, both[:70], test, train)] == [
        (20, 20), (10, 20), (20, 20), (0, 20)
    ]  # fmt: skip


@pytest.mark.parametrize("part", [1.0, 0.3])
def test_large_sets_are_compared_by_a_sample(part):
    images, others = drawn(20_000), drawn(3_000, seed=1)
    others[: int(3_000 * part)] = images[5_000 : 5_000 + int(3_000 * part)]
    found, looked = sketch(images).shared(sketch(others))
    assert 80 < looked < 250
    assert found / looked == pytest.approx(part, abs=0.12)
    assert sketch(images).shared(sketch(drawn(3_000, seed=2)))[0] == 0


def test_a_subset_by_seed_and_mirrored_copies_are_what_is_seen():
    images = drawn(100)
    assert sketch(images, max_size=40, random_seed=3, xflip=True).shared(sketch(images)) == (40, 100)


def test_images_of_another_shape_and_no_record_are_unknown_and_no_images_are_none():
    small = sketch(drawn(10))
    assert small.shared(sketch(drawn(10, side=8))) is None
    assert join_sketches([small, sketch(drawn(10, side=8))]) is None
    assert join_sketches([small, None]) is None
    assert read_sketch(None) is read_sketch({"least": ""}) is None
    assert Sketch().shared(small) == (0, 10)
    assert join_sketches([Sketch(), small]).shared(small) == (10, 10)


def test_a_record_is_the_sketch_and_parents_add_theirs():
    mine, theirs = (sketch(drawn(3_000, seed)) for seed in (0, 1))
    assert read_sketch(mine.record()).record() == mine.record()
    both = join_sketches([read_sketch(mine.record()), theirs])
    assert both.record() == sketch(np.concatenate([drawn(3_000, 1), drawn(3_000, 0)])).record()
