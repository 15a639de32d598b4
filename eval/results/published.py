"""The papers' numbers (``results/published/*.csv``): exact strings with their sources, never converted in place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.features.registry import registered_digest
from eval.results.identity import Identity
from sida.assets.cache import registered
from sida.config.resources import PUBLISHED
from sida.errors import UserError, suggestion
from sida.files.text_files import read_csv

_CIFAR10 = "6d2831d0cbe1e6f6d200645a1fba84f8f1425b18ec0bc055a1bebbdadbf9ba69"
_IMAGENET = "labels-imagenet"
_WORDS = {"allow_tf32": "false", "channels": "3", "quantisation": "truncate"}


def _pinned(resolution: int, classes: str, **metrics: tuple[str, str, dict[str, str]]) -> dict[str, Identity]:
    """Identities by metric; ``metrics`` gives kind, asset of the reference, and settings that others do not have."""
    found = {}
    for key, (kind, reference, more) in metrics.items():
        words = {**_WORDS, "extractor": "inception", **({"cov_ddof": "0"} if kind == "frechet" else {}), **more}
        found[key] = Identity(
            protocol="",
            settings=" ".join([kind, *(f"{name}={value}" for name, value in sorted(words.items()))]),
            n=50_000,
            classes=classes,
            resolution=str(resolution),
            reference=reference,
            extractor=words["extractor"],
        )
    return found


def _imagenet64(classes: str) -> dict[str, Identity]:
    shares = {key: (key, "ref-batch-imagenet64", {"k": "3", "dtype": "float32"}) for key in ("precision", "recall")}
    return _pinned(64, classes, fid=("frechet", "fid-ref-imagenet64", {}), **shares)


def _imagenet512(classes: str) -> dict[str, Identity]:
    decoded = {"quantisation": "truncate_unit", "reference.entry": "fid"}
    dino = {**decoded, "reference.entry": "fd_dinov2", "extractor": "dinov2"}
    ref = "fid-ref-img512"
    return _pinned(512, classes, fid=("frechet", ref, decoded), fd_dinov2=("frechet", ref, dino))


#: Identities of published numbers, by protocol and metric, with names in the place of digests of reference and feature
#: network. They stay as they are if a protocol of this suite changes; its values are then not compared with them.
PROTOCOLS: dict[str, dict[str, Identity]] = {
    "cifar10": _pinned(
        32, _CIFAR10, fid=("frechet", "fid-ref-cifar10", {}), **{"is": ("inception_score", "", {"splits": "10"})}
    ),
    "ffhq64": _pinned(64, "data", fid=("frechet", "fid-ref-ffhq64", {})),
    "afhqv2": _pinned(64, "data", fid=("frechet", "fid-ref-afhqv2", {})),
    "imagenet64": _imagenet64(_IMAGENET),
    "imagenet64-uniform": _imagenet64("uniform"),
    "imagenet512": _imagenet512(_IMAGENET),
    "imagenet512-uniform": _imagenet512("uniform"),
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
        """Identity of the number, with the registered reference and feature network."""
        pinned = PROTOCOLS.get(self.protocol, {}).get(self.metric.lower().replace("-", "_"))
        if pinned is None:
            return Identity(protocol="", quoted=True)
        return dataclasses.replace(
            pinned,
            protocol=self.protocol,
            # The lowest of several runs is that of the first trials' seeds; other runs have unknown seeds.
            seed0=0 if self.lowest_of else None,
            reference=registered(pinned.reference) if pinned.reference else "",
            extractor=registered_digest(pinned.extractor),
        )

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
