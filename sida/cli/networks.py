"""Verbs on network files: ``sida convert``, ``sida info``, ``sida average`` and ``sida sample``."""

import argparse
import json
from pathlib import Path
from typing import Any

from sida.assets.registry import check_network
from sida.cli.main import Verb, check_output_paths, existing
from sida.config.families import NULL_LABEL
from sida.config.settings import from_mapping, load_spec
from sida.errors import one_line

_CONVERT_EXAMPLES = """examples:
  sida convert edm-cifar10-32x32-uncond-vp.pkl teacher.safetensors
  sida convert cifar10-uncond-sida-a1 sida.safetensors          (an id of `sida assets list`, fetched if need be)
  sida convert cifar_uncond_gdd_i.pkl gdd.safetensors --network-class GDDPrecond
  sida convert training-state.pt net.safetensors --key net
  sida convert hf://OWNER/REPOSITORY/network.pkl net.safetensors      (also https://...; #sha256=DIGITS is enforced)
  sida convert ddpm-flowers/ teacher.safetensors       (diffusers: folder of DDPMPipeline.save_pretrained)
  sida convert hf://google/ddpm-cifar10-32 teacher.safetensors
  sida convert weights.pt net.safetensors --network config.json    (a plain state dict: {"class": ..., "kwargs": ...})
  sida convert SiT-XL-2-256.pt sit.safetensors --network '{"class": "SiTPrecond", "kwargs": {"num_heads": 16}}'
                     (or REPAPrecond, DiTPrecond: the file does not say which; further sizes come from its tensors, and
                     a wrong class is noticed by one step; with arguments in the file: --network-class SiTPrecond)
  sida convert SiT-S.pt sit.safetensors --network '{"class": "SiTPrecond", "kwargs": {"num_heads": 6}}' --data data.zip
"""


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    source = "pickle, folder of diffusers, id of a registered network, or address"
    parser.add_argument("source", type=check_network, metavar="IN", help=source)
    parser.add_argument("target", metavar="OUT.safetensors", help="file to write")
    parser.add_argument("--key", default="ema", help="entry with the network, or prefix of its names (default: ema)")
    text = "class to use instead of the class named in the file; of a state dict of SiT, REPA or DiT: its class"
    parser.add_argument("--network-class", metavar="NAME", help=text)
    architecture = "architecture of a plain state dict: JSON text or file with class and kwargs"
    parser.add_argument("--network", metavar="CONFIG", help=architecture)
    null_label = "the last class of a network of diffusers means 'no class'"
    parser.add_argument("--null-label", action="store_true", help=null_label)
    data = "images of its training (zip, folder, name in config/datasets.yaml, or JSON spec), which show wrong heads"
    parser.add_argument("--data", metavar="DATA", help=data)


def _guide(text: str) -> str:
    """Returns a network's name, or the word for the null label."""
    return text if text == NULL_LABEL else check_network(text)


def _convert(args: argparse.Namespace) -> None:
    """Converts the file and prints one line."""
    from sida.networks.official import find_source, import_network

    options: dict[str, Any] = {name: getattr(args, name) for name in ("key", "network_class", "null_label")}
    if args.data is not None:
        from sida.data.load import open_dataset

        options["images"] = open_dataset(args.data, "--data")
    path, asset = find_source(args.source, args.key)
    network_spec = load_spec(args.network, "--network") if args.network else None
    network = import_network(path, args.target, asset, network=network_spec, **options)["network"]
    print(f"{args.target}: {network['class']} {network['kwargs'].get('model_type', '')}".rstrip())


CONVERT = Verb(_CONVERT_EXAMPLES, _convert_arguments, _convert)

_INFO_EXAMPLES = """examples:
  sida info results/demo/students/sida-a1.0                (the folder of a run or of `sida export`, or a file)
  sida info cifar10-uncond-sida-a1                         (an id of `sida assets list`, or an address: downloads it)
  sida info edm2-img512-xs-2147483-0.135.pkl
  sida info cifar_uncond_gdd_i.pkl --network-class GDDPrecond
  sida info SiT-XL-2-256.pt --network '{"class": "SiTPrecond", "kwargs": {"num_heads": 16}}'
  sida info network.safetensors --json
"""
#: Longest line, and most entries of a list or mapping.
_WIDTH, _MAX_ITEMS = 300, 100
_FIRST = ("file", "bytes", "sha256", "format", "class_in_file", "entries", "method", "dataset", "nimg", "parameters",
          "tensors")  # fmt: skip
_LAST = ("architecture", "arguments")


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    text = "network: .safetensors, published pickle, folder of a run or of diffusers, id, or address"
    parser.add_argument("file", type=check_network, metavar="NETWORK", help=text)
    parser.add_argument("--key", default="ema", help="entry of a pickle that holds the network (default: ema)")
    parser.add_argument("--network-class", metavar="NAME", help="class instead of a pickle's, or of a state dict")
    parser.add_argument("--network", metavar="CONFIG", help="architecture of a state dict, as for convert")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a list")


def _info(args: argparse.Namespace) -> None:
    """Prints the description."""
    from sida.networks.official import describe_file, find_source
    from sida.sampling.job import network_file

    path, asset = find_source(args.file)
    if not isinstance(path, Path) or (asset and asset.architecture):
        path = network_file(args.file)
    network_class = args.network_class or (asset.network_class if asset else None)
    network_spec = load_spec(args.network, "--network") if args.network else None
    facts = describe_file(path, args.key, network_class, network_spec)
    if args.json:
        print(json.dumps(facts, indent=2, sort_keys=True))
        return
    network = facts.pop("network")
    arguments = {name: json.dumps(value) for name, value in network["kwargs"].items()}
    facts |= {"architecture": network["class"], "arguments": arguments}
    for name in (*_FIRST, *sorted(facts.keys() - {*_FIRST, *_LAST, "images"}), *_LAST):
        for line in _lines(name, facts.get(name)):
            print(one_line(line, _WIDTH))


def _lines(name: str, value: Any) -> list[str]:
    """Lines for one fact; names and values come from files, so their lengths are limited."""
    if value in (None, [], {}):
        return []
    if isinstance(value, dict):
        inner = [key for key in sorted(value)[:_MAX_ITEMS] if value[key] is not None]
        return [one_line(name, 80), *(f"  {one_line(key, 80):<20} {value[key]}" for key in inner)]
    text = f"{value:,}" if isinstance(value, int) else value
    text = ", ".join(map(str, value[:_MAX_ITEMS])) if isinstance(value, list) else text
    return [f"{one_line(name, 80):<14} {text}"]


INFO = Verb(_INFO_EXAMPLES, _info_arguments, _info)

_AVERAGE_EXAMPLES = """examples:
  sida average teachers/imagenet512-s/snapshots/*.safetensors --std 0.13 --out teacher-0.130.safetensors

The stored averages come from a teacher trained with power_ema (for example [0.05, 0.1]) and snapshot_kimg. The second
line of the output is the error of the profile: below 0.05 the result is as good as an average kept during training.
"""


def _average_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("sources", nargs="+", type=existing(), metavar="NETWORK", help="stored averages of one run")
    parser.add_argument("--std", type=float, required=True, metavar="WIDTH", help="relative width wanted, e.g. 0.13")
    parser.add_argument("--out", required=True, metavar="OUT.safetensors", help="network to write")


def _average(args: argparse.Namespace) -> None:
    """Reconstructs the average and prints two lines."""
    from sida.training.averages import reconstruct_average

    distance = reconstruct_average(args.sources, args.std, args.out)
    print(f"{args.out}: average of width {args.std:g} from {len(args.sources)} stored ones")
    print(f"profile differs by {distance:.2g} of its norm")


AVERAGE = Verb(_AVERAGE_EXAMPLES, _average_arguments, _average)

_SAMPLE_EXAMPLES = """examples:
  sida sample --network results/demo/students/sida-a1.0/network.safetensors --grid sida.png
  sida sample --network NET --seeds 0-49999 --out samples --class-labels empirical --dataset digits
  sida sample --network cifar10-uncond-sida-a1 --seeds 0-63 --out cifar      (an id of `sida assets list`)
  sida sample --network TEACHER --seeds 0-49999 --out teacher.npz --sampler heun:18
  sida sample --network EDM-IMAGENET64 --sampler heun:256,S_churn=40,S_min=0.05,S_max=50,S_noise=1.003 --out i64
  sida sample --network EDM2 --sampler heun:32,guidance=1.4 --gnet EDM2-XS-UNCOND --vae VAE-FOLDER --out img512
  sida sample --network SIT --sampler flow:250,method=euler_maruyama,guidance=1.5,guidance_channels=3 --gnet null ...
  torchrun --nproc-per-node 4 --no-python sida sample --network NET --seeds 0-49999 --out samples/   (shared shards)

samplers:
  one_step[:STEPS]   the distilled generators (steps, init_sigma, noise and step_levels: those of the file); after a
                     colon or comma kernels=fused, as for heun: several times faster on a GPU, with other rounding;
                     recorded with the samples
  heun:STEPS         the teachers; settings follow as key=number: sigma_min, sigma_max, rho, S_churn, S_min, S_max,
                     S_noise, guidance, guidance_channels, guidance_min, guidance_max, dtype, kernels
  flow:STEPS         teachers of velocities (SiT, REPA) on equal steps of time: method (euler, heun, euler_maruyama),
                     last_step, guidance and its settings, dtype; guidance by the null label: --gnet null
  data               real images drawn with replacement (needs --dataset, no --network)

Seed s gives the same image in any shard, order or number of processes, byte for byte at equal batch_size (--spec)
on one kind of device; another one may change single levels by 1.
"""


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--spec", help="JSON text or file with the settings below (underscores); flags override it")
    network = "network file (.safetensors), published .pkl, asset id, or address"
    parser.add_argument("--network", type=check_network, help=network)
    parser.add_argument("--seeds", metavar="LIST", help="image seeds, e.g. 0-49999 or 3,8,100-163 (default: 0-63)")
    parser.add_argument("--out", metavar="PATH", help="folder of PNG files (a data set in the EDM format) or FILE.npz")
    parser.add_argument("--sampler", help="see below (default: one_step)")
    rule = (
        "uniform (default), balanced (in turn), empirical (as in --dataset), counts (a file of config/labels, an asset)"
    )
    parser.add_argument("--class-labels", metavar="RULE", help=f"{rule} or a class")
    parser.add_argument("--dataset", help="name in config/datasets.yaml, or a spec (JSON text or file)")
    parser.add_argument(
        "--gnet", type=_guide, metavar="FILE", help="guiding network, or null: the network itself, unlabelled"
    )
    decoder = "decoder of latent networks (diffusers AutoencoderKL)"
    parser.add_argument("--vae", type=existing("--vae"), metavar="DIR", help=decoder)
    parser.add_argument("--grid", metavar="PNG", help="also write a picture: a row per class, seeds from the first one")
    parser.add_argument("--grid-size", metavar="RxC", help="rows and columns of the grid (default: 10x10)")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda if there is one)")


def _sample(args: argparse.Namespace) -> None:
    """Draws the images and prints the written paths."""
    from sida.sampling.job import SampleConfig, run_job

    spec = load_spec(args.spec) if args.spec else {}
    flags = {k: v for k, v in vars(args).items() if k in SampleConfig.__dataclass_fields__ and v is not None}
    config = from_mapping(SampleConfig, spec | flags, "--spec" if args.spec else "sida sample:")
    check_output_paths(vars(config))
    for line in run_job(config):
        print(line, flush=True)


SAMPLE = Verb(_SAMPLE_EXAMPLES, _sample_arguments, _sample)
