"""Families of networks: what tells one from another apart from its mathematics. Each network class names its own.

Nothing here imports torch: methods, presets and downloads ask too. :func:`sida.networks.family_of` finds a network's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

#: When stored weights of an EDM2 network are replaced by normalised ones, see :class:`sida.networks.EDM2Precond`.
WeightNorm = Literal["off", "in_forward", "pre_hook", "always"]


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Makes latents visible that networks draw in place of pixels.

    Attributes:
        name: Name of the autoencoder on the Hugging Face hub.
        assets: Ids of its files in ``config/assets.tsv``, all in one folder of the cache.
        channels: Channels of a latent.
    """

    name: str
    assets: tuple[str, ...]
    channels: int


SD_VAE = Decoder("stabilityai/sd-vae-ft-mse", ("sd-vae-ft-mse", "sd-vae-ft-mse-config"), 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What training, sampling and measuring ask of a network's family.

    Attributes:
        name: Under this name methods hold their default settings (:attr:`sida.methods.Method.defaults`).
        title: Name for people.
        like: Family whose default settings a method takes where it has none under ``name``; None: there is none.
        sampler_dtype: Precision of the state of Heun's sampler in the original tool.
        noise_every_step: Whether that tool draws fresh noise at each step, used or not, or only where it adds some.
        augmentation: Whether its networks take augmented images and their labels.
        weight_norm: Whether its networks rewrite their weights (their option ``weight_norm``); if so, recipes say how
            copies do.
        variance_head: Option that makes the head which predicts the loss's log-variance (null there: no head); None
            for families without. Such losses divide by the variance.
        infinite_gradient: What takes the place of infinity in a teacher's gradients.
        fp16: Whether a network that does not say computes in float16 on CUDA.
        decoder: Of latents, for those of its networks that draw latents: a network with as many channels as these.
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

    def has_variance_head(self, network: Mapping[str, Any]) -> bool:
        """Whether the network ``{class, kwargs}`` predicts the log-variance of its loss."""
        return self.variance_head is not None and network["kwargs"].get(self.variance_head, True) is not None

    def decoder_of(self, channels: int) -> Decoder | None:
        """Decoder of a network's outputs, by their channels; None where they are pixels."""
        return self.decoder if self.decoder is not None and channels == self.decoder.channels else None


#: EDM's preconditioning, and VP, VE and GDD.
EDM = Family(name="edm", title="EDM")
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
#: Those of size S, which SiDA trains otherwise.
EDM2_S = dataclasses.replace(EDM2, name="edm2-s", title="EDM2-S", like="edm2")


#: Options of a network that its guide must share.
SHARED = ("img_resolution", "img_channels", "label_dim")


def misfit(guided: Mapping[str, Any], guide: Mapping[str, Any]) -> str | None:
    """Why one network cannot guide another; None where nothing says so.

    Args:
        guided: Its ``img_resolution``, ``img_channels`` and ``label_dim``; what is not there is not compared.
        guide: The same of the guide, which may have no classes (``label_dim`` 0).
    """
    for name in SHARED:
        wanted, found = guided.get(name), guide.get(name)
        if wanted is None or found is None or wanted == found or (name == "label_dim" and found == 0):
            continue
        more = ", or 0 (a guide without classes)" if name == "label_dim" and wanted else ""
        return f"its {name} is {found}, the guided network's {wanted}; name a guide with {wanted}{more}"
    return None
