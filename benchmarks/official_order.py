"""SiDA as its mathematics reads, step by step in the official order: what the suite's training is measured against.

A decoder pass for the fakes and an encoder pass for the reals, guards tensor by tensor, torch's Adam, an averaging
loop; and for U-Nets a residual block that does one operation after the other (:func:`use_plain_blocks`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sida.networks.edm_unet import Conv2d, UNetBlock
from sida.networks.unet import resampled
from sida.noise import normal, uniform, unit_noise
from sida.training.batches import step_draws
from sida.training.optimizer import ema_beta
from sida.training.schedule import Phase, Schedule

Draws = dict[str, Tensor]


class Plain:
    """The baseline, with the networks and settings of a :class:`sida.training.iteration.Distiller`.

    Args:
        true_score: φ, frozen.
        fake_score: ψ.
        generator: θ.
        schedule: Phases.
        lr: Learning rate of both.
        lambda_adv: Weight of the generator's adversarial term.
        lambda_d: Weight of the discriminator's.
        grad_clip_value: Value clip of ψ's gradients; None is off.
        eps: Adam's.
        P_mean: Mean of ln σ.
        P_std: Standard deviation of ln σ.
    """

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
        grad_clip_value: float | None,
        eps: float = 1e-8,
        ema_half_life: float = 500_000,
        ema_rampup_ratio: float | None = 0.05,
        seed: int = 0,
        alpha: float = 1.0,
        P_mean: float = -1.2,
        P_std: float = 1.2,
    ) -> None:
        self.true_score, self.fake_score, self.generator = true_score, fake_score, generator
        self.ema = copy.deepcopy(generator).eval().requires_grad_(False)
        self.schedule, self.seed, self.alpha = schedule, seed, alpha
        self.P_mean, self.P_std = P_mean, P_std
        self.lambda_sid, self.lambda_adv, self.lambda_d = 100.0, lambda_adv, lambda_d
        self.clip, self.half_life, self.ramp = grad_clip_value, ema_half_life, ema_rampup_ratio
        adam: Callable[..., torch.optim.Adam] = torch.optim.Adam
        self.fake_score_adam = adam(fake_score.parameters(), lr=lr, betas=(0.0, 0.999), eps=eps)
        self.generator_adam = adam(generator.parameters(), lr=lr, betas=(0.0, 0.999), eps=eps)

    def iteration(self, nimg: int, psi_batch: Any, generator_batch: Any, draws: Any = None) -> dict[str, Tensor]:
        """One iteration; returns the scaled losses."""
        phase = self.schedule.at(nimg)
        losses = self._psi_step(nimg, *psi_batch, draws[0] if draws else None)
        losses |= self._theta_step(nimg, *generator_batch, phase, draws[1] if draws else None)
        beta = ema_beta(nimg, len(psi_batch[0]), self.half_life, self.ramp)
        with torch.no_grad():
            for average, parameter in zip(self.ema.parameters(), self.generator.parameters()):
                average.copy_(parameter.lerp(average, beta))
        return losses

    def _call(self, net: torch.nn.Module, x: Tensor, sigma: Tensor, labels: Tensor | None, **flags: Any) -> Any:
        width = getattr(getattr(net, "model", None), "augment_dim", 0)
        zeros = {"augment_labels": torch.zeros(len(x), width, device=x.device)} if width else {}
        return net(x, sigma, labels, **zeros, **flags)

    def _draw(self, purpose: str, nimg: int, like: Tensor, level: str) -> Draws:
        kinds = {level: normal if level == "sigma_normal" else uniform, "noise": unit_noise}
        return step_draws(self.seed, purpose, nimg, [like.shape], like.device, {"z": unit_noise, **kinds})[0]

    def _psi_step(self, nimg: int, real: Tensor, labels: Tensor | None, draw: Draws | None) -> dict[str, Tensor]:
        batch = len(real)
        draw = draw or self._draw("psi", nimg, real, "sigma_normal")
        self.fake_score.train().requires_grad_(True)
        self.generator.eval().requires_grad_(False)
        self.fake_score_adam.zero_grad(set_to_none=True)
        start = torch.full((batch,), 2.5, device=real.device)
        with torch.no_grad():
            images = self._call(self.generator, 2.5 * draw["z"], start, labels)
        sigma = (draw["sigma_normal"] * self.P_std + self.P_mean).exp()
        weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
        noise = draw["noise"] * sigma
        denoised, fake = self._call(
            self.fake_score, images + noise, sigma, labels, return_flag="encoder_decoder"
        )  # fmt: skip
        true = self._call(self.fake_score, real + noise, sigma, labels, return_flag="encoder")
        keep = ~torch.isnan(denoised).flatten(1).any(1)
        denoising = (weight[keep] * (denoised[keep] - images[keep]) ** 2).sum() / batch
        judged = (
            F.binary_cross_entropy_with_logits(true[keep], torch.ones_like(true[keep]))
            + F.binary_cross_entropy_with_logits(fake[keep], torch.zeros_like(fake[keep]))
        ) / 2
        discriminator = (weight[keep] * judged).sum() * self.lambda_d / batch
        (denoising + discriminator).backward()
        _guard(self.fake_score)
        if self.clip is not None:
            torch.nn.utils.clip_grad_value_(self.fake_score.parameters(), self.clip)
        self.fake_score_adam.step()
        return {"denoising": denoising.detach(), "discriminator": discriminator.detach()}

    def _theta_step(
        self, nimg: int, like: Tensor, labels: Tensor | None, phase: Phase, draw: Draws | None
    ) -> dict[str, Tensor]:
        batch = len(like)
        draw = draw or self._draw("generator", nimg, like, "t")
        self.generator.train().requires_grad_(True)
        self.fake_score.eval().requires_grad_(False)
        self.generator_adam.zero_grad(set_to_none=True)
        start = torch.full((batch,), 2.5, device=like.device)
        images = self._call(self.generator, 2.5 * draw["z"], start, labels)
        low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
        sigma = (high + (1 - draw["t"] * 0.8) * (low - high)) ** 7
        noisy = images + draw["noise"] * sigma
        true = self._call(self.true_score, noisy, sigma, labels)
        fake, logits = self._call(self.fake_score, noisy, sigma, labels, return_flag="encoder_decoder")
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
        _guard(self.generator)
        if phase.update_generator:
            self.generator_adam.step()
        return {"sid": sid.detach(), "adversarial": adversarial.detach()}


def _guard(net: torch.nn.Module) -> None:
    for parameter in net.parameters():
        if parameter.grad is not None:
            torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)


def use_plain_blocks(net: torch.nn.Module) -> None:
    """Makes the blocks of an EDM network compute one operation after the other (EDM2's do so already)."""
    for module in net.modules():
        if isinstance(module, UNetBlock):
            module.compute = functools.partial(_plain_block, module)


def _plain_block(block: UNetBlock, x: Tensor, emb: Tensor) -> Tensor:
    h = _plain_conv(block.conv0, F.silu(block.norm0(x)))
    vector = block.affine(emb)[:, :, None, None].to(h.dtype)
    if block.adaptive_scale:
        scale, shift = vector.chunk(2, dim=1)
        h = F.silu(shift + block.norm1(h) * (scale + 1))
    else:
        h = F.silu(block.norm1(h + vector))
    h = _plain_conv(block.conv1, F.dropout(h, p=block.dropout, training=block.training))
    x = (h + (x if block.skip is None else _plain_conv(block.skip, x))) * block.skip_scale
    if block.num_heads:
        n, c, height, width = x.shape
        heads = _plain_conv(block.qkv, block.norm2(x)).reshape(n * block.num_heads, c // block.num_heads, 3, -1)
        query, key, value = heads.unbind(2)
        mixed = torch.einsum("nqk,nck->ncq", _AttentionWeights.apply(query, key), value)
        x = (_plain_conv(block.proj, mixed.reshape(n, c, height, width)) + x) * block.skip_scale
    return x


class _AttentionWeights(torch.autograd.Function):
    """Softmax in float32 of queries and keys ``(N, C, L)``; what is kept is of the maps' precision."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor) -> Tensor:
        scale = key.shape[1] ** -0.5
        weights = torch.einsum("ncq,nck->nqk", query.float(), key.float() * scale).softmax(dim=2).to(query.dtype)
        ctx.save_for_backward(query, key, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        query, key, weights = ctx.saved_tensors
        kept = weights.float()
        inner = grads[0].float() * kept
        of_score = (inner - kept * inner.sum(dim=2, keepdim=True)) * key.shape[1] ** -0.5
        of_query = torch.einsum("nqk,nck->ncq", of_score, key.float())
        of_key = torch.einsum("nqk,ncq->nck", of_score, query.float())
        return of_query.to(query.dtype), of_key.to(key.dtype)


def _plain_conv(conv: Conv2d, x: Tensor) -> Tensor:
    x = resampled(x, conv.mode, conv.filter)
    if conv.weight is None or conv.bias is None:
        return x
    x = F.conv2d(x, conv.weight.to(x.dtype), padding=conv.kernel // 2)
    return x + conv.bias.to(x.dtype).reshape(1, -1, 1, 1)
