"""The notebook ``docs/tour.ipynb``: cells of ``docs/examples/tour.py`` with the output of a run (``make tour``)."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat

from sida.config.resources import ROOT
from sida.files.atomic import write_text

SOURCE, NOTEBOOK = ROOT / "docs" / "examples" / "tour.py", ROOT / "docs" / "tour.ipynb"


def notebook(source: str) -> Any:
    """Cells of a script with ``# %%`` marks, without output.

    Args:
        source: Text of the script.
    """
    make = nbformat.v4
    cells = []
    for number, (kind, text) in enumerate(re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", source, re.M | re.S)):
        if kind:
            text = re.sub(r"^# ?", "", text, flags=re.M)
        cell = make.new_markdown_cell(text.strip()) if kind else make.new_code_cell(text.strip())
        cells.append({**cell, "id": f"cell-{number}"})
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.from_dict({**make.new_notebook(metadata=kernel), "cells": cells})


def run(path: Path = NOTEBOOK) -> None:
    """Runs all cells in an empty folder and writes the notebook."""
    from nbclient import NotebookClient

    book = notebook(SOURCE.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(book, timeout=3600, startup_timeout=600, resources={"metadata": {"path": folder}}).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        # Progress lines differ from run to run.
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    book.metadata.pop("language_info", None)
    write_text(path, nbformat.writes(book) + "\n")


if __name__ == "__main__":
    run(*map(Path, sys.argv[1:]))
