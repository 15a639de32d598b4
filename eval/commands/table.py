"""``sida-eval table``: builds a table as LaTeX, CSV, Markdown and HTML."""

from __future__ import annotations

import argparse

HELP = "Build a table: .tex (booktabs, siunitx), .csv, .md and .html."
EXAMPLES = """examples:
  sida-eval table --layout config/tables/main.yaml --measurements results/demo/measurements.csv \\
      --runs config/runs/demo.tsv --out results/demo/tables/main.tex
  sida-eval table --layout table1 --mode paper --out table1.tex                         (as printed)
  sida-eval table --layout config/tables/table1.yaml --mode audit --measurements results/released/measurements.csv \\
      --runs config/runs/released.tsv --out table1.tex                                  (published | measured | Δ)
  sida-eval table --layout table1 --add score.json --out table1.tex                     (adds a row for your images)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "--layout", required=True, metavar="YAML", help="layout of the table: a file, or a name in config/tables"
    )
    parser.add_argument("--measurements", metavar="CSV", help="measurements.csv (not needed in mode paper)")
    parser.add_argument("--runs", metavar="TSV", help="sample sheet, or a spec with rows (not needed in mode paper)")
    parser.add_argument("--out", required=True, metavar="FILE.tex", help="written with .csv, .md and .html beside it")
    parser.add_argument("--mode", choices=["paper", "audit", "measured"], help="overrides the layout's mode")
    parser.add_argument("--published", metavar="DIR", help="folder of published numbers (default results/published)")
    parser.add_argument("--spec", metavar="JSON", help="settings that table 8 prints: JSON text or a file")
    parser.add_argument("--results", metavar="DIR", help="training logs for table 8 (default: beside --measurements)")
    parser.add_argument(
        "--add", action="append", default=[], metavar="JSON", help="add a row: a file of sida-eval score --out"
    )
    parser.add_argument(
        "--scope",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="condition on the sample sheet added to every row, e.g. dataset=digits",
    )


def run(args: argparse.Namespace) -> int:
    """Builds and writes the table."""
    from eval.commands._options import check_output, parse_scope
    from eval.tables import make_table, table_paths, write_table
    from sida.config.mapping import load_spec
    from sida.config.resources import find

    for path in table_paths(args.out):
        check_output(str(path), "--out")
    table = make_table(
        args.layout,
        args.measurements,
        find("runs", args.runs, where="--runs") if args.runs else None,
        mode=args.mode,
        published=args.published,
        scope=parse_scope(args.scope),
        spec=load_spec(args.spec) if args.spec else None,
        results=args.results,
        scores=args.add,
    )
    paths = write_table(table, args.out)
    print(f"{paths[0]} (and {', '.join(path.suffix for path in paths[1:])})")
    return 0
