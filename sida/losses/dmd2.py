"""Loss of DMD2: distribution matching with a discriminator of noisy images on the fake score's features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch.nn.functional import softplus

from sida.losses.matching import DMDLoss, halved_square
from sida.losses.noise import SIGMA_MIN, Draws, indexed_sigma, uniform, unit_noise
from sida.losses.terms import Augment, Net, Terms, dropped_count, finite_mask, keep


@dataclasses.dataclass(eq=False)
class DMD2Loss(DMDLoss):
    """Losses of DMD2, whose fake score also gives logits ℓ of noisy images (``return_flag="logits"``, one per head).

        gan           = mean softplus(−ℓ(x_σ))                                         (generator)
        discriminator = mean [softplus(ℓ(x_σ)) + softplus(−ℓ(y_σ))]                    (with the fake score)
        r1            = mean (ℓ(y_σ) − ℓ(y + α n))²                                    (with the fake score, optional)

    The other terms, ``kl`` and ``denoising``, are those of :class:`~sida.losses.matching.DMDLoss`; means are over an
    image's heads.

    Attributes:
        weighted: Whether ``denoising`` is weighted over noise levels (w(σ) of :class:`~sida.losses.SiDLoss`).
        gan_weight: Weight of the generator's term.
        discriminator_weight: Weight of the discriminator's term.
        own_draws: Whether the discriminator sees generated images with separate levels and noise; else with those of
            the denoising term.
        same_noise: Whether real images get the levels and noise of the generated images; else separate ones.
        noisy: False gives the discriminator images without noise, at the least level.
        r1_weight: Weight of the approximate R1 penalty; 0 leaves the term out.
        r1_alpha: α, the standard deviation of the penalty's noise.

    Source: DMD2 (arXiv:2405.14867), equation 5; tianweiy/DMD2:main/edm/edm_guidance.py. Shared draws and the penalty:
    NVlabs/FastGen:fastgen/methods/distribution_matching/dmd2.py.
    """

    uses_real_images = True

    weighted: bool = True
    gan_weight: float = 3e-3
    discriminator_weight: float = 1e-2
    own_draws: bool = True
    same_noise: bool = False
    noisy: bool = True
    r1_weight: float = 0.0
    r1_alpha: float = 0.1

    def generator_draws(self) -> tuple[str, ...]:
        """See :meth:`SiDLoss.generator_draws`."""
        return ("t", "fake_t", "fake_noise") if self.own_draws and self.noisy else ("t",)

    def fake_score_draws(self) -> tuple[str, ...]:
        """See :meth:`SiDLoss.fake_score_draws`."""
        real = ("real_t", "real_noise") if self.noisy and not self.same_noise else ()
        return (*self.generator_draws(), *real, *(("r1_noise",) if self.r1_weight else ()))

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """See :meth:`SiDLoss.weights`."""
        more = {"gan": self.gan_weight, "discriminator": self.discriminator_weight}
        return super().weights(settings, pixels) | more | ({"r1": self.r1_weight} if self.r1_weight else {})

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """w(σ), the shape of ``sigma``."""
        return super().weight(sigma) if self.weighted else torch.ones_like(sigma)

    def generator_loss(
        self,
        true_score: Net,
        fake_score: Net,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        draws: Draws | None = None,
    ) -> Terms:
        """Terms ``kl``, float32 ``(N', C, H, W)``, and ``gan``, float32 ``(N',)``."""
        sigma = self.generator_sigma(images, draws)
        noisy = torch.addcmul(images, sigma, unit_noise(draws, images))
        direction = self.direction(true_score, fake_score, images, class_labels, noisy.detach(), sigma)
        logits = fake_score(*self._judged(images, draws, noisy, sigma), class_labels, return_flag="logits")
        direction = direction * self.image_weights(logits.detach(), sigma)
        mask = finite_mask(direction, logits)
        images, direction, logits = keep(mask, images, direction, softplus(-logits))
        return Terms({"kl": halved_square(images, direction), "gan": logits.mean(1)}, dropped_count(mask))

    def image_weights(self, logits: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor | float:
        """Weight of each image's ``kl``, ``(N, 1, 1, 1)``: 1."""
        return 1.0

    def fake_score_loss(
        self,
        fake_score: Net,
        images: torch.Tensor,
        class_labels: torch.Tensor | None,
        real_images: torch.Tensor | None = None,
        augment: Augment | None = None,
        draws: Draws | None = None,
    ) -> Terms:
        """Terms ``denoising`` ``(N', C, H, W)``, ``discriminator`` ``(N',)`` and, if weighted, ``r1`` ``(N',)``.

        Real and generated images pass the encoder together, which is exact because samples never interact.
        """
        assert real_images is not None
        sigma = self.fake_score_sigma(images, draws)
        noise = unit_noise(draws, images)
        noisy = torch.addcmul(images, sigma, noise)
        error = fake_score(noisy, sigma, class_labels) - images
        fake_side = self._judged(images, draws, noisy, sigma)
        real_side = (
            (torch.addcmul(real_images, sigma, noise), sigma)
            if self.same_noise
            else self._noised(real_images, draws, "real")
        )
        logits = fake_score(
            torch.cat([fake_side[0], real_side[0]]),
            torch.cat([fake_side[1], real_side[1]]),
            None if class_labels is None else torch.cat([class_labels, class_labels]),
            return_flag="logits",
        )
        of_fake, of_real = logits.chunk(2)
        mask = finite_mask(error, of_fake, of_real)
        judged = (softplus(of_fake) + softplus(-of_real)).mean(1)
        error, weight, judged = keep(mask, error, self.weight(sigma), judged)
        terms = {"denoising": weight * error.square(), "discriminator": judged}
        if self.r1_weight:
            beside = real_images + self.r1_alpha * unit_noise(draws, real_images, "r1_noise")
            change = of_real - fake_score(beside, real_side[1], class_labels, return_flag="logits")
            terms["r1"] = keep(mask, change.square().mean(1))[0]
        return Terms(terms, dropped_count(mask))

    def _judged(
        self, images: torch.Tensor, draws: Draws | None, noisy: torch.Tensor, sigma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Generated images as the discriminator sees them, and their levels."""
        return self._noised(images, draws, "fake") if self.own_draws else (noisy, sigma)

    def _noised(self, images: torch.Tensor, draws: Draws | None, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Images with the noise of the draws of this name, and their levels ``(N, 1, 1, 1)``."""
        if not self.noisy:
            return images, images.new_full((len(images), 1, 1, 1), SIGMA_MIN)
        sigma = indexed_sigma(uniform(draws, images, f"{name}_t"), *self.fake_score_levels)
        return torch.addcmul(images, sigma, unit_noise(draws, images, f"{name}_noise")), sigma
