"""The verb ``sida data``: prepares data sets, checks them, and encodes them into latents."""

import argparse
from pathlib import Path

from sida.assets.cache import fetch, fetch_many
from sida.assets.registry import load_registry
from sida.cli.main import Verb, add_integer, existing
from sida.config.families import EDM2_LATENTS, LATENTS
from sida.config.settings import from_mapping
from sida.errors import Progress
from sida.files.ordinary import refuse_same
from sida.machine import num_cores, process_rank, take_device

#: Images that a check reads at a time.
_AT_ONCE = 256
_DATA_EXAMPLES = """examples:
  sida data prepare --source cifar10-python --out cifar10-32x32.zip --expect 50000
                                                      (an id of `sida assets list`, fetched if need be)
  sida data prepare --source imagenet/train --out imagenet-64x64.zip --resolution 64 --transform center-crop
  sida data prepare --source imagenet/train --out img512.zip --resolution 512 --transform center-crop-dhariwal
  sida data prepare --source afhqv2 --out afhqv2-64x64.zip --resolution 64 --labels none
  sida data check cifar10-32x32.zip
  sida data check digits                              (a name in config/datasets.yaml)
  sida data encode --source img512.zip --out img512-sd.zip --device cuda
  sida data encode --source img256.zip --out img256-sd.zip --latents sd --device cuda         (for SiT, REPA, DiT)

labels of `prepare`: from the source's dataset.json, else the rank of the picture's top folder.
"""


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the actions and their arguments."""
    actions = parser.add_subparsers(dest="action", metavar="prepare|check|encode", required=True)
    prepare = actions.add_parser("prepare", help="pictures of any size to one zip")
    prepare.add_argument("--source", required=True, help="folder, zip, tar, npz, npy, idx or an asset's id")
    prepare.add_argument("--out", required=True, metavar="FILE.zip", help="zip to write")
    add_integer(prepare, "--resolution", "height and width", 1)
    prepare.add_argument("--transform", help="none, center-crop or center-crop-dhariwal (default: none)")
    prepare.add_argument("--channels", type=int, help="3: RGB (default), 1: grey")
    prepare.add_argument("--labels", help="auto (default), folders or none")
    part = "train or test, where a source has both (default: train; pictures with --labels none: both)"
    prepare.add_argument("--subset", help=part)
    add_integer(prepare, "--max-images", "only the first N", 1)
    check = actions.add_parser("check", help="read every image and describe the data set")
    check.add_argument("dataset", help="zip, folder, name in config/datasets.yaml, or JSON spec")
    encode = actions.add_parser("encode", help="pixels to moments of an autoencoder's latents")
    encode.add_argument("--source", required=True, type=existing("--source"), help="zip or folder of RGB images")
    encode.add_argument("--out", required=True, metavar="FILE.zip", help="zip to write")
    kinds = "networks that they are for: edm2 (default), or sd (SiT, REPA, DiT)"
    encode.add_argument("--latents", choices=[*LATENTS], default=EDM2_LATENTS.name, help=kinds)
    add_integer(encode, "--batch", "images per call (default: 8)", 1, default=8)
    encode.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1 (default: cpu)")
    add_integer(prepare, "--expect", "fail unless there are N images")
    for action, verb in ((prepare, _prepare), (check, _check), (encode, _encode)):
        action.set_defaults(verb=verb)
        add_integer(action, "--workers", "reading processes (default: one per processor)", 0, 4096)


def _prepare(args: argparse.Namespace) -> int:
    from sida.data.prepare import PrepareConfig, prepare

    settings = {k: v for k, v in vars(args).items() if k in PrepareConfig.__dataclass_fields__ and v is not None}
    if args.source in load_registry() and not Path(args.source).exists():
        settings["source"] = str(fetch(args.source))
    else:
        existing("--source")(args.source)
    prepared = prepare(from_mapping(PrepareConfig, settings, "sida data prepare"))
    classes = f"{prepared.label_dim} classes" if prepared.label_dim else "no labels"
    print(f"{args.out}: {prepared.images:,} images {prepared.resolution}×{prepared.resolution}, {classes}")
    print(prepared.summary)
    return 0


def _check(args: argparse.Namespace) -> int:
    from sida.data import ImageArchive
    from sida.data.folders import absent_classes
    from sida.data.load import open_dataset

    dataset = open_dataset(args.dataset, "dataset")
    if isinstance(dataset, ImageArchive):
        dataset.files.workers = args.workers or num_cores()
    progress = Progress(f"check {dataset.name}", len(dataset))
    for start in range(0, len(dataset), _AT_ONCE):
        # Reading is the check: a damaged image raises an error.
        dataset.images(range(start, min(start + _AT_ONCE, len(dataset))))
        progress.update(start)
    print(f"{dataset.name}: {len(dataset):,} images {dataset.resolution}×{dataset.resolution}×{dataset.num_channels}")
    counts = dataset.class_indices.bincount(minlength=dataset.label_dim).tolist() if dataset.label_dim else []
    print(f"  {len(counts)} classes of {min(counts):,} to {max(counts):,} images" if counts else "  no class labels")
    if remark := absent_classes(counts):
        print(f"  {remark}")
    if isinstance(dataset, ImageArchive) and dataset.files.left_out:
        print(f"  {dataset.files.left_out}")
    print(f"  sha256 {dataset.sha256}")
    return 0


def _encode(args: argparse.Namespace) -> int:
    from sida.data import ImageArchive, LatentEncoder
    from sida.data.prepare import check_encodable, encode_dataset
    from sida.networks.autoencoder import load_vae

    # Refused before the autoencoder is downloaded and loaded.
    refuse_same(args.source, args.out)
    take_device(args.device, "encode")
    dataset = ImageArchive(args.source)
    dataset.files.workers = args.workers or num_cores()
    check_encodable(dataset)
    latents = LATENTS[args.latents]
    vae = next(iter(fetch_many(list(latents.assets())).values())).parent
    encoder = LatentEncoder(load_vae(str(vae), args.device), latents)
    rank, world, _ = process_rank()
    shape = encode_dataset(
        dataset, args.out, encoder, args.batch, args.device, latents, latents.decoders[0], rank, world
    )
    if shape is None:
        print(f"{args.out}: this share ({rank + 1}/{world}) is finished; the last process to end writes the archive")
        return 0
    channels, height, width = shape
    print(f"{args.out}: {len(dataset):,} latents {height}×{width}×{channels} for {latents.title}")
    return 0


DATA = Verb(_DATA_EXAMPLES, _data_arguments, lambda args: args.verb(args))
