import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.data import AugmentPipe

CASES = [
    "official_p0.12", "official_p0.15", "official_p1", "xflip_official_only_p0.12", "xflip", "yflip", "rotate_int",
    "translate_int", "scale", "rotate_frac", "aniso", "translate_frac", "blit_all", "color_all",
    "geometry_and_color_p0.5", "nonsquare_translate_int", "gray_color", "gray_official_p1", "none",
]  # fmt: skip
EXACT = {"xflip_official_only_p0.12", "xflip", "yflip", "rotate_int", "translate_int", "blit_all", "none"}


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("augment/augment_pipe")


def official(p: float) -> AugmentPipe:
    return AugmentPipe.from_config({"p": p})


@pytest.mark.parametrize("name", CASES)
def test_images_and_labels_match_the_golden_ones(recorded, name):
    arrays, info = recorded
    assert set(info) == set(CASES)
    pipe = AugmentPipe(**info[name]["kwargs"])
    images = torch.from_numpy(arrays[f"in/{info[name]['input']}"])
    before = images.clone()
    expected = torch.from_numpy(arrays[f"{name}/images"])
    keys = sorted(key for key in arrays if key.startswith(f"{name}/draw"))
    draws = iter([torch.from_numpy(arrays[key]) for key in keys])
    actual, labels = pipe(images, draws)
    assert next(draws, None) is None, "not all recorded draws were used"
    assert torch.equal(images, before)
    error = float((actual - expected).abs().max())
    assert error == 0 if name in EXACT or name == "nonsquare_translate_int" else error < 1e-5
    torch.testing.assert_close(labels, torch.from_numpy(arrays[f"{name}/labels"]), atol=1e-6, rtol=0)
    assert labels.shape == (len(images), pipe.label_dim)
    assert labels.dtype == torch.float32


@pytest.mark.parametrize("name", ["official_p1", "geometry_and_color_p0.5", "blit_all"])
def test_torch_generators_give_the_recorded_draws(recorded, name):
    arrays, info = recorded
    pipe = AugmentPipe(**info[name]["kwargs"])
    generator = torch.Generator().manual_seed(info[name]["torch_manual_seed"])
    actual, _ = pipe(torch.from_numpy(arrays["in/images"]), generator=generator)
    torch.testing.assert_close(actual, torch.from_numpy(arrays[f"{name}/images"]), atol=1e-5, rtol=0)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), channels=st.sampled_from([1, 3]), size=st.sampled_from([1, 2, 8, 13]))
def test_images_without_labels_are_untouched(seed, channels, size):
    """What the labels don't mention did not happen: bit for bit."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(16, channels, size, size, generator=generator)
    augmented, labels = official(0.12)(images, generator=generator)
    assert labels.shape == (16, official(0.12).label_dim) == (16, 9)
    untouched = (labels == 0).all(1)
    assert torch.equal(augmented[untouched], images[untouched])
    assert augmented.isfinite().all()
    if size > 2:
        assert (augmented != images)[~untouched].flatten(1).any(1).all()


def test_colour_changes_need_colours():
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        AugmentPipe(hue=1)(torch.zeros(2, 4, 8, 8))
