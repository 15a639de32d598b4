"""A board of collected results: numbers of several groups on one page, sorted within equal identity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eval.metrics.kinds import METRIC_KINDS
from eval.results.exchange import read_numbers
from eval.results.identity import Identity, comparable
from eval.results.summary import Estimate, Measurement
from eval.tables.model import Cell, Column, Row, Table
from sida.errors import UserError

# Limit of files of a folder.
_MOST_FILES = 10_000
_OURS = "this suite"
_COLUMNS = (
    *(Column("Place", number=True), Column("Generator", name=True), Column("Value", number=True)),
    *(Column("Trials", number=True), Column("NFE", number=True), Column("Measured by"), Column("Date")),
    *(Column("Code"), Column("Network"), Column("File")),
)


class Entry(NamedTuple):
    """A metric of a generator in a file: its mean over trials, its identity, and one of its measurements."""

    file: str
    estimate: Estimate
    identity: Identity
    facts: Measurement


def read_entries(folder: str | Path) -> list[Entry]:
    """Reads the files of a folder: lines of ``sida score --json`` (``.jsonl``) and its ``--out`` (``.json``).

    Raises:
        UserError: No such folder, no such file there, too many of them, or a damaged one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(folder, "no such folder", "name the one that holds the collected files")
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jsonl"))
    if not paths or len(paths) > _MOST_FILES:
        fault = f"holds {len(paths):,} files .json and .jsonl; give 1 to {_MOST_FILES:,}"
        raise UserError(folder, f"{fault} of sida score --out or --json")
    entries = []
    for path in paths:
        measured = read_numbers(path)
        for run, metric in dict.fromkeys((row.run, row.metric) for row in measured.rows):
            facts = measured.lines(run, metric)[0]
            entries.append(Entry(path.name, measured.estimate(run, metric), measured.identity(run, metric), facts))
    return entries


def board(folder: str | Path) -> list[Table]:
    """Tables of a folder's numbers: one for each metric and identity, best values first.

    Values that are not comparable stand in different tables.

    Raises:
        UserError: As :func:`read_entries`.
    """
    groups: list[list[Entry]] = []
    for entry in read_entries(folder):
        same = lambda group, entry=entry: all(
            one.facts.metric == entry.facts.metric and comparable(one.identity, entry.identity) is None for one in group
        )
        found = next(filter(same, groups), None)
        if found is None:
            groups.append([entry])
        else:
            found.append(entry)
    return [
        _table(group) for group in sorted(groups, key=lambda group: (group[0].facts.metric, str(group[0].identity)))
    ]


def _table(group: Sequence[Entry]) -> Table:
    identity, metric = group[0].identity, group[0].facts.metric
    kind = METRIC_KINDS.get(identity.settings.split(" ")[0])
    higher = kind is not None and kind.better == "higher"
    ordered = sorted(group, key=lambda entry: entry.estimate.mean, reverse=higher)
    means = [entry.estimate.mean for entry in ordered]
    rows = [_row(1 + means.index(entry.estimate.mean), entry) for entry in ordered]
    digests = {"reference": identity.reference, "feature network": identity.extractor}
    facts = [f"{name} {digest[:12]}" for name, digest in digests.items() if digest]
    note = f"{identity.settings}; {', '.join([f'{identity.n:,} images a trial', *facts])}."
    title = f"{metric} under {identity}, {'higher' if higher else 'lower'} is better"
    return Table(metric, title, "", "measured", _COLUMNS, tuple(rows), (note,))


def _row(place: int, entry: Entry) -> Row:
    facts, estimate = entry.facts, entry.estimate
    spread = None if estimate.std is None else f"{estimate.std:.3f}"
    texts = (facts.origin or _OURS, facts.date[:10], facts.code_version, facts.network_sha256[:12], entry.file)
    return Row(
        (
            *(Cell(str(place)), Cell(facts.run), Cell(f"{estimate.mean:.3f}", "measured", spread)),
            *(Cell(str(estimate.trials)), Cell(str(facts.nfe or "")), *map(Cell, texts)),
        )
    )
