"""``sida-eval table``: builds a table as LaTeX, CSV, Markdown and HTML."""

from __future__ import annotations

import argparse

from eval.commands._options import output, shared
from sida.cli.arguments import existing

HELP = "Build a table: .tex (booktabs), .csv, .md and .html."
EXAMPLES = """examples:
  sida-eval table --layout config/tables/main.yaml --measurements results/demo/measurements.csv \\
      --runs studies/demo/runs.tsv --out results/demo/tables/main.tex
  sida-eval table --layout table1 --mode paper --out table1.tex                         (as printed)
  sida-eval table --layout table1 --mode audit --measurements results/released/measurements.csv \\
      --runs studies/papers/runs/released.tsv --out table1.tex                  (published, measured and Δ in lines)
  sida-eval table table1 --add score.json --bib refs.bib          (your images below the printed rows, and what to cite)
  sida-eval table main --measurements collected.csv --add theirs.jsonl  (rows of other groups, with their origin)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("table", nargs="?", metavar="TABLE", help="layout of the table: a name, or a file")
    add("--layout", metavar="TABLE", help="the same")
    shared(parser, "--measurements", "--runs", "--results", "--published")
    add("--out", metavar="FILE.tex", help="written with .csv, .md and .html beside it (default: print the LaTeX)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--plain", action="store_true", help="LaTeX for booktabs alone (the default): $4.73 \\pm 0.16$")
    form.add_argument("--siunitx", action="store_true", help="LaTeX with columns of siunitx 3")
    bib = output("--bib")
    add("--bib", type=bib, metavar="FILE.bib", help="cite by keys in labels, and write their entries")
    add("--mode", choices=["paper", "audit", "measured"], help="overrides the layout's mode")
    add("--spec", metavar="JSON", help="settings that table 8 prints: JSON text or a file")
    add(
        "--add",
        action="append",
        default=[],
        type=existing("--add"),
        metavar="FILE",
        help="add rows: a file of sida score --out, or of other groups' lines of --json (.jsonl)",
    )


def run(args: argparse.Namespace) -> int:
    """Builds the table; writes or prints it."""
    import functools

    from eval.results.published import bibliography
    from eval.tables import make_table, table_paths, write_table
    from eval.tables.latex import cited_keys, to_latex
    from sida.config.resources import find
    from sida.config.settings import load_spec
    from sida.errors import UserError
    from sida.files.atomic import write_text

    layout = args.table or args.layout
    if not layout or (args.table and args.layout):
        raise UserError("table", "name one layout, e.g. sida-eval table table1")
    for path in table_paths(args.out) if args.out else ():
        output("--out")(str(path))
    table = make_table(
        layout,
        args.measurements,
        find("runs", args.runs, where="--runs") if args.runs else None,
        mode=args.mode,
        published=args.published,
        spec=load_spec(args.spec) if args.spec else None,
        results=args.results,
        scores=args.add,
    )
    latex = functools.partial(to_latex, siunitx=args.siunitx, cite=bool(args.bib))
    if args.bib:
        write_text(args.bib, bibliography(cited_keys(table)))
    if args.out:
        paths = write_table(table, args.out, latex)
        print(f"{paths[0]} (and {', '.join(path.suffix for path in paths[1:])})")
    else:
        print(latex(table), end="")
    return 0
