"""Iterations of f-distill and ECT as their formulas read, with torch's optimizers: a baseline for tests."""

from __future__ import annotations

import copy

import torch
from torch.nn.functional import softplus

from sida.noise import normal, uniform, unit_noise
from sida.training.batches import seed_layers, step_draws

CPU = torch.device("cpu")
SEED = 3


def karras(uniform, low, high):
    index = torch.floor(low + uniform * (high - low + 1))
    a, b = 0.002 ** (1 / 7), 80 ** (1 / 7)
    return (a + index / 999 * (b - a)) ** 7


class PlainRival:
    """Networks, optimizers and draws of a run of one round per step.

    Args:
        trainer: The trainer whose networks are copied.
        teacher: φ.
        optimizer: Makes an optimizer of parameters.
        clip: Largest norms of the gradients of generator and fake score; 0 is off.
    """

    def __init__(self, trainer, teacher, optimizer, clip=(0.0, 0.0)):
        nets = {name: copy.deepcopy(network.net) for name, network in trainer.networks.items()}
        self.generator, self.teacher = nets["generator"].requires_grad_(True), teacher
        self.psi = nets.get("fake_score")
        if self.psi is not None:
            self.psi.requires_grad_(True)
            self.psi_adam = optimizer(self.psi.parameters())
        self.adam, self.clip = optimizer(self.generator.parameters()), clip

    def draws(self, stream, nimg, shape, **kinds):
        return step_draws(SEED, stream, nimg, 0, [shape], CPU, kinds)[0]

    def step(self, loss, generator):
        net, optimizer = (self.generator, self.adam) if generator else (self.psi, self.psi_adam)
        for one in (self.generator, self.psi):
            if one is not None:
                one.zero_grad()
        loss.backward()
        if self.clip[0 if generator else 1]:
            torch.nn.utils.clip_grad_norm_(net.parameters(), self.clip[0 if generator else 1])
        optimizer.step()
        return float(loss.detach())

    def images(self, draws, labels, sigma):
        return self.generator(sigma * draws["z"], torch.tensor(sigma), labels)


def _direction(run, x, noisy, sigma, labels, eps=0.0):
    with torch.no_grad():
        true = run.teacher(noisy, sigma, labels)
        scale = (x - true).abs().mean((1, 2, 3), keepdim=True) + eps
        return (run.psi(noisy, sigma, labels) - true) / scale


def _logits(run, *args):
    return run.psi(*args, return_flag="logits")


def f_distill(run, nimg, real, labels):
    """Jensen-Shannon with ρ = 0.5 and three intervals."""
    losses = []
    for stream in ("psi", "psi-2", "psi-3", "psi-4"):
        draws = run.draws(stream, nimg, real.shape, t=uniform, noise=unit_noise, real_t=uniform, real_noise=unit_noise)
        with torch.no_grad():
            x = run.images(draws, labels, 80.0)
        sigma, s_real = karras(draws["t"], 2, 998), karras(draws["real_t"], 2, 998)
        noisy = x + sigma * draws["noise"]
        error = run.psi(noisy, sigma, labels) - x
        fake = _logits(run, noisy, sigma, labels)
        true = _logits(run, real + s_real * draws["real_noise"], s_real, labels)
        losses.append(run.step((error**2).mean() + (softplus(fake) + softplus(-true)).mean(), False))
    draws = run.draws("generator", nimg, real.shape, t=uniform, noise=unit_noise)
    x = run.images(draws, labels, 80.0)
    sigma = karras(draws["t"], 2, 998)
    noisy = x + sigma * draws["noise"]
    logits = _logits(run, noisy, sigma, labels)
    ratio = logits.detach().mean(1).clamp(-10, 10).exp().clamp(0.1, 20)
    means = run.psi.ratios
    for n in range(3):
        inside = (torch.floor((sigma.flatten() - 0.002) / ((80 - 0.002) / 3)).clamp(0, 2)) == n
        if inside.any():
            means[n] = 0.5 * means[n] + 0.5 * ratio[inside].sum() / (inside.sum() + 1e-6)
            ratio[inside] = ratio[inside] / (means[n] + 1e-6)
    h = ratio / (1 + ratio)
    h = (h / (h.mean() + 1e-6)).view(-1, 1, 1, 1)
    g = h * _direction(run, x, noisy.detach(), sigma, labels, 1e-6)
    gan = softplus(-logits).mean()
    return [sum(losses), run.step(((x - (x - g).detach()) ** 2).mean() / 2 + 0.001 * gan, True)]


def ect(run, nimg, real, labels):
    """Stage 0 in the first two iterations of 16 images, 1 in the third one (stages of 16 images)."""
    draws = run.draws("generator", nimg, real.shape, sigma_normal=normal, noise=unit_noise)
    stage = max(0, nimg // 16 - 1)
    t = torch.exp(2 * draws["sigma_normal"] - 1.1)
    r = torch.relu(t * (1 - 2.0 ** -(stage + 1) * (1 + 8 / (1 + torch.exp(t)))))
    run.generator.train()
    outputs = []
    for level in (t, torch.where(r > 0, r, t)):
        seed_layers(SEED, "generator", nimg, 0, CPU)
        outputs.append(run.generator(real + (r if outputs else t) * draws["noise"], level, labels))
    target = torch.where(r > 0, outputs[1], real).detach()
    distance = (outputs[0] - target).pow(2).sum((1, 2, 3)).sqrt()
    return [run.step((distance / (t - r).flatten()).mean(), True)]
