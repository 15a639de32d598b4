"""Verbs of the workflow's jobs: measure, collect, claims, figure, page and paper."""

import argparse
import os

from sida.cli.main import Verb, existing, refuse_lost
from sida.config.lookup import typed_code
from sida.config.settings import from_mapping, load_spec
from sida.eval.commands._options import output, parse_trials, shared


def _measure_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--spec", required=True, metavar="JSON", help="generator and protocol: JSON text or file")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for trial-<t>.json")
    parser.add_argument("--trials", default=None, metavar="A-B", help="trials, e.g. 0-9 or 3 (default: all)")


def _measure(args: argparse.Namespace) -> int:
    """Measures trials and prints their number."""
    from sida.eval.measuring.generators import MeasureSpec
    from sida.eval.measuring.measure import measure

    spec = from_mapping(MeasureSpec, load_spec(args.spec), "--spec")
    trials = parse_trials(args.trials, spec.protocol.trials)
    new_trials = measure(spec, args.out, trials)
    unchanged = len(trials) - len(new_trials)
    print(f"{spec.run}: {len(new_trials)} trials measured, {unchanged} kept, in {args.out}")
    return 0


MEASURE = Verb(
    """examples:
  sida measure --spec spec.json --out results/demo/measurements/sid-a1.0 --trials 0-9
  sida measure --spec '{"run": "data", "method": "data", "sampler": {"kind": "data"}, "protocol": "digits",
                             "dataset": {"name": "digits", "kind": "digits"}}' --out /tmp/data --trials 0
Finished trials of the same spec are kept.
""",
    _measure_arguments,
    _measure,
)


def _collect_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("folder", metavar="DIR", help="folder with <run>/trial-<t>.json")
    add("--runs", nargs="*", metavar="RUN", help="runs in the order of the table (default: all)")
    add("--stored", nargs="+", default=[], metavar=("DIR", "RUN"), help="take runs from stored results instead")
    add("--out", required=True, metavar="FILE", help="CSV file to write")


def _collect(args: argparse.Namespace) -> int:
    """Collects the measurements and prints their number."""
    from sida.eval.results.measurements import measurements_file
    from sida.eval.results.stored import taken
    from sida.eval.results.trial_files import collect, write_csv
    from sida.files.ordinary import refuse_same

    for folder in args.stored[:1]:
        refuse_same(measurements_file(folder), args.out)
    stored_rows = taken(*args.stored) if args.stored else []
    measured_here = None if args.runs is None else [run for run in args.runs if run not in args.stored[1:]]
    records = collect(args.folder, measured_here)
    rows = write_csv(args.out, records, stored_rows)
    runs = len({record["run"] for record in records})
    print(f"{args.out}: {rows - len(stored_rows)} values of {len(records)} trials of {runs} generators")
    if stored_rows:
        print(f"  and {len(stored_rows)} values of {len(args.stored) - 1} generators, stored in {args.stored[0]}")
    return 0


COLLECT = Verb(
    """examples:
  sida collect results/demo/measurements --out results/demo/measurements.csv
  sida collect results/demo/measurements --runs data sid-a1.0 --out two.csv
""",
    _collect_arguments,
    _collect,
)


def _claims_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    text = "claims as functions (studies/papers/claims.py); the file is run"
    parser.add_argument("--claims", required=True, type=typed_code, metavar="PY", help=text)
    shared(parser, "--measurements", "--runs", "--results")
    parser.add_argument("--out", required=True, metavar="FILE.md", help="written with .json beside it")


def _claims(args: argparse.Namespace) -> int:
    """Decides the claims and writes the verdicts."""
    from sida.eval.claims.write import decide_claims

    refuse_lost(vars(args), os.path.splitext(args.out)[0] + ".json")
    inputs = {name: getattr(args, name) for name in ("measurements", "runs", "results")}
    paths, counts = decide_claims(args.claims, args.out, **inputs)
    print(f"{paths[0]} (and {', '.join(path.suffix for path in paths[1:])}): {counts}")
    return 0


CLAIMS = Verb(
    """examples:
  sida claims --claims studies/demo/claims.py --measurements results/demo/measurements.csv \\
      --runs studies/demo/runs.tsv --results results/demo --out results/demo/claims.md
  sida claims --claims studies/papers/claims.py --out claims.md      (by the published numbers alone)
""",
    _claims_arguments,
    _claims,
)


def _figure_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--layout", required=True, metavar="YAML", help="layout: a file, or a name in config/figures")
    required = ["--runs", "--results"]
    shared(parser, *required, "--measurements", required=required)
    parser.add_argument("--spec", metavar="JSON", help="generators to sample: JSON text or a file")
    parser.add_argument("--out", required=True, metavar="FILE.pdf", help="written with .png and .csv beside it")


def _figure(args: argparse.Namespace) -> int:
    """Builds and writes the figure."""
    from sida.eval.figures.layout import build_figure

    refuse_lost(vars(args), *(os.path.splitext(args.out)[0] + suffix for suffix in (".png", ".csv")))
    settings = {key: getattr(args, key) for key in ("measurements", "spec")}
    paths, remarks = build_figure(args.layout, args.runs, args.results, args.out, **settings)
    print(f"{paths[0]} (and {', '.join(path.suffix for path in paths[1:])})")
    for remark in remarks:
        print(f"  {remark}")
    return 0


FIGURE = Verb(
    """examples:
  sida figure --layout config/figures/convergence.yaml --measurements results/demo/measurements.csv \\
      --runs studies/demo/runs.tsv --results results/demo --out results/demo/figures/convergence.pdf
  sida figure --layout config/figures/samples.yaml --runs studies/demo/runs.tsv --results results/demo \\
      --spec generators.json --out results/demo/figures/samples.pdf

--spec is a JSON object: {"generators": [...]} has the specs of `sida measure` for grids of samples. The workflow
writes this file: results/<preset>/specs/figures/<figure>.json.
""",
    _figure_arguments,
    _figure,
)


def _page_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("results", type=existing(), metavar="DIR", help="results of a preset")
    out = output("--out", ".html")
    parser.add_argument("--out", required=True, type=out, metavar="FILE.html", help="page to write")
    shared(parser, "--title", "--own")
    parser.add_argument("--again", default="", metavar="COMMAND", help="command that makes the results again (.html)")


def _page(args: argparse.Namespace) -> int:
    """Writes the page."""
    from sida.eval.report.page import write_index

    print(write_index(args.results, args.out, args.title, args.own, args.again))
    return 0


PAGE = Verb(
    """examples:
  sida page results/demo --out results/demo/index.html
""",
    _page_arguments,
    _page,
)


def _paper_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("results", type=existing(), metavar="DIR", help="results of a preset")
    shared(parser, "--title", "--own")
    parser.add_argument("--require-pdf", action="store_true", help="fail where LaTeX is not installed")


def _paper(args: argparse.Namespace) -> int:
    """Builds the document."""
    from sida.eval.report.paper import build_paper, missing_latex

    source, pdf = build_paper(args.results, args.title, args.own)
    if pdf is None:
        print(f"{source} written; paper.pdf skipped: {missing_latex()}")
        return 1 if args.require_pdf else 0
    print(f"{pdf} (and {source.name})")
    return 0


PAPER = Verb(
    """examples:
  sida paper results/demo
  sida paper results/released --title 'Released generators' --require-pdf

LaTeX: apt-get install --no-install-recommends texlive-latex-recommended (lmodern makes nicer fonts).
""",
    _paper_arguments,
    _paper,
)
