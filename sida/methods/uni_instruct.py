"""Uni-Instruct: SiDA with the SiD term weighted for an f-divergence; loss and trainer: :mod:`sida.methods.matching`."""

from __future__ import annotations

import dataclasses
from typing import Literal

from sida.config.recipe import ADVERSARIAL_SETTINGS, SCORE_SETTINGS
from sida.config.settings import Settings
from sida.errors import SettingError
from sida.methods.sida import SIDA, SIDA_DEFAULTS

#: Branches of the released code that end in an error at the first step after the adversarial term joins.
_STOPS = {
    "reverse-kl": "its weight is never set",
    "chi-square": "its backward pass is of an array",
    "jensen-shannon": "its backward pass is of an array",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniInstructOptions(Settings):
    """Divergence and density ratio of Uni-Instruct.

    Attributes:
        divergence: f-divergence between data and generator: ``forward-kl``, ``reverse-kl`` (SiDA's terms doubled),
            ``jeffreys``, ``chi-square`` or ``jensen-shannon``.
        ratio: ``released``: from the adversarial loss, as in the released code, where it is 1 in practice; ``logits``
            (ours): from the discriminator's mean logit of each image, clamped and normalised as f-distill's.
        variance_reduction: Whether a ``released`` ratio is divided by its sum over the micro-batch.
    """

    divergence: Literal["forward-kl", "reverse-kl", "jeffreys", "chi-square", "jensen-shannon"] = "forward-kl"
    ratio: Literal["released", "logits"] = "released"
    variance_reduction: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio == "released" and self.divergence in _STOPS:
            reason = _STOPS[self.divergence]
            raise SettingError(
                "divergence", f"the released code stops at '{self.divergence}' ({reason})", "set ratio to logits"
            )
        if self.ratio == "logits" and self.variance_reduction:
            raise SettingError(
                "variance_reduction", "is of the released ratio, ratios of logits are normalised", "remove it"
            )


UNI_INSTRUCT = dataclasses.replace(
    SIDA,
    name="uni-instruct",
    title="Uni-Instruct",
    about="SiDA, its SiD term weighted by a density ratio for an f-divergence",
    start="either",
    loss="sida.methods.matching:UniInstructLoss",
    fake_score=None,
    options=UniInstructOptions,
    trainer="sida.methods.matching:make_uni_instruct",
    # α is 1, and the batch has one cross-entropy.
    reads=(SCORE_SETTINGS | ADVERSARIAL_SETTINGS) - {"alpha", "adversarial_pool", "logvar"},
    defaults={"edm": SIDA_DEFAULTS["edm"]},
)
