"""Discriminators that SiDA can have in place of the fake score's encoder: controls of joint training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from sida.config.settings import Settings
from sida.errors import UserError
from sida.methods.method import Passes

if TYPE_CHECKING:
    import torch

    from sida.methods.build import Parts

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


def make_fake_score(parts: Parts) -> torch.nn.Module:
    """Returns the fake score of a configuration, with the discriminator that its options name.

    Raises:
        UserError: The teacher's network predicts a variance, and the discriminator is not the paper's.
    """
    import torch

    from sida.discriminator.backbones import FakeScoreAndDiscriminator, FrozenEncoderWithHead
    from sida.runtime.randomness import derive_seed

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
