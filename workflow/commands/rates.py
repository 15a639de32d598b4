"""``sida rates``: what a device did in the trainings of a preset, beside the plan."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Compare the rates and memory of a preset's trainings on this machine with the plan's."
EXAMPLES = """examples:
  sida rates                                    (for `sida plan`)
  sida rates --preset studies/gpu/preset.yaml --gpu H100

Reads the training logs, times a matrix product and the feature networks on the preset's device, and writes rates.json
and tables/rates.* into the preset's results. A preset with `rates: true` does so itself.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--preset", metavar="NAME|FILE", help="preset (default: `rates_of` of config/plan.yaml)")
    parser.add_argument("--gpu", metavar="NAME", help="card of config/plan.yaml to compare with (default: this one)")


def run(args: argparse.Namespace) -> int:
    """Prints and writes the table."""
    from eval.tables import to_terminal, write_table
    from sida.files.atomic import write_hashed_json
    from workflow.commands.plan import make_jobs
    from workflow.planning.observed import observe, rates_table
    from workflow.planning.rates import load_assumptions

    preset = args.preset or load_assumptions().rates_of
    jobs = make_jobs(preset, args.gpu, 1, fresh=True, measured=False)
    found = observe(jobs)
    if args.gpu is None and found["card"]:
        jobs = make_jobs(preset, found["card"], 1, fresh=True, measured=False)
    table, folder = rates_table(found, jobs), Path(jobs.preset.results)
    write_table(table, folder / "tables" / "rates.tex")
    write_hashed_json(folder / "rates.json", found)
    print(to_terminal(table))
    if not found["card"]:
        print(f"{found['device']} is no card of config/plan.yaml: add it there, so that `sida plan` takes these rates")
    return 0
