"""The SiDA training step against a straightforward implementation of the same mathematics.

The baseline below does the work in the official order: a decoder pass for the fakes and an encoder pass for the
reals, tensor-by-tensor guards, torch's default Adam, an averaging loop, and a generator step that is computed and
thrown away while the generator is held back. Same networks, data and draws; both must give the same losses.

Each side lives in a process of its own (the suite's training also tunes the allocator, which is process-wide) and the
two take turns, one thread each; times are the process's CPU seconds, which other work on the machine disturbs least.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from sida.io import write_json
from sida.losses import SiDALoss
from sida.networks import build_network
from sida.provenance import environment
from sida.training.averages import ema_beta
from sida.training.batches import step_draws
from sida.training.distiller import Distiller
from sida.training.process import prepare_process
from sida.training.schedule import Schedule

NETWORK = {
    "class": "EDMPrecond",
    "kwargs": {
        "model_type": "SongUNet",
        "img_resolution": 8,
        "img_channels": 1,
        "label_dim": 10,
        "augment_dim": 9,
        "model_channels": 32,
        "channel_mult": [1, 1],
        "num_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
SETTINGS = {"lr": 5e-4, "lambda_adv": 10.0, "lambda_d": 5.0, "grad_clip_value": 1.0}
WARMUP, FULL = 0, 3_000  # images seen: the generator is held back; both of its terms are on
SCHEDULE = Schedule(warmup_kimg=1, adversarial_kimg=2)
TOLERANCE = 1e-4


class Plain:
    """The baseline: SiDA written down step by step, with the networks and settings of a :class:`Distiller`."""

    def __init__(
        self,
        true_score: torch.nn.Module,
        fake_score: torch.nn.Module,
        generator: torch.nn.Module,
        schedule: Schedule,
        *,
        lr: float,
        lambda_adv: float,
        lambda_d: float,
        grad_clip_value: float,
        ema_half_life: float = 500_000,
        ema_rampup_ratio: float | None = 0.05,
        seed: int = 0,
        alpha: float = 1.0,
    ) -> None:
        self.true_score, self.fake_score, self.generator = true_score, fake_score, generator
        self.ema = copy.deepcopy(generator).eval().requires_grad_(False)
        self.schedule, self.seed, self.alpha = schedule, seed, alpha
        self.lambda_sid, self.lambda_adv, self.lambda_d = 100.0, lambda_adv, lambda_d
        self.clip, self.half_life, self.ramp = grad_clip_value, ema_half_life, ema_rampup_ratio
        self.fake_score_adam = torch.optim.Adam(fake_score.parameters(), lr=lr, betas=(0.0, 0.999), eps=1e-8)
        self.generator_adam = torch.optim.Adam(generator.parameters(), lr=lr, betas=(0.0, 0.999), eps=1e-8)

    def iteration(self, nimg: int, psi_batch: Any, generator_batch: Any, draws: Any = None) -> dict[str, torch.Tensor]:
        """One iteration; returns the scaled losses."""
        phase = self.schedule.at(nimg)
        losses = self._psi_step(nimg, *psi_batch, draws[0] if draws else None)
        losses |= self._theta_step(nimg, *generator_batch, phase, draws[1] if draws else None)
        beta = ema_beta(nimg, len(psi_batch[0]), self.half_life, self.ramp)
        with torch.no_grad():
            for average, parameter in zip(self.ema.parameters(), self.generator.parameters()):
                average.copy_(parameter.lerp(average, beta))
        return losses

    def _psi_step(self, nimg: int, real: Any, labels: Any, draw: Any) -> dict[str, torch.Tensor]:
        batch, zeros = len(real), torch.zeros(len(real), 9)
        if draw is None:
            (draw,) = step_draws(self.seed, "psi", nimg, 0, [real.shape], torch.device("cpu"), "sigma_normal")
        self.fake_score.train().requires_grad_(True)
        self.generator.eval().requires_grad_(False)
        self.fake_score_adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            images = self.generator(2.5 * draw["z"], torch.full((batch,), 2.5), labels, augment_labels=zeros)
        sigma = (draw["sigma_normal"] * 1.2 - 1.2).exp()
        weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
        noise = draw["noise"] * sigma
        denoised, fake = self.fake_score(
            images + noise, sigma, labels, augment_labels=zeros, return_flag="encoder_decoder"
        )
        true = self.fake_score(real + noise, sigma, labels, augment_labels=zeros, return_flag="encoder")
        keep = ~torch.isnan(denoised).flatten(1).any(1)
        denoising = (weight[keep] * (denoised[keep] - images[keep]) ** 2).sum() / batch
        judged = (
            F.binary_cross_entropy_with_logits(true[keep], torch.ones_like(true[keep]))
            + F.binary_cross_entropy_with_logits(fake[keep], torch.zeros_like(fake[keep]))
        ) / 2
        discriminator = (weight[keep] * judged).sum() * self.lambda_d / batch
        (denoising + discriminator).backward()
        for parameter in self.fake_score.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        torch.nn.utils.clip_grad_value_(self.fake_score.parameters(), self.clip)
        self.fake_score_adam.step()
        return {"denoising": denoising.detach(), "discriminator": discriminator.detach()}

    def _theta_step(self, nimg: int, like: Any, labels: Any, phase: Any, draw: Any) -> dict[str, torch.Tensor]:
        batch, zeros = len(like), torch.zeros(len(like), 9)
        if draw is None:
            (draw,) = step_draws(self.seed, "generator", nimg, 0, [like.shape], torch.device("cpu"), "t")
        self.generator.train().requires_grad_(True)
        self.fake_score.eval().requires_grad_(False)
        self.generator_adam.zero_grad(set_to_none=True)
        images = self.generator(2.5 * draw["z"], torch.full((batch,), 2.5), labels, augment_labels=zeros)
        low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
        sigma = (high + (1 - draw["t"] * 0.8) * (low - high)) ** 7
        noisy = images + draw["noise"] * sigma
        true = self.true_score(noisy, sigma, labels, augment_labels=zeros)
        fake, logits = self.fake_score(noisy, sigma, labels, augment_labels=zeros, return_flag="encoder_decoder")
        keep = ~(torch.isnan(true).flatten(1).any(1) | torch.isnan(fake).flatten(1).any(1))
        images, true, fake = images[keep], true[keep], fake[keep]
        with torch.no_grad():
            error = (images - true).abs().mean(dim=[1, 2, 3], keepdim=True).clip(min=1e-5)
        sid = ((true - fake) * ((true - images) - self.alpha * (true - fake)) / error).sum() * self.lambda_sid / batch
        logits = torch.clamp(logits, -10, 10)
        judged = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        adversarial = (judged / error).sum() * like[0].numel() * self.lambda_adv / batch
        loss = phase.sid_weight * sid
        if phase.adversarial_weight:
            loss = loss + phase.adversarial_weight * adversarial
        loss.backward()
        for parameter in self.generator.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        if phase.update_generator:
            self.generator_adam.step()
        return {"sid": sid.detach(), "adversarial": adversarial.detach()}


def networks() -> list[torch.nn.Module]:
    """φ, ψ, θ with the same weights, far enough from their initialisation that every layer matters."""
    torch.manual_seed(0)
    net = build_network(NETWORK).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return [copy.deepcopy(net).requires_grad_(False), copy.deepcopy(net), copy.deepcopy(net)]


def batches(batch: int, count: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels like the digits'."""
    source = torch.Generator().manual_seed(1)
    eye = torch.eye(10)
    return [
        (torch.randn(batch, 1, 8, 8, generator=source) * 0.5, eye[torch.randint(10, (batch,), generator=source)])
        for _ in range(count)
    ]


def worker(kind: str, batch: int, pipe: Connection) -> None:
    """Runs one side in a process of its own."""
    torch.set_num_threads(1)
    # What an earlier run compiled would be found again on disk; it is the first compilation that has to be paid for.
    with tempfile.TemporaryDirectory(prefix="sida-bench-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        if kind == "plain":
            serve(Plain(*networks(), SCHEDULE, **SETTINGS).iteration, batch, pipe)
            return
        prepare_process(threads=1)
        distiller = Distiller(*networks(), SiDALoss(), SCHEDULE, compile=kind == "compiled", **SETTINGS)
        serve(lambda nimg, real, like: distiller.iteration(nimg, [real], [like]).losses, batch, pipe)


def serve(iteration: Callable[..., dict[str, torch.Tensor]], batch: int, pipe: Connection) -> None:
    """For each ``(nimg, count)`` received does that many iterations; answers times, losses and wall time."""
    data, number = batches(batch), 0
    while (command := pipe.recv()) is not None:
        nimg, count = command
        seconds, losses, begin = [], [], time.perf_counter()
        for _ in range(count):
            real, like = data[number % len(data)], data[(number + 1) % len(data)]
            start = time.process_time()
            result = iteration(nimg, real, like)
            seconds.append(time.process_time() - start)
            losses.append({name: float(value) for name, value in result.items()})
            nimg, number = nimg + batch, number + 1
        pipe.send((seconds, losses, time.perf_counter() - begin))


class Sides:
    """One process per side, measured in turns."""

    def __init__(self, kinds: Sequence[str], batch: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.batch = batch
        self.pipes: dict[str, Connection] = {}
        self.processes = []
        for kind in kinds:
            ours, theirs = context.Pipe()
            process = context.Process(target=worker, args=(kind, batch, theirs), daemon=True)
            process.start()
            self.pipes[kind] = ours
            self.processes.append(process)

    def run(self, nimg: int, count: int) -> dict[str, tuple[list[float], list[dict[str, float]], float]]:
        """Every side does ``count`` iterations from ``nimg`` images on, one side after the other."""
        answers = {}
        for kind, pipe in self.pipes.items():
            pipe.send((nimg, count))
            answers[kind] = pipe.recv()
        return answers

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self.pipes.values():
            pipe.send(None)
        for process in self.processes:
            process.join()


def difference(one: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> float:
    """Largest relative difference of losses that both sides have."""
    return max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-12) for a, b in zip(one, other) for name in a if name in b)


def compare(sides: Sides, nimg: int, turns: int, count: int) -> dict[str, Any]:
    """Times all sides in turns; the first turn warms up and checks that the losses agree."""
    kinds = list(sides.pipes)
    first = sides.run(nimg, 3)
    worst = max(difference(first[kinds[0]][1], first[kind][1]) for kind in kinds)
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    per_turn: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(turns):
        for kind, (seconds, _, _) in sides.run(nimg, count).items():
            times[kind] += seconds
            per_turn[kind].append(statistics.median(seconds))
    base = kinds[0]
    ratios = {
        kind: statistics.median(b / o for b, o in zip(per_turn[base], per_turn[kind])) for kind in kinds if kind != base
    }
    rates = {kind: sides.batch / statistics.median(values) for kind, values in times.items()}
    # Compilers run in other processes: only the clock on the wall sees them.
    warm_up = {kind: first[kind][2] for kind in kinds}
    return {"img_per_s": rates, "ratios": ratios, "loss_difference": worst, "warm_up_seconds": warm_up}


def main(out: Path) -> bool:
    """Compares at batch 32 and 128, with the generator learning and held back."""
    rows, kept = [], True
    print(f"{'batch':>5} {'phase':<22}{'plain img/s':>12}{'suite img/s':>12}{'ratio':>7}{'losses differ by':>18}")
    for batch in (32, 128):
        sides = Sides(("plain", "lean"), batch)
        for name, nimg in (("generator held back", WARMUP), ("both learn", FULL)):
            result = compare(sides, nimg, turns=9, count=max(2, 160 // batch))
            rates, ratio = result["img_per_s"], result["ratios"]["lean"]
            kept &= ratio >= 1.0 and result["loss_difference"] < TOLERANCE
            rows.append({"batch": batch, "phase": name, **result})
            print(
                f"{batch:>5} {name:<22}{rates['plain']:>12.0f}{rates['lean']:>12.0f}{ratio:>7.2f}"
                f"{result['loss_difference']:>18.1e}",
                flush=True,
            )
        sides.close()
    print(f"bound: ratio >= 1 (wanted 1.1), losses equal to {TOLERANCE:g}")
    write_json(out, {"rows": rows, "bound": 1.0, "wanted": 1.1, "environment": environment()})
    return kept
