"""Denoising loss of diffusion teachers: EDM, and EDM2 with learned uncertainty."""

from __future__ import annotations

import dataclasses

import torch

from sida.config.recipe import TeacherTraining
from sida.losses.terms import (
    Augment,
    Draws,
    FakeScoreLoss,
    MicroBatch,
    Net,
    Terms,
    edm_weight,
    lognormal_sigma,
    sigma_normal,
    unit_noise,
)


@dataclasses.dataclass(eq=False)
class EDMLoss(FakeScoreLoss):
    """``w(σ) (D(y + n; σ) − y)²`` with ``ln σ ~ N(P_mean, P_std²)``.

        loss = EDMLoss()(net, images, labels).sum() / len(images)

    Attributes:
        P_mean: Mean of ln σ (EDM −1.2, EDM2 −0.4).
        P_std: Standard deviation of ln σ (EDM 1.2, EDM2 1.0).
        sigma_data: Standard deviation of the data, for the weight.
        return_logvar: Whether the network also predicts the log variance u(σ) of its error; the loss is then
            ``w e^{−u} (D − y)² + u`` (EDM2, arXiv:2312.02696, equation 21).

    Source: EDM (arXiv:2206.00364), equation 8 and Table 1; NVlabs/edm:training/loss.py.
    """

    P_mean: float = TeacherTraining.P_mean
    P_std: float = TeacherTraining.P_std
    sigma_data: float = TeacherTraining.sigma_data
    return_logvar: bool = False

    def __call__(
        self,
        net: Net,
        images: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        augment: Augment | None = None,
        draws: Draws | None = None,
    ) -> torch.Tensor:
        """Loss per element, float32 ``(N, C, H, W)``.

        Args:
            net: Preconditioned network.
            images: Clean images ``(N, C, H, W)`` in [-1, 1], or latents.
            class_labels: ``(N, label_dim)`` or None.
            augment: See :meth:`fake_score_loss`.
            draws: See :meth:`fake_score_loss`.
        """
        sigma = lognormal_sigma(sigma_normal(draws, images), self.P_mean, self.P_std)
        weight = edm_weight(sigma, self.sigma_data)
        clean, augment_labels = (images, None) if augment is None else augment(images)
        noisy = torch.addcmul(clean, sigma, unit_noise(draws, images))
        if not self.return_logvar:
            denoised = net(noisy, sigma, class_labels, augment_labels=augment_labels)
            return weight * (denoised - clean).square()
        denoised, logvar = net(noisy, sigma, class_labels, return_logvar=True)
        return (weight / logvar.exp()) * (denoised - clean).square() + logvar

    def fake_score_terms(self, fake_score: Net, given: MicroBatch) -> Terms:
        """Returns the same loss as term ``denoising``, without discriminator; samples with NaN are kept."""
        images, class_labels, _, augment, draws = given
        return Terms({"denoising": self(fake_score, images, class_labels, augment, draws), "discriminator": None})
