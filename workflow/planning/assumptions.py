"""Cards and rates that plans assume (``config/plan.yaml``)."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from sida.assets.registry import Asset
from sida.config.named_files import find_file
from sida.config.settings import NotNegative, Positive, Settings, from_mapping, load_yaml
from sida.errors import UserError, suggestion
from sida.eval.features import EXTRACTORS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu(Settings):
    """A card.

    Attributes:
        memory_gb: Its memory.
        watts: Its board power.
        float16: TFLOP/s of training in float16; null: unknown.
        float32: TFLOP/s of training in float32; null: unknown.
        source: Source of the rates.
    """

    memory_gb: Positive
    watts: Positive
    float16: Positive | None = None
    float32: Positive | None = None
    source: str = ""

    def rate(self, fp16: bool, name: str) -> float:
        """Operations per second.

        Raises:
            UserError: The rate at this precision is unknown.
        """
        rate = self.float16 if fp16 else self.float32
        if rate is None:
            fault = f"gpus.{name} has no rate in {'float16' if fp16 else 'float32'}"
            raise UserError("config/plan.yaml", fault, "add one")
        return rate * 1e12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assumptions(Settings):
    """Content of ``config/plan.yaml``.

    Attributes:
        gpus: Cards by name.
        gflop: Operations of external networks, in GFLOP per image: ``vae_decode``, ``vae_encode``, and extractors from
            outside; the table of feature networks has the suite's own.
        pictures_per_second: Number of pictures that one job prepares per second.
        downloads_gb: Sizes of downloads in GB, by the beginning of their id.
    """

    gpus: dict[str, Gpu]
    gflop: dict[str, NotNegative]
    pictures_per_second: Positive
    downloads_gb: dict[str, NotNegative]

    def gpu(self, name: str, where: str = "--gpu") -> Gpu:
        """A card by name; `where` names the setting in errors.

        Raises:
            UserError: No such card.
        """
        if name not in self.gpus:
            hint = suggestion(name, [card for card in self.gpus if name in card] or self.gpus)
            raise UserError(f"{where} {name}", f"not in config/plan.yaml{hint}", f"it has {', '.join(self.gpus)}")
        return self.gpus[name]

    def gflop_of(self, extractor: str) -> float:
        """Operations of an extractor, in GFLOP per image; 0 if unknown."""
        return self.gflop.get(extractor, EXTRACTORS[extractor].gflop if extractor in EXTRACTORS else 0.0)

    def gigabytes(self, asset: Asset) -> float:
        """Size of a download in GB: the registered size, else the assumed size; 0 if unknown."""
        if asset.size is not None:
            return asset.size / 1e9
        prefixes = [start for start in self.downloads_gb if asset.id.startswith(start)]
        return self.downloads_gb[max(prefixes, key=len)] if prefixes else 0.0


def load_assumptions(own: Iterable[Path] = ()) -> Assumptions:
    """Reads ``plan.yaml`` from the preset's folder, else from ``config``."""
    path = find_file("", "plan", own)
    return from_mapping(Assumptions, load_yaml(path), f"{path}:")
