import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.data import AugmentPipe
from tests.golden.vectors import load
from tests.near import assert_near, is_copy

ARRAYS, CASES = load("augment/augment_pipe")
EXACT = {
    "xflip_official_only_p0.12", "xflip", "yflip", "rotate_int", "translate_int", "nonsquare_translate_int",
    "blit_all", "none",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_images_and_labels_match_the_golden_ones(name):
    pipe = AugmentPipe(**CASES[name]["kwargs"])
    images = torch.from_numpy(ARRAYS[f"in/{CASES[name]['input']}"])
    before = images.clone()
    expected, expected_labels = (torch.from_numpy(ARRAYS[f"{name}/{kind}"]) for kind in ("images", "labels"))
    keys = sorted(key for key in ARRAYS if key.startswith(f"{name}/draw"))
    draws = iter([torch.from_numpy(ARRAYS[key]) for key in keys])
    actual, labels = pipe(images, draws)
    assert next(draws, None) is None, "not all recorded draws were used"
    assert is_copy(images, before)
    assert_near(actual, expected, 0 if name in EXACT else None)
    assert_near(labels, expected_labels)
    assert labels.shape == (len(images), pipe.label_dim)
    generator = torch.Generator().manual_seed(CASES[name]["torch_manual_seed"])
    assert_near(pipe(images, generator=generator)[0], expected)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), channels=st.sampled_from([1, 3]), size=st.sampled_from([1, 2, 8, 13]))
def test_images_without_labels_are_untouched(seed, channels, size):
    """What the labels don't mention did not happen: bit for bit."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(16, channels, size, size, generator=generator)
    augmented, labels = AugmentPipe.from_config({"p": 0.12})(images, generator=generator)
    assert labels.shape == (16, 9)
    untouched = (labels == 0).all(1)
    assert is_copy(augmented[untouched], images[untouched])
    assert augmented.isfinite().all()
    if size > 2:
        assert (augmented != images)[~untouched].flatten(1).any(1).all()


def test_colour_changes_need_colours():
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        AugmentPipe(hue=1)(torch.zeros(2, 4, 8, 8))
