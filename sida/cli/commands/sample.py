"""``sida sample``: images for seeds, into shards, a zip, an npz, or one picture."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sida.cli.arguments import existing, network_source, whole

if TYPE_CHECKING:
    from sida.sampling.job import SampleConfig

HELP = "Draw images from a generator or teacher, one per seed; resumes after an interruption."
EXAMPLES = """examples:
  sida sample --network results/demo/students/sida-a1.0/network.safetensors --grid sida.png
  sida sample --network NET --seeds 0-49999 --out samples.zip --class-labels empirical --dataset digits
  sida sample --network cifar10-uncond-sida-a1 --seeds 0-63 --out cifar/ --png      (an id of `sida assets list`)
  sida sample --network TEACHER --seeds 0-49999 --out teacher.npz --sampler heun:18
  sida sample --network EDM-IMAGENET64 --sampler heun:256,S_churn=40,S_min=0.05,S_max=50,S_noise=1.003 --out i64.zip
  sida sample --network EDM2 --sampler heun:32,guidance=1.4 --gnet EDM2-XS-UNCOND --vae VAE-FOLDER --out img512.zip
  torchrun --nproc-per-node 4 -m sida sample --network NET --seeds 0-49999 --out samples/   (processes share the shards)

samplers:
  one_step[:STEPS]   the distilled generators (init_sigma=2.5); after a colon or comma kernels=fused, as for heun:
                     several times faster on a GPU, with other rounding; recorded with the samples
  heun:STEPS         the teachers; settings follow as key=number: sigma_min, sigma_max, rho, S_churn, S_min, S_max,
                     S_noise, guidance, dtype, kernels
  data               real images drawn with replacement (needs --dataset, no --network)

Seed s gives the same image in any shard, order or number of processes, byte for byte at equal --batch on one kind
of device; another --batch may change single levels by 1.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--spec", help="JSON text or file with the settings below (underscores); flags override it")
    parser.add_argument(
        "--network", type=network_source, help="network file (.safetensors), published .pkl, asset id, or address"
    )
    parser.add_argument("--seeds", metavar="LIST", help="image seeds, e.g. 0-49999 or 3,8,100-163 (default: 0-63)")
    parser.add_argument("--out", metavar="PATH", help="folder of npz shards, FILE.zip (PNG, EDM format) or FILE.npz")
    parser.add_argument("--png", action="store_true", default=None, help="PNG files instead of npz shards in a folder")
    parser.add_argument("--sampler", help="see below (default: one_step)")
    parser.add_argument("--batch", type=int, dest="batch_size", metavar="N", help="images per call (default: 64)")
    parser.add_argument(
        "--class-labels",
        metavar="RULE",
        help="uniform (default), balanced (in turn), empirical (as in --dataset), counts (a file of config/labels, an "
        "asset) or a class",
    )
    parser.add_argument("--dataset", help="name in config/datasets.yaml, or a spec (JSON text or file)")
    parser.add_argument("--gnet", type=network_source, metavar="FILE", help="guiding network")
    parser.add_argument(
        "--vae", type=existing("--vae"), metavar="DIR", help="decoder of latent networks (diffusers AutoencoderKL)"
    )
    parser.add_argument("--grid", metavar="PNG", help="also write a picture: a row per class, seeds from the first one")
    parser.add_argument("--grid-size", metavar="RxC", help="rows and columns of the grid (default: 10x10)")
    parser.add_argument(
        "--grid-scale",
        type=whole("--grid-scale", 1, 1000),
        metavar="N",
        help="enlarge pixels of the grid N times (default: 1)",
    )
    parser.add_argument(
        "--shard-size", type=whole("--shard-size", 1), metavar="N", help="images per shard (default: 1024)"
    )
    parser.add_argument("--shard", metavar="A/B", help="do only every B-th shard from the A-th (1/4 ... 4/4)")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda if there is one)")
    parser.add_argument(
        "--threads", type=whole("--threads", 1, 4096), metavar="N", help="CPU threads (default: torch's)"
    )


def run(args: argparse.Namespace) -> int:
    """Draws the images and prints the written paths."""
    from sida.sampling.job import run_job

    for line in run_job(_config(args)):
        print(line, flush=True)
    return 0


def _config(args: argparse.Namespace) -> SampleConfig:
    from sida.config.settings import from_mapping, load_spec
    from sida.sampling.job import SampleConfig

    spec = load_spec(args.spec) if args.spec else {}
    where = "--spec" if args.spec else "sida sample:"
    flags = {name: value for name, value in vars(args).items() if name in SampleConfig.__dataclass_fields__}
    return from_mapping(SampleConfig, {**spec, **{k: v for k, v in flags.items() if v is not None}}, where)
