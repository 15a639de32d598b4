"""``sida-eval merge``: merges the shards of a trial into its measurement."""

from __future__ import annotations

import argparse

from sida.cli.arguments import existing, whole

HELP = "Merge the shards of a trial into its measurement, in any order."
EXAMPLES = """examples:
  sida-eval merge --spec spec.json --trial 3 --out measurements/sid statistics/sid/trial-3/*.safetensors
Missing and broken shards are named; only these have to be measured again.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add = parser.add_argument
    add("shards", nargs="+", type=existing(), metavar="SHARD", help="files written by sida-eval measure --shard")
    add("--spec", required=True, metavar="JSON", help="the spec the shards were measured with")
    add("--trial", required=True, type=whole("--trial"), metavar="T", help="number of the trial")
    add("--out", required=True, metavar="DIR", help="folder for trial-<t>.json")


def run(args: argparse.Namespace) -> int:
    """Merges the shards."""
    from eval.measuring.measure import merge_shards
    from eval.results.measurements import trial_path
    from sida.config.settings import load_spec

    merge_shards(load_spec(args.spec), args.shards, args.out, args.trial)
    print(trial_path(args.out, args.trial))
    return 0
