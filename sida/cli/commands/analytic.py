"""``sida analytic``: the effect of SiD's α on Gaussians and a two-mode mixture, with exact distributions."""

from __future__ import annotations

import argparse

HELP = "Compute the effect of SiD's alpha on Gaussians and a mixture, where all distributions are known exactly."
EXAMPLES = """examples:
  sida analytic --out analytic.json
  sida analytic --set mixture_steps=50 --set 'alphas=[0.5, 1.0]' --out analytic.json

Takes half a minute on one core. studies/alpha/README.md explains the numbers.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--spec", default="{}", metavar="JSON|FILE", help="settings (default: none changed)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one; repeatable")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="file to write")


def run(args: argparse.Namespace) -> int:
    """Computes and writes the numbers, and prints the most important ones."""
    from sida.cli.commands._spec import read_settings
    from sida.config.analytic import AnalyticSettings
    from sida.errors import UserError
    from sida.files.atomic import write_hashed_json

    settings, _ = read_settings(args, AnalyticSettings)
    if not args.out.endswith(".json"):
        raise UserError(f"--out {args.out}: must end in .json")
    import torch

    from sida.analytic.study import study

    # One thread is the fastest for small tensors.
    torch.set_num_threads(1)
    found = study(settings)
    write_hashed_json(args.out, found)
    numbers = found["numbers"]
    residual = max(numbers[f"identity_{name}"] for name in ("data", "generator", "projection"))
    print(f"{args.out}: identities hold to {residual:.1g}")
    print(f"as predicted: {numbers['starts_agreement']:.0%} of starts, {numbers['ratios_agreement']:.0%} of rates")
    return 0
