"""SiDA's training step against the official order of work in the same run and precision.

For each network: the official order (:mod:`benchmarks.official_order`) and the suite; on a GPU kernel by kernel, with
its rounds as CUDA graphs, with fused kernels and graphs, and these in bfloat16; or, in the cases `COMPILED`, fused
kernels beside compiled blocks, these with torch's and with the fused optimizer. Transformers have torch's attention on
every side, in bfloat16.
Each row says its rate, its share of the rate of a large matrix product measured here, its memory (of a GPU), how long
it takes from finished networks to the fourth step, and where the kernels' time goes. Rows are stored as they come; a
part of :mod:`benchmarks.gpu_day` does not measure those again that it stored before its time was over.

A processor takes small networks in float32, in about two minutes.
With ``SIDA_REHEARSAL=1`` tiny networks take a few steps on the CPU, with kernels in Triton's interpreter: a test that
everything runs, of which no rate means anything.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.official_order import Plain, use_plain_blocks
from sida.config.kernels import use_kernels
from sida.files.atomic import write_json
from sida.machine import environment, prepare_process
from sida.methods.registry import recipe_of
from sida.methods.sid import EDM2SiDALoss, SiDALoss
from sida.networks import build_network
from sida.training.iteration import Distiller
from sida.training.schedule import Schedule

REHEARSAL = os.environ.get("SIDA_REHEARSAL") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not REHEARSAL else "cpu"
Batch = tuple[torch.Tensor, torch.Tensor | None]
#: ``step(nimg, batch) -> losses``.
Step = Callable[..., dict[str, Any]]
SETTINGS: dict[str, Any] = {"lr": 1e-5, "eps": 1e-6, "lambda_adv": 0.01, "lambda_d": 1.0, "grad_clip_value": 1.0}
#: Both terms from the first step on.
SCHEDULE = Schedule(warmup_kimg=0, adversarial_kimg=0)
FIRST = 1_000
#: Timed groups of steps, steps of each.
GROUPS_OF_STEPS, STEPS = (1, 1) if REHEARSAL else (3, 4)
CIFAR = {
    "model_type": "SongUNet", "img_resolution": 32, "img_channels": 3, "augment_dim": 9, "model_channels": 128,
    "channel_mult": [2, 2, 2], "num_blocks": 4, "attn_resolutions": [16], "dropout": 0.13,
}  # fmt: skip
IMAGENET = {
    "model_type": "DhariwalUNet", "img_resolution": 64, "img_channels": 3, "label_dim": 1000, "model_channels": 192,
    "channel_mult": [1, 2, 3, 4], "num_blocks": 3, "attn_resolutions": [32, 16, 8], "dropout": 0.1,
}  # fmt: skip
DIGITS = {
    "model_type": "SongUNet", "img_resolution": 8, "img_channels": 1, "label_dim": 10, "augment_dim": 9,
    "model_channels": 32, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.1,
}  # fmt: skip
CLOTHES = {**DIGITS, "img_resolution": 28, "augment_dim": 0, "model_channels": 24, "channel_mult": [1, 2]}
SIT = {"img_resolution": 32, "img_channels": 4, "label_dim": 1000, "learn_sigma": True}
SIT_B, SIT_XL = {**SIT, "hidden_size": 768, "depth": 12, "num_heads": 12}, SIT
EDM2_S = {
    "img_resolution": 64, "img_channels": 4, "label_dim": 1000, "model_channels": 192, "weight_norm": "off",
    "logvar_channels": None,
}  # fmt: skip
SMALL = {
    "model_type": "SongUNet", "img_resolution": 32, "img_channels": 3, "model_channels": 64, "channel_mult": [1, 2],
    "num_blocks": 2, "attn_resolutions": [16], "dropout": 0.0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, a batch, and the ratios to reach.

    Attributes:
        name: For the table.
        network: ``{class, kwargs}``.
        batch: Images per step.
        ratio: Goal of the sides `GOALS`: their rate divided by the first side's is at least this.
        share: Least share of the matrix product's rate; None is none.
        sides: Sides that are measured in place of `SIDES`.
    """

    name: str
    network: dict[str, Any]
    batch: int
    ratio: float
    share: float | None = None
    sides: Sequence[str] | None = None


#: Sides of a transformer, for which there are no fused kernels.
BFLOAT16 = ("official order, bfloat16", "torch, bfloat16", "torch, graphs, bfloat16")
CASES = [
    Case("CIFAR-10 (DDPM++, 55.7 M)", {"class": "EDMPrecond", "kwargs": CIFAR}, 32, 5.0),
    Case("CIFAR-10 (DDPM++, 55.7 M)", {"class": "EDMPrecond", "kwargs": CIFAR}, 128, 2.5, 0.5),
    Case("ImageNet 64 (ADM, 296 M)", {"class": "EDMPrecond", "kwargs": IMAGENET}, 32, 2.5),
    Case("ImageNet 512 (EDM2-S, 280 M)", {"class": "EDM2Precond", "kwargs": EDM2_S}, 32, 2.5),
    Case("ImageNet 256 (SiT-B/2, 130 M)", {"class": "SiTPrecond", "kwargs": SIT_B}, 32, 1.0, 0.5, BFLOAT16),
    Case("ImageNet 256 (SiT-XL/2, 675 M)", {"class": "SiTPrecond", "kwargs": SIT_XL}, 32, 1.0, 0.5, BFLOAT16),
]
#: Sides beside compiled blocks; those whose gain decides come first, because compiling takes minutes.
BLOCKS = ("torch, graphs", "compiled, fused optimizer, graphs", "fused, graphs", "compiled, graphs")
AT_128 = ("official order", *BLOCKS)
TOKENS = tuple(f"{side.replace('fused, graphs', 'fused optimizer, graphs')}, bfloat16" for side in BLOCKS)
#: By index: SiT-XL/2, CIFAR-10, EDM2-S, ImageNet 64, SiT-B/2, each at batch 32 and 128.
COMPILED = [
    Case(CASES[5].name, CASES[5].network, 32, 1.25, None, TOKENS),
    Case(CASES[5].name, CASES[5].network, 128, 1.25, 0.4, TOKENS),
    *(
        Case(CASES[number].name, CASES[number].network, batch, ratio, None, sides)
        for number in (0, 3, 2)
        for batch, ratio, sides in ((32, 1.0, BLOCKS), (128, 2.5, AT_128))
    ),
    *(Case(CASES[4].name, CASES[4].network, batch, 1.0, None, TOKENS) for batch in (32, 128)),
]
#: Networks of the studies on digits, of Fashion-MNIST's study, and a small one of 32×32.
ON_PROCESSOR = [
    Case("8×8", {"class": "EDMPrecond", "kwargs": DIGITS}, 32, 1.0),
    Case("28×28", {"class": "EDMPrecond", "kwargs": CLOTHES}, 32, 1.0),
    Case("32×32", {"class": "EDMPrecond", "kwargs": SMALL}, 8, 1.0),
]
if DEVICE == "cpu" and not REHEARSAL:
    CASES = ON_PROCESSOR
if REHEARSAL:
    SMALL |= {"img_resolution": 4, "model_channels": 4, "num_blocks": 1, "attn_resolutions": []}
    SIT_B |= {"img_resolution": 4, "hidden_size": 8, "depth": 2, "num_heads": 2}
    CASES = [
        Case("tiny", {"class": "EDMPrecond", "kwargs": SMALL}, 2, 0.0),
        Case("tiny transformer", {"class": "SiTPrecond", "kwargs": SIT_B}, 2, 0.0, None, BFLOAT16),
    ]
    TINY = {
        "EDMPrecond": SMALL,
        "EDM2Precond": {**EDM2_S, "img_resolution": 4, "model_channels": 8, "channel_mult": [1], "num_blocks": 1},
        "SiTPrecond": SIT_B,
    }
    COMPILED = [
        dataclasses.replace(case, network={**case.network, "kwargs": TINY[case.network["class"]]}, batch=2)
        for case in COMPILED
    ]
SIDES = ("official order", "torch", "torch, graphs", "fused, graphs", "fused, graphs, bfloat16")
#: Sides that have goals.
GOALS = ("fused, graphs", BFLOAT16[2])
OF_COMPILED = (BLOCKS[1], TOKENS[1])
#: Sides whose time is told by kernels.
KERNELS_OF = ("official order", BFLOAT16[0], *GOALS, *OF_COMPILED)
if CASES is ON_PROCESSOR:
    SIDES, KERNELS_OF = SIDES[:2], ()
MEMORY = 0.6
FULL_SPEED_SECONDS = 10


def networks(network: dict[str, Any], half_dtype: torch.dtype) -> list[torch.nn.Module]:
    """φ, ψ and θ on a device: near each other, far enough from their initialisation that every layer matters."""
    torch.manual_seed(0)
    spec = {"class": network["class"], "kwargs": {**network["kwargs"], "use_fp16": True}}
    nets = []
    with torch.device(DEVICE):
        net = build_network(spec).to(DEVICE).eval()
        with torch.no_grad():
            for scale in (0.02, 0.002, 0.002):
                for parameter in net.parameters():
                    parameter.add_(torch.randn_like(parameter) * scale)
                nets.append(copy.deepcopy(net))
    for one in nets:
        one.half_dtype = half_dtype
    return [nets[0].requires_grad_(False), *nets[1:]]


def batch_of(network: dict[str, Any], size: int) -> Batch:
    """Smooth random images and classes."""
    source = torch.Generator(DEVICE).manual_seed(1)
    kwargs = network["kwargs"]
    coarse = torch.randn(size, kwargs["img_channels"], 8, 8, generator=source, device=DEVICE) * 0.5
    images = torch.nn.functional.interpolate(coarse, size=kwargs["img_resolution"], mode="bilinear")
    if not kwargs.get("label_dim"):
        return images, None
    classes = torch.randint(kwargs["label_dim"], (size,), generator=source, device=DEVICE)
    return images, torch.nn.functional.one_hot(classes, kwargs["label_dim"]).float()


def make(side: str, network: dict[str, Any]) -> Step:
    """A side's step."""
    nets = networks(network, torch.bfloat16 if "bfloat16" in side else torch.float16)
    edm2 = network["class"] == "EDM2Precond"
    settings = {**SETTINGS, "lambda_d": 100.0 if edm2 else 1.0, "grad_clip_value": None if edm2 else 1.0}
    if side.startswith("official order"):
        for net in nets:
            use_plain_blocks(net)
        plain = Plain(*nets, SCHEDULE, **settings, **({"P_mean": -0.4, "P_std": 1.0} if edm2 else {}))
        return lambda nimg, batch: plain.iteration(nimg, batch, batch)
    kernels = "fused" if "fused" in side else "torch"
    if side.startswith("compiled"):
        from sida.plugins.kernels import compiled

        torch._dynamo.reset()
        if REHEARSAL:
            compiled.COMPILER = {"backend": "aot_eager"}
        for net in nets:
            use_kernels(compiled, net)
        kernels = "compiled" if "fused" in side else "torch"
    ways: dict[str, Any] = {"kernels": kernels, "cuda_graphs": "graphs" in side}
    given = {"device": "cuda", "eps": 1e-8, **settings, "grad_clip_value": settings["grad_clip_value"] or 0.0}
    recipe = recipe_of(**ways, **given)
    weights = {"lambda_adv": recipe.lambda_adv, "lambda_d": recipe.lambda_d}
    loss = EDM2SiDALoss(return_logvar=False, **weights) if edm2 else SiDALoss(**weights)
    distiller = Distiller(*nets, loss, SCHEDULE, recipe)

    def step(nimg: int, batch: Any) -> dict[str, torch.Tensor]:
        distiller.batches = lambda stream, nimg, with_images: [batch]
        return distiller.iteration(nimg).losses

    return step


def wait() -> None:
    """Waits until the GPU has done everything."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measure(side: str, case: Case) -> dict[str, Any]:
    """Rate, memory and start of one side."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    batch = batch_of(case.network, case.batch)
    step = make(side, case.network)
    wait()
    begin, nimg = time.perf_counter(), FIRST
    for _ in range(4):
        step(nimg, batch)
        nimg += case.batch
    wait()
    start = time.perf_counter() - begin
    times = []
    for _ in range(GROUPS_OF_STEPS):
        begin = time.perf_counter()
        for _ in range(STEPS):
            losses = step(nimg, batch)
            nimg += case.batch
        wait()
        times.append((time.perf_counter() - begin) / STEPS)
    seconds = sorted(times)[len(times) // 2]
    return {
        "side": side,
        "img_per_s": case.batch / seconds,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        "reserved_gib": torch.cuda.memory_reserved() / 2**30,
        "start_seconds": start,
        "losses": {name: float(value) for name, value in losses.items()},
        "kernels": kernel_times(lambda: step(nimg, batch)) if side in KERNELS_OF else None,
    }


def kernel_times(function: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds of the GPU in the twelve kernels that take most of its time, in all, and how many were run."""
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[getattr(kinds, DEVICE.upper())]) as profile:
        function()
        wait()
    kernels = [one for one in profile.key_averages() if one.device_type == torch.autograd.DeviceType.CUDA]
    times = {one.key: one.self_device_time_total / 1e3 for one in kernels}
    most = sorted(times, key=lambda name: -times[name])[:12]
    count = sum(one.count for one in kernels)
    return {"milliseconds": {name: times[name] for name in most}, "whole": sum(times.values()), "count": count}


def operations(case: Case) -> float:
    """Floating-point operations of the official order per image."""
    step = make("official order", case.network)
    with FlopCounterMode(display=False) as counter:
        step(FIRST, batch_of(case.network, 2))
    return counter.get_total_flops() / 2


def peak(dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product."""
    size, times = (8192, 30) if DEVICE == "cuda" else (64, 1) if REHEARSAL else (2048, 5)
    a = torch.randn(size, size, device=DEVICE, dtype=dtype)
    b = torch.randn_like(a)
    for _ in range(3):
        a @ b
    wait()
    begin = time.perf_counter()
    for _ in range(times):
        a @ b
    wait()
    return float(2 * size**3 * times / (time.perf_counter() - begin))


def main(out: Path, cases: Sequence[Case] = CASES) -> bool:
    """Prints and stores the tables; every goal that is missed is said. Ratios are to the first side."""
    small = cases is ON_PROCESSOR
    prepare_process(torch.get_num_threads() if small else 1)
    peaks = {dtype: peak(dtype) for dtype in ([torch.float32] if small else [torch.float16, torch.bfloat16])}
    before = json.loads(out.read_text())["rows"] if cases is not CASES and out.exists() else []
    measured = {(row["case"], row["batch"], row["side"]): row for row in before}
    found: dict[str, Any] = {"rows": [], "missed": [], "environment": environment(DEVICE),
                             "peak_flops": {str(dtype): rate for dtype, rate in peaks.items()}}  # fmt: skip
    print(f"{DEVICE}, torch {torch.__version__}; matrix product "
          + ", ".join(f"{str(d).removeprefix('torch.')} {p / 1e9:,.0f} GFLOP/s" for d, p in peaks.items()))  # fmt: skip
    for case in cases:
        needed = operations(case)
        print(f"\n{case.name}, batch {case.batch}; {needed / 1e9:.2f} Gflop per image")
        print(f"  {'':<43}{'img/s':>8}{'ratio':>7}{'of peak':>9}{'GiB':>7}{'ratio':>7}{'reserved':>10}{'start':>9}")
        base: dict[str, Any] = {}
        for side in case.sides or SIDES:
            row = measured.get((case.name, case.batch, side)) or measure(side, case)
            base = base or row
            dtype = torch.float32 if small else torch.bfloat16 if "bfloat16" in side else torch.float16
            row |= {
                "case": case.name,
                "batch": case.batch,
                "ratio": row["img_per_s"] / base["img_per_s"],
                "share_of_peak": row["img_per_s"] * needed / peaks[dtype],
                "memory_ratio": row["memory_gib"] / (base["memory_gib"] or 1),
            }
            found["rows"].append(row)
            print(
                f"  {side:<43}{row['img_per_s']:>8.1f}{row['ratio']:>7.2f}{100 * row['share_of_peak']:>7.1f} %"
                f"{row['memory_gib']:>7.1f}{row['memory_ratio']:>7.2f}{row['reserved_gib']:>10.1f}"
                f"{row['start_seconds']:>7.1f} s",
                flush=True,
            )
            if row["kernels"]:
                print(f"    {row['kernels']['count']} kernels, {row['kernels']['whole']:.1f} ms, of these")
                for name, ms in row["kernels"]["milliseconds"].items():
                    print(f"    {ms:8.1f} {name:.100}")
            goals = OF_COMPILED if case in COMPILED else GOALS
            if side in goals or (small and row is not base):
                found["missed"] += _missed(case, row)
            write_json(out, found)
    for goal in found["missed"]:
        print(f"missed: {goal}")
    write_json(out, found)
    return not found["missed"]


def _missed(case: Case, row: dict[str, Any]) -> list[str]:
    """Goals that a row does not reach: that of the memory is for the side that makes activations again."""
    goals = [
        ("ratio", row["ratio"], case.ratio, row["ratio"] >= case.ratio),
        ("share of peak", row["share_of_peak"], case.share, case.share is None or row["share_of_peak"] >= case.share),
        ("memory", row["memory_ratio"], MEMORY, "again" not in row["side"] or row["memory_ratio"] <= MEMORY),
        (
            "start",
            row["start_seconds"],
            FULL_SPEED_SECONDS,
            "compiled" in row["side"] or row["start_seconds"] <= FULL_SPEED_SECONDS,
        ),
    ]
    return [
        f"{case.name}, batch {case.batch}, {row['side']}: {name} {value:.2f} (goal {goal})"
        for name, value, goal, kept in goals
        if not kept
    ]
