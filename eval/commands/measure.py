"""``sida-eval measure``: the trials of one generator under a protocol."""

from __future__ import annotations

import argparse

HELP = "Measure a generator: ten trials with fresh seeds, one JSON file each."
EXAMPLES = """examples:
  sida-eval measure --spec spec.json --out results/demo/measurements/sid-a1.0 --trials 0-9
  sida-eval measure --spec '{"run": "data", "method": "data", "sampler": {"kind": "data"}, "protocol": "digits",
                             "dataset": {"name": "digits", "kind": "digits"}}' --out /tmp/data --trials 0
  sida-eval measure --spec spec.json --out statistics/sid --trials 3 --shard 0-10000   # then: sida-eval merge
Finished trials and shards of the same spec are kept.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--spec", required=True, metavar="JSON", help="generator and protocol: JSON text or file")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for trial-<t>.json, or for shards")
    parser.add_argument("--trials", default=None, metavar="A-B", help="trials, e.g. 0-9 or 3 (default: all)")
    parser.add_argument("--shard", default=None, metavar="A-B", help="only the images A ... B-1 of each trial")


def run(args: argparse.Namespace) -> int:
    """Measures trials or shards and prints their number."""
    from eval.commands._options import parse_range, parse_trials
    from eval.measuring.measure import measure, measure_shard
    from eval.measuring.sources import MeasureSpec
    from sida.config.settings import from_mapping, load_spec

    spec = from_mapping(MeasureSpec, load_spec(args.spec), "--spec")
    trials = parse_trials(args.trials, spec.protocol.trials)
    if args.shard is None:
        measured = measure(spec, args.out, trials)
        kept = len(trials) - len(measured)
        print(f"{spec.run}: {len(measured)} trials measured, {kept} kept, in {args.out}")
        return 0
    begin, end = parse_range(args.shard, "--shard")
    for trial in trials:
        print(measure_shard(spec, args.out, trial, begin, end))
    return 0
