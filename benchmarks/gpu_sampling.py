"""Sampling and measuring on a GPU, as shares of what the networks do alone; at least 97 % each. Needs CUDA.

The one-step CIFAR-10 network (DDPM++, 55.7 million parameters, float16) alone, kernel by kernel and with fused kernels
in a CUDA graph; ``sida sample`` into an npz; Inception-v3 alone; a measurement of FID and inception score, and what a
row of 10 × 50,000 images takes.

A share is the job's throughput over that of its parts alone, one after the other: 1 / (1 / generator + 1 / features).
*Steady* leaves out what a job does once (opening files, compiling kernels, recording graphs), by two jobs' difference.
All weights are random; Inception is torchvision's, of the published architecture.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import write_network
from benchmarks.step import CIFAR, REHEARSAL, SMALL, wait
from sida.config.kernels import kernels_in
from sida.eval.features import get_extractor
from sida.eval.measuring.measure import measure
from sida.files.atomic import write_json
from sida.machine import environment, tf32
from sida.networks import build_network
from sida.networks.file import load_network, save_network
from sida.plugins.kernels import fused
from sida.sampling import one_step
from sida.sampling.generate import Evaluations
from sida.sampling.job import SampleConfig, run_job

SIZE = 32 if not REHEARSAL else SMALL["img_resolution"]
NETWORK = {
    "class": "EDMPrecond",
    "kwargs": {**(SMALL if REHEARSAL else CIFAR), "label_dim": 0, "use_fp16": not REHEARSAL},
}
BOUND, DEVICE, BATCH = 0.97, "cpu" if REHEARSAL else "cuda:0", 2 if REHEARSAL else 250
SAMPLES, FEW, TRIAL = (8, 4, 20) if REHEARSAL else (50_000, 5_000, 25_000)
KERNELS: Any = "torch" if REHEARSAL else "fused"
FID = {"key": "fid", "kind": "frechet", "extractor": "inception", "reference": "images"}


def main(out: Path) -> bool:
    """Runs everything; what was measured is stored after each part."""
    if not torch.cuda.is_available() and not REHEARSAL:
        print("gpu_sampling: needs a GPU with CUDA, and there is none here")
        return False
    rows: list[dict[str, Any]] = []

    def add(what: str, rate: float, share: float | None = None, **more: float) -> None:
        """Prints and stores a line; its share counts."""
        rows.append({"what": what, "img_per_s": rate, "share": share, **more})
        remark = ", ".join(f"{key} {value:.3g}" for key, value in more.items())
        print(f"{what:<58}{rate:>9,.0f}{'' if share is None else f'{share:.1%}':>9}  {remark}", flush=True)
        write_json(out, {"rows": rows, "bound": BOUND, "batch": BATCH, "environment": environment(DEVICE)})

    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        network = network_file(folder / "network.safetensors", NETWORK)
        alone = _network_alone(network, add)
        few, whole = (_sample_seconds(network, folder / f"{count}.npz", count) for count in (FEW, SAMPLES))
        steady = (SAMPLES - FEW) / (whole - few)
        add("sida sample into npz, steady", steady, steady / alone, whole_s=whole)
        _measurement(network, folder, alone, add)
    return all(row["share"] >= BOUND for row in rows if row["share"] is not None)


def network_file(path: Path, spec: Mapping[str, Any]) -> Path:
    """Writes a network with random weights."""
    torch.manual_seed(0)
    save_network(build_network(dict(spec)), path, {})
    return path


def measurement(
    network: Path, statistics: Path, inception: dict[str, str], metrics: list[dict[str, str]], **protocol: int
) -> dict[str, Any]:
    """Spec of a measurement of a one-step network with fused kernels; FID is to ``statistics``."""
    references = {"images": {"kind": "statistics", "file": statistics.name}}
    return {
        "run": "benchmark",
        "method": "sida",
        "network": str(network),
        "sampler": {"kind": "one_step", "kernels": KERNELS},
        "protocol": {"name": "benchmark", "metrics": metrics, "references": references, **protocol},
        "references": {"images": str(statistics)},
        "extractors": {"inception": inception},
        "batch_size": BATCH,
        "device": DEVICE,
    }


def rate_of(function: Callable[[], object], batch: int = BATCH, seconds: float = 0.0 if REHEARSAL else 1.5) -> float:
    """Images per second of calls of a batch each, after two calls."""
    for _ in range(2):
        function()
    wait()
    start, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - start < seconds:
        # A few at a time, so that the processor is ahead as it is in a job.
        for _ in range(4):
            function()
        wait()
        calls += 4
    return calls * batch / (time.perf_counter() - start)


@torch.no_grad()
def _network_alone(path: Path, add: Callable[..., None]) -> float:
    """The generator's own throughput: with fused kernels in a CUDA graph."""
    net, _ = load_network(path, DEVICE)
    net.eval()
    latents = torch.randn(BATCH, 3, SIZE, SIZE, device=DEVICE)
    eager = rate_of(lambda: one_step(net, latents, None))
    add("network alone, kernel by kernel", eager)
    with kernels_in(fused, net):
        called = Evaluations.on(latents.device).evaluator(net, "network", 1000, "fused")
        alone = rate_of(lambda: one_step(called, latents, None))
    add("network alone, fused kernels, CUDA graph", alone, times_eager=alone / eager)
    return alone


def _sample_seconds(network: Path, out: Path, count: int) -> float:
    """Seconds of ``sida sample``."""
    start, sampler = time.perf_counter(), "one_step" if REHEARSAL else "one_step:kernels=fused"
    seeds = f"0-{count - 1}"
    list(run_job(SampleConfig(str(network), seeds, str(out), sampler=sampler, batch_size=BATCH, device=DEVICE)))
    return time.perf_counter() - start


def write_inception(folder: Path) -> Path:
    """Inception-v3 of torchvision with random weights, as a TorchScript file of the published call signature."""
    import torchvision

    layers = torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=False).eval()
    layers.fc = torch.nn.Identity()
    torch.manual_seed(0)
    for module in layers.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    traced = torch.jit.trace(layers.requires_grad_(False), torch.randn(2, 3, 299, 299))
    return write_network(folder / "inception.pt", traced, 299)


def _measurement(network: Path, folder: Path, alone: float, add: Callable[..., None]) -> None:
    """Inception alone, and a measurement from seeds to FID and inception score."""
    options = {"path": str(write_inception(folder))}
    extractor = get_extractor("inception", DEVICE, **options)
    images = torch.randint(256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, device=DEVICE)
    with tf32(False):
        features = rate_of(functools.partial(extractor.features_and_logits, images))
    add("feature network alone, inception", features)
    rows = np.random.default_rng(0).standard_normal((4096, 2048))
    np.savez(folder / "stats.npz", mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    metrics = [FID, {"key": "is", "kind": "inception_score", "extractor": "inception"}]
    spec = measurement(network, folder / "stats.npz", options, metrics, num_samples=TRIAL, trials=2)
    measure(spec, folder / "measured", [0, 1])
    steady = TRIAL / json.loads((folder / "measured" / "trial-1.json").read_text())["seconds"]
    share = steady * (1 / alone + 1 / features)
    add("measurement of FID and inception score, steady", steady, share, row_of_10_x_50000_s=500_000 / steady)
