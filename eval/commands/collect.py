"""``sida-eval collect``: all measurements as one long table."""

from __future__ import annotations

import argparse

from sida.cli.arguments import existing

HELP = "Check all measurements of a folder and collect them as one long table (CSV)."
EXAMPLES = """examples:
  sida-eval collect results/demo/measurements --out results/demo/measurements.csv
  sida-eval collect results/demo/measurements --runs data sid-a1.0 --out two.csv
  sida-eval collect results/demo/measurements --add theirs.jsonl --out all.csv   (lines of `sida-eval score --json`)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("folder", type=existing(), metavar="DIR", help="folder with <run>/trial-<t>.json")
    add("--runs", nargs="*", metavar="RUN", help="runs in the order of the table (default: all)")
    add("--add", nargs="*", default=[], metavar="FILE", help="numbers of other groups, marked by their origin")
    add("--stored", nargs="+", default=[], metavar=("DIR", "RUN"), help="take runs from stored results instead")
    add("--out", required=True, metavar="FILE", help="CSV file to write")


def run(args: argparse.Namespace) -> int:
    """Collects the measurements and prints their number."""
    from eval.results.exchange import read_exchanged, require_beside
    from eval.results.measurements import collect, long_rows, write_csv
    from eval.results.stored import taken

    stored = taken(*args.stored) if args.stored else []
    here = None if args.runs is None else [run for run in args.runs if run not in args.stored[1:]]
    records = collect(args.folder, here)
    others = [row for path in args.add for row in read_exchanged(path)]
    require_beside(others, [*stored, *long_rows(records)], ", ".join(args.add))
    rows = write_csv(args.out, records, [*stored, *others])
    runs = len({record["run"] for record in records})
    print(f"{args.out}: {rows - len(others) - len(stored)} values of {len(records)} trials of {runs} generators")
    if stored:
        print(f"  and {len(stored)} values of {len(args.stored) - 1} generators, stored in {args.stored[0]}")
    for origin in dict.fromkeys(row["origin"] for row in others):
        print(f"  and {sum(row['origin'] == origin for row in others)} values measured by {origin}")
    return 0
