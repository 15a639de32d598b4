"""SiDA for EDM2 networks, which may divide every term by a learned variance."""

from __future__ import annotations

import torch

from sida.losses.edm import Augment
from sida.losses.noise import Draws, Gamma, unit_noise
from sida.losses.sida import Pool, SiDALoss, fakeness, told_apart
from sida.losses.terms import FakeScoreTerms, GeneratorTerms, counted, dropped, intact, keep


class EDM2SiDALoss(SiDALoss):
    """Losses of SiD and SiDA on EDM2 networks; with u(σ) = ψ's logvar:

        denoising     = w e^{−u} (f_ψ − x)² + u          discriminator = e^{−u} · SiDA's
        sid           = e^{−u} · SiD's                    adversarial   = e^{−u} · SiDA's

    Forced weight normalisation rewrites weights in a forward pass, so real and fake images go through in one pass.

    Args:
        alpha: α.
        t_max: Largest generator time in thousandths, in (0, 1000].
        P_mean: Mean of ln σ in the fake score's loss.
        P_std: Standard deviation of ln σ in the fake score's loss.
        sigma_data: Standard deviation of the data the weight is made for.
        return_logvar: Whether ψ predicts u; without it u = 0.
        gamma: The weight w(σ), see :class:`SiDLoss`.
        pool: See :class:`SiDALoss`.
        adversarial: False is SiD on EDM2 networks: no real images, no adversarial term.

    Source: SiDA (arXiv:2410.14919) as the official EDM2 code has it; fact 14 of tests/golden/README.md.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        t_max: float = 800,
        P_mean: float = -0.4,
        P_std: float = 1.0,
        sigma_data: float = 0.5,
        return_logvar: bool = True,
        gamma: Gamma = "edm",
        pool: Pool = "batch",
        adversarial: bool = True,
    ) -> None:
        super().__init__(alpha, t_max, P_mean, P_std, sigma_data, gamma, pool)
        self.return_logvar, self.uses_real_images = return_logvar, adversarial

    def generator_loss(
        self,
        true_score: torch.nn.Module,
        fake_score: torch.nn.Module,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        draws: Draws | None = None,
    ) -> GeneratorTerms:
        """Generator's terms per element; unlike the EDM variant, dropped samples leave the logits too."""
        sigma = self.generator_sigma(images, draws)
        noisy = torch.addcmul(images, sigma, unit_noise(draws, images))
        true = true_score(noisy, sigma, class_labels)
        fake, logits, variance, _ = self._judge(fake_score, noisy, sigma, class_labels)
        divisor = self._mean_error(images, true) * variance
        per_element = self._sid(images, true, fake) / divisor
        if not self.uses_real_images:
            mask = intact(per_element)
            return counted(GeneratorTerms(keep(mask, per_element)[0], None), dropped(mask))
        mask = intact(per_element, logits)
        sid, divisor, logits = keep(mask, per_element, divisor, logits)
        return counted(GeneratorTerms(sid, fakeness(logits, self.pool) / divisor), dropped(mask))

    def fake_score_loss(
        self,
        fake_score: torch.nn.Module,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        real_images: torch.Tensor | None = None,
        augment: Augment | None = None,
        draws: Draws | None = None,
    ) -> FakeScoreTerms:
        """Fake score's and discriminator's terms per element.

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
        denoised, logits, variance, logvar = self._judge(fake_score, both, levels, labels, decode=len(images))
        error, weight = denoised - images, self.weight(sigma) / variance
        if real_images is None:
            mask = intact(error, logvar)
            error, weight, logvar = keep(mask, error, weight, logvar)
            return counted(FakeScoreTerms(weight * error.square() + logvar, None), dropped(mask))
        fake, real = logits.chunk(2)
        mask = intact(error, logvar, fake, real)
        error, weight, logvar, fake, real = keep(mask, error, weight, logvar, fake, real)
        discriminator = weight * told_apart(fake, real, self.pool)
        return counted(FakeScoreTerms(weight * error.square() + logvar, discriminator), dropped(mask))

    def _judge(
        self,
        fake_score: torch.nn.Module,
        noisy: torch.Tensor,
        sigma: torch.Tensor,
        class_labels: torch.Tensor | None,
        decode: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """ψ's ``(denoised, logits, e^u, u)``; u covers the decoded samples and is 0 without a logvar head."""
        outputs = fake_score(
            noisy,
            sigma,
            class_labels,
            return_flag="encoder_decoder",
            decode=decode,
            return_logvar=self.return_logvar,
        )
        denoised, logits = outputs[:2]
        shape = (len(denoised), 1, 1, 1)
        if not self.return_logvar:
            return denoised, logits, denoised.new_ones(shape), denoised.new_zeros(shape)
        logvar = outputs[2][: len(denoised)].expand(shape)
        return denoised, logits, logvar.exp(), logvar
