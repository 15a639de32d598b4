"""Losses of SiDA: SiD with an adversarial term, whose discriminator is the fake score's encoder.

The terms of SiD and SiDA for EDM2 networks may be divided by a learned variance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sida.config.recipe import EDM2_P_MEAN, EDM2_P_STD, SIDA_ALPHA, Pool, Recipe, ResolvedConfig
from sida.losses.sid import SiDLoss
from sida.losses.terms import (
    MicroBatch,
    Net,
    Terms,
    dropped_count,
    finite_mask,
    keep,
    keep_divisor,
    mean_of_kept,
    unit_noise,
    zero_dropped,
)

#: Bound of the generator's logits, without gradient outside; the discriminator's logits have no bound.
LOGIT_LIMIT = 10.0


@dataclasses.dataclass(eq=False)
class SiDALoss(SiDLoss):
    """SiD with an adversarial term; logits are the channel means of ψ's last encoder activation.

    The cross-entropies are averaged over the whole batch and all positions into *one* scalar ('in-batch fakeness'),
    which is then weighted per sample like the score terms:

        discriminator = w(σ) [BCE(logits_real, 1) + BCE(logits_fake, 0)] / 2
        adversarial   = BCE(clamp(logits_fake), 1) / mean |x − f_φ|

    Attributes:
        alpha: α; 1.0 in SiDA, 1.0 or 1.2 in SiD2A. The others of :class:`SiDLoss` are the same.
        pool: ``batch``: one scalar for all samples, as above; ``sample``: each sample's weight multiplies the sample's
            own mean.

    Source: SiDA (arXiv:2410.14919), equations 6-10 as the official code has them (mingyuanzhou/SiD, branch sida).
    """

    uses_real_images = True

    alpha: float = SIDA_ALPHA
    pool: Pool = Recipe.adversarial_pool

    @classmethod
    def of(cls, recipe: ResolvedConfig, options: Any = None, /, **own: Any) -> Self:
        """See :meth:`~sida.losses.terms.ScoreLoss.of`."""
        return super().of(recipe, **{"pool": recipe.adversarial_pool, **own})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in get_args(Pool):
            raise ValueError(f"pool: must be one of {', '.join(get_args(Pool))}, got {self.pool!r}")

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """See :meth:`~sida.losses.terms.ScoreLoss.weights`; the adversarial scalar has the factor C·H·W."""
        more = {"adversarial": settings["lambda_adv"] * pixels, "discriminator": settings["lambda_d"]}
        return super().weights(settings, pixels) | more

    def generator_terms(self, true_score: Net, fake_score: Net, given: MicroBatch) -> Terms:
        """Terms ``sid`` and ``adversarial``; see :class:`~sida.losses.terms.Loss`.

        A NaN in one sample's logits makes the whole adversarial term NaN, as in the official code (fact 7): the mask
        ignores logits, and the batch's scalar pools all of them. Pooled per sample, the sample is dropped.
        """
        images, class_labels, draws = given.images, given.class_labels, given.draws
        sigma = self.generator_sigma(images, draws)
        noisy = torch.addcmul(images, sigma, unit_noise(draws, images))
        true = true_score(noisy, sigma, class_labels)
        fake, logits = fake_score(noisy, sigma, class_labels, return_flag="encoder_decoder")
        error = self._mean_error(images, true)
        per_element = self._sid(images, true, fake) / error
        if self.pool == "batch":
            mask = finite_mask(per_element)
        else:
            mask = finite_mask(per_element, logits)
            (logits,) = keep(mask, logits)
        (sid,), error = keep(mask, per_element), keep_divisor(mask, error)
        adversarial = zero_dropped(mask, adversarial_loss(logits, self.pool) / error)
        further = self.further_terms(sid, adversarial, logits, mask)
        return Terms({"sid": sid, "adversarial": adversarial} | further, dropped_count(mask))

    def further_terms(
        self, sid: torch.Tensor, adversarial: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Terms of the generator in addition to ``sid`` and ``adversarial``, for losses derived from this one; none.

        Args:
            sid: The SiD term ``(N', C, H, W)``.
            adversarial: The adversarial term ``(N', 1, 1, 1)``.
            logits: ``(N, 1, h, w)``, of all samples.
            mask: Mask of the samples that the terms kept, see :func:`~sida.losses.terms.keep`.
        """
        return {}

    def fake_score_terms(self, fake_score: Net, given: MicroBatch) -> Terms:
        """Terms ``denoising`` and, with real images, ``discriminator``; see :class:`~sida.losses.terms.Loss`.

        Fake and real image of a position share σ, noise and label, but not the augmentation. Both halves pass the
        encoder together, and only the fake half passes the decoder, which is exact because samples never interact. A
        NaN from either of the two images drops the position.
        """
        images, class_labels, real_images, augment, draws = given
        if real_images is None:
            return super().fake_score_terms(fake_score, given)
        sigma = self.fake_score_sigma(images, draws)
        clean, clean_labels = (images, None) if augment is None else augment(images)
        noise = sigma * unit_noise(draws, images)
        real, real_labels = (real_images, None) if augment is None else augment(real_images)
        labels = None if clean_labels is None or real_labels is None else torch.cat([clean_labels, real_labels])
        denoised, logits = fake_score(
            torch.cat([clean + noise, real + noise]),
            torch.cat([sigma, sigma]),
            None if class_labels is None else torch.cat([class_labels, class_labels]),
            augment_labels=labels,
            return_flag="encoder_decoder",
            decode=len(images),
        )
        error, (fake_logits, real_logits) = denoised - clean, logits.chunk(2)
        mask = finite_mask(error, fake_logits, real_logits)
        error, weight, fake_logits, real_logits = keep(mask, error, self.weight(sigma), fake_logits, real_logits)
        discriminator = weight * discriminator_loss(fake_logits, real_logits, self.pool, mask)
        return Terms({"denoising": weight * error.square(), "discriminator": discriminator}, dropped_count(mask))


def adversarial_loss(logits: torch.Tensor, pool: Pool = "batch", mask: torch.Tensor | None = None) -> torch.Tensor:
    """The generator's adversarial loss: mean cross-entropy of its clamped logits against 'real'.

    Args:
        logits: ``(N, 1, h, w)``.
        pool: See :data:`Pool`.
        mask: Mask that :func:`~sida.losses.terms.keep` applied to the logits; None is all.

    Returns:
        Shape ``()``, or ``(N, 1, 1, 1)`` when pooled per sample.
    """
    return _pooled(softplus(-logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)), pool, mask)


def discriminator_loss(
    fake_logits: torch.Tensor, real_logits: torch.Tensor, pool: Pool = "batch", mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The discriminator loss: half the sum of the mean cross-entropies of fake and real logits.

    Arguments and shapes as of :func:`adversarial_loss`.
    """
    return (_pooled(softplus(fake_logits), pool, mask) + _pooled(softplus(-real_logits), pool, mask)) / 2


def _pooled(entropies: torch.Tensor, pool: Pool, mask: torch.Tensor | None) -> torch.Tensor:
    return mean_of_kept(mask, entropies) if pool == "batch" else entropies.mean(dim=(1, 2, 3), keepdim=True)


@dataclasses.dataclass(eq=False)
class EDM2SiDALoss(SiDALoss):
    """Losses of SiD and SiDA on EDM2 networks; with u(σ) = ψ's logvar:

        denoising     = w e^{−u} (f_ψ − x)² + u          discriminator = e^{−u} · SiDA's
        sid           = e^{−u} · SiD's                    adversarial   = e^{−u} · SiDA's

    Forced weight normalisation rewrites weights in a forward pass, so real and fake images go through in one pass.

    Attributes:
        P_mean: Mean of ln σ in the fake score's loss. The others of :class:`SiDALoss` are the same.
        P_std: Standard deviation of ln σ in the fake score's loss.
        return_logvar: Whether ψ predicts u; without it u = 0.
        adversarial: False is SiD on EDM2 networks: no real images, no adversarial term.

    Source: SiDA (arXiv:2410.14919) as the official EDM2 code has it; fact 14 of tests/golden/README.md.
    """

    P_mean: float = EDM2_P_MEAN
    P_std: float = EDM2_P_STD
    return_logvar: bool = True
    adversarial: bool = True

    @classmethod
    def of(cls, recipe: ResolvedConfig, options: Any = None, /, **own: Any) -> Self:
        """See :meth:`~sida.losses.terms.ScoreLoss.of`."""
        return super().of(recipe, **{"return_logvar": recipe.logvar, **own})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.uses_real_images = self.adversarial

    def generator_terms(self, true_score: Net, fake_score: Net, given: MicroBatch) -> Terms:
        """See :meth:`SiDALoss.generator_terms`; here the mask also removes dropped samples from the logits."""
        images, class_labels, draws = given.images, given.class_labels, given.draws
        sigma = self.generator_sigma(images, draws)
        noisy = torch.addcmul(images, sigma, unit_noise(draws, images))
        true = true_score(noisy, sigma, class_labels)
        fake, logits, variance, _ = self._evaluate(fake_score, noisy, sigma, class_labels)
        divisor = self._mean_error(images, true) * variance
        per_element = self._sid(images, true, fake) / divisor
        if not self.uses_real_images:
            mask = finite_mask(per_element)
            return Terms({"sid": keep(mask, per_element)[0], "adversarial": None}, dropped_count(mask))
        mask = finite_mask(per_element, logits)
        (sid, logits), divisor = keep(mask, per_element, logits), keep_divisor(mask, divisor)
        adversarial = zero_dropped(mask, adversarial_loss(logits, self.pool, mask) / divisor)
        return Terms({"sid": sid, "adversarial": adversarial}, dropped_count(mask))

    def fake_score_terms(self, fake_score: Net, given: MicroBatch) -> Terms:
        """See :meth:`SiDALoss.fake_score_terms`.

        Raises:
            ValueError: An augmentation was given; EDM2 networks take none.
        """
        images, class_labels, real_images, augment, draws = given
        if augment is not None:
            raise ValueError("EDM2 networks take no augmentation")
        sigma = self.fake_score_sigma(images, draws)
        noise = sigma * unit_noise(draws, images)
        both, labels, levels = images + noise, class_labels, sigma
        if real_images is not None:
            both, levels = torch.cat([both, real_images + noise]), torch.cat([sigma, sigma])
            labels = None if class_labels is None else torch.cat([class_labels, class_labels])
        denoised, logits, variance, logvar = self._evaluate(fake_score, both, levels, labels, decode=len(images))
        error, weight = denoised - images, self.weight(sigma) / variance
        if real_images is None:
            mask = finite_mask(error, logvar)
            error, weight, logvar = keep(mask, error, weight, logvar)
            return Terms({"denoising": weight * error.square() + logvar, "discriminator": None}, dropped_count(mask))
        fake, real = logits.chunk(2)
        mask = finite_mask(error, logvar, fake, real)
        error, weight, logvar, fake, real = keep(mask, error, weight, logvar, fake, real)
        denoising = weight * error.square() + logvar
        discriminator = weight * discriminator_loss(fake, real, self.pool, mask)
        return Terms({"denoising": denoising, "discriminator": discriminator}, dropped_count(mask))

    def _evaluate(
        self, fake_score: Net, noisy: Tensor, sigma: Tensor, class_labels: Tensor | None, decode: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ψ's ``(denoised, logits, e^u, u)``; u covers the decoded samples and is 0 without a logvar head."""
        flags = {"return_flag": "encoder_decoder", "decode": decode, "return_logvar": self.return_logvar}
        outputs = fake_score(noisy, sigma, class_labels, **flags)
        denoised, logits = outputs[:2]
        shape = (len(denoised), 1, 1, 1)
        if not self.return_logvar:
            return denoised, logits, denoised.new_ones(shape), denoised.new_zeros(shape)
        logvar = outputs[2][: len(denoised)].expand(shape)
        return denoised, logits, logvar.exp(), logvar
