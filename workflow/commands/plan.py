"""``sida plan``: cost of targets of a preset, before they are made."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.cli.arguments import whole

if TYPE_CHECKING:
    from workflow.planning.jobs import Jobs

HELP = "Plan the cost of targets: jobs, downloads, disk, GPU memory, GPU hours, energy, wall time."
EXAMPLES = """examples:
  sida plan tables/table1.tex                         (of the preset in config/plan.yaml; on one H200)
  sida plan --gpus 8 --gpu H100 tables/table8.tex figures/figure3.pdf
  sida plan edm2-xs-sida                              (a row of the sheet: trained and measured)
  sida plan --preset studies/demo/preset.yaml --json
  sida plan --measure cifar10-uncond-sida-a1          (its rate from a few steps on this machine)

Operations are counted on the networks of the preset; nothing is downloaded or trained (except the steps of --measure).
Finished targets cost nothing; --fresh counts them, too. Assumptions: config/plan.yaml. Rates that a run of its preset
`rates_of` measured on this card (rates.json in the results) replace the assumed ones.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="product or row; none: the whole preset")
    preset_argument(parser, "preset; several in quotes, later ones on top (default: that of config/plan.yaml)")
    parser.add_argument(
        "--gpus", type=whole("--gpus", 1, 10**6), default=1, metavar="N", help="number of GPUs (default: 1)"
    )
    parser.add_argument(
        "--gpu", metavar="NAME", help="card, of config/plan.yaml (default: H200, for `device: cpu` CPU)"
    )
    parser.add_argument("--measure", action="store_true", help="time some steps of the longest training here")
    parser.add_argument("--fresh", action="store_true", help="count finished targets, too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the plan."""
    import dataclasses
    import json

    from sida.errors import UserError
    from workflow.planning.plan import make_plan, show_plan
    from workflow.planning.rates import load_assumptions
    from workflow.preset.files import preset_files
    from workflow.preset.outside_code import outside_code_of

    if args.gpus < 1:
        raise UserError(f"--gpus {args.gpus}", "must be at least 1")
    preset = args.preset or load_assumptions().preset
    jobs = make_jobs(preset, args.gpu, args.gpus, args.fresh)
    if args.measure:
        from workflow.planning.observed import measured_rate, typical

        trained = [job for job in jobs.behind(args.targets).values() if job.kind == "student"]
        if not trained:
            raise UserError("--measure", "these targets train no student", "name one that does")
        fp16, rate = measured_rate(jobs, typical(jobs, trained).name)
        jobs.costs.rates[fp16] = rate
    plan = make_plan(jobs, args.targets, args.gpus)
    plan["code"] = [dataclasses.asdict(code) for file in preset_files(preset) for code in outside_code_of(file)]
    print(json.dumps(plan, indent=2) if args.json else show_plan(plan))
    return 0


def make_jobs(
    preset: str | Sequence[Path], gpu: str | None, gpus: int, fresh: bool = False, measured: bool = True
) -> Jobs:
    """Jobs of a preset on a card.

    Args:
        preset: Name or file of the preset, with further files on top of it behind spaces; or all files.
        gpu: The card; None takes the card that `sida rates` measured here, else the default for the preset's device.
        gpus: Number of GPUs.
        fresh: Whether finished jobs count.
        measured: Whether rates that `sida rates` measured on that card are used if they exist.
    """
    from workflow.planning.costs import Costs
    from workflow.planning.jobs import Jobs
    from workflow.planning.observed import read_rates
    from workflow.planning.rates import load_assumptions
    from workflow.preset import Preset
    from workflow.preset.files import preset_files
    from workflow.preset.rehearsal import check_preset

    loaded = Preset.load(*(preset_files(preset) if isinstance(preset, str) else preset))
    check_preset(loaded)
    rates_of = load_assumptions(loaded.own).rates_of
    measured = measured and loaded.settings.device != "cpu"
    found = read_rates(Path("results", rates_of, "rates.json")) if measured else None
    gpu = gpu or (found["card"] if found else None)
    return Jobs(Costs(loaded, gpu, gpus, found["rates"] if found and found["card"] == gpu else {}, fresh))


def preset_argument(parser: argparse.ArgumentParser, about: str, **settings: Any) -> None:
    """Declares ``--preset NAME|FILE``, the one way to name a preset; ``--config`` is its older spelling."""
    parser.add_argument("--preset", "--config", dest="preset", metavar="NAME|FILE", help=about, **settings)
