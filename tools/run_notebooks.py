"""Runs the notebooks of ``examples`` and stores them without outputs but one picture each.

    python -m tools.run_notebooks

The picture comes from the cell with the tag ``picture``. Needs `make extras`.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from sida.config.lookup import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def run(path: Path) -> Any:
    """A notebook with all outputs of a run from the root of the checkout.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": ROOT}}).execute()
    return notebook


def last_line(notebook: Any) -> str:
    """The last line that a notebook printed, which has its number."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = [output.text for output in outputs if output.output_type == "stream" and output.name == "stdout"]
    return str(printed[-1].splitlines()[-1])


def stored(notebook: Any) -> Any:
    """A notebook without outputs, numbers of cells and times, but with its one picture, in few colours."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
            cell.execution_count, cell.outputs = None, []
            if "picture" in tags:
                png = io.BytesIO()
                picture = Image.open(io.BytesIO(base64.b64decode(pictures[0].data["image/png"])))
                picture.convert("L").quantize(16).save(png, "png", optimize=True)
                data = {"image/png": base64.b64encode(png.getvalue()).decode()}
                cell.outputs = [nbformat.v4.new_output("display_data", data)]
    return notebook


def main() -> None:
    """Runs and stores all of them."""
    for path in NOTEBOOKS:
        notebook = run(path)
        print(f"{path}: {last_line(notebook)}")
        nbformat.write(stored(notebook), path)


if __name__ == "__main__":
    main()
