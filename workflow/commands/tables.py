"""Verbs for a paper: ``sida table`` and ``sida cite``."""

import argparse

from eval.commands._options import output, shared
from sida.cli.main import Verb, existing


def _table_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("table", metavar="TABLE", help="layout of the table: a name, or a file")
    shared(parser, "--measurements", "--runs", "--results")
    add("--out", metavar="FILE.tex", help="written with .csv, .md and .html beside it (default: print the LaTeX)")
    add("--siunitx", action="store_true", help="LaTeX with columns of siunitx 3 (default: for booktabs alone)")
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


def _table(args: argparse.Namespace) -> int:
    """Builds the table; writes or prints it."""
    import functools

    from eval.results.published import SUITE, bibliography
    from eval.tables.build import make_table, table_paths, write_table
    from eval.tables.latex import cited_keys, to_latex
    from sida.config.lookup import find_file
    from sida.config.settings import load_spec
    from sida.files.atomic import write_text

    for path in table_paths(args.out) if args.out else ():
        output("--out")(str(path))
    table = make_table(
        args.table,
        args.measurements,
        find_file("runs", args.runs, where="--runs") if args.runs else None,
        mode=args.mode,
        spec=load_spec(args.spec) if args.spec else None,
        results=args.results,
        scores=args.add,
    )
    latex = functools.partial(to_latex, siunitx=args.siunitx, cite=bool(args.bib))
    if args.bib:
        write_text(args.bib, bibliography([SUITE, *cited_keys(table)]))
    if args.out:
        paths = write_table(table, args.out, latex)
        print(f"{paths[0]} (and {', '.join(path.suffix for path in paths[1:])})")
    else:
        print(latex(table), end="")
    return 0


TABLE = Verb(
    "Build a table: .tex (booktabs), .csv, .md and .html.",
    """examples:
  sida table config/tables/main.yaml --measurements results/demo/measurements.csv \\
      --runs studies/demo/runs.tsv --out results/demo/tables/main.tex
  sida table table1 --mode paper --out table1.tex                         (as printed)
  sida table table1 --mode audit --measurements results/released/measurements.csv \\
      --runs studies/papers/runs/released.tsv --out table1.tex                  (published, measured and Δ in lines)
  sida table table1 --add score.json --out table1.tex                              (adds a row for your images)
  sida table main --measurements collected.csv --add theirs.jsonl  (rows of other groups, with their origin)
  sida table table1 --add score.json --bib refs.bib                  (with \\cite keys, and their entries)
""",
    _table_arguments,
    _table,
)


#: Keys that any use of this suite cites.
_ALWAYS = ("zhou2024sida", "zhou2024sid", "zheng2024gdd", "karras2022edm", "karras2024edm2")


_METRICS = ("heusel2017fid", "salimans2016is", "kynkaanniemi2019pr", "stein2023fddinov2", "parmar2021cleanfid")


def _cite_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="tables (layouts) or keys of entries")


def _cite(args: argparse.Namespace) -> int:
    """Prints the entries."""
    from eval.results.published import SUITE, bibliography, references
    from eval.tables.build import make_table
    from eval.tables.latex import cited_keys

    keys = [] if args.names else [SUITE, *_ALWAYS, *_METRICS]
    for name in args.names:
        keys += [name] if name in references() else [SUITE, *cited_keys(make_table(name, mode="paper"))]
    print(bibliography(keys), end="")
    return 0


CITE = Verb(
    "Print BibTeX entries: of this suite with its papers and metrics, or of the rows of a table.",
    """examples:
  sida cite                 (this suite, SiD, SiDA, GDD, their teachers, and the metrics)
  sida cite table1          (the rows of Table 1, and this suite)
  sida cite yin2024dmd2     (one entry, by its key)
""",
    _cite_arguments,
    _cite,
)
