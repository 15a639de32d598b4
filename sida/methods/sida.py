"""SiD, SiDA and SiD2A, and discriminators that SiDA can have in place of the fake score's encoder.

The other discriminators are controls of joint training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from sida.config.recipe import EDM2_P_MEAN, EDM2_P_STD, EDM_P_MEAN, EDM_P_STD, SID_ALPHA, SIDA_ALPHA
from sida.config.settings import Settings
from sida.errors import UserError
from sida.methods.method import Method, Passes

if TYPE_CHECKING:
    import torch

    from sida.losses import ScoreLoss
    from sida.methods.distiller import Parts

# Source of the default settings: mingyuanzhou/SiD, branches main and sida: training scripts and their options.

_EDM: dict[str, Any] = {
    "init_sigma": 2.5, "P_mean": EDM_P_MEAN, "P_std": EDM_P_STD, "lambda_d": 1.0, "ema_half_life_kimg": 500.0,
    "weight_norm": None, "fake_score_weight_norm": None, "logvar": False,
}  # fmt: skip
_EDM2: dict[str, Any] = {
    "init_sigma": 2.5, "P_mean": EDM2_P_MEAN, "P_std": EDM2_P_STD, "lambda_d": 100.0, "ema_half_life_kimg": 2000.0,
    "alpha": SIDA_ALPHA, "grad_clip_value": 0.0,
}  # fmt: skip
_SID_EDM2 = {
    **_EDM2, "warmup_kimg": 0.0, "weight_norm": "in_forward", "fake_score_weight_norm": "in_forward", "logvar": True,
}  # fmt: skip
_SIDA_EDM2 = {
    **_EDM2, "warmup_kimg": 100.0, "weight_norm": "pre_hook", "fake_score_weight_norm": "off", "logvar": True,
}  # fmt: skip

#: Defaults of SiD by the name of a family (:mod:`sida.config.families`).
SID_DEFAULTS = {
    "edm": {**_EDM, "alpha": SID_ALPHA, "grad_clip_value": 0.0, "warmup_kimg": 0.0},
    "edm2": _SID_EDM2,
    "edm2-s": _SID_EDM2,
}
#: Defaults of SiDA and SiD2A.
SIDA_DEFAULTS = {
    "edm": {**_EDM, "alpha": SIDA_ALPHA, "grad_clip_value": 1.0, "warmup_kimg": 100.0},
    "edm2": _SIDA_EDM2,
    "edm2-s": {**_SIDA_EDM2, "weight_norm": "off", "logvar": False},
}
JOINT = Passes(fake_score_encoder=3)
#: Two images through an encoder, forward or in a whole step, and the generator's image through it and back.
_PASSES = {
    "joint": JOINT,
    "teacher": Passes(fake_score_encoder=2, generator_encoder=2),
    "separate": Passes(fake_score_encoder=6, generator_encoder=2),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiDAOptions(Settings):
    """Discriminator of SiDA and SiD2A.

    Attributes:
        discriminator: ``joint`` (the paper's): the fake score's encoder, which learns both tasks; ``separate``: the
            encoder of a further copy of the teacher, which learns to discriminate alone; ``teacher``: a head on the
            teacher's frozen encoder.
    """

    discriminator: Literal["joint", "separate", "teacher"] = "joint"

    @staticmethod
    def recorded(given: Mapping[str, Any]) -> dict[str, Any]:
        """Options as they enter a run's digest: none for the paper's discriminator."""
        return {name: value for name, value in given.items() if value != "joint"}

    @property
    def passes(self) -> Passes:
        """Work of the steps with this discriminator."""
        return _PASSES[self.discriminator]


def make_sid_loss(parts: Parts) -> ScoreLoss:
    """Returns the loss of SiD, or of SiDA for a method with real images, for the family of the networks."""
    from sida.losses import EDM2SiDALoss, SiDALoss, SiDLoss

    if parts.family.variance_head:
        return parts.make(EDM2SiDALoss, adversarial=parts.method.real_images)
    return parts.make(SiDALoss if parts.method.real_images else SiDLoss)


def make_fake_score(parts: Parts) -> torch.nn.Module:
    """Returns the fake score of a configuration, with the discriminator that its options name.

    Raises:
        UserError: The teacher's network predicts a variance, and the discriminator is not the paper's.
    """
    import torch

    from sida.discriminator.backbones import FakeScoreAndDiscriminator, FrozenEncoderWithHead
    from sida.machine import derive_seed

    chosen, norm = parts.options.discriminator, parts.config.fake_score_weight_norm
    score = parts.copy(parts.teacher, norm)
    if chosen == "joint":
        return score
    if parts.family.variance_head:
        raise UserError(
            f"{parts.where}.options.discriminator",
            f"'{chosen}' is for networks without variance head, and this teacher is of EDM2",
            "set it to joint",
        )
    if chosen == "separate":
        return FakeScoreAndDiscriminator(score, parts.copy(parts.teacher, norm))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(parts.config.seed, "discriminator"))
        return FakeScoreAndDiscriminator(score, FrozenEncoderWithHead(parts.teacher))


SID = Method(
    name="sid",
    title="SiD",
    about="score identity distillation; no real images",
    start="either",
    real_images=False,
    loss=make_sid_loss,
    defaults=SID_DEFAULTS,
)
SIDA = Method(
    name="sida",
    title="SiDA",
    about="with the adversarial term; starts from the teacher",
    real_images=True,
    start="teacher",
    loss=make_sid_loss,
    fake_score=make_fake_score,
    options=SiDAOptions,
    passes=JOINT,
    defaults=SIDA_DEFAULTS,
)
SID2A = dataclasses.replace(
    SIDA, name="sid2a", title="SiD2A", about="the same from a distilled generator (--init)", start="generator"
)
