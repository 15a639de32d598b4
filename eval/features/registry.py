"""Names of extractors and how to make them."""

from __future__ import annotations

from typing import Any

import torch

from eval.features.base import Extractor
from sida.errors import UserError, suggestion


def extractor_names() -> list[str]:
    """All names that :func:`get_extractor` knows."""
    return sorted(_makers())


def get_extractor(name: str, device: str | torch.device = "cpu", **options: Any) -> Extractor:
    """Makes an extractor.

    Args:
        name: One of :func:`extractor_names`.
        device: Where it computes and where its features live.
        **options: Passed to the extractor, e.g. ``path`` of the weights.

    Raises:
        UserError: Unknown name, or weights that are missing or broken.
    """
    makers = _makers()
    if name not in makers:
        raise UserError(f"no feature extractor '{name}'{suggestion(name, makers)}")
    return makers[name](device=device, **options)


def _makers() -> dict[str, Any]:
    from eval.features.digits import DigitsExtractor
    from eval.features.pixels import PixelExtractor

    return {"digits": DigitsExtractor, "pixels": PixelExtractor}
