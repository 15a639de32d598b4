"""``sida convert``: converts a published pickle to safetensors without executing anything in the pickle."""

from __future__ import annotations

import argparse

from sida.cli.arguments import network_source

HELP = "Convert a published pickle (EDM, EDM2, SiD, SiDA, GDD) or a state dict to safetensors; executes nothing."
EXAMPLES = """examples:
  sida convert edm-cifar10-32x32-uncond-vp.pkl teacher.safetensors
  sida convert cifar10-uncond-sida-a1 sida.safetensors          (an id of `sida assets list`, fetched if need be)
  sida convert cifar_uncond_gdd_i.pkl gdd.safetensors --network-class GDDPrecond
  sida convert training-state.pt net.safetensors --key net
  sida convert hf://OWNER/REPOSITORY/network.pkl net.safetensors      (also https://...; #sha256=DIGITS is enforced)
  sida convert weights.pt net.safetensors --network config.json    (a plain state dict: {"class": ..., "kwargs": ...})
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    source = "pickle, id of a registered network, or address"
    parser.add_argument("source", type=network_source, metavar="IN.pkl", help=source)
    parser.add_argument("target", metavar="OUT.safetensors", help="file to write")
    parser.add_argument("--key", default="ema", help="entry of the pickle that holds the network (default: ema)")
    parser.add_argument("--url", help="origin of the file; recorded in the header")
    parser.add_argument("--network-class", metavar="NAME", help="class to use instead of the class named in the file")
    architecture = "architecture of a plain state dict: JSON text or file with class and kwargs"
    parser.add_argument("--network", metavar="CONFIG", help=architecture)
    parser.add_argument("--method", help="recorded in the header, e.g. sid, sida, sid2a, teacher")
    parser.add_argument("--dataset", help="recorded in the header")


def run(args: argparse.Namespace) -> int:
    """Converts the file and prints one line."""
    from pathlib import Path

    from sida.assets import checked, fetch, find_asset, is_address, load_registry
    from sida.config.settings import load_spec
    from sida.files.tensors import starts_as_pickle
    from sida.networks.checkpoint import copy_network, import_official, import_state_dict

    source, url, network_class, network = Path(args.source), args.url, args.network_class, args.network
    registry = load_registry()
    if is_address(args.source) or (not source.exists() and args.source in registry):
        asset = find_asset(registry, args.source)
        source, url, network_class = fetch(asset.id), url or asset.url, network_class or asset.network_class
        network = network or asset.architecture
    given = {"method": args.method, "dataset": args.dataset}
    given = {name: value for name, value in given.items() if value is not None}
    if network:
        config = load_spec(str(network), "--network")
        metadata = import_state_dict(checked(source), args.target, config, args.key, url, given)
    elif is_address(args.source) and not starts_as_pickle(source):
        metadata = copy_network(source, args.target)
    else:
        metadata = import_official(
            checked(source), args.target, key=args.key, origin_url=url, network_class=network_class, metadata=given
        )
    network = metadata["network"]
    print(f"{args.target}: {network['class']} {network['kwargs'].get('model_type', '')}".rstrip())
    return 0
