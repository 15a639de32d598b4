"""Whole jobs on a GPU beside their parts alone: trainings, transformers' samples, and a row's FID. Needs CUDA.

- ``trainings``: a training of SiDA by its own log, with images read ahead, beside its step on images that are there
  (:mod:`benchmarks.step`); MeanFlow with the forward derivative, and with the difference in two precisions.
- ``transformers``: samples of SiT-B/2, REPA-B/2 and DiT-B/2 beside the network alone.
- ``row``: FID of 50,000 images from a one-step network, by this suite and by torch-fidelity with the same network and
  the same Inception.

All weights are random.
"""

from __future__ import annotations

import functools
import io
import json
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import step
from benchmarks.gpu_sampling import (
    BATCH,
    DEVICE,
    FID,
    KERNELS,
    NETWORK,
    SIZE,
    measurement,
    network_file,
    rate_of,
    write_inception,
)
from benchmarks.peers import fidelity_extractor
from benchmarks.step import REHEARSAL, SETTINGS, SIT_B
from sida.config.samplers import read_sampler
from sida.eval.features import get_extractor
from sida.eval.measuring.measure import measure
from sida.eval.metrics.statistics import FeatureStatistics
from sida.files.atomic import read_jsonl, write_json
from sida.machine import environment, prepare_process, tf32
from sida.methods import distill
from sida.networks.file import load_network
from sida.sampling import one_step
from sida.sampling.generate import Drawer, Evaluations
from sida.sampling.samplers import to_uint8

#: Thousands of images of a training, and of a record of its log; the second half of the records counts.
LENGTH, TICK = (0.008, 0.002) if REHEARSAL else (12.8, 1.28)
OF_TRAINING = 2 if REHEARSAL else 128
#: Batch of a transformer, steps of its sampler, and batches that are drawn.
TRANSFORMED, STEPS, BATCHES = (2, 2, 2) if REHEARSAL else (128, 50, 4)
HALF = not REHEARSAL
OF_ROW, OF_REFERENCE = (16, 16) if REHEARSAL else (50_000, 10_000)
MEANFLOW = {
    **{key: value for key, value in (step.SMALL if REHEARSAL else step.CIFAR).items() if key != "model_type"},
    "augment_dim": 6, "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}  # fmt: skip


def main(out: Path, parts: Sequence[Callable[[Path, Callable[..., None]], None]] = ()) -> bool:
    """Runs parts, of `CASES`; each row is stored as it comes."""
    if not torch.cuda.is_available() and not REHEARSAL:
        print("gpu_jobs: needs a GPU with CUDA, and there is none here")
        return False
    rows: list[dict[str, Any]] = []

    def add(what: str, **numbers: float) -> None:
        rows.append({"what": what, **numbers})
        print(f"{what:<52}" + ", ".join(f"{key} {value:,.4g}" for key, value in numbers.items()), flush=True)
        write_json(out, {"rows": rows, "environment": environment(DEVICE)})

    prepare_process(1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in parts or CASES:
            part(Path(folder), add)
    return True


def archive_of(folder: Path) -> dict[str, Any]:
    """Data set of random pictures, of the size of CIFAR-10's, as a file."""
    path, count = folder / "pictures.zip", 32 if REHEARSAL else 20_000
    source = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(count):
            stream = io.BytesIO()
            Image.fromarray(source.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(stream, "png", compress_level=0)
            archive.writestr(f"00000/img{index:08d}.png", stream.getvalue())
    return {"name": "pictures", "kind": "zip", "path": str(path), "cache": True}


def trainings(folder: Path, add: Callable[..., None]) -> None:
    """Rates of whole trainings, and of SiDA's step alone."""
    teacher, common = network_file(folder / "teacher.safetensors", NETWORK), {
        "dataset": archive_of(folder), "device": DEVICE, "total_kimg": LENGTH, "tick_kimg": TICK, "pictures": 0,
        "batch_size": OF_TRAINING, "warmup_kimg": 0, "ema_half_life_kimg": 500, "lr": SETTINGS["lr"],
        "max_nan_share": 1, "evaluation": None,
    }  # fmt: skip

    def rate(name: str, **settings: Any) -> float:
        distill({**common, "name": name, **settings}, folder / name)
        records = read_jsonl(folder / name / "train.jsonl")
        rates = [record["img_per_s"] for record in records]
        return float(np.median(rates[len(rates) // 2 :]))

    case = step.Case("SiDA", {"class": "EDMPrecond", "kwargs": NETWORK["kwargs"]}, OF_TRAINING, 0.0)
    alone = step.measure("torch, graphs" if REHEARSAL else "fused, graphs", case)["img_per_s"]
    add("SiDA's step alone, on images that are there", img_per_s=alone)
    sida = {"method": "sida", "teacher": str(teacher), "adversarial_kimg": 0, "fp16": HALF, "kernels": KERNELS}
    whole = rate("sida", **sida, lambda_adv=0.01, lambda_d=1.0, grad_clip_value=1.0)
    add("SiDA's training by its log", img_per_s=whole, share=whole / alone)
    network = {"class": "MeanFlowPrecond", "kwargs": MEANFLOW}
    base = 0.0
    forms: list[tuple[str, dict[str, Any]]] = [
        ("forward derivative, float32", {}),
        ("difference, float32", {"options": {"derivative": "difference"}}),
        ("difference, float16", {"options": {"derivative": "difference"}, "fp16": HALF}),
        (
            "difference, bfloat16",
            {"options": {"derivative": "difference"}, **({"fp16": True, "half": "bfloat16"} if HALF else {})},
        ),
    ]
    for name, settings in forms:
        of_form = rate(f"meanflow {name}", method="meanflow", network=network, **settings)
        base = base or of_form
        add(f"MeanFlow, {name}", img_per_s=of_form, time_of_step=base / of_form)


@torch.no_grad()
def transformers(folder: Path, add: Callable[..., None]) -> None:
    """Evaluations of transformers alone, and in samples of many steps; latents are not decoded."""
    for name, kind, options in (
        ("SiT-B/2", "SiTPrecond", {}),
        ("REPA-B/2", "REPAPrecond", {"learn_sigma": False}),
        ("DiT-B/2", "DiTPrecond", {}),
    ):
        spec = {"class": kind, "kwargs": {**SIT_B, **options, "use_fp16": HALF}}
        net, _ = load_network(network_file(folder / f"{kind}.safetensors", spec), DEVICE)
        net.half_dtype = torch.bfloat16
        classes = torch.nn.functional.one_hot(torch.arange(TRANSFORMED), net.label_dim).float().to(DEVICE)
        latents = torch.randn(TRANSFORMED, net.img_channels, *[net.img_resolution] * 2, device=DEVICE)
        sigma = torch.ones(1, device=DEVICE)
        eager = rate_of(functools.partial(net, latents, sigma, classes), TRANSFORMED)
        called = Evaluations.on(latents.device).evaluator(net, "network", 1000, "torch")
        alone = rate_of(functools.partial(called, latents, sigma, classes), TRANSFORMED)
        add(f"{name}: evaluations alone, bfloat16", eager_per_s=eager, graph_per_s=alone)
        sampler = read_sampler(f"ddpm:{STEPS}" if kind == "DiTPrecond" else f"flow:{STEPS},method=euler")
        seconds = []
        for count in (TRANSFORMED, BATCHES * TRANSFORMED):
            drawer = Drawer(sampler, net, device=DEVICE)
            drawer.decode = None
            begin = _now()
            for _ in drawer.draw(range(count), batch_size=TRANSFORMED):
                pass
            seconds.append(_now() - begin)
        per_s = (BATCHES - 1) * TRANSFORMED / (seconds[1] - seconds[0])
        add(f"{name}: {sampler.kind}, {sampler.nfe} evaluations", img_per_s=per_s, share=per_s * sampler.nfe / alone)


def row(folder: Path, add: Callable[..., None]) -> None:
    """FID of one generator against the same pictures, from its file or module to the value."""
    network, inception = network_file(folder / "network.safetensors", NETWORK), write_inception(folder)
    pictures = torch.randint(256, (OF_REFERENCE, 3, SIZE, SIZE), dtype=torch.uint8)
    options = {"path": str(inception)}
    extractor, statistics = get_extractor("inception", DEVICE, **options), FeatureStatistics()
    with tf32(False):
        for batch in pictures.split(BATCH):
            statistics.update(extractor.features_and_logits(batch.to(DEVICE))[0])
    np.savez(folder / "reference.npz", mu=statistics.mean, sigma=statistics.cov)
    del extractor

    def ours(count: int) -> float:
        spec = measurement(network, folder / "reference.npz", options, [FID], num_samples=count, trials=1, cov_ddof=1)
        out = folder / f"measured-{count}"
        measure(spec, out, [0])
        return float(json.loads((out / "trial-0.json").read_text())["metrics"]["fid"])

    theirs = _torch_fidelity(folder, network, inception, pictures)
    for name, function in (("this suite", ours), ("torch-fidelity", theirs)):
        function(min(OF_ROW, 2 * BATCH))
        begin = _now()
        value = function(OF_ROW)
        add(f"FID of {OF_ROW:,} images, {name}", seconds=_now() - begin, fid=value)


def _torch_fidelity(folder: Path, network: Path, inception: Path, pictures: torch.Tensor) -> Callable[[int], float]:
    """FID by torch-fidelity with the same network and feature network; it keeps the reference's statistics."""
    import torch_fidelity

    class Pictures(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> torch.Tensor:
            return pictures[index]

    class Generator(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, _ = load_network(network, DEVICE)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return to_uint8(one_step(self.net, z.unflatten(1, (3, SIZE, SIZE)), None))

    torch_fidelity.register_feature_extractor("of_the_benchmark", fidelity_extractor(inception))

    def theirs(count: int) -> float:
        generator = torch_fidelity.GenerativeModelModuleWrapper(Generator(), 3 * SIZE**2, "normal", 0)
        numbers = torch_fidelity.calculate_metrics(
            input1=generator, input1_model_num_samples=count, input2=Pictures(), input2_cache_name="pictures",
            cache_root=str(folder), feature_extractor="of_the_benchmark", fid=True, batch_size=BATCH,
            cuda=not REHEARSAL, verbose=False,
        )  # fmt: skip
        return float(numbers["frechet_inception_distance"])

    return theirs


def _now() -> float:
    """Time after the GPU has done everything."""
    step.wait()
    return time.perf_counter()


CASES = [trainings, transformers, row]
