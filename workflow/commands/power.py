"""``sida-eval power``: numbers of training seeds and teachers that the claims of a study need."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sida.cli.arguments import number, whole
from workflow.commands.plan import preset_argument

if TYPE_CHECKING:
    from eval.claims.power import PowerPlan

HELP = "Compute the training seeds that claims about training need, from measured variances or given numbers."
EXAMPLES = """examples:
  sida-eval power --store results/miniature --smallest 5%
  sida-eval power --store studies/demo/stored
  sida-eval power --effect 0.1 --std 0.04 --seeds 3
  sida-eval power --effect 0.1 --std 0.04 0.06 --seeds 3 --teachers 2 --teacher-std 0.05
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--store", metavar="DIR", help="results of a preset, or a stored study (studies/NAME/stored)")
    preset_argument(parser, "with results: the preset (default: that of the folder's name)")
    parser.add_argument("--claims", metavar="YAML", help="claims (default: those of the preset)")
    parser.add_argument("--smallest", metavar="NUMBER", help="smallest difference of interest, e.g. 0.2 or 5%%")
    parser.add_argument(
        "--effect", type=number("--effect"), metavar="NUMBER", help="a difference, instead of measured ones"
    )
    parser.add_argument(
        "--std", type=number("--std", 0), nargs="+", metavar="NUMBER", help="its std over training seeds (A and B)"
    )
    parser.add_argument(
        "--seeds", type=whole("--seeds", 1, 10**6), default=3, help="with --effect: training seeds (default 3)"
    )
    parser.add_argument(
        "--teachers", type=whole("--teachers", 1, 10**6), default=1, help="with --effect: teachers (default 1)"
    )
    parser.add_argument(
        "--teacher-std", type=number("--teacher-std", 0), default=0.0, help="with --effect: its std over teachers"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Computes and prints."""
    import dataclasses
    import json
    import textwrap

    from eval.claims.power import power_table
    from eval.tables.render import to_terminal
    from sida.cli import terminal
    from sida.errors import UserError

    if (args.store is None) == (args.effect is None):
        raise UserError("", "give either --store (measured) or --effect and --std (numbers)")
    if args.effect is not None:
        print(_numbers(args))
        return 0
    found = _measured(args)
    if args.json:
        print(json.dumps([dataclasses.asdict(plan) for plan in found], ensure_ascii=False, indent=1))
        return 0
    table = power_table(found)
    width = terminal.width()
    print(to_terminal(table))
    print("\n".join(textwrap.fill(note, width) for note in table.notes))
    return 0


def _numbers(args: argparse.Namespace) -> str:
    import json

    from eval.claims.power import by_numbers
    from eval.effects.variance import Scatter, detectable, power_of, seeds_needed
    from sida.errors import UserError

    if args.std is None or len(args.std) > 2:
        raise UserError("--effect needs --std", "one standard deviation over training seeds, or two, of A and of B")
    scatter = Scatter(args.std[0], args.std[-1], args.teacher_std)
    lines = by_numbers(args.effect, scatter, args.seeds, args.teachers)
    if not args.json:
        return "\n".join(lines)
    within = Scatter(scatter.a, scatter.b)
    numbers = {
        "power": power_of(args.effect, within, args.seeds, args.teachers),
        "detectable": detectable(within, args.seeds, args.teachers),
        "needed": seeds_needed(args.effect, within, args.teachers),
    }
    return json.dumps(numbers, indent=1)


def _measured(args: argparse.Namespace) -> list[PowerPlan]:
    from pathlib import Path

    from eval.claims import Evidence, load_claims
    from eval.claims.power import plans
    from eval.claims.verdicts import main_scope
    from eval.results.published import load_published
    from eval.results.stored import STORED, read_stored
    from eval.results.summary import load_measurements
    from sida.errors import UserError
    from workflow.preset import Preset
    from workflow.preset.files import find_preset

    store = Path(args.store)
    name = args.preset or store.resolve().name
    if (store / STORED).is_file():
        name = args.preset or read_stored(store)["preset"]
    path = find_preset(name, "--preset" if args.preset else f"--store {store}: give its preset by --preset")
    preset = Preset.load(path)
    claims = args.claims or preset.settings.claims
    if not claims:
        raise UserError("", f"{path} has no claims", "give them by --claims")
    evidence = Evidence(load_measurements(store), preset.runs, load_published(), store / "students")
    known = load_claims(claims)
    scope = main_scope(known, evidence)
    return plans([claim for claim in known if claim.scope == scope], evidence, args.smallest, str(claims))
