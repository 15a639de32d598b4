"""Variants of a feature network against the published way; the digits' network, in half precision, stands in."""

import json
import statistics

import numpy as np
import pytest
import torch

from eval.commands import main
from eval.features.digits import DigitsExtractor
from eval.measuring.score import compare_variants, score_images
from sida.data import load_dataset
from sida.errors import UserError
from tests.eval.measuring.specs import DIGITS
from tests.eval.refused import refused


class Halved(DigitsExtractor):
    """The digits' network with features rounded to bfloat16."""

    def __init__(self, device="cpu"):
        super().__init__(device)
        self.sha256 = f"{self.sha256}-bfloat16"

    def _forward(self, images, logits):
        features, classes = super()._forward(images, logits)
        return features.bfloat16().float(), classes


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Digits with noise."""
    digits = load_dataset(DIGITS).images(range(600)).float()
    noisy = (digits + 20 * torch.randn(digits.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255)
    path = tmp_path_factory.mktemp("images") / "noisy.npz"
    np.savez(path, arr_0=noisy.to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return str(path)


def test_difference_as_a_share_of_the_spread_over_trials(images, tmp_path, capsys):
    ours = f"{__name__}:Halved"
    out = tmp_path / "table.json"
    command = ["variants", "--images", images, "--protocol", "digits", "--extractors", "digits", ours]
    assert main([*command, "--num-samples", "200", "--dataset", json.dumps(DIGITS), "--out", str(out)]) == 0
    rows = {(row["metric"], row["extractor"]): row for row in json.loads(out.read_text())}
    score = score_images(images, "digits", num_samples=200, dataset=DIGITS)
    for key in ("fd", "is", "precision", "recall"):
        published, halved = rows[key, "digits"], rows[key, ours]
        assert published["mean"] == pytest.approx(statistics.fmean(score.values(key)))
        assert published["difference"] == 0
        assert halved["difference"] == pytest.approx(halved["mean"] - published["mean"])
    fd = rows["fd", ours]
    assert fd["share"] == pytest.approx(abs(fd["difference"]) / statistics.stdev(score.values("fd")))
    assert 0 < fd["share"] < 0.5
    assert ("fd_pixel", "digits") not in rows
    assert f"| `fd` | `{ours}` |" in capsys.readouterr().out


def test_what_cannot_be_compared_is_one_line(images):
    with pytest.raises(UserError, match=r"of protocol 'digits' \(digits, pixels\)"):
        compare_variants(images, "digits", ["inception", "inception_tf32"])
    refused("variants of it, got digits", compare_variants, images, "digits", ["digits"])
    refused("one trial", compare_variants, images, "digits", ["digits", "digits"], num_samples=600, dataset=DIGITS)
