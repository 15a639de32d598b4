"""Sampling into a zip of PNG files against the network alone; at least 95 % of its throughput.

The network alone runs on latents and labels made beforehand. The job, timed from opening the network file to the
finished archive, draws latents seed by seed, quantises, encodes PNG, and writes shards. Both use one thread for the
network and take turns; the median of the turns' ratios counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

from sida.files.atomic import write_json
from sida.networks import build_network
from sida.networks.file import load_network, save_network
from sida.provenance import environment
from sida.sampling import latents_for_seeds, one_step
from sida.sampling.job import SampleConfig, run_job

NETWORK = {
    "class": "EDMPrecond",
    "kwargs": {
        "model_type": "SongUNet",
        "img_resolution": 32,
        "img_channels": 3,
        "label_dim": 10,
        "augment_dim": 9,
        "model_channels": 64,
        "channel_mult": [1, 2, 2],
        "num_blocks": 2,
        "attn_resolutions": [16],
    },
}
BOUND = 0.95
ROUNDS, IMAGES, BATCH = 2, 128, 64


def main(out: Path) -> bool:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save_network(build_network(NETWORK), path, {})
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        net, _ = load_network(path, device)
        alone, job = [], []
        for turn in range(ROUNDS + 1):
            alone.append(_alone(net, device))
            job.append(_job(path, Path(folder) / f"{turn}", device))
    # The first turn warms up.
    shares = [a / b for a, b in zip(alone[1:], job[1:])]
    share = statistics.median(shares)
    print(f"network alone {IMAGES / statistics.median(alone[1:]):.1f} img/s, share kept by sida sample {share:.1%}")
    record = {"share": share, "shares": shares, "images": IMAGES, "batch": BATCH, "bound": BOUND}
    write_json(out, {**record, "environment": environment(device)})
    return share >= BOUND


@torch.no_grad()
def _alone(net: torch.nn.Module, device: str) -> float:
    latents = latents_for_seeds(range(IMAGES), (3, 32, 32)).to(device)
    labels = torch.eye(10)[torch.arange(IMAGES) % 10].to(device)
    start = time.perf_counter()
    for z, y in zip(latents.split(BATCH), labels.split(BATCH)):
        images = one_step(net, z, y)
    float(images.sum())  # waits for a GPU
    return time.perf_counter() - start


def _job(path: Path, out: Path, device: str) -> float:
    start = time.perf_counter()
    config = SampleConfig(str(path), f"0-{IMAGES - 1}", str(out), batch_size=BATCH, device=device)
    list(run_job(config))
    return time.perf_counter() - start
