"""Notes below a table: origin of its numbers, values that are not compared, and what generators were exposed to."""

import re
from collections.abc import Iterable, Iterator, Sequence

from sida.errors import counted
from sida.eval.results.identity import NO_DIGEST, UNKNOWN, Identity, comparable, lacks_digest, reason_against
from sida.eval.results.measurements import Measurement, image_seeds, kept_at, measured_days
from sida.eval.results.numbers import Number
from sida.eval.results.published import Published
from sida.eval.results.stored import FROM_STORED
from sida.eval.tables.cells import TableLine, mark_of
from sida.eval.tables.layout import TableLayout

_POOLED = (
    "Rows of several training seeds: mean and sample standard deviation of the seeds' means, not of single trials."
)


def table_notes(layout: TableLayout, lines: Sequence[TableLine]) -> list[str]:
    """Notes on the numbers of a table's rows."""
    return [
        *_provenance_notes(lines),
        *_comparison_notes(lines),
        *_identity_notes(layout, lines),
        *_exposure_notes(layout, lines),
    ]


def _provenance_notes(lines: Sequence[TableLine]) -> list[str]:
    """Notes on trials, n, seeds, protocol, code version, device and date of the measured cells, and on sources."""
    numbers = measured_numbers(lines)
    notes = papers_notes(number.source for line in lines if not line.added for number in _printed(line))
    notes += _printed_elsewhere(lines)
    rows = [row for number in numbers for row in number.lines]
    pooled = [_POOLED] if any(len(number.runs) > 1 for number in numbers) else []
    pooled += [*_kept_starts(lines, rows), *_of_others(rows)]
    return notes + ([_trials_sentence(rows), *pooled, _origin_sentence(rows)] if rows else [])


def papers_notes(sources: Iterable[str]) -> list[str]:
    """Note on the origin of published numbers; none without sources."""
    papers = sorted({*sources} - {""})
    return [f"Published numbers as printed ({', '.join(papers)} in results/published)."] if papers else []


def _comparison_notes(lines: Sequence[TableLine]) -> list[str]:
    """Notes on rows that are not compared with published numbers, and on teachers' lowest values."""
    apart: dict[str, list[str]] = {}
    lowest = []
    for cell in (cell for line in lines for cell in line.cells.values()):
        if isinstance(cell.compared, str):
            apart.setdefault(cell.compared, []).append(cell.runs[0])
        elif cell.compared is not None and cell.compared.lowest is not None:
            lowest.append(f"{cell.runs[0]} {cell.compared.lowest:.3f}")
    notes = [f"Not compared: {', '.join(dict.fromkeys(runs))} ({reason})." for reason, runs in apart.items()]
    if lowest:
        notes.append(f"Δ of teachers is for the lowest of trials 0 to 2, as they publish it: {', '.join(lowest)}.")
    return notes


def _identity_notes(layout: TableLayout, lines: Sequence[TableLine]) -> list[str]:
    """Notes on columns whose measured values are not all comparable with each other."""
    notes: dict[str, list[str]] = {}
    for column in layout.columns:
        kinds: list[tuple[Identity, list[str]]] = []
        cells = (line.cells.get(column.id) for line in lines)
        numbers = [cell.measured for cell in cells if cell and cell.measured]
        # Values of unknown seeds come last: they would join values that differ in their seeds.
        for number in sorted(numbers, key=lambda number: number.identity.seed0 is None):
            for identity, runs in kinds:
                if comparable(identity, number.identity) is None:
                    runs.append(number.runs[0])
                    break
            else:
                kinds.append((number.identity, [number.runs[0]]))
        if len(kinds) > 1:
            groups = "; ".join(f"{', '.join(dict.fromkeys(runs))} ({identity})" for identity, runs in kinds)
            reason = comparable(kinds[0][0], kinds[1][0])
            notes.setdefault(f"{groups}. Reason: {reason}", []).append(column.head or column.id)
    return [f"Not comparable with each other in {', '.join(heads)}: {why}." for why, heads in notes.items()]


#: Largest number of rows that a note on exposure names.
_NAMED = 8


def _exposure_notes(layout: TableLayout, lines: Sequence[TableLine]) -> list[str]:
    """Notes on the exposure of the table's generators, by reason: columns and rows."""
    shown_by_note: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    rows_of_choice: dict[str, dict[str, None]] = {}
    for column in layout.columns:
        for line in lines:
            for number in line.cells[column.id].numbers.values() if column.id in line.cells else ():
                identity = number.identity
                for words in _exposure_words(identity, layout.bold is not None):
                    heads, rows = shown_by_note.setdefault(words, ({}, {}))
                    heads[column.head or column.id] = rows[line.label] = None
                if identity.networks and identity.exposure is not None and identity.exposure.choice:
                    rows_of_choice.setdefault(", ".join(identity.exposure.choice), {})[line.label] = None
    notes = []
    for (mark, why), (heads, rows) in shown_by_note.items():
        row_names = ", ".join(rows) if len(rows) <= _NAMED else f"{len(rows)} rows"
        notes.append(f"{mark}{', '.join(heads)} of {row_names}: {why}.")
    if len(rows_of_choice) > 1:
        groups = "; ".join(f"{name} ({', '.join(rows)})" for name, rows in rows_of_choice.items())
        notes.append(f"Files were chosen by metrics on different networks, so that rows are not equal: {groups}.")
    return notes


def _exposure_words(identity: Identity, ranks: bool) -> Iterator[tuple[str, str]]:
    """Mark and reason of each note on the exposure of a value's generator."""
    why = reason_against(identity)
    if why and (why != UNKNOWN or ranks):
        mark = mark_of(identity) if identity.held_out_fault or identity.exposed("loss") else ""
        # Without the column or option of a sheet that states it.
        yield f"{mark} ".lstrip(), f"{re.sub(r' [(]`[^`]*`[)]', '', why)}: not ranked"
    if lacks_digest(identity) and why != NO_DIGEST:
        yield "", f"{NO_DIGEST}: unknown whether its trials are comparable"
    if related_networks := identity.related:
        yield "§ ", f"trained by a network that learned from the same labels ({', '.join(sorted(related_networks))})"
    if start_networks := identity.exposed("start"):
        yield "", f"starts from, or is aligned with, the network of the metric ({', '.join(sorted(start_networks))})"


def measured_numbers(lines: Iterable[TableLine]) -> list[Number]:
    """The measured numbers of a table."""
    return [cell.measured for line in lines for cell in line.cells.values() if cell.measured]


def _printed(line: TableLine) -> list[Published]:
    """The published numbers of a row."""
    numbers = (cell.published for cell in line.cells.values())
    return [number.printed for number in numbers if number and number.printed]


def _trials_sentence(rows: list[Measurement]) -> str:
    """Sentence on trials, images and seeds: of most rows, then of the others."""
    by_run: dict[str, list[Measurement]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    shapes: dict[tuple[int, int], list[str]] = {}
    for run, lines in by_run.items():
        shapes.setdefault((len({line.trial for line in lines}), lines[0].n), []).append(run)
    common = max(shapes, key=lambda shape: len(shapes[shape]))
    text = f"{counted(common[0], 'trial')} of {common[1]:,} images"
    if any(count > 1 for count, _ in shapes):
        text = f"Mean ± sample standard deviation over {text}"
    others = [
        f"{', '.join(names)}: {counted(t, 'trial')} of {n:,}" for (t, n), names in shapes.items() if (t, n) != common
    ]
    text += f" ({'; '.join(others)})" if others else ""
    if not (seeds := image_seeds(rows)):
        return f"{text}."
    unknown = ", ".join(run for run, lines in by_run.items() if not image_seeds(lines))
    text += f"; image seeds {min(seeds):,}–{max(seeds):,}"
    return f"{text} ({unknown}: unknown)." if unknown else f"{text}."


def _kept_starts(lines: Sequence[TableLine], rows: list[Measurement]) -> list[str]:
    """Note on rows whose training kept its initial network; empty without such rows."""
    starts, labels = {run for run, at in kept_at(rows).items() if at == 0}, []
    for line in lines:
        runs = {run for number in measured_numbers([line]) for run in number.runs}
        if count := len(runs & starts):
            labels.append(line.label + (f" ({count} of {len(runs)} trainings)" if len(runs) > 1 else ""))
    about = "Kept at the start of training, on which no later evaluation improved; the numbers are of the start"
    return [f"{about}: {'; '.join(labels)}."] if labels else []


def _of_others(rows: Sequence[Measurement]) -> list[str]:
    """Notes on the rows that other groups measured, or that were taken from stored results."""
    runs: dict[str, list[str]] = {}
    for row in rows:
        if row.origin and row.run not in runs.setdefault(row.origin, []):
            runs[row.origin].append(row.run)
    stored_origins = [origin for origin in runs if origin.startswith(FROM_STORED)]
    run_names = ", ".join(dict.fromkeys(row.run for row in rows if not row.origin)) or "none"
    notes = [
        f"Taken from {origin}: {len(runs.pop(origin))} rows. Measured here: {run_names}." for origin in stored_origins
    ]
    return notes + [f"Measured by {origin}, not by this suite: {', '.join(names)}." for origin, names in runs.items()]


def _printed_elsewhere(lines: Sequence[TableLine]) -> list[str]:
    """Notes on the numbers of records that other tools wrote, by who printed them and for which evaluation."""
    rows: dict[tuple[str, str], dict[str, None]] = {}
    for line in (line for line in lines if line.added):
        for number in _printed(line):
            rows.setdefault((number.source, number.dataset), {})[line.label] = None
    return [
        f"Printed by {source} for {evaluation}, not measured by this suite, under a protocol that is not known here; "
        f"neither ranked nor compared: {', '.join(labels)}."
        for (source, evaluation), labels in rows.items()
    ]


def _origin_sentence(rows: list[Measurement]) -> str:
    """Sentence on protocol, code, device and days."""
    protocols = ", ".join(sorted({row.protocol for row in rows}))
    versions = ", ".join(sorted({row.code_version for row in rows}))
    devices = ", ".join(sorted({row.device for row in rows}))
    return f"Protocol {protocols}; code {versions}; {devices}; {measured_days(rows)}."
