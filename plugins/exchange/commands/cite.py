"""``sida cite``: entries of the bibliography, and the answers of a reproducibility checklist for a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from sida.cli.main import Verb
from sida.errors import UserError
from sida.eval.commands._options import output
from sida.eval.results.bibliography import SUITE, bibliography, references
from sida.eval.tables.build import make_table
from sida.eval.tables.latex import cited_keys
from sida.files.atomic import json_text, write_files
from sida.files.text_files import with_hash
from sida.plugins.exchange.checklist.facts import Checklist
from sida.plugins.exchange.checklist.text import to_latex, to_markdown
from sida.workflow.commands.archive import measured_folder, table_of
from sida.workflow.preset import load_preset
from sida.workflow.preset.files import find_preset, listed_name, presets, read_preset

#: Keys that any use of this suite cites: methods and teachers, metrics.
_ALWAYS = (
    "zhou2024sida", "zhou2024sid", "zheng2024gdd", "karras2022edm", "karras2024edm2",
    "heusel2017fid", "salimans2016is", "kynkaanniemi2019pr", "stein2023fddinov2", "parmar2021cleanfid",
)  # fmt: skip


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="tables (layouts) or keys of entries")
    about = (
        "answer a reproducibility checklist for one table of a preset (default: the preset with results that has it)"
    )
    parser.add_argument("--checklist", nargs="?", const="", metavar="PRESET", help=about)
    out = output("--out", ".md", ".tex")
    parser.add_argument("--out", type=out, metavar="FILE", help="checklist as .md or .tex, with its settings beside it")


def _cite(args: argparse.Namespace) -> int:
    """Prints the entries, or the checklist."""
    if args.checklist is not None:
        return _checklist(args)
    if args.out:
        raise UserError("--out", "is for --checklist", "leave it out")

    keys = [] if args.names else [SUITE, *_ALWAYS]
    for name in args.names:
        keys += [name] if name in references() else [SUITE, *cited_keys(make_table(name, mode="paper"))]
    print(bibliography(keys), end="")
    return 0


def _checklist(args: argparse.Namespace) -> int:
    """Prints or writes the answers for a table."""
    if len(args.names) != 1:
        raise UserError("--checklist", "is about one table", "sida cite TABLE --checklist PRESET")
    name = args.names[0]
    preset = load_preset(find_preset(args.checklist or _preset_with(name), "--checklist"))
    if name not in preset.layouts["tables"]:
        raise UserError(name, f"is not a table of {preset.name}", f"name one of {', '.join(preset.layouts['tables'])}")
    if (results := measured_folder(preset)) is None:
        raise UserError(
            name, f"{preset.name} has no results to answer from", f"run it: sida run {listed_name(preset.source)}"
        )
    out = Path(args.out) if args.out else None
    settings = out.with_name(f"{out.stem}-settings.json") if out else None
    checklist = Checklist(preset, name, table_of(preset, name, results), results, settings.name if settings else "")
    title, answers = f"Reproducibility of table {name} (preset {preset.name})", checklist.answers()
    if out is None or settings is None:
        print(to_markdown(title, answers), end="")
        return 0
    text = (to_latex if out.suffix == ".tex" else to_markdown)(title, answers)
    jobs = with_hash({"format": "sida-settings/1", "preset": preset.name, "table": name, "jobs": checklist.jobs()})
    write_files({out: text, settings: json_text(jobs)})
    print(f"{out}\n{settings}")
    return 0


def _preset_with(table: str) -> str:
    """Name of the only preset that has a table and results.

    Raises:
        UserError: None or several have.
    """
    names = [
        name
        for name, path in presets().items()
        if table in {Path(str(layout)).stem for layout in read_preset([path])[0].get("tables") or ()}
    ]
    with_results = [name for name in names if measured_folder(load_preset(presets()[name])) is not None]
    if len(with_results) == 1:
        return with_results[0]
    fault = "several presets with results have it" if with_results else "no preset with results has it"
    choices = ", ".join(with_results or names)
    raise UserError(f"{table}: --checklist", fault, f"name one: {choices}" if choices else "name its preset")


CITE = Verb(
    """examples:
  sida cite                 (this suite, SiD, SiDA, GDD, their teachers, and the metrics)
  sida cite table1          (the rows of Table 1, and this suite)
  sida cite yin2024dmd2     (one entry, by its key)
  sida cite main --checklist demo                    (compute, error bars, settings, licences, seeds, commands, gaps)
  sida cite main --checklist demo --out checklist.tex
""",
    _arguments,
    _cite,
)
