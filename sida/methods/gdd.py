"""GDD and GDD-I: adversarial training of a generator that starts from the teacher's weights.

Source: Zheng & Yang, *Diffusion models are innate one-step generators* (arXiv:2405.20750); Zyriix/GDD:training/loss.py,
training_loop.py. Differences from that code: docs/differences.md.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sida.config.families import BACKBONES, official_backbones
from sida.config.settings import Count, NotNegative, OneOf, Positive, Range, Settings
from sida.errors import SettingError
from sida.methods.method import Method, Passes

if TYPE_CHECKING:
    import torch

BackboneName = Annotated[str, OneOf(BACKBONES.keys)]
Sign = Annotated[float, Range(least=-1, most=1)]
#: Parameters that GDD-I freezes: convolutions and the attention's last layer in the blocks of a U-Net, with biases.
INNATE = re.compile(r"model\.(enc|dec)\.\w+_(block\d+|in\d+|up|down)\.(conv\d|proj)\.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GDDOptions(Settings):
    """Settings of GDD's discriminator and its training; defaults are the official values.

    Attributes:
        backbones: Frozen feature networks; null takes VGG16-BN and EfficientNet-lite0 up to 32×32 pixels, DeiT-base
            (distilled) and EfficientNet-lite0 above.
        weights: ``published`` (trained on ImageNet; downloaded), or ``random`` for trying out.
        form: ``ns`` (non-saturating) or ``hinge``.
        r1_gamma: γ of the R1 penalty on real images; 0 leaves it out.
        r1_interval: Iterations between two penalties; each counts this many times.
        loss_images: Factor on the adversarial terms, not on R1. The official code sums over the images of a device, 64,
            instead of averaging.
        diffaug: Differentiable augmentation of the backbones' input: colour, translation, cutout.
        ada_target: Adaptive augmentation: target for the mean sign of the logits of real images. The probability
            starts at ``augment.p`` of the recipe and follows the target; null is off.
        ada_interval: Iterations between two changes of the probability.
        ada_kimg: Thousands of images in which p can change by 1 at most.
    """

    backbones: tuple[BackboneName, ...] | None = None
    weights: Literal["published", "random"] = "published"
    form: Literal["ns", "hinge"] = "ns"
    r1_gamma: NotNegative = 1e-4
    r1_interval: Count = 16
    loss_images: Positive = 64.0
    diffaug: bool = False
    ada_target: Sign | None = None
    ada_interval: Count = 4
    ada_kimg: Positive = 500.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbones is not None and not self.backbones:
            raise SettingError("backbones", "must name at least one", "null takes the official ones")

    @staticmethod
    def recorded(given: Mapping[str, Any]) -> dict[str, Any]:
        """Options as they enter a run's digest; without the key it is that of the discriminator before 2026-11-22."""
        return {**given, "former": False}

    def assets(self, resolution: int) -> list[str]:
        """Registered downloads of a training on images of a size."""
        if self.weights == "random":
            return []
        named = (BACKBONES[name] for name in self.backbones or official_backbones(resolution))
        return [asset for asset in named if asset]


def freeze_innate(generator: torch.nn.Module) -> float:
    """Freezes the parameters that GDD-I does not train; returns their share of all parameters."""
    frozen = [value for name, value in generator.named_parameters() if INNATE.match(name)]
    for value in frozen:
        value.requires_grad_(False)
    return sum(value.numel() for value in frozen) / sum(value.numel() for value in generator.parameters())


#: The losses have no noise levels and no α.
GDD_DEFAULTS: dict[str, dict[str, Any]] = {
    "edm": {
        "betas": (0.0, 0.99), "init_sigma": 80.0, "dropout": 0.0, "ema_half_life_kimg": 500.0, "warmup_kimg": 0.0,
        "weight_norm": None, "fake_score_weight_norm": None,
    },
}  # fmt: skip
GDD = Method(
    name="gdd",
    title="GDD",
    about="a discriminator on frozen features, no score; starts from the teacher",
    start="teacher",
    real_images=True,
    options=GDDOptions,
    passes=Passes(fake_score_encoder=3),
    reads=frozenset({"augment", "fake_score_lr"}),
    trainer="sida.methods.gdd_trainer:make_gdd",
    defaults=GDD_DEFAULTS,
)
GDD_I = dataclasses.replace(
    GDD, name="gdd-i", title="GDD-I", about="the same with most of the generator's convolutions frozen"
)
