"""Rendered letters, and feature networks of letters and of digits that saw no digit."""

import hashlib

import numpy as np
import pytest
import torch

from eval.features import get_extractor
from eval.features.digits import GLYPHS_NETWORK, read_weights, weights_digest
from sida.cli.main import main
from sida.config.resources import ROOT
from sida.data import load_dataset, open_archive
from studies.shared.letters.digits import FONTS, fields_of_digits, render
from studies.shared.letters.extractors import GLYPHS8_NETWORK, GLYPHS32_NETWORK
from studies.shared.letters.render import FEATURE_FONTS, RENDERED, glyph_fields, render_letters, rendered_images
from studies.shared.letters.train import (
    Glyphs32Training,
    GlyphTraining,
    train_glyphs,
    train_glyphs8,
    train_glyphs32,
)
from tests.refused import refusing

PAGE = ROOT / "studies" / "shared" / "letters" / "README.md"
SMALL, SMALL32 = GlyphTraining(images=200, epochs=1), Glyphs32Training(epochs=1, images=260, held_out=52)


def digits():
    """All real digits and their classes."""
    data = load_dataset({"name": "digits", "kind": "digits"})
    return data.images(range(len(data))), data.class_indices


def letters(name, count):
    """Letters of fonts that the networks never saw, and their classes."""
    pairs = list(rendered_images(name, "test", count))
    images = torch.from_numpy(np.stack([pixels for pixels, _ in pairs]))
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images, torch.tensor([label for _, label in pairs])


#: By extractor: the images, its features, the least accuracy, the largest difference to what is recorded.
CASES = {
    "glyphs": (digits, (1, 8, 8), 128, 0.8, 1e-6),
    "glyphs8": (lambda: letters("glyphs8", 1000), (1, 8, 8), 128, 0.8, 2e-3),
    "glyphs16": (lambda: letters("glyphs16", 500), (3, 16, 16), 256, 0.97, None),
    "glyphs32": (lambda: letters("glyphs32", 520), (3, 32, 32), 256, 0.9, 0.03),
}
#: By extractor: its file, the settings that make it, the key of its accuracy, and where a page says it how.
RECORDS = {
    "glyphs": (
        GLYPHS_NETWORK, GlyphTraining(), "digits_accuracy", ROOT / "docs" / "protocol.md",
        "accuracy on the digits {:.1f} %",
    ),
    "glyphs8": (
        GLYPHS8_NETWORK, GlyphTraining(), "held_out_accuracy", PAGE,
        "held-out images of ten letters {:.1f} %, in other fonts",
    ),
    "glyphs32": (GLYPHS32_NETWORK, Glyphs32Training(), "held_out_accuracy", PAGE, "recognises {:.1f} %"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_committed_network_recognises_what_it_never_saw_as_recorded(name):
    pictures, shape, features, least, tolerance = CASES[name]
    images, labels = pictures()
    extractor = get_extractor(name)
    found, logits = extractor.features_and_logits(images)
    assert torch.equal(found[:100], extractor(images[:100]))
    assert found.shape == (len(images), features) == (len(images), extractor.num_features)
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    assert accuracy > least
    if name in RECORDS:
        file, settings, key, page, words = RECORDS[name]
        _, metadata = read_weights(file)
        assert file.stat().st_size < 500_000
        assert metadata["settings"] == vars(settings)  # the command makes this network
        assert accuracy == pytest.approx(metadata[key], abs=tolerance)
        assert words.format(100 * metadata[key]) in page.read_text(encoding="utf-8")
    channels, size, _ = shape
    with refusing(rf"extractor '{name}': .*\(N, {channels}, {size}, {size}\)"):
        extractor(torch.zeros(1, channels, 2 * size, 2 * size, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("train", "settings"), [(train_glyphs, SMALL), (train_glyphs8, SMALL), (train_glyphs32, SMALL32)]
)
def test_training_is_a_function_of_its_settings(train, settings):
    assert weights_digest(train(settings)[0]) == weights_digest(train(settings)[0])


def test_training_depends_on_its_seed():
    other = GlyphTraining(images=200, epochs=1, seed=1)
    assert weights_digest(train_glyphs(other)[0]) != weights_digest(train_glyphs(SMALL)[0])


@pytest.fixture(scope="module")
def fields():
    return fields_of_digits()


def test_glyphs_of_every_font_have_ink_and_holes(fields):
    assert fields.shape == (len(FONTS), 10, 48, 48)
    inside = fields > 0
    assert 0.05 < inside.float().mean() < 0.3
    assert (inside.flatten(2).sum(2) > 60).all()
    assert not inside[:, 0, 22:26, 22:26].flatten(1).all(1).any()  # a zero is hollow


def test_renderings_are_like_the_digits_in_form_and_not_in_content(fields):
    drawn = lambda seed: render(fields, torch.arange(300) % 10, torch.Generator().manual_seed(seed))
    images = drawn(3)
    assert (images.shape, images.dtype) == ((300, 1, 8, 8), torch.uint8)
    assert set(images.unique().tolist()) <= {round(level * 255 / 16) for level in range(17)}
    assert (images.flatten(1).amax(1) > 100).all()
    assert 0.2 < images.float().mean() / 255 < 0.4  # the digits: 0.305
    assert torch.equal(images, drawn(3))
    assert not torch.equal(images, drawn(4))
    assert torch.cdist(images.flatten(1).float(), digits()[0].flatten(1).float()).min() > 50


SOURCE = f"{ROOT}/studies/shared/letters/render.py:GLYPHS"
SPEC = RENDERED["glyphs32"]


@pytest.fixture(scope="module")
def rendered():
    return [pixels for pixels, _ in rendered_images("glyphs32", "train", 520)]


def test_images_are_those_of_every_machine(rendered):
    """The digest is that of the first 520 images where they were rendered first."""
    assert hashlib.sha256(np.stack(rendered).tobytes()).hexdigest()[:16] == "54bf3dc4e2f9ded8"


def test_an_image_depends_on_its_index_alone(rendered):
    alone = render_letters(glyph_fields(SPEC.fonts, SPEC.letters), np.array([503 % 26]), [503], "glyphs32", 32)[0]
    assert np.array_equal(alone, rendered[503])
    assert alone.shape == (32, 32, 3)


def test_every_letter_of_every_font_has_ink_of_its_own():
    """A font that lacks a letter would draw a box in its place."""
    for fonts in (SPEC.fonts, FEATURE_FONTS):
        inside = glyph_fields(fonts, SPEC.letters) > 0
        assert (inside.sum((2, 3)) > 150).all()
        for font in inside:
            assert len({letter.tobytes() for letter in font}) == len(SPEC.letters)
    assert not set(SPEC.fonts) & set(FEATURE_FONTS)


def test_subsets_share_no_image_and_have_each_class_equally_often(rendered):
    others = list(rendered_images("glyphs32", "test", 520))
    assert not {pixels.tobytes() for pixels in rendered} & {pixels.tobytes() for pixels, _ in others}
    counts = np.bincount([label for _, label in others], minlength=26)
    assert (counts == 20).all()
    (first, total), (begin, _) = SPEC.subsets["train"], SPEC.subsets["test"]
    assert first + total <= begin


def test_data_prepare_renders_an_archive(tmp_path, rendered, capsys):
    out = tmp_path / "letters.zip"
    assert main(["data", "prepare", "--source", SOURCE + "32", "--out", str(out), "--max-images", "60"]) == 0
    dataset = open_archive(str(out))
    assert (len(dataset), dataset.resolution, dataset.num_channels, dataset.label_dim) == (60, 32, 3, 26)
    assert np.array_equal(dataset.images([7])[0].numpy(), rendered[7].transpose(2, 0, 1))
    command = ["data", "prepare", "--source", SOURCE + "32", "--out", str(out), "--resolution", "64"]
    assert main(command) != 0
    assert "--resolution" in capsys.readouterr().err


def test_small_letters_differ_less_and_are_light_on_dark():
    spec = RENDERED["glyphs16"]
    pairs = list(rendered_images("glyphs16", "train", 200))
    small = np.stack([pixels for pixels, _ in pairs])
    assert small.shape == (200, 16, 16, 3)
    assert [label for _, label in pairs[:12]] == [*range(10), 0, 1]
    assert hashlib.sha256(small.tobytes()).hexdigest()[:16] == "9ff008a30b25574b"
    grey = small.mean(3).reshape(20, 10, 256)
    edge = small[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean((1, 2))
    assert (small.max((1, 2)).mean(1) > edge + 30).all()
    wide = np.stack([p for p, _ in rendered_images("glyphs32", "train", 2600)])[:, ::2, ::2].mean(3)
    labels = np.arange(2600) % 26
    assert grey[:, 0].std(0).mean() < 0.7 * wide[labels == 0].reshape(-1, 256).std(0).mean()
    assert set(spec.fonts) < set(SPEC.fonts)


def test_grey_letters_have_one_channel_and_held_out_fonts(tmp_path, capsys):
    spec = RENDERED["glyphs8"]
    assert not {*spec.fonts, *FEATURE_FONTS} & set(spec.held_out_fonts)
    assert not set(spec.fonts) & set(FEATURE_FONTS)
    train, test = ([pixels for pixels, _ in rendered_images("glyphs8", name, 100)] for name in ("train", "test"))
    assert hashlib.sha256(np.stack([*train, *test]).tobytes()).hexdigest()[:16] == "fef2d31ff10c0a7a"
    assert np.stack(train).shape == (100, 8, 8)
    assert (np.stack(train).max((1, 2)) > 100).all()
    out = tmp_path / "letters.zip"
    command = ["data", "prepare", "--source", SOURCE + "8", "--out", str(out), "--subset", "test", "--max-images", "30"]
    assert main(command) == 0
    assert "30 grey" in capsys.readouterr().out
    dataset = open_archive(str(out))
    assert (len(dataset), dataset.resolution, dataset.num_channels, dataset.label_dim) == (30, 8, 1, 10)
    assert np.array_equal(dataset.images([7])[0, 0].numpy(), test[7])
