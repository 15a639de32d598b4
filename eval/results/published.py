"""The papers' numbers (``results/published/*.csv``): exact strings with their sources, never converted in place.

Agreement of a measured mean with a published number: rule EQ, for audit tables, claims and comparisons.

The tolerance is three standard errors of the difference with a floor of one per cent (two per cent when the published
number has no spread), because a re-implementation of a metric differs a little in its last digits. Precision and
recall, printed with two decimals, get 0.01. A row that is trained here is another training than the printed one: the
scatter of both counts, and where it is unknown, nothing is compared.

A number that is *better* than printed by more than the tolerance is not a reproduction either: data images among the
samples, or a wrong reference, make numbers better.

Bibliography of published rows, methods and metrics (``results/published/references.bib``).
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eval.features.registry import registered_digest
from eval.metrics.kinds import value_fault
from eval.results.csv_files import read_csv
from eval.results.identity import Identity, comparable, read_saw
from eval.results.retraining import load_retraining
from eval.results.summary import Estimate, Measurement
from sida.assets.cache import registered
from sida.config.feature_networks import networks_of_metric
from sida.config.lookup import ROOT
from sida.config.settings import load_yaml
from sida.errors import UserError, suggestion
from sida.files.text_files import parse_yaml
from sida.methods.method import Saw

#: Folder of the numbers and of what is said about them.
PUBLISHED = ROOT / "results" / "published"
#: Kinds of printed metrics, whose values have bounds.
_KINDS = {
    "fid": "frechet", "fd-dinov2": "frechet", "is": "inception_score", "precision": "precision", "recall": "recall",
}  # fmt: skip
#: Columns that are taken as they are, and those that a file may lack.
_AS_PRINTED = (
    "id", "source", "row_label", "method", "dataset", "nfe", "metric", "std", "notes", "literal",
)  # fmt: skip
_ABOUT = ("model_size", "resolution", "conditioning", "teacher", "data", "date", "address")


@functools.cache
def protocols() -> dict[str, dict[str, Identity]]:
    """Identities of published numbers, by protocol and metric (``results/published/protocols.yaml``).

    Names stand in the place of the digests of reference and feature network.
    """
    found: dict[str, dict[str, Identity]] = {}
    for name, about in load_yaml(PUBLISHED / "protocols.yaml").items():
        for key, words in about.pop("metrics").items():
            network = words["settings"].partition("extractor=")[2].split()[0]
            found.setdefault(name, {})[key] = Identity(protocol="", n=50_000, extractor=network, **about, **words)
    return found


@functools.cache
def published_saw() -> dict[str, Saw | None]:
    """Networks that the generators of published numbers met, by method (``results/published/saw.yaml``)."""
    return {name: read_saw(str(words)) for name, words in load_yaml(PUBLISHED / "saw.yaml").items()}


@dataclass(frozen=True)
class Published:
    """A published number as printed.

    Attributes:
        text: The value exactly as printed, trailing zeros included.
        std: The printed standard deviation or an empty string.
        own: Whether the authors of the printing paper measured the number.
        model_size: Size of the network; empty if not said.
        resolution, conditioning: Of the images, such as ``32x32`` and ``class-conditional``.
        teacher: Teacher or start of the training; empty if not said.
        data: Whether the training sees real images, ``yes`` or ``no``; empty if not said.
        date: Year, or year and month, of the paper or page; empty if not said.
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
        saw = published_saw().get(self.method)
        pinned = protocols().get(self.protocol, {}).get(key)
        if pinned is None:
            words = (f"{name}.extractor={name}" for name in networks_of_metric(key))
            return Identity(protocol="", quoted=True, settings=" ".join(words), saw=saw)
        return dataclasses.replace(
            pinned,
            saw=saw,
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
            if beyond := number.fault:
                raise UserError(f"{path}:{line}: value of '{number.id}'", *beyond)
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
    printed: dict[str, Any] = {name: record[name] for name in _AS_PRINTED}
    printed |= {name: record.get(name, "") for name in _ABOUT}
    return Published(
        **printed,
        text=record["value"],
        own=record["measured_by_authors"] == "true",
        protocol=record.get("suite_protocol", ""),
        lowest_of=int(record.get("lowest_of") or 0),
    )


PUBLISHED_TRIALS = 10
#: Day on which the list of printed numbers was last read at its sources.
PUBLISHED_DAY = "2026-11-27"
#: Standard deviation of the lowest of three normal values, in standard deviations of one value.
_SPREAD_OF_LOWEST = 0.748
#: Scatter of printed metrics over trainings: a file of ``config/retraining``.
PRINTED = "printed"
_COARSE = {"precision": 0.01, "recall": 0.01}
#: Metrics of published tables and of the pages of which higher values are better.
HIGHER_IS_BETTER = {"is", "precision", "recall", "accuracy"}

AgreementOutcome = Literal["agrees", "better", "worse"]
AGREEMENT_MARKS: dict[AgreementOutcome | None, str] = {None: "", "agrees": "✓", "better": "△", "worse": "✗"}
LEGEND = (
    "✓ agrees within the combined uncertainty (three standard errors of the difference, at least 1 %; 2 % where no "
    "spread was published; 0.01 for precision and recall; with the scatter of two trainings, 1.3 % each for FID, where "
    "the row was trained here); △ better, ✗ worse than printed by more than that"
)


@dataclass(frozen=True)
class Agreement:
    """Difference measured − published with its tolerance, and whether higher values are better.

    ``lowest`` is the lowest value of the first trials if it is compared instead of the mean.
    """

    difference: float
    tolerance: float
    higher: bool = False
    lowest: float | None = None

    @property
    def outcome(self) -> AgreementOutcome:
        """Result: agrees within the combined uncertainty, better, or worse."""
        if abs(self.difference) <= self.tolerance + 1e-12:
            return "agrees"
        return "better" if (self.difference > 0) == self.higher else "worse"


def agreement_of(
    measured: Estimate, lines: Sequence[Measurement], published: Published, trainings: int = 0
) -> Agreement | str:
    """Compares a measurement with a published number of the same protocol; returns the reason if it cannot.

    Args:
        measured: Mean over trials.
        lines: Lines of the trials behind the mean.
        published: Number as printed. For teachers this is the lowest of three runs; it is compared with the lowest of
            the first three trials, which have the seeds of these runs.
        trainings: Trainings of this suite that were measured; 0: the released network, whose number is printed.
    """
    printed = published.identity
    apart = {identity: why for identity in {row.identity for row in lines} if (why := comparable(identity, printed))}
    if apart:
        why = "" if printed.quoted else f": {next(iter(apart.values()))}"
        names = ", ".join(sorted({identity.protocol for identity in apart}))
        return f"measured under {names}, published under {printed}{why}"
    if measured.trials < 2:
        return "a single trial says nothing about the noise"
    metric = published.metric.lower()
    if trainings and metric not in load_retraining(PRINTED).std:
        return f"nothing says how much {published.metric} scatters when a network is trained again"
    if not published.lowest_of:
        return agreement(measured, published, trainings)
    first = [row.value for row in lines if row.trial < published.lowest_of]
    if len(first) < published.lowest_of:
        return f"published is the lowest of {published.lowest_of} runs, measured were {len(first)} trials"
    spread = None if measured.std is None else _SPREAD_OF_LOWEST * measured.std
    return dataclasses.replace(agreement(Estimate(min(first), spread, 1), published), lowest=min(first))


def agreement(measured: Estimate, published: Published, trainings: int = 0) -> Agreement:
    """Compares a measurement with a published number by rule EQ (see the docstring of the module).

    Args:
        measured: Mean over trials; with a single trial its spread counts as unknown (0).
        published: Number as printed, with its metric and the spread over 10 evaluations.
        trainings: See :func:`agreement_of`.
    """
    metric = published.metric.lower()
    difference, higher = measured.mean - published.value, metric in HIGHER_IS_BETTER
    if metric in _COARSE:
        return Agreement(difference, _COARSE[metric], higher)
    own = (measured.std or 0.0) ** 2 / measured.trials
    if trainings:
        # The printed generator is another training; the spread of several trainings here has their own scatter.
        own += (load_retraining(PRINTED).std[metric] * published.value) ** 2 * (2 if trainings == 1 else 1)
    if published.std:
        error = math.sqrt(own + float(published.std) ** 2 / PUBLISHED_TRIALS)
        return Agreement(difference, max(3 * error, 0.01 * abs(published.value)), higher)
    return Agreement(difference, max(3 * math.sqrt(own), 0.02 * abs(published.value)), higher)


def agreement_of_two(here: Estimate, there: Estimate, metric: str) -> Agreement:
    """Compares two measurements of one network by rule EQ, without a scatter of trainings.

    Args:
        here: Mean over trials.
        there: Mean over trials of equal identity, by another group.
        metric: Key of the metric.
    """
    difference, higher = here.mean - there.mean, metric in HIGHER_IS_BETTER
    if metric in _COARSE:
        return Agreement(difference, _COARSE[metric], higher)
    error = math.hypot(here.standard_error or 0.0, there.standard_error or 0.0)
    return Agreement(difference, max(3 * error, 0.01 * abs(there.mean)), higher)


#: Key of this suite.
SUITE = "sida_repro"
_ENTRY = re.compile(r"^@\w+\{([\w-]+),(.*?)\}\n(?=\n|@|\Z)", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"\b(\w+) = \{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_OWN = re.compile(r"\s*\b(names|cited|metrics) = \{([^}]*)\},")
_CITATION = re.compile(r" *\(([A-Z][^()]*, (?:19|20)\d\d[a-z]?)\)")


@dataclass(frozen=True)
class BibEntry:
    r"""An entry of the bibliography.

    Attributes:
        key: Key for ``\cite``.
        bibtex: The entry without this suite's fields.
        names: Methods or metrics that the entry is about.
        cited: Citations in labels, e.g. ``Karras et al., 2022``.
        metrics: Keys of metrics in protocols that the entry is about.
    """

    key: str
    bibtex: str
    names: tuple[str, ...] = ()
    cited: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


@functools.cache
def references() -> dict[str, BibEntry]:
    """All entries by key."""
    text = (PUBLISHED / "references.bib").read_text(encoding="utf-8")
    entries = {}
    for match in _ENTRY.finditer(text):
        own = {name: tuple(value.split("; ")) for name, value in _OWN.findall(match[0])}
        entries[match[1]] = BibEntry(match[1], _OWN.sub("", match[0]).rstrip(), **own)
    return {SUITE: _suite(), **entries}


def _suite() -> BibEntry:
    """The entry of this suite, of ``CITATION.cff``."""
    about = parse_yaml((ROOT / "CITATION.cff").read_text(encoding="utf-8"), "CITATION.cff")
    fields = {
        "author": " and ".join(f"{{{author['name']}}}" for author in about["authors"]),
        "title": about["title"],
        "howpublished": f"Software, version {about['version']}",
        # A version that no release has yet has no year.
        **({"year": str(about["date-released"])[:4]} if "date-released" in about else {}),
        # The address of the repository has one place.
        **({"url": about["repository-code"]} if "repository-code" in about else {}),
    }
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return BibEntry(SUITE, f"@misc{{{SUITE},\n{lines}\n}}")


def metric_keys(metrics: Iterable[str]) -> list[str]:
    """Keys of what a measurement of this suite cites: the suite, and the entries of its metrics."""
    wanted = set(metrics)
    return [SUITE, *(key for key, entry in references().items() if wanted & {*entry.metrics})]


def cited_label(label: str) -> tuple[str, BibEntry | None]:
    """The label of a row without its citation, and the entry that the citation or the method's name stands for.

    Args:
        label: E.g. ``DDPM (Ho et al., 2020)`` or ``SiD, α=1.0``.
    """
    citation = _CITATION.search(label)
    if citation:
        matches = (entry for entry in references().values() if citation[1] in entry.cited)
        return label[: citation.start()] + label[citation.end() :], next(matches, None)
    # Longest name first: 'GDD-I' is not 'GDD'.
    names = sorted(((name, entry) for entry in references().values() for name in entry.names), key=lambda n: -len(n[0]))
    return label, next((entry for name, entry in names if re.match(rf"{re.escape(name)}(?![\w-])", label)), None)


def bibliography_items(keys: Iterable[str]) -> str:
    """LaTeX of a list of references (``thebibliography``) in the order of the file; empty without keys."""
    wanted, items = set(keys), []
    for key, entry in references().items():
        if key in wanted:
            field = dict(_FIELD.findall(entry.bibtex))
            where = field.get("journal") or field.get("howpublished", "")
            year = f", {field['year']}" if "year" in field else ""
            authors = field["author"].replace(" and ", "; ").removesuffix(".")
            items.append(rf"\bibitem{{{key}}} {authors}. {field['title']}. {where}{year}.")
    return "\n".join([r"\begin{thebibliography}{99}", *items, r"\end{thebibliography}", ""]) if items else ""


def bibliography(keys: Iterable[str]) -> str:
    """BibTeX of some entries, in the order of the file.

    Raises:
        UserError: An unknown key.
    """
    wanted = set(keys)
    if unknown := sorted(wanted - references().keys()):
        raise UserError("results/published/references.bib", f"has no entry '{unknown[0]}'")
    return "\n\n".join(entry.bibtex for key, entry in references().items() if key in wanted) + "\n"
