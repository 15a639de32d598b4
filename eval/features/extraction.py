"""Runs several extractors over one batch: each network is evaluated once, whatever the number of metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eval.features.base import Extractor
from eval.features.registry import get_extractor


@dataclass(frozen=True)
class Features:
    """Output of one feature network for a batch.

    Attributes:
        features: float32 (N, C).
        logits: float32 (N, K), or None for a network without classes.
    """

    features: torch.Tensor
    logits: torch.Tensor | None


def make_extractors(
    names: Sequence[str], device: str | torch.device = "cpu", options: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Extractor]:
    """Makes each named extractor once; ``options`` maps names to keyword arguments such as ``path``."""
    return {name: get_extractor(name, device, **(options or {}).get(name, {})) for name in names}


def extract(images: torch.Tensor, extractors: Mapping[str, Extractor]) -> dict[str, Features]:
    """Features of uint8 images (N, C, H, W) by every extractor, one pass each."""
    return {name: Features(*extractor.features_and_logits(images)) for name, extractor in extractors.items()}
