"""``sida assets``: downloads of the registry."""

import argparse
import itertools
import json
from typing import Any

from sida.assets.cache import absence, cache_dir, fetch_many, forget, read_records, verify_asset
from sida.assets.registry import ASSET_KINDS, Asset, find_asset, load_registry
from sida.cli.main import Verb
from sida.config.families import DECODERS
from sida.errors import UserError, say, suggestion
from sida.eval.features.registry import EXTRACTORS, get_extractor
from sida.eval.measuring.protocol import load_protocol
from sida.files.atomic import sha256_file, write_json

#: Features of each picture that a description has, besides their mean.
SHOWN_FEATURES = 4
_EXAMPLES = """examples:
  sida assets list --kind teacher
  sida assets fetch cifar10-uncond-sida-a1 fid-ref-cifar10 inception
  sida assets fetch --kind extractor
  sida assets fetch --protocol cifar10       (all that a score under it needs)
  sida assets verify                        (reads every cached file again)
  sida assets forget inception              (drops its file and the hash recorded at first use)
  sida assets describe cifar10-uncond-sida-a1 inception   (what is inside, to compare with others' files)
  SIDA_OFFLINE=1 sida assets fetch inception   (says where to put the file)

environment:
  SIDA_CACHE    folder of the downloads (default: sida in the user's cache folder)
  SIDA_OFFLINE  1: never use the network
  SIDA_ASSETS   another registry
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("action", choices=tuple(_ACTIONS))
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of the registry")
    parser.add_argument("--kind", help="all assets of a kind (network, teacher, fid-reference, extractor, ...)")
    text = "all downloads that a score under it needs"
    parser.add_argument("--protocol", action="append", default=[], metavar="NAME", help=text)
    parser.add_argument("--record", metavar="FILE.json", help="fetch: also write what was fetched, with hashes")


def _run(args: argparse.Namespace) -> int:
    """Does the action for the chosen assets and the protocols' assets."""
    if args.protocol:
        args.ids += [asset for asset in _assets_of(args.protocol) if asset not in args.ids]
        if not args.ids and args.kind is None:
            return 0
    registry = load_registry()
    if args.kind is not None and args.kind not in ASSET_KINDS:
        raise UserError("--kind", f"no kind '{args.kind}'{suggestion(args.kind, ASSET_KINDS)}")
    assets = [find_asset(registry, asset_id) for asset_id in args.ids]
    if args.kind is not None or not args.ids:
        assets += [a for a in registry.values() if args.kind in (None, a.kind) and a not in assets]
    return _ACTIONS[args.action](assets, args)


def _assets_of(protocols: list[str]) -> list[str]:
    """Ids of all downloads that scores under some protocols need."""
    # A protocol does not know the network, which decides the decoder.
    decoders = [file for files in DECODERS.values() for file in files]
    assets = {name: load_protocol(name).assets(decoders) for name in protocols}
    for name in (name for name in assets if not assets[name]):
        say(f"protocol '{name}': needs no download")
    return list(dict.fromkeys(itertools.chain(*assets.values())))


def _fetch_assets(assets: list[Asset], args: argparse.Namespace) -> int:
    if not args.ids and args.kind is None:
        raise UserError("sida assets fetch", "name ids, or a --kind", "everything would be tens of gigabytes")
    for path in fetch_many([asset.id for asset in assets]).values():
        print(path)
    if args.record:
        write_json(args.record, [describe_asset(asset) for asset in assets])
    return 0


def _forget_assets(assets: list[Asset], args: argparse.Namespace) -> int:
    if not args.ids:
        raise UserError("sida assets forget", "name ids", "a hash that was recorded once is given up for good")
    for asset in assets:
        parts = forget(asset.id)
        text = f"forgotten: {', '.join(parts)}" if parts else "not in the cache, and without a record"
        print(f"{asset.id}: {text}")
    return 0


def describe_asset(asset: Asset) -> dict[str, Any]:
    """Record of a cached asset and its origin, without dates and absolute paths: equal files have equal records."""
    record = read_records().get(asset.target)
    if record is None:
        # A user put the file into a cache that cannot be written.
        record = {"sha256": sha256_file(asset.path), "size": asset.path.stat().st_size, "url": asset.url}
    facts = {name: getattr(asset, name) for name in ("id", "kind", "target", "license", "source", "note")}
    return facts | {name: record[name] for name in ("sha256", "size", "url")}


def _describe_assets(assets: list[Asset], args: argparse.Namespace) -> int:
    print(json.dumps([describe_content(asset) for asset in assets if asset.path.exists()], indent=1))
    return 0


def describe_content(asset: Asset) -> dict[str, Any]:
    """Record of a cached asset, and what is inside.

    Of a pickled network these are class, architecture and the names that became inert objects; of a feature network
    the mean and the first features of four fixed pictures, which tell its numerics on this machine.
    """
    from sida.networks.official import describe_file

    facts = describe_asset(asset)
    if asset.kind in ("network", "teacher"):
        content = describe_file(asset.path)
        names = ("format", "class_in_file", "source_sha256", "inert", "network", "parameters", "tensors")
        facts |= {name: content[name] for name in names if name in content}
    if asset.kind == "extractor":
        facts["features"] = _features_of_pictures(asset)
    return facts


def _features_of_pictures(asset: Asset) -> dict[str, list[float]]:
    """Mean and first features of black, white, a ramp and a chequered picture, 32×32."""
    import torch

    extractor = get_extractor(next(name for name, entry in EXTRACTORS.items() if asset.id in entry.assets), "cpu")
    ramp = torch.arange(32).mul(8).expand(32, 32)
    chequers = torch.arange(32).add(torch.arange(32)[:, None]).remainder(2).mul(255)
    pictures = {"black": ramp * 0, "white": ramp * 0 + 255, "ramp": ramp, "chequers": chequers}
    batch = torch.stack([*pictures.values()]).to(torch.uint8)[:, None].expand(-1, 3, -1, -1).contiguous()
    features = extractor(batch)
    shown = torch.cat([features.mean(1, keepdim=True), features[:, :SHOWN_FEATURES]], 1)
    rounded = [[float(f"{value:.6g}") for value in row] for row in shown.tolist()]
    return dict(zip(pictures, rounded, strict=True))


def _list_assets(assets: list[Asset], args: argparse.Namespace) -> int:
    records = read_records()
    print(f"{'id':<32} {'kind':<15} {'bytes':>14}  state    sha256     note or link")
    for asset in assets:
        pinned = "registry" if asset.sha256 else "lock" if asset.target in records else "first use"
        path = asset.path
        state = "here" if path.exists() else "gone" if absence(asset) else "link" if asset.urls else "by hand"
        size = path.stat().st_size if path.exists() else asset.size
        facts = f"{asset.id:<32} {asset.kind:<15} {f'{size:,}' if size else '?':>14}  {state:<7}  {pinned:<9}"
        print(f"{facts}  {asset.note or asset.url}")
    print(f"cache: {cache_dir()}")
    return 0


def _verify_assets(assets: list[Asset], args: argparse.Namespace) -> int:
    faults = checked = 0
    for asset in assets:
        try:
            digest = verify_asset(asset.id)
        except UserError as error:
            print(f"WRONG    {error}")
            faults += 1
            continue
        if digest is not None:
            checked += 1
            print(f"ok       {asset.id}  {digest}")
        elif args.ids:
            faults += 1
            print(f"MISSING  {asset.id}")
    print(f"{checked} verified, {faults} wrong or missing")
    return 1 if faults else 0


_ACTIONS = {
    "fetch": _fetch_assets,
    "verify": _verify_assets,
    "forget": _forget_assets,
    "list": _list_assets,
    "describe": _describe_assets,
}
ASSETS = Verb(_EXAMPLES, _arguments, _run)
