"""Families of networks, with their defaults for training, sampling and measuring.

Each network class names its family, and a family its registered classes; :func:`sida.networks.family_of` returns it.
This module does not import torch, for methods, presets and downloads.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from sida.config.registries import Registry
from sida.errors import SettingError

T = TypeVar("T")
#: Times at which normalised weights replace the stored ones of an EDM2 network, see :class:`sida.networks.EDM2Precond`.
WeightNorm = Literal["off", "in_forward", "pre_hook", "always"]


#: Autoencoders of Stable Diffusion: ids of their files in ``config/assets.tsv``, each in one folder of the cache. Their
#: encoders are equal, since only the decoders were fine-tuned.
VAE_MSE, VAE_EMA = "sd-vae-ft-mse", "sd-vae-ft-ema"
DECODERS = {name: (name, f"{name}-config") for name in (VAE_MSE, VAE_EMA)}


@dataclasses.dataclass(frozen=True)
class Latents:
    """A kind of latents: the range of the autoencoder's pixels, and the scales between its latents and a network's.

    Attributes:
        name: Name of the kind, in archives and as value of the key ``latents`` of a data set.
        title: Networks that draw them, for people.
        decoders: Names of :data:`DECODERS`, first the default.
        signed: Whether the autoencoder's pixels are in [-1, 1]; else in [0, 1].
        raw_mean: Mean of each channel of the autoencoder's latents; a network's latents have mean 0.
        raw_std: Standard deviation of each channel; a network's latents have 0.5.
    """

    name: str
    title: str
    decoders: tuple[str, ...]
    signed: bool
    raw_mean: tuple[float, ...]
    raw_std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return len(self.raw_mean)

    def assets(self, decoder: str | None = None) -> tuple[str, ...]:
        """Ids of the assets of a decoder, by default of the first one."""
        return DECODERS[decoder or self.decoders[0]]


#: EDM2's latents, with its statistics over ImageNet 512 (NVlabs/edm2:training/encoders.py).
EDM2_LATENTS = Latents(
    "edm2", "EDM2", (VAE_MSE,), signed=False, raw_mean=(5.81, 3.25, 0.12, -2.15), raw_std=(4.17, 4.62, 3.71, 3.28)
)
#: Latents of DiT, SiT and REPA: the autoencoder's times 0.18215 (facebookresearch/DiT:sample_ddp.py).
SD_LATENTS = Latents(
    "sd", "SiT, REPA and DiT", (VAE_EMA, VAE_MSE), signed=True, raw_mean=(0.0,) * 4, raw_std=(0.5 / 0.18215,) * 4
)
#: How an archive of latents describes their scatter: standard deviations, or logarithms of variances as U-ViT's,
#: MaskDiT's and LDM's tools write them.
Spread = Literal["std", "logvar"]
#: Kinds of latents by name.
LATENTS = {latents.name: latents for latents in (EDM2_LATENTS, SD_LATENTS)}


def check_decoder(decoder: str | None, latents: Latents | None, vae: str | None = None) -> None:
    """Checks that a decoder, if one is named, decodes a network's latents.

    Args:
        decoder: Name of :data:`DECODERS`, or None.
        latents: The network's latents; None for pixels.
        vae: Folder of a custom decoder, which excludes a name.

    Raises:
        SettingError: The decoder is for other latents or for none, or there is also a folder.
    """
    if decoder is None:
        return
    if latents is None:
        raise SettingError("decoder", "decodes latents, and the network draws pixels", "remove it")
    if decoder not in latents.decoders:
        fault = f"'{decoder}' is not a decoder for latents of {latents.title} ('{latents.name}')"
        raise SettingError("decoder", fault, f"use {' or '.join(latents.decoders)}")
    if vae is not None:
        raise SettingError("decoder", "vae also names a decoder", "remove one of them")


def check_latents(ours: Latents | None, theirs: str, whose: str) -> None:
    """Checks that a network and a data set have latents of one kind.

    Args:
        ours: The network's latents; None for pixels.
        theirs: Name of the data set's kind.
        whose: Name of the data set in errors.

    Raises:
        SettingError: The kinds differ.
    """
    if ours is None or ours.name == theirs:
        return
    fault = f"the network draws latents of {ours.title} ('{ours.name}'), but {whose} has '{theirs}'"
    raise SettingError("latents", fault, f"encode its pixels again: sida data encode --latents {ours.name}")


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
        latents: Latents of the networks that draw latents, which have as many channels.
        classes: Names of its registered network classes, so that a preset is checked without their code.
        options: Options of these classes that decide about a preset, with their defaults: ``dropout``, and by which a
            network has a null label.
        sizes: Options that only these networks have with these values; a missing option has its default, which is one.
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
    latents: Latents | None = EDM2_LATENTS
    classes: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def choose(self, values: Mapping[str, T]) -> T | None:
        """Value for the family in a mapping by names, else for the family that it is like; None without both."""
        return next((values[name] for name in (self.name, str(self.like)) if name in values), None)

    def has_variance_head(self, network: Mapping[str, Any]) -> bool:
        """Whether the network ``{class, kwargs}`` predicts the log-variance of its loss."""
        return self.variance_head is not None and network["kwargs"].get(self.variance_head, True) is not None

    def fits(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether constructor arguments of its classes are those of its networks, by :attr:`sizes`."""
        return all(kwargs.get(name, value) == value for name, value in self.sizes.items())

    def latents_of(self, channels: int) -> Latents | None:
        """Latents that a network draws, by its channels; None for pixels."""
        return self.latents if self.latents is not None and channels == self.latents.channels else None


#: Networks of a custom class that does not name a family.
CUSTOM = Family(name="custom", title="Custom", like="edm", augmentation=False)
#: Networks with the preconditioning of EDM, GDD or ECT.
EDM = Family(
    name="edm",
    title="EDM",
    classes=("EDMPrecond", "GDDPrecond", "ECTPrecond"),
    options={"dropout": 0.1, "label_dropout": 0.0},
)
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
    classes=("EDM2Precond",),
    options={"dropout": 0.0},
)
#: EDM2's networks of size S, for which SiDA has other settings.
EDM2_S = dataclasses.replace(EDM2, name="edm2-s", title="EDM2-S", like="edm2", sizes={"model_channels": 192})


#: All families by name, with those of plugins.
FAMILIES: Registry[Family] = Registry("families", "family")


#: Options of a network for the size, channels and classes of its images.
IMAGE_OPTIONS = ("img_resolution", "img_channels", "label_dim")


def check_images(network: Mapping[str, Any], other: Mapping[str, Any], whose: str) -> None:
    """Checks that a network is for the images and classes of a data set, or of another network.

    Args:
        network: Its :data:`IMAGE_OPTIONS`; unknown values are missing or None, here as in ``other``.
        other: Values of the other side for these options.
        whose: Name of the other side in errors, e.g. ``data set 'digits'``.

    Raises:
        SettingError: An option differs.
    """
    for option in IMAGE_OPTIONS:
        value, expected = network.get(option), other.get(option)
        if None not in (value, expected) and value != expected:
            remedy = "make them equal"
            remedy += " (sida data prepare makes classes of folders)" if option == "label_dim" and not expected else ""
            raise SettingError(option, f"{value}, but {whose} has {expected}", remedy)


def check_guide_images(
    guided: Mapping[str, Any], guide: Mapping[str, Any], latents: Latents | None, guide_latents: Latents | None
) -> None:
    """Checks that one network can guide another: equal images and channels, and equal classes or none.

    Args:
        guided: As ``network`` of :func:`check_images`.
        guide: The same of the guide.
        latents: Latents of the guided network; None for pixels.
        guide_latents: Those of the guide.

    Raises:
        SettingError: An option or the latents differ.
    """
    # EDM2 guides conditional networks by an unconditional one.
    check_images(guided, {**guide, "label_dim": guide.get("label_dim") or None}, "the guide")
    if latents != guide_latents:
        ours, theirs = (f"latents of {kind.title}" if kind else "pixels" for kind in (latents, guide_latents))
        raise SettingError("latents", f"{ours}, but the guide has {theirs}", "name a guide with the same images")


#: Word for a guide: the guided network itself without a class (classifier-free guidance).
NULL_LABEL = "null"


def check_guidance(guidance: float, guide: object) -> None:
    """Checks that a guiding network is named where there is guidance, and only there.

    Args:
        guidance: Strength; 1 is no guidance.
        guide: Name or path of the guiding network, or None.

    Raises:
        SettingError: There is guidance without a guide, or a guide without guidance.
    """
    if guidance != 1 and guide is None:
        raise SettingError(
            "guidance",
            f"{guidance:g} needs a guiding network",
            f"name one as guide, or '{NULL_LABEL}' for its null label, or set 1",
        )
    if guidance == 1 and guide is not None:
        raise SettingError("guide", "has no effect with a guidance of 1", "set guidance, or remove the guide")
