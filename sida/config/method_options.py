"""Settings that only one method or family of methods has, and official values that losses and methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from sida.config.settings import Count, Fraction, NotNegative, OneOf, Positive, Range, Settings
from sida.errors import SettingError

#: Official α of SiD, and of SiDA and SiD2A.
SID_ALPHA, SIDA_ALPHA = 1.2, 1.0
#: Official mean and standard deviation of ln σ in the fake score's loss, by network family.
EDM_P_MEAN, EDM_P_STD = -1.2, 1.2
EDM2_P_MEAN, EDM2_P_STD = -0.4, 1.0
#: Frozen feature networks of the discriminator, and the asset with the weights of each (None: in the package).
BACKBONES: dict[str, str | None] = {
    "vgg16_bn": "backbone-vgg16-bn",
    "efficientnet_lite0": "backbone-efficientnet-lite0",
    "deit_base_distilled": "backbone-deit-base-distilled",
    "digits": None,
}
#: Official pairs: up to 32×32 pixels, and above.
SMALL, LARGE = ("vgg16_bn", "efficientnet_lite0"), ("deit_base_distilled", "efficientnet_lite0")
#: f-divergences of f-distill: reverse KL (DMD2's), forward KL, Jensen–Shannon, softened reverse KL, squared Hellinger,
#: Neyman's χ², Jeffreys.
Divergence = Literal["rkl", "kl", "js", "sf", "sh", "neyman", "jf"]
Level = Annotated[int, Range(least=0, most=999)]
BackboneName = Annotated[str, OneOf(BACKBONES.keys)]
Sign = Annotated[float, Range(least=-1, most=1)]


def official_backbones(resolution: int) -> tuple[str, ...]:
    """The official pair for images of a size (Zyriix/GDD:train.sh)."""
    return SMALL if resolution <= 32 else LARGE


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstanceOptions(Settings):
    """Settings of the teacher's images that the generator imitates.

    Attributes:
        num_steps: Steps of Heun's deterministic method, from the σ_max of EDM's sampler; 2n − 1 evaluations of the
            teacher for each training image.
    """

    num_steps: Annotated[int, Range(least=2)] = 18


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMDOptions(Settings):
    """Levels and optimizer of distribution matching. Defaults are official (DMD2's code for ImageNet 64).

    Attributes:
        generator_levels: Smallest and largest index of the generator's noise levels, of 1000 Karras levels from 0.002
            to 80.
        fake_score_levels: Smallest and largest index of the fake score's noise levels.
        weight_decay: Decoupled weight decay (AdamW) of generator and fake score.
        clip_norm: Largest norm of the generator's gradient; 0 means no clipping.
        fake_score_clip_norm: Largest norm of the gradient of the fake score and its heads; 0 means no clipping.
        lr_rampup_kimg: Thousands of images over which the rates rise linearly from 0 (500 steps in the official code);
            0 means no ramp-up.
    """

    generator_levels: tuple[Level, Level] = (20, 980)
    fake_score_levels: tuple[Level, Level] = (0, 999)
    weight_decay: NotNegative = 0.01
    clip_norm: NotNegative = 10.0
    fake_score_clip_norm: NotNegative = 10.0
    lr_rampup_kimg: NotNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("generator_levels", "fake_score_levels"):
            low, high = getattr(self, name)
            if low > high:
                raise SettingError(name, f"the first index must not be above the second, got {low} and {high}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMD2Options(DMDOptions):
    """Discriminator of DMD2, beside levels and optimizer. Values left out are official (ImageNet 64).

    Attributes:
        features: ``fake-score``: heads judge by the fake score's encoder, which learns from them, too; ``teacher``: by
            the frozen teacher's, and the heads alone learn.
        heads: ``last``: one head on the encoder's last block; ``all``: one on the last block of each resolution.
        gan_weight: Weight of the generator's adversarial term.
        discriminator_weight: Weight of the discriminator's term.
        fake_score_steps: Steps of fake score and heads for each step of the generator.
        weighted: Whether the fake score's loss is weighted over noise levels (``gamma``); else all levels weigh 1.
        own_draws: Whether generated images are judged at levels and with noise of their own; else as the two scores
            denoise them.
        same_noise: Whether real images get levels and noise of the generated ones; else their own.
        noisy: Whether images are judged with noise; else without, at the least level.
        r1_weight: Weight of the approximate R1 penalty; 0 leaves it out.
        r1_alpha: Standard deviation of that penalty's noise.
        error_eps: Added to the teacher's error that the difference of the scores is divided by.
    """

    features: Literal["fake-score", "teacher"] = "fake-score"
    heads: Literal["last", "all"] = "last"
    gan_weight: NotNegative = 3e-3
    discriminator_weight: NotNegative = 1e-2
    fake_score_steps: Count = 5
    weighted: bool = True
    own_draws: bool = True
    same_noise: bool = False
    noisy: bool = True
    r1_weight: NotNegative = 0.0
    r1_alpha: Positive = 0.1
    error_eps: NotNegative = 0.0

    @property
    def unread(self) -> frozenset[str]:
        """Settings that a method with these options does not read."""
        return frozenset() if self.weighted else frozenset({"gamma"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.own_draws and self.same_noise:
            raise SettingError(
                "same_noise", "needs generated images that are judged as they are denoised", "set own_draws to false"
            )
        if not (self.noisy or self.own_draws):
            raise SettingError(
                "noisy", "generated images are judged as they are denoised, with noise", "set own_draws to true"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FDistillOptions(DMD2Options):
    """Divergence and ratios of f-distill, in addition to DMD2's options. Defaults are those of FastGen (CIFAR-10).

    Attributes:
        divergence: ``rkl`` (reverse KL, which is DMD2), ``kl``, ``js`` (Jensen-Shannon), ``sf`` (softened reverse KL),
            ``sh`` (squared Hellinger), ``neyman`` or ``jf`` (Jeffreys).
        normalised: Whether to divide ratios by their running mean at similar noise levels.
        bins: Number of intervals of noise levels, each with its own running mean.
        decay: Share that a running mean keeps in a step; 0 takes the batch's mean.
        ratio_range: Smallest and largest ratio, before the division.
    """

    features: Literal["fake-score", "teacher"] = "teacher"
    heads: Literal["last", "all"] = "all"
    generator_levels: tuple[Level, Level] = (2, 998)
    fake_score_levels: tuple[Level, Level] = (2, 998)
    gan_weight: NotNegative = 1e-3
    discriminator_weight: NotNegative = 1.0
    fake_score_steps: Count = 4
    fake_score_clip_norm: NotNegative = 0.0
    weighted: bool = False
    own_draws: bool = False
    error_eps: NotNegative = 1e-6
    divergence: Divergence = "kl"
    normalised: bool = True
    bins: Count = 10
    decay: Fraction = 0.0
    ratio_range: tuple[Positive, Positive] = (0.1, 20.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.own_draws:
            raise SettingError(
                "own_draws", "f-distill weighs the noisy images that the scores denoise", "set it to false"
            )
