"""The papers' numbers (``results/published/*.csv``): exact strings with their sources, never converted in place."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.assets.cache import registered
from sida.config.feature_networks import networks_of_metric
from sida.config.lookup import ROOT
from sida.config.settings import load_yaml
from sida.errors import UserError, suggestion
from sida.eval.features.registry import registered_digest
from sida.eval.metrics.kinds import value_fault
from sida.eval.results.csv_files import read_csv
from sida.eval.results.identity import Identity, read_exposure
from sida.methods.method import Exposure

#: Folder of the numbers and of facts about them.
PUBLISHED = ROOT / "results" / "published"
#: Day on which the list of printed numbers was last read at its sources.
PUBLISHED_DAY = "2026-11-27"
#: Kinds of printed metrics, whose values have bounds.
_KINDS = {
    "fid": "frechet", "fd-dinov2": "frechet", "is": "inception_score extractor=inception", "precision": "precision",
    "recall": "recall",
}  # fmt: skip
#: Columns of fields with other names.
_COLUMNS = {"text": "value", "own": "measured_by_authors", "protocol": "suite_protocol"}


@functools.cache
def protocols() -> dict[str, dict[str, Identity]]:
    """Identities of published numbers, by protocol and metric (``results/published/protocols.yaml``).

    Reference and feature network have names instead of digests.
    """
    identities: dict[str, dict[str, Identity]] = {}
    for name, about in load_yaml(PUBLISHED / "protocols.yaml").items():
        for key, words in about.pop("metrics").items():
            network = words["settings"].partition("extractor=")[2].split()[0]
            identities.setdefault(name, {})[key] = Identity(protocol="", n=50_000, extractor=network, **about, **words)
    return identities


@functools.cache
def published_exposures() -> dict[str, Exposure | None]:
    """Networks that the generators of published numbers were exposed to, by method (``results/published/saw.yaml``)."""
    return {name: read_exposure(str(words)) for name, words in load_yaml(PUBLISHED / "saw.yaml").items()}


@dataclass(frozen=True)
class Published:
    """A published number as printed.

    Attributes:
        text: The value exactly as printed, trailing zeros included.
        std: The printed standard deviation or an empty string.
        own: Whether the authors of the printing paper measured the number.
        model_size: Size of the network; empty if not stated.
        resolution, conditioning: Of the images, such as ``32x32`` and ``class-conditional``.
        teacher: Teacher or start of the training; empty if not stated.
        data: Whether the training sees real images, ``yes`` or ``no``; empty if not stated.
        date: Year, or year and month, of the paper or page; empty if not stated.
        address: Place where the number was read.
        protocol: Protocol of ``results/published/protocols.yaml`` (column ``suite_protocol``); empty if the number was
            measured under another protocol.
        lowest_of: Number of runs of which the number is the lowest value (difference 83); 0 for a mean.
    """

    id: str
    source: str
    row_label: str
    method: str
    dataset: str
    nfe: str
    metric: str
    text: str
    std: str
    own: bool
    notes: str
    literal: str
    protocol: str = ""
    lowest_of: int = 0
    model_size: str = ""
    resolution: str = ""
    conditioning: str = ""
    teacher: str = ""
    data: str = ""
    date: str = ""
    address: str = ""

    @property
    def value(self) -> float:
        """The number."""
        return float(self.text.replace(",", ""))

    @property
    def metric_key(self) -> str:
        """Key of the metric in measurements and layouts."""
        return self.metric.lower().replace("-", "_")

    @property
    def fault(self) -> tuple[str, str] | None:
        """Fault and remedy if the metric cannot have this value; else None."""
        kind = _KINDS.get(self.metric.lower())
        return None if kind is None else value_fault(kind, self.value)

    @property
    def identity(self) -> Identity:
        """Identity of the number, with the registered reference and feature network."""
        key = self.metric_key
        exposure = published_exposures().get(self.method)
        of_protocol = protocols().get(self.protocol, {}).get(key)
        if of_protocol is None:
            words = (f"{name}.extractor={name}" for name in networks_of_metric(key))
            return Identity(protocol="", quoted=True, settings=" ".join(words), exposure=exposure)
        return dataclasses.replace(
            of_protocol,
            exposure=exposure,
            protocol=self.protocol,
            # The lowest of several runs has the seeds of the first trials; seeds of other runs are unknown.
            seed0=0 if self.lowest_of else None,
            reference=registered(of_protocol.reference) if of_protocol.reference else "",
            extractor=registered_digest(of_protocol.extractor),
        )

    @property
    def half_unit(self) -> float:
        """Half a unit of the last printed digit, the largest rounding error."""
        decimals = len(self.text.partition(".")[2])
        return 0.5 * 10.0**-decimals


@functools.cache
def load_published(folder: Path = PUBLISHED) -> Mapping[str, Published]:
    """Reads every CSV of the folder of published numbers, by id.

    Raises:
        UserError: No such folder, a missing column, or an id used twice.
    """
    files = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    if not files:
        raise UserError(folder, "no published numbers (*.csv) there")
    numbers: dict[str, Published] = {}
    for path in files:
        for line, record in read_csv(path)[1]:
            try:
                number = _published(record)
            except KeyError as error:
                raise UserError(f"{path}:{line}", f"column {error} is missing") from None
            except ValueError:
                raise UserError(f"{path}:{line}: lowest_of", "must be a number of runs, or empty", "fix it") from None
            if number.protocol and number.protocol not in protocols():
                fault = f"no protocol '{number.protocol}' in protocols.yaml{suggestion(number.protocol, protocols())}"
                raise UserError(f"{path}:{line}: suite_protocol", fault)
            if reason := number.fault:
                raise UserError(f"{path}:{line}: value of '{number.id}'", *reason)
            if number.id in numbers:
                raise UserError(f"{path}:{line}", f"id '{number.id}' occurs twice", "ids must be unique")
            numbers[number.id] = number
    return numbers


def published_number(key: str, where: str) -> Published:
    """Looks up a published number by id.

    Raises:
        UserError: Unknown id; ``where`` names file and key in the message.
    """
    numbers = load_published()
    if key not in numbers:
        raise UserError(where, f"no published number '{key}' in results/published{suggestion(key, numbers)}")
    return numbers[key]


def _published(record: Mapping[str, str]) -> Published:
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(Published):
        column = _COLUMNS.get(field.name, field.name)
        # A file may lack the columns of fields with a default.
        fields[field.name] = record[column] if field.default is dataclasses.MISSING else record.get(column, "")
    return Published(**fields | {"own": fields["own"] == "true", "lowest_of": int(fields["lowest_of"] or 0)})
