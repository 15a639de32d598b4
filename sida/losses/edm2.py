"""Losses of SiD and SiDA for EDM2 networks, whose terms may be divided by a learned variance."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from sida.losses.noise import Draws, unit_noise
from sida.losses.sida import SiDALoss, adversarial_loss, discriminator_loss
from sida.losses.terms import Augment, Net, Terms, dropped_count, finite_mask, keep, keep_divisor, zero_dropped


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

    P_mean: float = -0.4
    P_std: float = 1.0
    return_logvar: bool = True
    adversarial: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.uses_real_images = self.adversarial

    def generator_loss(
        self,
        true_score: Net,
        fake_score: Net,
        images: Tensor,
        class_labels: Tensor | None,
        draws: Draws | None = None,
    ) -> Terms:
        """See :meth:`SiDALoss.generator_loss`; here the mask also removes dropped samples from the logits."""
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

    def fake_score_loss(
        self,
        fake_score: Net,
        images: Tensor,
        class_labels: Tensor | None,
        real_images: Tensor | None = None,
        augment: Augment | None = None,
        draws: Draws | None = None,
    ) -> Terms:
        """See :meth:`SiDALoss.fake_score_loss`.

        Raises:
            ValueError: An augmentation was given; EDM2 networks take none.
        """
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
