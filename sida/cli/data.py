"""Verbs on files of data: ``sida data``, ``sida assets`` and ``sida manifest``."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sida.assets.cache import cache_dir, describe_asset, fetch, fetch_many, forget, read_records, verify_asset
from sida.assets.registry import ASSET_KINDS, Asset, find_asset, load_registry
from sida.cli.arguments import add_whole, existing
from sida.cli.main import Verb
from sida.config.datasets import dataset_spec
from sida.config.families import SD_VAE
from sida.config.settings import from_mapping, load_spec
from sida.errors import Progress, UserError, suggestion
from sida.files.atomic import sha256_file, sha256_json, write_hashed_json, write_json
from sida.machine import environment

if TYPE_CHECKING:
    from sida.data import Dataset

#: Images that a check reads at a time.
_AT_ONCE = 256
_DATA_HELP = "Prepare data sets in the EDM zip format, check them, or encode them into latents."
_DATA_EXAMPLES = """examples:
  sida data prepare --source cifar10-python --out cifar10-32x32.zip --expect 50000
                                                      (an id of `sida assets list`, fetched if need be)
  sida data prepare --source imagenet/train --out imagenet-64x64.zip --resolution 64 --transform center-crop
  sida data prepare --source imagenet/train --out img512.zip --resolution 512 --transform center-crop-dhariwal
  sida data prepare --source ffhq/images1024x1024 --out ffhq-64x64.zip --resolution 64 --labels none
  sida data prepare --source afhqv2 --out afhqv2-64x64.zip --resolution 64 --labels none
  sida data check cifar10-32x32.zip --expect 50000
  sida data check digits                              (a name in config/datasets.yaml)
  sida data encode --source img512.zip --out img512-sd.zip --device cuda

labels of `prepare`: from the source's dataset.json, else the rank of the picture's top folder.
"""


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the actions and their arguments."""
    actions = parser.add_subparsers(dest="action", metavar="prepare|check|encode", required=True)
    prepare = actions.add_parser("prepare", help="pictures of any size to one zip")
    prepare.add_argument("--source", required=True, help="folder, zip, tar, npz, npy, idx or an asset's id")
    prepare.add_argument("--out", required=True, metavar="FILE.zip", help="zip to write")
    add_whole(prepare, "--resolution", "height and width", 1)
    prepare.add_argument("--transform", help="none, center-crop or center-crop-dhariwal (default: none)")
    prepare.add_argument("--channels", type=int, help="3: RGB (default), 1: grey")
    prepare.add_argument("--labels", help="auto (default), folders or none")
    part = "train or test, where a source has both (default: train; pictures with --labels none: both)"
    prepare.add_argument("--subset", help=part)
    add_whole(prepare, "--max-images", "only the first N", 1)
    check = actions.add_parser("check", help="read every image and describe the data set")
    check.add_argument("dataset", help="zip, folder, or name in config/datasets.yaml")
    encode = actions.add_parser("encode", help="pixels to moments of EDM2's VAE")
    encode.add_argument("--source", required=True, type=existing("--source"), help="zip or folder of RGB images")
    encode.add_argument("--out", required=True, metavar="FILE.zip", help="zip to write")
    add_whole(encode, "--batch", "images per call (default: 8)", 1, default=8)
    encode.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    for action, verb in ((prepare, _prepare), (check, _check), (encode, _encode)):
        action.set_defaults(verb=verb)
        add_whole(action, "--expect", "fail unless there are N images")
        add_whole(action, "--workers", "reading processes (default: one per processor)", 0, 4096)


def _prepare(args: argparse.Namespace) -> int:
    from sida.data.prepare import PrepareConfig, prepare

    given = {k: v for k, v in vars(args).items() if k in PrepareConfig.__dataclass_fields__ and v is not None}
    if not Path(args.source).exists() and args.source in load_registry():
        given["source"] = str(fetch(args.source))
    made = prepare(from_mapping(PrepareConfig, given, "sida data prepare"))
    classes = f"{made.label_dim} classes" if made.label_dim else "no labels"
    print(f"{args.out}: {made.images:,} images {made.resolution}×{made.resolution}, {classes}")
    print(made.summary)
    return 0


def _check(args: argparse.Namespace) -> int:
    from sida.data import ImageArchive, load_dataset

    if Path(args.dataset).exists() or Path(args.dataset).suffix:
        dataset: Dataset = ImageArchive(args.dataset)
    else:
        dataset = load_dataset(dataset_spec(args.dataset, "dataset"))
    if isinstance(dataset, ImageArchive):
        dataset.files.workers = args.workers or os.cpu_count() or 1
    progress = Progress(f"check {dataset.name}", len(dataset))
    for start in range(0, len(dataset), _AT_ONCE):
        dataset.images(range(start, min(start + _AT_ONCE, len(dataset))))
        progress.update(start)
    print(f"{dataset.name}: {len(dataset):,} images {dataset.resolution}×{dataset.resolution}×{dataset.num_channels}")
    counts = dataset.class_indices.bincount(minlength=dataset.label_dim).tolist() if dataset.label_dim else []
    print(f"  {len(counts)} classes of {min(counts):,} to {max(counts):,} images" if counts else "  no class labels")
    if isinstance(dataset, ImageArchive) and dataset.files.left_out:
        print(f"  {dataset.files.left_out}")
    print(f"  sha256 {dataset.sha256}")
    _expect_images(args, args.dataset, len(dataset))
    return 0


def _expect_images(args: argparse.Namespace, where: str, images: int) -> None:
    if args.expect is not None and images != args.expect:
        raise UserError(where, f"has {images:,} images, expected {args.expect:,}")


def _encode(args: argparse.Namespace) -> int:
    from sida.data import ImageArchive, LatentEncoder, load_vae
    from sida.data.prepare import encode_dataset
    from sida.files.ordinary import refuse_same
    from sida.machine import take_device

    refuse_same(args.source, args.out)
    take_device(args.device, "encode")
    dataset = ImageArchive(args.source)
    dataset.files.workers = args.workers or os.cpu_count() or 1
    _expect_images(args, args.source, len(dataset))
    vae = next(iter(fetch_many(list(SD_VAE.assets)).values())).parent
    encoder = LatentEncoder(load_vae(str(vae), args.device))
    channels, height, width = encode_dataset(dataset, args.out, encoder, args.batch, args.device)
    print(f"{args.out}: {len(dataset):,} latents {height}×{width}×{channels}")
    return 0


DATA = Verb(_DATA_HELP, _DATA_EXAMPLES, _data_arguments, lambda args: args.verb(args))

_ASSETS_HELP = "Fetch, verify, forget or list the published networks, references and extractors."
_ASSETS_EXAMPLES = """examples:
  sida assets list --kind teacher
  sida assets fetch cifar10-uncond-sida-a1 fid-ref-cifar10 inception
  sida assets fetch --kind extractor
  sida assets verify                        (reads every cached file again)
  sida assets forget inception              (drops its file and the hash recorded at first use)
  SIDA_OFFLINE=1 sida assets fetch inception   (says where to put the file)

environment:
  SIDA_CACHE    folder of the downloads (default: sida in the user's cache folder)
  SIDA_OFFLINE  1: never use the network
  SIDA_ASSETS   another registry
"""


def _assets_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("action", choices=("fetch", "verify", "forget", "list"))
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of the registry")
    parser.add_argument("--kind", help="all assets of a kind (network, teacher, fid-reference, extractor, ...)")
    parser.add_argument("--record", metavar="FILE.json", help="fetch: also write what was fetched, with hashes")


def _assets(args: argparse.Namespace) -> int:
    """Does the action for the chosen assets."""
    registry = load_registry()
    if args.kind is not None and args.kind not in ASSET_KINDS:
        raise UserError("--kind", f"there is no kind '{args.kind}'{suggestion(args.kind, ASSET_KINDS)}")
    chosen = [find_asset(registry, asset_id) for asset_id in args.ids]
    if args.kind is not None or not args.ids:
        chosen += [a for a in registry.values() if args.kind in (None, a.kind) and a not in chosen]
    if args.action == "list":
        return _list_assets(chosen)
    if args.action == "verify":
        return _verify_assets(chosen, bool(args.ids))
    if not args.ids and (args.action == "forget" or args.kind is None):
        remedy = "everything would be tens of gigabytes; a hash that was recorded once is given up for good"
        raise UserError(f"sida assets {args.action}", "name ids, or a --kind to fetch", remedy)
    if args.action == "forget":
        for asset in chosen:
            gone = forget(asset.id)
            print(f"{asset.id}: forgotten: {', '.join(gone)}" if gone else f"{asset.id}: nothing is known of it")
        return 0
    for path in fetch_many([asset.id for asset in chosen]).values():
        print(path)
    if args.record:
        write_json(args.record, [describe_asset(asset) for asset in chosen])
    return 0


def _list_assets(chosen: list[Asset]) -> int:
    cache = cache_dir()
    recorded = read_records()
    print(f"{'id':<32} {'kind':<15} {'bytes':>14}  state    sha256     note or link")
    for asset in chosen:
        pinned = "registry" if asset.sha256 else "lock" if asset.target in recorded else "first use"
        path = cache / asset.target
        state = "here" if path.exists() else "link" if asset.urls else "by hand"
        size = path.stat().st_size if path.exists() else asset.size
        facts = f"{asset.id:<32} {asset.kind:<15} {f'{size:,}' if size else '?':>14}  {state:<7}  {pinned:<9}"
        print(f"{facts}  {asset.note or asset.url}")
    print(f"cache: {cache}")
    return 0


def _verify_assets(chosen: list[Asset], named: bool) -> int:
    faults = checked = 0
    for asset in chosen:
        try:
            found = verify_asset(asset.id)
        except UserError as error:
            print(f"WRONG    {error}")
            faults += 1
            continue
        if found is not None:
            checked += 1
            print(f"ok       {asset.id}  {found}")
        elif named:
            faults += 1
            print(f"MISSING  {asset.id}")
    print(f"{checked} verified, {faults} wrong or missing")
    return 1 if faults else 0


ASSETS = Verb(_ASSETS_HELP, _ASSETS_EXAMPLES, _assets_arguments, _assets)

_MANIFEST_HELP = "Record every artefact of a results folder with its sha256, versions and machine."
_MANIFEST_EXAMPLES = """examples:
  sida manifest results/demo --out results/demo/manifest.json
"""


def _manifest_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``sida manifest``."""
    parser.add_argument("folder", type=existing(), help="results folder of a preset")
    parser.add_argument("--preset", help="settings of the preset as JSON or a file; their digest is recorded")
    parser.add_argument("--command", help="command that made the results; recorded")
    parser.add_argument("--out", required=True, help="manifest to write (JSON)")


def _manifest(args: argparse.Namespace) -> None:
    """Writes the manifest."""
    folder = Path(args.folder)
    if not folder.is_dir():
        raise UserError(folder, "no such results folder", "run the preset first")
    out = Path(args.out).resolve()
    skipped = {"state", "logs"}
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.resolve() != out
        and not path.name.startswith(".")
        and not skipped & set(path.relative_to(folder).parts[:-1])
    ]
    preset = load_spec(args.preset, "--preset") if args.preset else None
    facts = {str(p.relative_to(folder)): {"sha256": sha256_file(p), "bytes": p.stat().st_size} for p in files}
    manifest = {"environment": environment(None), "command": args.command, "preset": preset, "files": facts}
    manifest["preset_sha256"] = None if preset is None else sha256_json(preset)
    write_hashed_json(out, manifest)


WRITE_MANIFEST = Verb(_MANIFEST_HELP, _MANIFEST_EXAMPLES, _manifest_arguments, _manifest)
