"""Families of networks, with their defaults for training, sampling and measuring.

Each network class names its family; :func:`sida.networks.family_of` returns it. This module does not import torch, for
methods, presets and downloads.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from sida.errors import SettingError

T = TypeVar("T")
#: Times at which normalised weights replace the stored ones of an EDM2 network, see :class:`sida.networks.EDM2Precond`.
WeightNorm = Literal["off", "in_forward", "pre_hook", "always"]


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Autoencoder whose decoder turns latents into pixels.

    Attributes:
        name: Name on the Hugging Face hub.
        assets: Ids of the files in ``config/assets.tsv``, all in one folder of the cache.
        channels: Channels of a latent.
    """

    name: str
    assets: tuple[str, ...]
    channels: int


SD_VAE = Decoder("stabilityai/sd-vae-ft-mse", ("sd-vae-ft-mse", "sd-vae-ft-mse-config"), 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Facts about a family of networks for training, sampling and measuring.

    Attributes:
        name: Key of the family in the default settings of methods (:attr:`sida.methods.Method.official`).
        title: Name for people.
        like: Family whose default settings apply if a method has none for ``name``, or None.
        sampler_dtype: Precision of the state of Heun's sampler in the original tool.
        noise_every_step: Whether the original tool draws noise at each step, or only at steps that add noise.
        augmentation: Whether the networks take augmented images and their labels.
        weight_norm: Whether the networks rewrite their weights (option ``weight_norm``), which recipes then set for
            copies.
        variance_head: Option of the head that predicts the loss's log-variance (null: no head), by which losses are
            divided; None for families without.
        infinite_gradient: Replacement of infinity in a teacher's gradients.
        fp16: Whether a network without this option computes in float16 on CUDA.
        decoder: Decoder of the networks that draw latents, which have as many channels as the decoder.
    """

    name: str
    title: str
    like: str | None = None
    sampler_dtype: Literal["float32", "float64"] = "float64"
    noise_every_step: bool = True
    augmentation: bool = True
    weight_norm: bool = False
    variance_head: str | None = None
    infinite_gradient: float = 1e5
    fp16: bool = False
    decoder: Decoder | None = SD_VAE

    def choose(self, values: Mapping[str, T]) -> T | None:
        """Value of the family in a mapping by names, or else of the family that it is like; None without both."""
        return next((values[name] for name in (self.name, str(self.like)) if name in values), None)

    def has_variance_head(self, network: Mapping[str, Any]) -> bool:
        """Whether the network ``{class, kwargs}`` predicts the log-variance of its loss."""
        return self.variance_head is not None and network["kwargs"].get(self.variance_head, True) is not None

    def decoder_of(self, channels: int) -> Decoder | None:
        """Decoder of a network's outputs, by their channels; None where they are pixels."""
        return self.decoder if self.decoder is not None and channels == self.decoder.channels else None


#: Networks of a class from outside that names no family of its own.
CUSTOM = Family(name="custom", title="Custom", like="edm", augmentation=False)
#: Networks with the preconditioning of EDM, VP, VE or GDD.
EDM = Family(name="edm", title="EDM")
#: Transformers that predict a velocity on straight paths: SiT's and REPA's.
FLOW = Family(name="flow", title="Flow", like="edm", augmentation=False)
#: MeanFlow's networks, which predict a mean velocity: U-Nets and transformers.
MEAN_FLOW = Family(name="mean-flow", title="MeanFlow", like="edm")
MEAN_FLOW_DIT = Family(name="mean-flow-dit", title="MeanFlow transformer", like="edm", augmentation=False)
#: DiT's transformers, which predict noise on 1,000 steps.
DIT = Family(name="dit", title="DiT", like="edm", augmentation=False)
#: EDM2's networks.
EDM2 = Family(
    name="edm2",
    title="EDM2",
    sampler_dtype="float32",
    noise_every_step=False,
    augmentation=False,
    weight_norm=True,
    variance_head="logvar_channels",
    # NVlabs/edm2:training/training_loop.py.
    infinite_gradient=0.0,
    fp16=True,
)
#: EDM2's networks of size S, for which SiDA has other settings.
EDM2_S = dataclasses.replace(EDM2, name="edm2-s", title="EDM2-S", like="edm2")


#: U-Nets of diffusers, whose images are pixels whatever their channels.
DIFFUSERS = Family(name="diffusers", title="diffusers", like="edm", augmentation=False, decoder=None)


#: Options of a network for the size, channels and classes of its images.
IMAGE_OPTIONS = ("img_resolution", "img_channels", "label_dim")


def check_images(network: Mapping[str, Any], other: Mapping[str, Any], whose: str) -> None:
    """Checks that a network is for the images and classes of a data set, or of another network.

    Args:
        network: Its :data:`IMAGE_OPTIONS`; unknown values are left out or None, here as in ``other``.
        other: Values of the other side for these options.
        whose: The other side in errors, e.g. ``data set 'digits'``.

    Raises:
        SettingError: An option differs.
    """
    for option in IMAGE_OPTIONS:
        mine, its = network.get(option), other.get(option)
        if None not in (mine, its) and mine != its:
            raise SettingError(option, f"{mine}, but {whose} has {its}", "make them equal")


def check_guide_images(guided: Mapping[str, Any], guide: Mapping[str, Any]) -> None:
    """Checks that one network can guide another: equal pixels and channels, and equal classes or none.

    Arguments and errors are those of :func:`check_images`.
    """
    check_images(guided, {**guide, "label_dim": guide.get("label_dim") or None}, "the guide")


#: Word for a guide: the guided network itself without a class (classifier-free guidance).
NULL_LABEL = "null"


def check_guidance(guidance: float, guide: object) -> None:
    """Checks that a guiding network is named where there is guidance, and only there.

    Args:
        guidance: Strength; 1 is none.
        guide: Name or path of the guiding network, or None.

    Raises:
        SettingError: One comes without the other.
    """
    if guidance != 1 and guide is None:
        raise SettingError(
            "guidance",
            f"{guidance:g} needs a guiding network",
            f"name one as guide, or '{NULL_LABEL}' for its null label, or set 1",
        )
    if guidance == 1 and guide is not None:
        raise SettingError("guide", "guides nothing with a guidance of 1", "set guidance, or remove the guide")


#: Frozen feature networks of GDD's discriminator, and the asset with the weights of each (None: in the package).
BACKBONES: dict[str, str | None] = {
    "vgg16_bn": "backbone-vgg16-bn",
    "efficientnet_lite0": "backbone-efficientnet-lite0",
    "deit_base_distilled": "backbone-deit-base-distilled",
    "digits": None,
    "clothes": None,
}
#: Official pairs: up to 32×32 pixels, and above.
SMALL, LARGE = ("vgg16_bn", "efficientnet_lite0"), ("deit_base_distilled", "efficientnet_lite0")


def official_backbones(resolution: int) -> tuple[str, ...]:
    """The official pair for images of a size (Zyriix/GDD:train.sh)."""
    return SMALL if resolution <= 32 else LARGE
