"""Rendered letters: each image is a function of its index, classes are balanced, subsets share no image."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from sida.cli.main import main
from sida.config.resources import ROOT
from sida.data import open_archive
from studies.shared.letters.render import FEATURE_FONTS, RENDERED, glyph_fields, render_letters, rendered_images

SOURCE = f"{ROOT}/studies/shared/letters/render.py:GLYPHS"
SPEC = RENDERED["glyphs32"]


@pytest.fixture(scope="module")
def images():
    return [pixels for pixels, _ in rendered_images("glyphs32", "train", 520)]


def test_images_are_those_of_every_machine(images):
    """The digest is that of the first 520 images where they were rendered first."""
    assert hashlib.sha256(np.stack(images).tobytes()).hexdigest()[:16] == "54bf3dc4e2f9ded8"


def test_an_image_depends_on_its_index_alone(images):
    fields = glyph_fields(SPEC.fonts, SPEC.letters)
    alone = render_letters(fields, np.array([503 % 26]), [503], "glyphs32", 32)[0]
    assert np.array_equal(alone, images[503])
    assert alone.shape == (32, 32, 3)


def test_every_letter_of_every_font_has_ink_of_its_own():
    """A font that lacks a letter would draw a box in its place."""
    for fonts in (SPEC.fonts, FEATURE_FONTS):
        inside = glyph_fields(fonts, SPEC.letters) > 0
        assert (inside.sum((2, 3)) > 150).all()
        for font in inside:
            assert len({letter.tobytes() for letter in font}) == len(SPEC.letters)
    assert not set(SPEC.fonts) & set(FEATURE_FONTS)


def test_subsets_share_no_image_and_have_each_class_equally_often(images):
    others = list(rendered_images("glyphs32", "test", 520))
    assert not {pixels.tobytes() for pixels in images} & {pixels.tobytes() for pixels, _ in others}
    counts = np.bincount([label for _, label in others], minlength=26)
    assert (counts == 20).all()
    (first, total), (begin, _) = SPEC.subsets["train"], SPEC.subsets["test"]
    assert first + total <= begin


def test_data_prepare_renders_an_archive(tmp_path, images, capsys):
    out = tmp_path / "letters.zip"
    assert main(["data", "prepare", "--source", SOURCE + "32", "--out", str(out), "--max-images", "60"]) == 0
    dataset = open_archive(str(out))
    assert (len(dataset), dataset.resolution, dataset.num_channels, dataset.label_dim) == (60, 32, 3, 26)
    assert np.array_equal(dataset.images([7])[0].numpy(), images[7].transpose(2, 0, 1))
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
