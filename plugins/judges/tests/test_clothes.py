"""Feature networks of clothes."""

import torch

from sida.eval.features import get_extractor
from tests.near import assert_near
from tests.refused import refused


def test_the_network_for_colour_takes_its_pictures():
    extractor = get_extractor("colour")
    features, logits = extractor.features_and_logits(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    assert features.shape == (2, 256)
    assert logits.shape == (2, 10)
    refused(r"shape \(N, 3, 16, 16\)", extractor, torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_networks_of_clothes_take_grey_pictures_of_any_size():
    extractor = get_extractor("clothes_plain")
    ramp = torch.arange(784, dtype=torch.float32).view(1, 1, 28, 28) / 4
    features, logits = extractor.features_and_logits(ramp.to(torch.uint8))
    assert features.shape == (1, 256)
    assert logits.shape == (1, 10)
    twice = torch.nn.functional.interpolate(ramp, scale_factor=2, mode="bilinear").to(torch.uint8)
    assert_near(extractor(twice), features, 0.1)
    refused(r"shape \(N, 1, ", extractor, torch.zeros(1, 3, 28, 28, dtype=torch.uint8))
