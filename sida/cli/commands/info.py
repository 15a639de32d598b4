"""``sida info``: describes a network file and its origin."""

from __future__ import annotations

import argparse
from typing import Any

from sida.cli.arguments import existing

HELP = "Show a network file: architecture, parameters, origin, method, recorded hashes."
EXAMPLES = """examples:
  sida info results/demo/students/sida-a1.0/network.safetensors
  sida info edm2-img512-xs-2147483-0.135.pkl
  sida info cifar_uncond_gdd_i.pkl --network-class GDDPrecond
  sida info network.safetensors --json
"""
_WIDTH, _MOST = 300, 100
_FIRST = (
    *("file", "bytes", "sha256", "format", "class_in_file", "entries"),
    *("method", "dataset", "nimg", "parameters", "tensors"),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    text = ".safetensors of this package, or a published pickle"
    parser.add_argument("file", type=existing(), metavar="FILE", help=text)
    parser.add_argument("--key", default="ema", help="entry of a pickle that holds the network (default: ema)")
    parser.add_argument("--network-class", metavar="NAME", help="class to use instead of the class named in a pickle")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a list")


def run(args: argparse.Namespace) -> int:
    """Prints the description."""
    import json

    from sida.networks.checkpoint import describe_file

    facts = describe_file(args.file, args.key, args.network_class)
    if args.json:
        print(json.dumps(facts, indent=2, sort_keys=True))
        return 0
    for name in (*_FIRST, *sorted(set(facts) - set(_FIRST) - {"network"})):
        if facts.get(name) not in (None, [], {}):
            _show(name, facts[name])
    print(f"{'architecture':<14} {facts['network']['class']}")
    for name, value in sorted(facts["network"]["kwargs"].items()):
        print(f"  {name:<20} {json.dumps(value)}")
    return 0


def _show(name: str, value: Any) -> None:
    from sida.unpickle.inert import printable

    name = printable(name)
    if isinstance(value, dict):
        print(name)
        for key, item in sorted(value.items())[:_MOST]:
            if item is not None:
                print(f"  {printable(key):<20} {printable(str(item), _WIDTH)}")
    elif isinstance(value, list):
        print(f"{name:<14} {printable(', '.join(map(str, value[:_MOST])), _WIDTH)}")
    else:
        print(f"{name:<14} {value:,}" if isinstance(value, int) else f"{name:<14} {printable(str(value), _WIDTH)}")
