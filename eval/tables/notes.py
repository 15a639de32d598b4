"""The lines below a table that say how its numbers came about."""

from __future__ import annotations

from collections.abc import Sequence

from eval.results.summary import Measurement, Measurements, image_seeds, measured_days
from eval.tables.lines import Line

_POOLED = (
    "Rows of several training seeds: mean and sample standard deviation of the seeds' means, not of single trials."
)


def provenance_notes(lines: Sequence[Line], measurements: Measurements) -> list[str]:
    """Notes on trials, n, seeds, protocol, code version, device and date of the measured cells, and on sources."""
    sources = [source for line in lines for source in line.sources.values()]
    notes = []
    printed = sorted({source.published.source for source in sources if source.published})
    if printed:
        notes.append(f"Published numbers as printed ({', '.join(printed)} in results/published).")
    used = measured_lines(lines, measurements)
    pooled = [_POOLED] if any(source.pool and source.estimate for source in sources) else []
    return notes + ([_how(used), *pooled, _where(used)] if used else [])


def measured_lines(lines: Sequence[Line], measurements: Measurements) -> list[Measurement]:
    """Lines of ``measurements.csv`` behind the measured cells."""
    return [
        row
        for line in lines
        for source in line.sources.values()
        if source.estimate
        for run in source.runs
        for row in measurements.lines(run, source.metric)
    ]


def _how(rows: list[Measurement]) -> str:
    by_run: dict[str, list[Measurement]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    shapes: dict[tuple[int, int], list[str]] = {}
    for run, lines in by_run.items():
        shapes.setdefault((len({line.trial for line in lines}), lines[0].n), []).append(run)
    common = max(shapes, key=lambda shape: len(shapes[shape]))
    text = f"Mean ± sample standard deviation over {_trials(common[0])} of {common[1]:,} images"
    others = [f"{', '.join(names)}: {_trials(t)} of {n:,}" for (t, n), names in shapes.items() if (t, n) != common]
    text += f" ({'; '.join(others)})" if others else ""
    seeds = image_seeds(rows)
    return text + (f"; image seeds {min(seeds)}–{max(seeds)}." if seeds else ".")


def _trials(number: int) -> str:
    return "1 trial" if number == 1 else f"{number} trials"


def _where(rows: list[Measurement]) -> str:
    protocols = ", ".join(sorted({f"{row.protocol} ({row.protocol_sha256[:12]})" for row in rows}))
    versions = ", ".join(sorted({row.code_version for row in rows}))
    devices = ", ".join(sorted({row.device for row in rows}))
    return f"Protocol {protocols}; code {versions}; {devices}; {measured_days(rows)}."
