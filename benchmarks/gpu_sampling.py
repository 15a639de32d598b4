"""Sampling and measuring on a GPU, as shares of what the networks do alone; at least 97 % each. Needs CUDA and timm.

1. The one-step CIFAR-10 network (DDPM++, 55.7 million parameters, float16): alone, kernel by kernel and with fused
   kernels in a CUDA graph; then ``sida sample`` into an npz and into PNG files.
2. Feature networks alone: Inception-v3 and DINOv2 ViT-L/14, in float32 and as their named variants.
3. ``sida measure``: generation, Inception, FID and inception score, and what a row of 10 × 50,000 images takes.

A share is the job's throughput over that of its parts alone, one after the other: 1 / (1 / generator + 1 / features).
*Steady* leaves out what a job does once (opening files, compiling kernels, recording graphs), by two jobs' difference.
All weights are random; Inception and DINOv2 are torchvision's and timm's, of the published architectures.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import CIFAR, REHEARSAL, SMALL, wait
from benchmarks.inception import write_network
from eval.features import get_extractor
from eval.features.base import Extractor
from eval.measuring.measure import measure
from sida.files.atomic import write_json
from sida.kernels.fused import fused_kernels
from sida.machine import tf32
from sida.networks import build_network
from sida.networks.file import load_network, save_network
from sida.provenance import environment
from sida.sampling import one_step
from sida.sampling.generate import Evaluations
from sida.sampling.job import SampleConfig, run_job

SIZE = 32 if not REHEARSAL else SMALL["img_resolution"]
KWARGS = {**(SMALL if REHEARSAL else CIFAR), "label_dim": 0, "use_fp16": not REHEARSAL}
NETWORK = {"class": "EDMPrecond", "kwargs": KWARGS}
BOUND, DEVICE, BATCH = 0.97, "cpu" if REHEARSAL else "cuda:0", 2 if REHEARSAL else 250
SAMPLES, FEW, TRIAL, FEWER = (8, 4, 20, 20) if REHEARSAL else (50_000, 5_000, 25_000, 5_000)
SAMPLERS = {"torch": "one_step", "fused": "one_step" if REHEARSAL else "one_step:kernels=fused"}
HUB = """
dependencies = ["torch"]


def dinov2_vitl14(pretrained=True, **kwargs):
    import os

    import timm
    import torch

    torch.manual_seed(0)
    fewer = {"depth": 2} if os.environ.get("SIDA_REHEARSAL") == "1" else {}
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        net = timm.create_model("vit_large_patch14_dinov2", pretrained=False, img_size=224, num_classes=0, **fewer)
    for name, parameter in net.named_parameters():
        if name.endswith("gamma"):
            parameter.data.fill_(0.1)  # at its first value every layer would be nearly left out
    return net
"""


def main(out: Path) -> bool:
    """Runs everything; what was measured is stored after each part."""
    if not torch.cuda.is_available() and not REHEARSAL:
        print("gpu_sampling: needs a GPU with CUDA, and there is none here")
        return False
    table = Table(out)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        network = folder / "network.safetensors"
        torch.manual_seed(0)
        save_network(build_network(NETWORK), network, {})
        alone = networks_alone(table, network)
        samples(table, network, folder, alone)
        features = extractors(table, folder)
        pipelines(table, network, folder, alone, features)
    return table.kept


class Table:
    """Lines that are printed and stored as they come."""

    def __init__(self, out: Path) -> None:
        self.out, self.rows, self.start = out, list[dict[str, Any]](), time.perf_counter()
        print(f"{'what':<58}{'img/s':>9}{'share':>9}  remark", flush=True)

    @property
    def kept(self) -> bool:
        """Whether all shares that have a bound keep it."""
        return all(row["share"] >= BOUND for row in self.rows if row.get("bound"))

    def add(self, what: str, rate: float, share: float | None = None, bound: bool = False, **more: Any) -> None:
        """A line; ``bound``: its share counts."""
        self.rows.append({"what": what, "img_per_s": rate, "share": share, "bound": bound, **more})
        shown = "" if share is None else f"{share:.1%}"
        remark = ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{value}" for key, value in more.items()
        )
        print(f"{what:<58}{rate:>9,.0f}{shown:>9}  {remark}", flush=True)
        seconds = time.perf_counter() - self.start
        record = {"rows": self.rows, "bound": BOUND, "seconds": seconds, "batch": BATCH}
        write_json(self.out, {"benchmark": "gpu_sampling", **record, "environment": environment(DEVICE)})


def rate(function: Callable[[], object], images: int, seconds: float = 0.0 if REHEARSAL else 1.5) -> float:
    """Images per second of calls of ``images`` each, after two calls."""
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
    return calls * images / (time.perf_counter() - start)


@torch.no_grad()
def networks_alone(table: Table, path: Path) -> dict[str, float]:
    """The generator's own throughput, by kernels."""
    net, _ = load_network(path, DEVICE)
    net.eval()
    latents, rates = torch.randn(BATCH, 3, SIZE, SIZE, device=DEVICE), {}
    eager = rates["eager"] = rate(lambda: one_step(net, latents, None), BATCH)
    table.add("network alone, torch, kernel by kernel", eager)
    rates["torch"] = _graphed(net, latents, "torch")
    table.add("network alone, torch, CUDA graph", rates["torch"], times_eager=rates["torch"] / eager)
    start = time.perf_counter()
    with fused_kernels(net):
        one_step(net, latents, None)
        wait()
        first = time.perf_counter() - start
        rates["fused"] = _graphed(net, latents, "fused")
        fused = one_step(net, latents, None)
    difference = float((fused - one_step(net, latents, None)).abs().max())
    table.add(
        "network alone, fused kernels, CUDA graph",
        rates["fused"],
        times_eager=rates["fused"] / eager,
        first_batch_s=first,
        largest_difference=difference,
    )
    return rates


def _graphed(net: torch.nn.Module, latents: torch.Tensor, kernels: str) -> float:
    called = Evaluations.on(latents.device).of(net, "network", 1000, kernels)
    return rate(lambda: one_step(called, latents, None), BATCH)


def samples(table: Table, network: Path, folder: Path, alone: dict[str, float]) -> None:
    """``sida sample`` into an npz and into PNG files."""

    def seconds(kernels: str, name: str, count: int) -> float:
        start = time.perf_counter()
        config = SampleConfig(
            str(network),
            f"0-{count - 1}",
            str(folder / name),
            sampler=SAMPLERS[kernels],
            batch_size=BATCH,
            device=DEVICE,
        )
        list(run_job(config))
        return time.perf_counter() - start

    for kernels in SAMPLERS:
        for title, suffix in (("npz", ".npz"), ("PNG files", "")):
            few = seconds(kernels, f"few-{kernels}-{title}{suffix}", FEW)
            whole = seconds(kernels, f"whole-{kernels}-{title}{suffix}", SAMPLES)
            steady = (SAMPLES - FEW) / (whole - few)
            share = steady / alone[kernels]
            table.add(f"sida sample into {title}, {kernels}, steady", steady, share, bound=True)
            table.add(f"sida sample into {title}, {kernels}, 50,000 as a whole", SAMPLES / whole, seconds=whole)


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


def extractors(table: Table, folder: Path) -> dict[str, float]:
    """Throughput of each feature network, and how far the variants' features lie from float32's."""
    (folder / "hub").mkdir()
    (folder / "hub" / "hubconf.py").write_text(HUB)
    inception = {"path": write_inception(folder)}
    dinov2 = {"repository": str(folder / "hub"), "weights": "hub"}
    smooth = torch.nn.functional.interpolate(torch.rand(BATCH, 3, 8, 8), size=(SIZE, SIZE), mode="bicubic")
    images = (smooth.clamp(0, 1) * 255).to(torch.uint8).to(DEVICE)
    rates: dict[str, float] = {}
    published: dict[str, torch.Tensor] = {}
    variants = (
        ("inception", inception),
        ("inception_tf32", inception),
        ("dinov2", dinov2),
        ("dinov2_tf32", dinov2),
        ("dinov2_fp16", dinov2),
    )
    for name, options in variants:
        family = name.split("_")[0]
        extractor: Extractor = get_extractor(name, DEVICE, **options)
        with tf32(False):
            features = extractor(images)
            rates[name] = rate(functools.partial(extractor.features_and_logits, images), BATCH)
        difference = {}
        if name == family:
            published[family] = features
        else:
            known = published[family]
            difference = {"relative_difference": float((features - known).norm() / known.norm())}
        table.add(f"feature network alone, {name}", rates[name], **difference)
    return rates


def pipelines(table: Table, network: Path, folder: Path, alone: dict[str, float], features: dict[str, float]) -> None:
    """``sida measure`` from seeds to FID and inception score."""
    rows = np.random.default_rng(0).standard_normal((4096, 2048))
    np.savez(folder / "stats.npz", mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    hub = {"repository": str(folder / "hub"), "weights": "hub"}
    for kernels, name in (("fused", "inception_tf32"), ("fused", "inception")):
        metrics = [
            {"key": "fid", "kind": "frechet", "extractor": name, "reference": "stats"},
            {"key": "is", "kind": "inception_score", "extractor": name},
        ]
        references = {"stats": {"kind": "statistics", "file": "stats.npz"}}
        whole, steady = _measured(
            network, folder, kernels, metrics, references, {name: {"path": str(folder / "inception.pt")}}
        )
        _row(table, kernels, name, whole, steady, 1 / (1 / alone[kernels] + 1 / features[name]))
    np.savez(folder / "stats.npz", mu=rows[:, :1024].mean(0), sigma=np.cov(rows[:, :1024], rowvar=False))
    metrics = [{"key": "fd", "kind": "frechet", "extractor": "dinov2_fp16", "reference": "stats"}]
    whole, steady = _measured(network, folder, "fused", metrics, references, {"dinov2_fp16": hub}, FEWER)
    _row(table, "fused", "dinov2_fp16", whole, steady, 1 / (1 / alone["fused"] + 1 / features["dinov2_fp16"]))


def _measured(
    network: Path, folder: Path, kernels: str, metrics: Any, references: Any, options: Any, count: int = TRIAL
) -> tuple[float, float]:
    """Seconds of two trials as a whole, and images per second of the second one."""
    protocol = {"name": "benchmark", "num_samples": count, "trials": 2, "metrics": metrics, "references": references}
    spec = {
        "run": "benchmark",
        "method": "sida",
        "network": str(network),
        "sampler": {"kind": "one_step", "kernels": "torch" if REHEARSAL else kernels},
        "protocol": protocol,
        "references": {"*": str(folder)},
        "extractors": options,
        "batch_size": BATCH,
        "device": DEVICE,
    }
    start = time.perf_counter()
    out = folder / f"measured-{kernels}-{metrics[0]['extractor']}"
    measure(spec, out, [0, 1])
    whole = time.perf_counter() - start
    second = json.loads((out / "trial-1.json").read_text())["seconds"]
    return whole, count / second


def _row(table: Table, kernels: str, name: str, whole: float, steady: float, own: float) -> None:
    row = 10 * 50_000 / steady
    table.add(
        f"sida measure, {kernels}, {name}, steady",
        steady,
        steady / own,
        bound=True,
        row_of_10_x_50000_s=row,
        both_trials_s=whole,
    )


if __name__ == "__main__":
    raise SystemExit(0 if main(Path(os.environ.get("OUT", "results/benchmarks")) / "gpu_sampling.json") else 1)
