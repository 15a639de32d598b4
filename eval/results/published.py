"""The papers' numbers (``results/published/*.csv``): exact strings with their sources, never converted in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.results.identity import Identity
from sida.config.resources import PUBLISHED
from sida.errors import UserError, suggestion
from sida.files.text_files import read_csv

#: Digests of the protocols of published numbers; a changed protocol has another digest and is not compared.
PROTOCOLS = {
    "cifar10": "a4720c4be89cd47eddc6033b1a79ea1fa878b8d608c0fb429c14894d10429941",
    "ffhq64": "f741d5e13db8b81b75b983b829fd2091bc11c81b44fea8381bbe86c122fed71f",
    "afhqv2": "90614bb46d0b5584e99e38856530a219652c9fce5df9fbab7ec8429fae3e76d2",
    "imagenet64": "667491590c1bc02ccfade3143e1aef7eb2263d42202f045aa65d8641d2ac8805",
    "imagenet512": "e56e2412daa02284cad0549d50293bc12e12f49fba1d7b897ef2e75dd7e6ae59",
    "imagenet64-uniform": "462001ce501e697f94c05941becfd02c79b74f565e4a51ea41fda8a8786ddbb2",
    "imagenet512-uniform": "9a9c08d31799ae1476f939cbcdeeb12fbd3a0fb1331ab048795740dd59a0844c",
}
_OF_DATA = {
    "CIFAR-10 32x32": "cifar10",
    "FFHQ 64x64": "ffhq64",
    "AFHQ-v2 64x64": "afhqv2",
    "ImageNet 64x64": "imagenet64",
    "ImageNet 512x512": "imagenet512",
}
_TEACHERS = ("VP-EDM", "EDM2")


@dataclass(frozen=True)
class Published:
    """A published number as printed.

    Attributes:
        text: The value exactly as printed, trailing zeros included.
        std: The printed standard deviation or an empty string.
        own: Whether the authors of the printing paper measured the number.
        protocol: Protocol of ``config/protocols``; empty if the number was measured under another protocol.
        lowest_of: Number of runs of which the number is the lowest value (ledger, 83); 0 for a mean.
    """

    id: str
    source: str
    row_label: str
    method: str
    dataset: str
    model_size: str
    nfe: str
    metric: str
    text: str
    std: str
    unit: str
    own: bool
    notes: str
    literal: str
    protocol: str = ""
    lowest_of: int = 0

    @property
    def value(self) -> float:
        """The number."""
        return float(self.text.replace(",", ""))

    @property
    def identity(self) -> Identity:
        """Identity of the number; a number that the paper quotes has the unknown one of another paper."""
        settings = PROTOCOLS.get(self.protocol, "")
        return Identity(protocol=self.protocol, settings=settings, n=50_000, quoted=not self.protocol)

    @property
    def half_unit(self) -> float:
        """Half a unit of the last printed digit, the largest rounding error."""
        decimals = len(self.text.partition(".")[2])
        return 0.5 * 10.0**-decimals


def load_published(folder: str | Path | None = None) -> dict[str, Published]:
    """Reads every CSV of the folder of published numbers, by id.

    Raises:
        UserError: No such folder, a missing column, or an id used twice.
    """
    folder = Path(folder or PUBLISHED)
    files = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder}: no published numbers (*.csv) there")
    numbers: dict[str, Published] = {}
    for path in files:
        for line, record in read_csv(path)[1]:
            try:
                number = _published(record)
            except KeyError as error:
                raise UserError(f"{path}:{line}: column {error} is missing") from None
            if number.id in numbers:
                raise UserError(f"{path}:{line}: id '{number.id}' occurs twice; ids must be unique")
            numbers[number.id] = number
    return numbers


def published_number(numbers: Mapping[str, Published], key: str, where: str) -> Published:
    """Looks up a published number by id.

    Raises:
        UserError: Unknown id; ``where`` names file and key in the message.
    """
    if key not in numbers:
        raise UserError(f"{where}: no published number '{key}' in results/published{suggestion(key, numbers)}")
    return numbers[key]


def _published(record: Mapping[str, str]) -> Published:
    own, method = record["measured_by_authors"] == "true", record["method"]
    teacher = method in _TEACHERS
    protocol = _OF_DATA.get(f"{record['dataset']} {record['resolution']}", "")
    if teacher and f"{protocol}-uniform" in PROTOCOLS:
        protocol += "-uniform"
    return Published(
        id=record["id"],
        source=record["source"],
        row_label=record["row_label"],
        method=record["method"],
        dataset=record["dataset"],
        model_size=record["model_size"],
        nfe=record["nfe"],
        metric=record["metric"],
        text=record["value"],
        std=record["std"],
        unit=record["unit"],
        own=own,
        notes=record["notes"],
        literal=record["literal"],
        protocol=protocol if teacher or (own and method.startswith("SiD")) else "",
        lowest_of=3 if teacher and record["metric"] in ("FID", "FD-DINOv2") else 0,
    )
