"""Extends a study that has stored results: its rows are taken from there, and only further or changed rows run."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.eval.results.conditions import with_other_seeds
from sida.eval.results.extended import read_extended
from sida.eval.results.sheet import SheetRow, read_runs
from sida.eval.results.stored import STORED, files_of
from sida.files.atomic import atomic_path, write_json, write_text
from sida.files.ordinary import file_below
from sida.files.text_files import yaml_text
from sida.workflow.preset import Preset, load_preset
from sida.workflow.preset.lock import PresetLock


def stored_results(files: Sequence[Path]) -> Path:
    """Folder of a study's stored results: ``stored`` beside its preset, or in the folder named like its second one."""
    last = files[-1]
    return last.parent / "stored" if last.stem == "preset" else last.parent / last.stem / "stored"


def write_extension(files: Sequence[Path], sheet: str | None, stored_folder: Path) -> tuple[Path, list[str]]:
    """Writes a preset on top of a study's, which takes stored rows and adds the rows of a sheet.

    Args:
        files: Files of the study's preset.
        sheet: Sample sheet (TSV) with further rows, which run alone; None runs the rows of the study that are not
            stored, or whose settings have changed.
        stored_folder: The study's stored results.

    Returns:
        The file of the preset, to be given after the study's; and the rows that run.

    Raises:
        UserError: Nothing is stored, a row of the sheet has the name of one of the study, or a run is at work there.
    """
    if not (stored_folder / STORED).is_file():
        raise UserError(
            "--extend", f"{stored_folder / STORED} is missing", "a study is extended from its stored results"
        )
    base = load_preset(*files)
    new_rows = read_runs(sheet) if sheet else []
    for row in new_rows:
        # Rows are names of folders, and some file systems ignore case.
        if row.run.lower() in {name.lower() for name in base.runs}:
            raise UserError(f"--extend {sheet}", f"run '{row.run}' is a row of {base.sheet}", "give it another id")
    beside = Path(sheet).parent if sheet else Path()
    name = f"{base.name}-{_preset_name(Path(sheet).stem) if sheet else 'extended'}"
    folder = Path("results") / name / "extension"
    # A run at work reads these files.
    with PresetLock(folder.parent, sys.argv):
        origin = {"folder": os.fspath(stored_folder), "preset": base.name, "beside": os.fspath(beside)}
        rows = [*read_runs(base.sheet), *new_rows]
        write_json(folder / "runs.json", {"runs": [row.cells for row in rows]})
        path = folder / "preset.yaml"
        changes = {"preset": name, "runs": os.fspath(folder / "runs.json"), "stored": origin}
        write_text(path, yaml_text(changes))
        preset = load_preset(*files, path)
        if new_rows and (table := _grown_table(base, preset, new_rows)):
            # A layout beside the preset takes precedence over the study's of the same name.
            write_text(folder / "tables" / f"{table[0]}.yaml", yaml_text(table[1]))
        run_here = [run for run in preset.runs if run not in preset.taken]
        if new_rows:
            # Rows of the study that are not stored wait; parents of added rows run nevertheless.
            origin |= {"added": " ".join(row.run for row in new_rows), "sheet": base.sheet}
            origin["waiting"] = " ".join(run for run in run_here if run in base.runs)
            write_text(path, yaml_text(changes))
            run_here = [row.run for row in new_rows]
        _take(stored_folder, preset)
        return path, run_here


def _preset_name(name: str) -> str:
    """A name with the characters that the name of a preset may have."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in name.lower()).strip("-") or "mine"


def _grown_table(base: Preset, preset: Preset, new_rows: Sequence[SheetRow]) -> tuple[str, dict[str, Any]] | None:
    """Name and layout of the study's first table that names a row with the teacher of an added one, with these rows.

    Rows that were trained on other data or for another number of images than all rows of their teacher, and rows with
    another teacher, stand apart: below a line, in a family of their own, and never bold.
    """
    for name in base.settings.tables:
        path = base.layout("tables", name)
        layout = read_extended(path)
        lines = [line for line in layout.get("rows", []) if line.get("run") in base.runs]
        # The last line of a teacher's rows; added rows follow it.
        models = {base.runs[line["run"]].teacher: line for line in lines if base.runs[line["run"]].trained_here}
        if not (rows := {row.run: row for row in new_rows if row.teacher in models}):
            continue
        for row in rows.values():
            model = models[row.teacher]
            if model.get("pool_seeds") and with_other_seeds(rows, row.run)[0] != row.run:
                continue  # the row of its first seed shows it
            line = {**model, "run": row.run, "label": row.label or row.run, "guest": True}
            siblings = [line["run"] for line in lines if base.runs[line["run"]].teacher == row.teacher]
            if (facts := _trained_on(preset, row.run)) not in [_trained_on(preset, each) for each in siblings]:
                line |= _own_family(f"{facts[1]:g} thousand images of {facts[0]}")
            layout["rows"].insert(layout["rows"].index(model) + 1, line)
        for row in (row for row in new_rows if row.trained_here and row.teacher not in models):
            line = {"run": row.run, "label": row.label or row.run, "guest": True}
            layout["rows"].append(line | _own_family(f"Teacher {row.teacher}" if row.teacher else "No teacher"))
        return name, {key: value for key, value in layout.items() if key != "extends"}
    return None


def _own_family(family: str) -> dict[str, Any]:
    """Settings of a table's line for a row that is not compared with the others."""
    return {"family": family, "rule": True, "candidate": False}


def _trained_on(preset: Preset, run: str) -> tuple[str, float]:
    """Data set of a row, and thousands of images of its training and of those that it starts from."""
    row = preset.rows[run]
    kimg = sum(float(each.recipe.get("total_kimg") or 0) for each in row.lineage())
    return row.cells.dataset or preset.settings.dataset, kimg


def _take(folder: Path, preset: Preset) -> None:
    """Gives the results the logs and networks of taken rows and their teachers, and no copies of others.

    A copy has no record of its settings: Snakemake would take it for the network of a row whose settings have changed.

    Args:
        folder: The study's stored results.
        preset: The extension.
    """
    students = preset.taken
    teachers = {name for run in students for name in (preset.runs[run].teacher, preset.runs[run].guide)}
    for file, content in files_of(folder, preset.runs):
        path, (kind, name, _) = file_below(preset.results, file), file.split("/", 2)
        is_taken = name in (students if kind == "students" else teachers)
        same = path.is_file() and path.read_bytes() == content
        if same and not is_taken:
            path.unlink()
        elif not same and is_taken:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as part:
                part.write_bytes(content)
