"""``sida data``: makes, checks and encodes data sets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sida.cli.arguments import add_whole, existing

if TYPE_CHECKING:
    from sida.data import Dataset

HELP = "Prepare data sets in the EDM zip format, check them, or encode them into latents."
EXAMPLES = """examples:
  sida data prepare --source cifar10-python --out cifar10-32x32.zip --expect 50000
                                                      (an id of `sida assets list`, fetched if need be)
  sida data prepare --source imagenet/train --out imagenet-64x64.zip --resolution 64 --transform center-crop
  sida data prepare --source imagenet/train --out img512.zip --resolution 512 --transform center-crop-dhariwal
  sida data prepare --source ffhq/images1024x1024 --out ffhq-64x64.zip --resolution 64 --labels none
  sida data prepare --source afhqv2 --out afhqv2-64x64.zip --resolution 64 --labels none
  sida data check cifar10-32x32.zip --expect 50000 --expect-classes 10
  sida data check digits                              (a name in config/datasets.yaml)
  sida data labels imagenet/train --out imagenet --expect 1281167 --expect-classes 1000
  sida data labels ILSVRC2012_img_train.tar --out config/labels/imagenet.json
  sida data encode --source img512.zip --out img512-sd.zip --device cuda

labels of `prepare`: from the source's dataset.json, else the rank of the picture's top folder (or --labels).
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the actions and their arguments."""
    actions = parser.add_subparsers(dest="action", metavar="prepare|check|labels|encode", required=True)
    prepare = actions.add_parser("prepare", help="pictures of any size to one zip")
    prepare.add_argument("--source", required=True, help="folder, zip, tar, cifar-10-python.tar.gz, or an asset's id")
    prepare.add_argument("--out", required=True, metavar="FILE.zip", help="zip to write")
    add_whole(prepare, "--resolution", "height and width", 1)
    prepare.add_argument("--transform", help="none, center-crop or center-crop-dhariwal (default: none)")
    prepare.add_argument("--channels", type=int, help="3: RGB (default), 1: grey")
    prepare.add_argument("--labels", help="auto (default), json, folders or none")
    prepare.add_argument("--subset", help="train (default) or test; CIFAR-10 only")
    add_whole(prepare, "--max-images", "only the first N", 1)
    check = actions.add_parser("check", help="read every image and describe the data set")
    check.add_argument("dataset", help="zip, folder, name in config/datasets.yaml, or a spec (JSON)")
    check.add_argument("--json", action="store_true", help="print JSON")
    labels = actions.add_parser("labels", help="count the images per class without reading them")
    source = "folder, zip, tar, dataset.json, .txt with a file name per line, or an asset's id"
    labels.add_argument("source", help=source)
    labels.add_argument("--out", required=True, metavar="NAME|FILE.json", help="a name is a file in config/labels")
    encode = actions.add_parser("encode", help="pixels to VAE moments")
    images = existing("--source", pictures=True)
    encode.add_argument("--source", required=True, type=images, help="zip or folder of RGB images")
    encode.add_argument("--out", required=True, metavar="FILE.zip", help="zip to write")
    decoder = "diffusers AutoencoderKL (default: EDM2's, fetched if need be)"
    encode.add_argument("--vae", type=existing("--vae"), metavar="DIR", help=decoder)
    add_whole(encode, "--batch", "images per call (default: 8)", 1, default=8)
    encode.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    add_whole(encode, "--workers", "reading processes (default: none)", 0, 4096, default=0)
    for action in (prepare, check, labels, encode):
        add_whole(action, "--expect", "fail unless there are N images")
    for action in (check, labels):
        add_whole(action, "--expect-classes", "fail unless there are N classes, none empty")
    for action in (prepare, check):
        add_whole(action, "--workers", "threads (default: one per processor)", 0, 4096)


def run(args: argparse.Namespace) -> int:
    """Does the action."""
    return {"prepare": _prepare, "check": _check, "labels": _labels, "encode": _encode}[args.action](args)


def _prepare(args: argparse.Namespace) -> int:
    from sida.config.settings import from_mapping
    from sida.data.prepare import PrepareConfig, prepare, summary

    given = {k: v for k, v in vars(args).items() if k in PrepareConfig.__dataclass_fields__ and v is not None}
    given["source"] = _fetched(args.source)
    facts = prepare(from_mapping(PrepareConfig, given, "sida data prepare"))
    classes = f", {len(facts['classes'])} classes" if "classes" in facts else ", no labels"
    print(f"{args.out}: {facts['images']:,} images {facts['resolution']}×{facts['resolution']}{classes}")
    print(summary(facts))
    return 0


def _fetched(source: str) -> str:
    """Returns the path of a source, and downloads an asset first."""
    from pathlib import Path

    from sida.assets import fetch, load_registry

    return str(fetch(source)) if not Path(source).exists() and source in load_registry() else source


def _check(args: argparse.Namespace) -> int:
    import json

    from sida.data.load import check_dataset
    from sida.errors import UserError

    facts = check_dataset(_open(args.dataset), args.workers)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)
    if facts["faults"]:
        raise UserError(args.dataset, f"{len(facts['faults'])} bad images", f"the first: {facts['faults'][0]}")
    _expected(args, args.dataset, facts["images"], list((facts["classes"] or {}).values()))
    return 0


def _labels(args: argparse.Namespace) -> int:
    from pathlib import Path

    from sida.config.datasets import write_labels
    from sida.data.count_labels import count_labels

    path = Path(args.out) if args.out.endswith(".json") else Path("config", "labels", f"{args.out}.json")
    labels = count_labels(_fetched(args.source), Path(args.out).stem)
    _expected(args, args.source, labels.images, labels.counts)
    write_labels(path, labels)
    print(f"{path}: {labels.describe()}; sha256 {labels.sha256}")
    return 0


def _expected(args: argparse.Namespace, where: str, images: int, counts: Sequence[int]) -> None:
    """Compares numbers with ``--expect`` and ``--expect-classes``."""
    from sida.errors import UserError

    if args.expect is not None and images != args.expect:
        raise UserError(where, f"has {images:,} images, expected {args.expect:,}")
    empty = sum(count == 0 for count in counts)
    if getattr(args, "expect_classes", None) is not None and (len(counts) != args.expect_classes or empty):
        raise UserError(where, f"has {len(counts)} classes ({empty} of them empty), expected {args.expect_classes}")


def _print(facts: dict[str, Any]) -> None:
    size = f"{facts['resolution']}×{facts['resolution']}×{facts['channels']}"
    print(f"{facts['name']}: {facts['images']:,} images {size}")
    print(f"  mean {facts['mean']}  std {facts['std']}")
    counts = facts["classes"]
    if counts:
        print(f"  {len(counts)} classes of {min(counts.values()):,} to {max(counts.values()):,} images")
    else:
        print("  no class labels")
    print(f"  sha256 {facts['sha256']}")
    for fault in facts["faults"]:
        print(f"  bad: {fault}")


def _open(text: str) -> Dataset:
    from pathlib import Path

    from sida.config.datasets import dataset_spec
    from sida.config.settings import load_spec
    from sida.data import load_dataset, open_archive

    if text.lstrip().startswith("{"):
        return load_dataset(load_spec(text, "dataset"))
    if Path(text).exists() or Path(text).suffix:
        return open_archive(text)
    return load_dataset(dataset_spec(text, "dataset"))


def _encode(args: argparse.Namespace) -> int:
    from sida.assets import fetch_many
    from sida.config.families import SD_VAE
    from sida.data import LatentEncoder, load_vae, open_archive
    from sida.data.latents import encode_dataset
    from sida.machine import take_device

    take_device(args.device, "encode")
    dataset = open_archive(args.source)
    _expected(args, args.source, len(dataset), ())
    vae = args.vae or str(next(iter(fetch_many(list(SD_VAE.assets)).values())).parent)
    encoder = LatentEncoder(load_vae(vae, args.device))
    facts = encode_dataset(dataset, args.out, encoder, args.batch, args.device, args.workers)
    size = f"{facts['resolution']}×{facts['resolution']}×{facts['channels']}"
    print(f"{args.out}: {facts['images']:,} latents {size}")
    return 0
