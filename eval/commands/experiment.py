"""``sida experiment``: the answer to one question, decided from its own rows."""

from __future__ import annotations

import argparse

from eval.commands._options import output, shared

HELP = "Answer one question: decide its claims, print the answer and write the verdicts."
EXAMPLES = """examples:
  sida experiment --spec results/miniature/specs/experiments/teachers.json \\
      --claims studies/miniature/claims.yaml --measurements results/miniature/collected/experiments/teachers.csv \\
      --results results/miniature --out results/miniature/experiments/teachers.json

The workflow writes spec and measurements: sida run miniature experiments/teachers.json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("--spec", required=True, metavar="JSON", help="the experiment and the rows of the sheet it needs")
    shared(parser, "--claims", "--measurements", "--results", required=["--claims", "--results"])
    out = output("--out", ".json")
    add("--out", required=True, type=out, metavar="FILE.json", help="verdicts, as in claims.json")


def run(args: argparse.Namespace) -> int:
    """Decides the claims of the experiment, writes the verdicts and prints the answer."""
    from pathlib import Path

    from eval.claims.evidence import Evidence
    from eval.claims.experiments import Experiment
    from eval.claims.model import load_claims
    from eval.claims.verdicts import decide
    from eval.claims.write import verdicts_record
    from eval.report.answers import answer_block, answers_of
    from eval.results.published import load_published
    from eval.results.sheet import read_runs
    from eval.results.summary import Measurements, load_measurements
    from sida.config.settings import from_mapping, load_spec
    from sida.errors import UserError
    from sida.files.atomic import write_hashed_json

    experiment = from_mapping(Experiment, load_spec(args.spec).get("experiment", {}), f"{args.spec}: experiment")
    known = {claim.id: claim for claim in load_claims(args.claims)}
    if missing := [name for name in experiment.claims if name not in known]:
        raise UserError(args.claims, f"has no claim {', '.join(missing)}, which experiment '{experiment.id}' names")
    measured = load_measurements(args.measurements) if args.measurements else Measurements([], "no measurements")
    sheet = {run.run: run for run in read_runs(args.spec)}
    evidence = Evidence(measured, sheet, load_published(), Path(args.results) / "students")
    verdicts = decide([known[name] for name in experiment.claims], evidence, str(args.claims))
    write_hashed_json(args.out, verdicts_record(verdicts, {}))
    (answer,) = answers_of([experiment], Path(args.out), measured)
    print(f"{answer_block(answer, evidence=True)}\n{args.out}: {answer.summary}")
    return 0
