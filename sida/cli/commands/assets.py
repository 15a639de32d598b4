"""``sida assets``: downloads of the registry ``config/assets.tsv``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sida.assets import Asset

HELP = "Fetch, verify, forget or list the published networks, references and extractors."
EXAMPLES = """examples:
  sida assets list --kind teacher
  sida assets fetch cifar10-uncond-sida-a1 fid-ref-cifar10 inception
  sida assets fetch --kind extractor
  sida assets verify                        (reads every cached file again)
  sida assets forget inception              (drops its file and the hash recorded at first use)
  SIDA_OFFLINE=1 sida assets fetch inception   (says where to put the file)

environment:
  SIDA_CACHE         folder of the downloads (default: sida in the user's cache folder)
  SIDA_OFFLINE       1: never use the network
  SIDA_DOWNLOADS     downloads at a time over all jobs (default: 4)
  SIDA_MAX_DOWNLOAD  largest file of unregistered size, in gigabytes (default: 64)
  SIDA_ASSETS        another registry
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("action", choices=("fetch", "verify", "forget", "list"))
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of the registry")
    parser.add_argument("--kind", help="all assets of a kind (network, teacher, fid-reference, extractor, ...)")
    parser.add_argument("--registry", metavar="FILE", help="another registry than config/assets.tsv")
    parser.add_argument("--parallel", type=int, default=4, help="downloads at a time (default: 4)")
    parser.add_argument("--record", metavar="FILE.json", help="fetch: also write what was fetched, with hashes")
    parser.add_argument("--quiet", action="store_true", help="no progress lines")


def run(args: argparse.Namespace) -> int:
    """Does the action for the chosen assets."""
    from sida.assets.registry import ASSET_KINDS, find_asset, load_registry
    from sida.errors import UserError, suggestion

    registry = load_registry(args.registry)
    if args.kind is not None and args.kind not in ASSET_KINDS:
        raise UserError("--kind", f"there is no kind '{args.kind}'{suggestion(args.kind, ASSET_KINDS)}")
    if args.parallel < 1:
        raise UserError("--parallel", f"must be 1 or more, got {args.parallel}")
    chosen = [find_asset(registry, asset_id) for asset_id in args.ids]
    if args.kind is not None or not args.ids:
        chosen += [a for a in registry.values() if args.kind in (None, a.kind) and a not in chosen]
    if args.action == "list":
        return _list(chosen)
    if args.action == "verify":
        return _verify(chosen, registry, bool(args.ids))
    if args.action == "forget":
        return _forget(chosen if args.ids else [], registry)
    if not args.ids and args.kind is None:
        raise UserError("sida assets fetch", "name ids or a --kind (everything would be tens of gigabytes)")
    return _fetch(chosen, registry, args)


def _fetch(chosen: list[Asset], registry: dict[str, Asset], args: argparse.Namespace) -> int:
    from sida.assets import Transfer, cache_dir, fetch_many
    from sida.assets.fetch import describe_asset
    from sida.files.atomic import write_json

    ids = [asset.id for asset in chosen]
    paths = fetch_many(ids, registry=registry, transfer=Transfer(quiet=args.quiet), parallel=args.parallel)
    for path in paths.values():
        print(path)
    if args.record:
        cache = cache_dir()
        write_json(args.record, [describe_asset(asset, cache) for asset in chosen])
    return 0


def _forget(chosen: list[Asset], registry: dict[str, Asset]) -> int:
    from sida.assets import forget
    from sida.errors import UserError

    if not chosen:
        raise UserError("sida assets forget", "name ids", "a hash that was recorded once is given up for good")
    for asset in chosen:
        gone = forget(asset.id, registry=registry)
        print(f"{asset.id}: forgotten: {', '.join(gone)}" if gone else f"{asset.id}: nothing is known of it")
    return 0


def _list(chosen: list[Asset]) -> int:
    from sida.assets import cache_dir
    from sida.assets.cache import read_records

    cache = cache_dir()
    recorded = read_records(cache)
    print(f"{'id':<32} {'kind':<15} {'bytes':>14}  state    sha256     note or link")
    count: dict[str, int] = {}
    for asset in chosen:
        pinned = "registry" if asset.sha256 else "lock" if asset.target in recorded else "first use"
        count[pinned] = count.get(pinned, 0) + 1
        path = cache / asset.target
        state = "here" if path.exists() else "link" if asset.urls else "by hand"
        size = path.stat().st_size if path.exists() else asset.size
        facts = f"{asset.id:<32} {asset.kind:<15} {f'{size:,}' if size else '?':>14}  {state:<7}  {pinned:<9}"
        print(f"{facts}  {asset.note or asset.url}")
    words = {"registry": "pinned in the registry", "lock": "pinned in assets.lock", "first use": "trusted at first use"}
    print(f"sha256: {', '.join(f'{count.get(key, 0)} {word}' for key, word in words.items())}")
    print(f"cache: {cache}")
    return 0


def _verify(chosen: list[Asset], registry: dict[str, Asset], named: bool) -> int:
    from sida.assets import verify_asset
    from sida.errors import UserError

    by_hash: dict[str, Asset] = {}
    faults = checked = 0
    for asset in chosen:
        try:
            found = verify_asset(asset.id, registry=registry)
        except UserError as error:
            print(f"WRONG    {error}")
            faults += 1
            continue
        if found is None:
            faults += named
            if named:
                print(f"MISSING  {asset.id}")
            continue
        checked += 1
        print(f"ok       {asset.id}  {found}")
        twin = by_hash.setdefault(found, asset)
        if twin.target != asset.target:
            print(f"NOTE     {asset.id} has the same content as {twin.id}")
    print(f"{checked} verified, {faults} wrong or missing")
    return 1 if faults else 0
