"""``sida sample``: images for seeds, into a folder of PNG, an npz, or one picture."""

from __future__ import annotations

import argparse

from sida.cli.arguments import add_whole, existing, network_source
from sida.cli.main import Verb
from sida.config.settings import from_mapping, load_spec

_HELP = "Draw images from a generator or teacher, one per seed; resumes after an interruption."
_EXAMPLES = """examples:
  sida sample --network results/demo/students/sida-a1.0/network.safetensors --grid sida.png
  sida sample --network NET --seeds 0-49999 --out samples --class-labels empirical --dataset digits
  sida sample --network cifar10-uncond-sida-a1 --seeds 0-63 --out cifar      (an id of `sida assets list`)
  sida sample --network TEACHER --seeds 0-49999 --out teacher.npz --sampler heun:18
  sida sample --network EDM-IMAGENET64 --sampler heun:256,S_churn=40,S_min=0.05,S_max=50,S_noise=1.003 --out i64
  sida sample --network EDM2 --sampler heun:32,guidance=1.4 --gnet EDM2-XS-UNCOND --vae VAE-FOLDER --out img512
  torchrun --nproc-per-node 4 -m sida sample --network NET --seeds 0-49999 --out samples/   (processes share the shards)

samplers:
  one_step[:STEPS]   the distilled generators (init_sigma: that of the file, else 2.5); after a colon or comma
                     kernels=fused, as for heun: several times faster on a GPU, with other rounding; recorded with the
                     samples
  heun:STEPS         the teachers; settings follow as key=number: sigma_min, sigma_max, rho, S_churn, S_min, S_max,
                     S_noise, guidance, dtype, kernels
  data               real images drawn with replacement (needs --dataset, no --network)

Seed s gives the same image in any shard, order or number of processes, byte for byte at equal --batch on one kind
of device; another --batch may change single levels by 1.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--spec", help="JSON text or file with the settings below (underscores); flags override it")
    network = "network file (.safetensors), published .pkl, asset id, or address"
    parser.add_argument("--network", type=network_source, help=network)
    parser.add_argument("--seeds", metavar="LIST", help="image seeds, e.g. 0-49999 or 3,8,100-163 (default: 0-63)")
    parser.add_argument("--out", metavar="PATH", help="folder of PNG files (a data set in the EDM format) or FILE.npz")
    parser.add_argument("--sampler", help="see below (default: one_step)")
    parser.add_argument("--batch", type=int, dest="batch_size", metavar="N", help="images per call (default: 64)")
    rule = (
        "uniform (default), balanced (in turn), empirical (as in --dataset), counts (a file of config/labels, an asset)"
    )
    parser.add_argument("--class-labels", metavar="RULE", help=f"{rule} or a class")
    parser.add_argument("--dataset", help="name in config/datasets.yaml, or a spec (JSON text or file)")
    parser.add_argument("--gnet", type=network_source, metavar="FILE", help="guiding network")
    decoder = "decoder of latent networks (diffusers AutoencoderKL)"
    parser.add_argument("--vae", type=existing("--vae"), metavar="DIR", help=decoder)
    parser.add_argument("--grid", metavar="PNG", help="also write a picture: a row per class, seeds from the first one")
    parser.add_argument("--grid-size", metavar="RxC", help="rows and columns of the grid (default: 10x10)")
    add_whole(parser, "--grid-scale", "enlarge pixels of the grid N times (default: 1)", 1, 1000)
    add_whole(parser, "--shard-size", "images per shard (default: 1024)", 1)
    parser.add_argument("--shard", metavar="A/B", help="do only every B-th shard from the A-th (1/4 ... 4/4)")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: cuda if there is one)")
    add_whole(parser, "--threads", "CPU threads (default: torch's)", 1, 4096)


def _run(args: argparse.Namespace) -> int:
    """Draws the images and prints the written paths."""
    from sida.sampling.job import SampleConfig, run_job

    spec = load_spec(args.spec) if args.spec else {}
    flags = {k: v for k, v in vars(args).items() if k in SampleConfig.__dataclass_fields__ and v is not None}
    for line in run_job(from_mapping(SampleConfig, spec | flags, "--spec" if args.spec else "sida sample:")):
        print(line, flush=True)
    return 0


SAMPLE = Verb(_HELP, _EXAMPLES, _arguments, _run)
