"""Rows that are measured and then shown nowhere: told before anything runs, since a training may take days."""

from __future__ import annotations

from eval.claims.model import load_claims
from eval.claims.rows import claim_rows
from workflow.preset.targets import Targets

#: Rows that are named; of more their number is said.
NAMED = 5


def unshown_rows(targets: Targets) -> list[str]:
    """Rows whose numbers no table, figure or claim of a preset takes, and that no other row starts from.

    A preset without tables wants its measurements alone: there are none.
    """
    config, runs = targets.preset.config, targets.preset.runs
    if not config["tables"]:
        return []
    shown = set(targets.parents)
    for kind in ("tables", "figures"):
        for name in config[kind]:
            shown.update(targets.needs(kind, name).measured)
    if config["claims"]:
        shown.update(claim_rows(load_claims(config["claims"]), runs))
    return [name for name in targets.rows if name not in shown]


def unshown_remark(targets: Targets) -> str | None:
    """What to say of :func:`unshown_rows`; None where there are none."""
    rows = unshown_rows(targets)
    if not rows:
        return None
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    line = f"- {{run: {rows[0]}}}"
    return (
        f"{', '.join(rows[:NAMED])}{more}: measured, but no table, figure or claim of {targets.preset.source} shows "
        f"{'it' if len(rows) == 1 else 'them'}; add a line to a table's rows, e.g. {line} (docs/add-a-method.md, 4)"
    )
