"""Feature network for 8×8 digits, trained on rendered fonts (``glyph_images.py``) and not on digits.

So the network shares no training images with generators or with the network `digits`. Its recipe was chosen by looking
at rendered and real digits and at the accuracy on real digits; no weight was fitted to a real digit.
"""

from __future__ import annotations

from pathlib import Path

import torch

from eval.features.digits import DigitsExtractor

GLYPHS_NETWORK = Path(__file__).with_name("glyphs.safetensors")
#: Channels of the convolutions. Fewer features than `digits` reduce the bias of distances to few held-out images.
GLYPHS_WIDTHS = (32, 32, 32)


class GlyphsExtractor(DigitsExtractor):
    """The committed glyph network, or another one by ``path``; features of its last convolution."""

    name = "glyphs"
    num_features = 4 * GLYPHS_WIDTHS[-1]
    widths = GLYPHS_WIDTHS

    def __init__(self, device: str | torch.device = "cpu", path: str | Path = GLYPHS_NETWORK) -> None:
        super().__init__(device, path)
