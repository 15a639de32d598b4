"""Remarks on a preset that is not faulty: rows that a search saw, or that no product shows."""

import json

from sida.eval.claims.write import named_rows
from sida.workflow.preset.preset import Preset
from sida.workflow.preset.product_checks import unmeasured
from sida.workflow.preset.products import layout_needs
from sida.workflow.preset.reading import load_preset
from sida.workflow.preset.trainings import training

#: Largest number of rows that a remark names.
NAMED = 5


def search_remarks(preset: Preset) -> list[str]:
    """Remarks on rows that chose a recipe in a search: their report is not independent of the choice.

    Raises:
        UserError: A missing or faulty preset of a search.
    """
    return [remark for path in preset.settings.search for remark in _remarks_of(load_preset(path), preset)]


def _remarks_of(search: Preset, preset: Preset) -> list[str]:
    trials = {_training_of(search, row.run): row.run for row in search.students}
    rows = [row.run for row in preset.students]
    equal = {name: trials[facts] for name in rows if (facts := _training_of(preset, name)) in trials}
    same = f"of {search.source} (recipe, teacher, seed)"
    remarks = [f"run '{name}' is trial '{trial}' {same}" for name, trial in equal.items()]
    seeds = {search.rows[row.run].seed for row in search.students}
    overlapping = [name for name in rows if preset.rows[name].seed in seeds and name not in equal]
    if overlapping:
        others = f" and {len(overlapping) - NAMED} more" if len(overlapping) > NAMED else ""
        remarks.append(
            f"{', '.join(overlapping[:NAMED])}{others}: their seeds are also seeds of trials of {search.source}"
        )
    return [f"{remark}; give rows that report seeds that no search used" for remark in remarks]


def _training_of(preset: Preset, name: str) -> str:
    """Everything that decides a training but its name, and the same of its start, as text."""
    # Paths of networks have the preset's name in them, so that equal trainings differ there.
    row, excluded = preset.rows[name], ("name", "evaluation", "teacher", "init")
    facts = {key: value for key, value in training(preset, name).spec.items() if key not in excluded}
    start = _training_of(preset, row.start.run) if row.start else None
    return json.dumps([row.cells.teacher, facts, start], sort_keys=True)


def unshown_remark(preset: Preset) -> str | None:
    """Remark on rows that no table, figure or claim shows, and that no other row starts from; None if there are none.

    A preset without tables has none: its result is its measurements.
    """
    row_names = set(preset.starts)
    for kind, layouts in preset.layouts.items():
        for needs in (layout_needs(preset, kind, name) for name in layouts):
            row_names.update(needs.measured, needs.networks)
    evidence = unmeasured(preset)
    row_names.update(row for claim in preset.claims for row in named_rows(claim.findings(evidence), preset.runs))
    rows = [name for name in preset.measurable if name not in row_names] if preset.settings.tables else []
    if not rows:
        return None
    others = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return (
        f"{', '.join(rows[:NAMED])}{others}: measured, but no table, figure or claim of {preset.source} shows "
        f"{'it' if len(rows) == 1 else 'them'}; add a line to a table's rows, e.g. - {{run: {rows[0]}}} (docs/add.md)"
    )
