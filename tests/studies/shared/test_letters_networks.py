"""The feature network of rendered letters: its record, its accuracy on fonts that it never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.features import get_extractor
from eval.features.digits import read_weights
from sida.config.resources import ROOT
from sida.errors import UserError
from studies.shared.letters.extractors import GLYPHS8_NETWORK, GLYPHS32_NETWORK
from studies.shared.letters.render import rendered_images
from studies.shared.letters.train import Glyphs32Training, GlyphTraining, train_glyphs8, train_glyphs32

PAGE = ROOT / "studies" / "shared" / "letters" / "README.md"


def test_the_committed_network_recognises_letters_of_other_fonts_as_recorded():
    _, metadata = read_weights(GLYPHS32_NETWORK)
    assert GLYPHS32_NETWORK.stat().st_size < 500_000
    assert metadata["settings"] == vars(Glyphs32Training())  # the command makes this network
    extractor = get_extractor("glyphs32")
    pairs = list(rendered_images("glyphs32", "test", 520))
    images = torch.from_numpy(np.stack([pixels for pixels, _ in pairs])).permute(0, 3, 1, 2)
    features, logits = extractor.features_and_logits(images)
    assert features.shape == (520, extractor.num_features) == (520, 256)
    accuracy = (logits.argmax(1) == torch.tensor([label for _, label in pairs])).double().mean().item()
    assert accuracy == pytest.approx(metadata["held_out_accuracy"], abs=0.03)
    assert accuracy > 0.9
    said = f"recognises {100 * metadata['held_out_accuracy']:.1f} %"
    assert said in PAGE.read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"extractor 'glyphs32': images must have shape \(N, 3, 32, 32\)"):
        extractor(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))


def test_training_is_a_function_of_its_settings():
    settings = Glyphs32Training(epochs=1, images=260, held_out=52)
    first, second = train_glyphs32(settings)[0], train_glyphs32(settings)[0]
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_network_recognises_the_small_letters_enlarged():
    extractor = get_extractor("glyphs16")
    pairs = list(rendered_images("glyphs16", "test", 500))
    images = torch.from_numpy(np.stack([pixels for pixels, _ in pairs])).permute(0, 3, 1, 2)
    features, logits = extractor.features_and_logits(images)
    assert torch.equal(features, extractor(images))
    assert features.shape == (500, 256)
    accuracy = (logits.argmax(1) == torch.tensor([label for _, label in pairs])).double().mean().item()
    assert accuracy > 0.97
    with pytest.raises(UserError, match=r"extractor 'glyphs16': images must have shape \(N, 3, 16, 16\)"):
        extractor(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_the_network_of_grey_letters_recognises_other_fonts_as_recorded():
    _, metadata = read_weights(GLYPHS8_NETWORK)
    assert metadata["settings"] == vars(GlyphTraining())  # the command makes this network
    extractor = get_extractor("glyphs8")
    pairs = list(rendered_images("glyphs8", "test"))
    images = torch.from_numpy(np.stack([pixels for pixels, _ in pairs]))[:, None]
    features, logits = extractor.features_and_logits(images)
    assert features.shape == (1000, extractor.num_features) == (1000, 128)
    accuracy = (logits.argmax(1) == torch.tensor([label for _, label in pairs])).double().mean().item()
    assert accuracy == pytest.approx(metadata["held_out_accuracy"], abs=2e-3)
    said = f"held-out images of ten letters {100 * metadata['held_out_accuracy']:.1f} %, in other fonts"
    assert said in PAGE.read_text(encoding="utf-8")
    small = GlyphTraining(images=200, epochs=1)
    first, second = (train_glyphs8(small)[0] for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
