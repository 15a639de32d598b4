"""Extends a study that has stored results: its rows are taken from there, and only further or changed rows run."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.results.conditions import with_other_seeds
from eval.results.extended import read_extended
from eval.results.sheet import SheetRow, read_runs
from eval.results.stored import STORED, files_of
from sida.errors import UserError
from sida.files.atomic import atomic_path, write_json, write_text
from sida.files.text_files import yaml_text
from workflow.preset import Preset
from workflow.preset.lock import PresetLock


def stored_results(files: Sequence[Path]) -> Path:
    """Folder of a study's stored results: ``stored`` beside its preset, or in the folder named like its second one."""
    last = files[-1]
    return last.parent / "stored" if last.stem == "preset" else last.parent / last.stem / "stored"


def write_extension(
    files: Sequence[Path], sheet: str | None, stored: Path, take: bool = True
) -> tuple[Path, list[str]]:
    """Writes a preset on top of a study's, which takes stored rows and adds those of a sheet.

    Args:
        files: Files of the study's preset.
        sheet: Sample sheet (TSV) with further rows, which run alone; None runs the rows of the study that are not
            stored, or whose settings have changed.
        stored: The study's stored results.
        take: Whether the stored files of taken rows are copied to the results now. Copies of rows that are no longer
            taken go in any case, so that a dry run counts the jobs of these rows.

    Returns:
        The file of the preset, to be given after the study's; and the rows that run.

    Raises:
        UserError: Nothing is stored, a row of the sheet has the name of one of the study, or a run is at work there.
    """
    if not (stored / STORED).is_file():
        raise UserError("--extend", f"{stored / STORED} is missing", "a study is extended from its stored results")
    base = Preset.load(*files)
    added = read_runs(sheet) if sheet else []
    for run in added:
        if run.run.lower() in {name.lower() for name in base.runs}:
            raise UserError(f"--extend {sheet}", f"run '{run.run}' is a row of {base.sheet}", "give it another id")
    beside = Path(sheet).parent if sheet else Path()
    name = f"{base.name}-{_plain(Path(sheet).stem) if sheet else 'extended'}"
    folder = Path("results") / name / "extension"
    # A run at work reads these files.
    with PresetLock(folder.parent, sys.argv):
        own = {"folder": os.fspath(stored), "preset": base.name, "beside": os.fspath(beside)}
        rows = [*read_runs(base.sheet), *added]
        write_json(folder / "runs.json", {"runs": [row.cells for row in rows]})
        path = folder / "preset.yaml"
        changes = {"preset": name, "runs": os.fspath(folder / "runs.json"), "stored": own}
        write_text(path, yaml_text(changes))
        preset = Preset.load(*files, path)
        if added and (table := _grown_table(base, preset, added)):
            # A layout beside the preset takes precedence over the study's of the same name.
            write_text(folder / "tables" / f"{table[0]}.yaml", yaml_text(table[1]))
        here = [run for run in preset.runs if run not in preset.taken]
        if added:
            # Rows of the study that are not stored wait; parents of added rows run nevertheless.
            own |= {"added": " ".join(run.run for run in added), "sheet": base.sheet}
            own["waiting"] = " ".join(run for run in here if run in base.runs)
            write_text(path, yaml_text(changes))
            here = [run.run for run in added]
        _take(stored, preset, take)
        return path, here


def _plain(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in name.lower()).strip("-") or "mine"


def _grown_table(base: Preset, preset: Preset, added: Sequence[SheetRow]) -> tuple[str, dict[str, Any]] | None:
    """Name and layout of the study's first table that names a row with the teacher of an added one, with these rows.

    Rows that were trained on other data or for another number of images than all rows of their teacher, and rows with
    another teacher, stand apart: below a line, in a family of their own, and never bold.
    """
    for name in base.settings.tables:
        path = base.layout("tables", name)
        layout = read_extended(path)
        shown = [row for row in layout.get("rows", []) if row.get("run") in base.runs]
        like = {base.runs[row["run"]].teacher: row for row in shown if base.runs[row["run"]].trained_here}
        if not (wanted := {run.run: run for run in added if run.teacher in like}):
            continue
        for run in wanted.values():
            model = like[run.teacher]
            if model.get("pool_seeds") and with_other_seeds(wanted, run.run)[0] != run.run:
                continue  # the row of its first seed shows it
            row = {**model, "run": run.run, "label": run.label or run.run, "guest": True}
            mates = [base.runs[row["run"]] for row in shown if base.runs[row["run"]].teacher == run.teacher]
            if (facts := _trained_on(preset, run)) not in [_trained_on(preset, mate) for mate in mates]:
                row |= _apart(f"{facts[1]:g} thousand images of {facts[0]}")
            layout["rows"].insert(layout["rows"].index(model) + 1, row)
        for run in (run for run in added if run.trained_here and run.teacher not in like):
            row = {"run": run.run, "label": run.label or run.run, "guest": True}
            layout["rows"].append(row | _apart(f"Teacher {run.teacher}" if run.teacher else "No teacher"))
        return name, {key: value for key, value in layout.items() if key != "extends"}
    return None


def _apart(family: str) -> dict[str, Any]:
    return {"family": family, "rule": True, "candidate": False}


def _trained_on(preset: Preset, run: SheetRow) -> tuple[str, float]:
    """Data set of a row, and thousands of images of its training and of those that it starts from."""
    kimg = sum(float(preset.recipe(preset.runs[name]).get("total_kimg") or 0) for name in preset.lineage(run.run))
    return run.dataset or preset.settings.dataset, kimg


def _take(stored: Path, preset: Preset, copy: bool) -> None:
    """Gives the results the logs and networks of taken rows and their teachers, and no copies of others.

    A copy has no record of its settings: Snakemake would take it for the network of a row whose settings have changed.

    Args:
        stored: The study's stored results.
        preset: The extension.
        copy: Whether files that are missing, or of other settings, are copied.
    """
    rows = [preset.runs[run] for run in preset.taken]
    kept = {"students": preset.taken, "teachers": {name for row in rows for name in (row.teacher, row.guide)}}
    for name, content in files_of(stored, preset.runs):
        path, (kind, of, _) = Path(preset.results, name), name.split("/", 2)
        same = path.is_file() and path.read_bytes() == content
        if same and of not in kept[kind]:
            path.unlink()
        elif copy and not same and of in kept[kind]:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as part:
                part.write_bytes(content)
