"""Which images of one set are in another one, whatever their archives are."""

import numpy as np
import pytest

from sida.data import load_dataset
from sida.data.dataset import InMemory, Sketch, join_sketches, read_sketch


def drawn(count, seed=0, side=4):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8)


def sketch(pixels, **views):
    return InMemory("drawn", pixels, None, **views).sketch


def digits(**spec):
    return load_dataset({"name": "digits", "kind": "digits", **spec}).sketch


def test_a_set_of_all_images_and_one_of_the_first_ones_hold_a_part():
    train, test = drawn(60), drawn(20, seed=1)
    both, alone = np.concatenate([train, test]), sketch(test)
    assert [sketch(part).shared(alone) for part in (both, both[:70], test, train)] == [
        (20, 20), (10, 20), (20, 20), (0, 20)
    ]  # fmt: skip


def test_splits_of_the_digits():
    held_out = digits(split="held-out")
    assert [digits(split=split).shared(held_out)[0] for split in ("train", "held-out")] == [0, 300]
    found, looked = digits().shared(held_out)
    assert 100 < found == looked < 300


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
