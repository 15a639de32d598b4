"""Names of extractors and how to make them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
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
    maker = makers[name]
    known = [key for key in inspect.signature(maker).parameters if key != "device"]
    for option in options:
        if option not in known:
            raise UserError(f"extractor '{name}': no option '{option}'{suggestion(option, known)}")
    return maker(device=device, **options)


def _makers() -> dict[str, Callable[..., Extractor]]:
    from eval.features.digits import DigitsExtractor
    from eval.features.dinov2 import DinoV2Extractor, DinoV2PillowExtractor
    from eval.features.inception import InceptionCleanExtractor, InceptionExtractor
    from eval.features.pixels import PixelExtractor

    kinds = (
        DigitsExtractor,
        PixelExtractor,
        InceptionExtractor,
        InceptionCleanExtractor,
        DinoV2Extractor,
        DinoV2PillowExtractor,
    )
    return {kind.name: kind for kind in kinds}
