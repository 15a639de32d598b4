"""A generator from outside as a folder for the Hugging Face Hub: its code, its row, and a card."""

import dataclasses
import inspect
import shutil
from pathlib import Path
from typing import Any

import torch

from eval.measuring.sources import CallableSource, ScriptedGenerator
from eval.results.measurements import read_score
from eval.tables.build import make_table
from eval.tables.render import to_markdown
from sida.config.settings import names_object
from sida.errors import UserError
from sida.files.atomic import atomic_folder, read_hashed_json, write_text
from sida.machine import code_version
from workflow.archive.hub_folder import PICTURED, eval_results, page, save_samples


def write_generator_folder(generator: str, out: Path, row: str, table: str | None, licence: str) -> None:
    """Writes the folder; ``hf upload`` stays the user's own command.

    Args:
        generator: ``module:function``, or a TorchScript file; it is run, with the user's permission.
        out: Folder to make.
        row: File of ``sida score --out`` with the measurements of this very generator.
        table: Layout of the table that the row is shown in.
        licence: Identifier of the licence, as the Hub has them.

    Raises:
        UserError: The measurements are of another generator, or the code is no single file.
    """
    record = read_hashed_json(row)
    measured = read_score(row)
    name, scored = measured.runs[0], record["measurements"][0].get("source", {})
    source, code, use = _opened(generator, scored, row)
    if different := [key for key, value in source.identity().items() if scored.get(key, value) != value]:
        raise UserError(row, f"was measured with another generator than {generator} ({different[0]})", "score it again")
    shown = None if table is None else _row(table, row, name)
    with atomic_folder(out) as part:
        shutil.copyfile(code, part / code.name)
        shutil.copyfile(row, part / "row.json")
        batches = source.batches(range(PICTURED), PICTURED)
        images = torch.cat([batch.images.cpu() for batch in batches])
        if pictured := images.shape[1] in (1, 3):
            save_samples(part, images)
        card = page("own.md.jinja").render(
            name=name,
            code=code.name,
            **use,
            pictured=pictured,
            results=eval_results(measured.rows, measured, "unknown"),
            table=table,
            row=shown,
            licence=licence,
            written_by=code_version(),
        )
        write_text(part / "README.md", card)


def _opened(generator: str, scored: dict[str, Any], row: str) -> tuple[CallableSource, Path, dict[str, Any]]:
    """The generator as it was scored, the file of its code, and how the card draws with it."""
    if names_object(generator) and not Path(generator).exists():
        source = CallableSource(generator)
        module, _, name = generator.partition(":")
        file = inspect.getsourcefile(source.module)
        if file is None or Path(file).name == "__init__.py" or "." in module:
            raise UserError(generator, "is no function of a single file", "put it into a module of one file")
        made = getattr(source.module, name)
        call = f"{name}()" if inspect.isclass(made) else name
        call += ".eval()" if inspect.isclass(made) and issubclass(made, torch.nn.Module) else ""
        return source, Path(file), {"module": module, "function": name, "call": call}
    if not scored.get("latent"):
        raise UserError(row, f"has no measurements of the TorchScript file {generator}", "score it: sida score FILE")
    path, latent = Path(generator), tuple(scored["latent"])
    function = ScriptedGenerator(path, latent)
    return CallableSource(str(scored.get("callable")), function=function), path, {"latent": latent}


def _row(layout: str, row: str, name: str) -> str:
    """The row of a table in Markdown, under the table's head."""
    table = make_table(layout, scores=[row])
    rows = tuple(line for line in table.rows if any(cell.text == name for cell in line.cells))
    return to_markdown(dataclasses.replace(table, rows=rows, notes=()))
