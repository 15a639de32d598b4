"""Uni-Instruct: SiDA whose SiD term has a weight for an f-divergence."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sida import training
from sida.config.recipe import Pool
from sida.config.settings import Settings
from sida.errors import SettingError
from sida.late import Tensor, torch
from sida.methods.method import Exposure, Parts, RawTerms
from sida.methods.sid import SIDA, SIDA_EDM, SiDALoss, sample_means
from sida.plugins.rivals.density_ratio import RATIO_RANGE, density_ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniInstructOptions(Settings):
    """Divergence and density ratio of Uni-Instruct.

    Attributes:
        divergence: f-divergence between data and generator; ``reverse-kl`` doubles SiDA's terms.
        ratio: ``released``: from the adversarial loss, as in the released code, where it is 1 in practice; ``logits``
            (ours): from the discriminator's mean logit of each image, clamped and normalised as f-distill's.
        variance_reduction: Whether a ``released`` ratio is divided by its sum over the micro-batch.
    """

    divergence: Literal["forward-kl", "reverse-kl", "jeffreys", "chi-square", "jensen-shannon"] = "forward-kl"
    ratio: Literal["released", "logits"] = "released"
    variance_reduction: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio == "released" and self.divergence not in ("forward-kl", "jeffreys"):
            fault = f"the released code fails at '{self.divergence}'"
            raise SettingError("divergence", fault, "set ratio to logits")
        if self.ratio == "logits" and self.variance_reduction:
            raise SettingError("variance_reduction", "applies to the released ratio alone", "remove it")


def expansion_weight(ratio: Tensor, divergence: str) -> Tensor:
    """Weight ``w = r² f''(r)`` of the SiD term; for ``jeffreys`` the mixture 0.6 + 0.4 r of the released code.

    Args:
        ratio: r = p_data / p_generator, any shape.
        divergence: Name of the f-divergence.

    Source: Uni-Instruct (arXiv:2505.20755), theorem 3.1; a-little-hoof/Uni_Instruct:fsim_training
        (commit 3cdf92e8).
    """
    return {
        "forward-kl": lambda: ratio,
        "reverse-kl": lambda: torch.ones_like(ratio),
        "jeffreys": lambda: 0.6 + 0.4 * ratio,
        "chi-square": lambda: 2 * ratio.square(),
        "jensen-shannon": lambda: ratio / (1 + ratio),
    }[divergence]()


@dataclasses.dataclass(eq=False)
class UniInstructLoss(SiDALoss):
    """SiDA's losses with a further term ``adversarial_sid = w(r) sid``, instead of ``sid`` in the adversarial phase.

    With the adversarial term L of an image, times C·H·W, and its logits l, averaged over positions:

        released   r = L / (L − 1), without gradient          (−log D instead of D: r ≈ 1 unless D is above 0.999)
        logits     r = clamp(exp l) / mean, then w / mean     (ours: means over the images, as in f-distill)

    Attributes:
        divergence: Name of the f-divergence, see :func:`expansion_weight`.
        ratio: Estimate of the density ratio.
        variance_reduction: Whether a ``released`` ratio is divided by the sum over the micro-batch.

    α and the pool of the logits are not settings of the method.

    Source: a-little-hoof/Uni_Instruct:fsim_training/fsim_training_loop.py (``released``); docs/differences.tsv.
    """

    alpha: float = dataclasses.field(default=1.0, init=False)
    pool: Pool = dataclasses.field(default="batch", init=False)
    divergence: str = UniInstructOptions.divergence
    ratio: str = UniInstructOptions.ratio
    variance_reduction: bool = UniInstructOptions.variance_reduction

    def weights(self, pixels: int) -> dict[str, float]:
        """See :meth:`~sida.methods.method.ScoreLoss.weights`; ``adversarial_sid`` has the factor of ``sid``."""
        return super().weights(pixels) | {"adversarial_sid": self.lambda_sid}

    def further_terms(self, sid: Tensor, adversarial: Tensor, logits: Tensor, batch: training.MicroBatch) -> RawTerms:
        """See :meth:`SiDALoss.further_terms`."""
        if self.ratio == "released":
            ratio = self.released_ratio(batch.zero_invalid(adversarial) * batch.images[0].numel())
            return {"adversarial_sid": expansion_weight(ratio, self.divergence) * sid}
        (ratio,) = batch.select_valid(sample_means(logits.detach()))
        ratio = density_ratio(ratio, RATIO_RANGE)
        weight = expansion_weight(ratio / batch.mean(ratio), self.divergence)
        return {"adversarial_sid": weight / batch.mean(weight) * sid}

    def released_ratio(self, adversarial: Tensor) -> Tensor:
        """The released code's ratio, from the adversarial term times C·H·W; any shape."""
        loss = adversarial.detach()
        ratio = loss / (loss - 1)
        return ratio / (ratio.sum() + 1e-8) if self.variance_reduction else ratio


def make_uni_instruct(parts: Parts) -> training.Distiller:
    """Returns SiDA's trainer, with ``adversarial_sid`` instead of ``sid`` in the adversarial phase."""
    return parts.distiller(loss=parts.loss(**vars(parts.options)), schedule=parts.schedule(sid_share=0.0))


UNI_INSTRUCT = dataclasses.replace(
    SIDA,
    name="uni-instruct",
    title="Uni-Instruct",
    about="SiDA, its SiD term weighted by a density ratio for an f-divergence",
    start="either",
    saw=Exposure(choice=("inception",)),
    loss=UniInstructLoss,
    official={"edm": SIDA_EDM},
    options=UniInstructOptions,
    trainer=make_uni_instruct,
)
