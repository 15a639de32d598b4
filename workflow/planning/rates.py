"""Assumptions of plans (``config/plan.yaml``): rates of GPUs, and sizes that cannot be counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from sida.assets.registry import Asset
from sida.config.mapping import Settings, from_mapping, load_yaml
from sida.config.ranges import CheckedAs, NotNegative, Positive
from sida.config.resources import find
from sida.errors import UserError, suggestion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu(Settings):
    """A card.

    Attributes:
        memory_gb: Its memory.
        watts: Its board power.
        float16: TFLOP/s that training reaches in float16; null: unknown.
        float32: The same in float32.
        source: Where the rates come from.
    """

    memory_gb: Positive
    watts: Positive
    float16: Positive | None = None
    float32: Positive | None = None
    source: str = ""

    def rate(self, fp16: bool, name: str) -> float:
        """Operations a second.

        Raises:
            UserError: Nobody has measured that precision.
        """
        key = "float16" if fp16 else "float32"
        rate = getattr(self, key)
        if rate is None:
            raise UserError(f"config/plan.yaml: gpus.{name} has no rate in {key}; add one, or give --measure there")
        return float(rate) * 1e12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Foreign(Settings):
    """Operations of networks that are not ours, GFLOP an image.

    Attributes:
        inception: The Inception network.
        dinov2: DINOv2, ViT-L/14.
        vae_decode: The autoencoder's decoder.
        vae_encode: Its encoder.
    """

    inception: NotNegative
    dinov2: NotNegative
    vae_decode: NotNegative
    vae_encode: NotNegative


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumptions(Settings):
    """The file.

    Attributes:
        gpus: Cards by name.
        gflop: See :class:`Foreign`.
        pictures_per_second: Pictures that one job prepares in a second.
        downloads_gb: Sizes of downloads by the beginning of their id.
    """

    gpus: dict[str, Annotated[dict[str, Any], CheckedAs(Gpu)]]
    gflop: Annotated[dict[str, Any], CheckedAs(Foreign)]
    pictures_per_second: Positive
    downloads_gb: dict[str, NotNegative]

    def gpu(self, name: str, where: str = "--gpu") -> Gpu:
        """A card by name; `where` it was named, for errors.

        Raises:
            UserError: No such card.
        """
        if name not in self.gpus:
            near = suggestion(name, [card for card in self.gpus if name in card] or self.gpus)
            raise UserError(f"{where} {name}: not in config/plan.yaml{near}; it has {', '.join(self.gpus)}")
        return Gpu(**self.gpus[name])

    @property
    def foreign(self) -> Foreign:
        """Networks that are not ours."""
        return Foreign(**self.gflop)

    def gigabytes(self, asset: Asset) -> float:
        """Size of a download: the registered one, else the assumed one; 0 where nobody knows."""
        if asset.size is not None:
            return asset.size / 1e9
        known = [start for start in self.downloads_gb if asset.id.startswith(start)]
        return self.downloads_gb[max(known, key=len)] if known else 0.0


def load_assumptions(own: Iterable[Path] = ()) -> Assumptions:
    """Reads ``plan.yaml`` of the preset's folder, else of ``config``."""
    path = find("", "plan", own)
    return from_mapping(Assumptions, load_yaml(path), f"{path}:")
