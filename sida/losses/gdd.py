"""GAN losses of GDD (distillation into one step by adversarial training alone)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch.nn.functional import relu, softplus

from sida.losses.terms import Loss, MicroBatch, Terms

#: ``discriminator(images, class_labels) -> [logits per head]``, each of any shape.
Discriminator = Callable[[torch.Tensor, torch.Tensor | None], Sequence[torch.Tensor]]


@dataclasses.dataclass(eq=False)
class GDDLoss(Loss):
    """Non-saturating or hinge loss of a discriminator with several heads, with R1 on real images.

    Methods, arguments and terms are those of :class:`SiDLoss`, with the discriminator in place of the fake score: no
    noise is added, a head's loss is the mean over its logits, and the heads' losses are summed. The terms are scalars,
    and R1 is a separate step: :mod:`sida.methods.gdd` trains with this loss, not :class:`sida.methods.Distiller`.

    Attributes:
        form: ``"ns"`` (non-saturating) or ``"hinge"``.
        r1_gamma: γ of the R1 penalty.

    Source: GDD (arXiv:2405.20750); R1: arXiv:1801.04406, equation 9; fact 22 of tests/golden/README.md.
    """

    uses_real_images = True

    form: Literal["ns", "hinge"] = "ns"
    r1_gamma: float = 1e-4

    def __post_init__(self) -> None:
        if self.form not in ("ns", "hinge"):
            raise ValueError(f"form: must be 'ns' or 'hinge', got {self.form!r}")

    def generator_terms(self, true_score: Any, fake_score: Discriminator, given: MicroBatch) -> Terms:
        """Term ``adversarial`` of shape ``()``; there is no score term and ``true_score`` is not used."""
        one = softplus if self.form == "ns" else torch.Tensor.clone
        heads = fake_score(given.images, given.class_labels)
        return Terms({"sid": None, "adversarial": torch.stack([one(-logits).mean() for logits in heads]).sum()})

    def fake_score_terms(self, fake_score: Discriminator, given: MicroBatch) -> Terms:
        """Term ``discriminator`` of shape ``()``; there is no denoising term.

        Raises:
            ValueError: No real images.
        """
        images, class_labels, real_images, augment, _ = given
        if real_images is None:
            raise ValueError("GDD needs real images")
        if augment is not None:
            images, real_images = augment(images)[0], augment(real_images)[0]
        one: Callable[[torch.Tensor], torch.Tensor] = softplus if self.form == "ns" else _hinge
        fake, real = fake_score(images, class_labels), fake_score(real_images, class_labels)
        parts = [one(logits).mean() for logits in fake] + [one(-logits).mean() for logits in real]
        return Terms({"denoising": None, "discriminator": torch.stack(parts).sum()})

    def r1_penalty(
        self, discriminator: Discriminator, real_images: torch.Tensor, class_labels: torch.Tensor | None
    ) -> torch.Tensor:
        """γ/2 · ‖∇_y Σ logits‖² per real image, float32 ``(N,)``, differentiable."""
        images = real_images.detach().requires_grad_()
        total = torch.stack([logits.sum() for logits in discriminator(images, class_labels)]).sum()
        (gradient,) = torch.autograd.grad(total, images, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)) * (self.r1_gamma / 2)


def lazy_regularisation(interval: int, beta2: float = 0.99) -> tuple[float, float]:
    """Factor on Adam's learning rate, and β₂, for a penalty that is computed every ``interval`` steps only.

    Source: StyleGAN2 (arXiv:1912.04958), appendix B.
    """
    ratio = interval / (interval + 1)
    return ratio, beta2**ratio


def _hinge(x: torch.Tensor) -> torch.Tensor:
    return relu(1 + x)
