"""The feature network that saw no digit: its record, its images, its training."""

from __future__ import annotations

import pytest
import torch

from eval.features import get_extractor
from eval.features.digits import GLYPHS_NETWORK, read_weights, weights_digest
from sida.config.resources import ROOT
from sida.data import load_dataset
from sida.errors import UserError
from studies.shared.letters.digits import FONTS, fields_of_digits, render
from studies.shared.letters.train import GlyphTraining, train_glyphs


@pytest.fixture(scope="module")
def fields():
    return fields_of_digits()


def test_the_committed_network_tells_real_digits_apart_as_recorded():
    digits = load_dataset({"name": "digits", "kind": "digits"})
    _, metadata = read_weights(GLYPHS_NETWORK)
    assert GLYPHS_NETWORK.stat().st_size < 300_000
    extractor = get_extractor("glyphs")
    features, logits = extractor.features_and_logits(digits.images(range(len(digits))))
    accuracy = (logits.argmax(1) == digits.class_indices).double().mean().item()
    assert accuracy == pytest.approx(metadata["digits_accuracy"], abs=1e-6)
    assert accuracy > 0.8
    assert metadata["settings"] == vars(GlyphTraining())  # the command makes this network
    assert features.shape == (1797, extractor.num_features) == (1797, 128)
    said = f"accuracy on the digits {100 * accuracy:.1f} %"
    assert said in (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"extractor 'glyphs': images must have shape \(N, 1, 8, 8\)"):
        extractor(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))


def test_glyphs_of_every_font_have_ink_and_holes(fields):
    assert fields.shape == (len(FONTS), 10, 48, 48)
    inside = fields > 0
    assert 0.05 < inside.float().mean() < 0.3
    assert (inside.flatten(2).sum(2) > 60).all()
    assert not inside[:, 0, 22:26, 22:26].flatten(1).all(1).any()  # a zero is hollow


def test_renderings_are_like_the_digits_in_form_and_not_in_content(fields):
    classes = torch.arange(300) % 10
    images = render(fields, classes, torch.Generator().manual_seed(3))
    assert (images.shape, images.dtype) == ((300, 1, 8, 8), torch.uint8)
    levels = {round(level * 255 / 16) for level in range(17)}
    assert set(images.unique().tolist()) <= levels
    assert (images.flatten(1).amax(1) > 100).all()
    assert 0.2 < images.float().mean() / 255 < 0.4  # the digits: 0.305
    assert torch.equal(images, render(fields, classes, torch.Generator().manual_seed(3)))
    assert not torch.equal(images, render(fields, classes, torch.Generator().manual_seed(4)))
    real = load_dataset({"name": "digits", "kind": "digits"}).images(range(1797)).flatten(1).float()
    assert torch.cdist(images.flatten(1).float(), real).min() > 50


def test_training_is_deterministic():
    small = GlyphTraining(images=200, epochs=1)
    digests = [
        weights_digest(train_glyphs(settings)[0])
        for settings in (small, small, GlyphTraining(images=200, epochs=1, seed=1))
    ]
    assert digests[0] == digests[1] != digests[2]
