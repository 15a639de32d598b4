"""A feature network for 8×8 digits that saw none of them: it was trained on rendered fonts (``glyph_images.py``).

What a generator's training, its data and the network `digits` have in common, it does not share. Its recipe was
chosen by looking at rendered and real digits and at its accuracy on the real ones; no weight was fitted to one.
"""

from __future__ import annotations

from pathlib import Path

import torch

from eval.features.digits import DigitsExtractor

WEIGHTS = Path(__file__).with_name("glyphs.safetensors")
#: Channels of the convolutions; fewer features than `digits`, because distances to few held-out images are biased less.
WIDTHS = (32, 32, 32)


class GlyphsExtractor(DigitsExtractor):
    """The committed glyph network (or one trained again, by ``path``); features of its last convolution."""

    name = "glyphs"
    num_features = 4 * WIDTHS[-1]
    widths = WIDTHS

    def __init__(self, device: str | torch.device = "cpu", path: str | Path = WEIGHTS) -> None:
        super().__init__(device, path)
