"""Preconditioning, which turns a U-Net F into a denoiser D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise).

EDM's with its variants of GDD and ECT (Karras et al. 2022, table 1), and EDM2's.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar, cast, get_args

from torch import Tensor

from sida.config.families import EDM, EDM2, EDM2_S, Family, WeightNorm
from sida.config.settings import Finite
from sida.errors import SettingError, suggestion
from sida.networks.body import Classes, Output, Side, Size, option_fields
from sida.networks.edm2_unet import EDM2UNet, MPConv, MPFourier
from sida.networks.edm_unet import DhariwalUNet, SongUNet
from sida.networks.precond import Precond
from sida.networks.unet import UNet

#: U-Nets by the value of ``model_type``; imported here, since the code of an exported network follows imports.
UNETS: dict[str, type[UNet]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


class UNetPrecond(Precond):
    """Base class of denoisers whose body is a U-Net; subclasses give the coefficients.

    Args:
        options: The ``locals()`` of the subclass's constructor: its named parameters become attributes.
        unet_options: Options of the U-Net, except those that follow from ``options``.
        constructor: See `Precond`.
    """

    unet_name: ClassVar[str] = "model"
    family: ClassVar[Family] = EDM
    fused = True

    def __init__(self, options: Mapping[str, Any], unet_options: Mapping[str, Any], constructor: type | None = None):
        super().__init__(options, constructor)
        own = self.init_config["kwargs"]
        unet_class = self.unet_class(own)
        if "model_type" in own:
            own["model_type"] = unet_class.__name__
        follows = {name: options[name] for name in ("img_resolution", "label_dim")}
        follows |= dict.fromkeys(unet_class.channel_options, options["img_channels"])
        unet = unet_class(**follows, **unet_options)
        setattr(self, self.unet_name, unet)
        own |= {name: value for name, value in unet.options.items() if name not in follows}

    @classmethod
    def options_of(cls, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """See `Precond.options_of`; those of the U-Net are among them."""
        unet = cls.unet_class(kwargs)
        inner = {name: field for name, field in option_fields(unet).items() if name not in unet.channel_options}
        return inner | super().options_of(kwargs)

    @classmethod
    def unet_class(cls, kwargs: Mapping[str, Any]) -> type[UNet]:
        """Class of the U-Net whose options the constructor arguments include.

        The suffix that SiDA's code gives to the same architectures is understood.

        Raises:
            SettingError: The U-Net is unknown.
        """
        model_type = str(kwargs.get("model_type", inspect.signature(cls).parameters["model_type"].default))
        name = model_type.removesuffix("_EncoderDecoder")
        if name not in UNETS:
            raise SettingError("model_type", f"unknown network '{model_type}'{suggestion(name, UNETS)}")
        return UNETS[name]

    @property
    def augment_dim(self) -> int:  # type: ignore[override]
        """See `Precond`."""
        return cast(UNet, getattr(self, self.unet_name)).augment_dim

    @property
    def drops_labels(self) -> bool:
        """See `Precond`."""
        return cast(UNet, getattr(self, self.unet_name)).drops_labels

    @drops_labels.setter
    def drops_labels(self, value: bool) -> None:
        cast(UNet, getattr(self, self.unet_name)).drops_labels = value

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor]:
        """See `Precond.coefficients`; by default those of EDM and EDM2."""
        return edm_coefficients(sigma, self.sigma_data)

    def body(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None,
        return_flag: str,
        decode: int | None,
    ) -> Output:
        """See `Precond.body`."""
        output: Output = getattr(self, self.unet_name)(
            x, noise_labels, class_labels, augment_labels, return_flag, decode
        )
        return output


def edm_coefficients(sigma: Tensor, sigma_data: float, shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns c_skip, c_out, c_in and c_noise of EDM and EDM2.

    Args:
        sigma: Noise levels.
        sigma_data: Standard deviation of the data.
        shift: Level at which the network is the identity; c_skip and the numerator of c_out take σ − shift.
    """
    c_in = (sigma.square() + sigma_data**2).rsqrt()
    above = sigma - shift if shift else sigma
    return sigma_data**2 / (above.square() + sigma_data**2), above * sigma_data * c_in, c_in, sigma.log() / 4


class EDMPrecond(UNetPrecond):
    """EDM preconditioning: unit variance of input and training target at every noise level.

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`.
        sigma_min: Lowest supported noise level.
        sigma_max: Highest one; None = infinite.
        sigma_data: Standard deviation of the data.
        model_type: ``SongUNet`` or ``DhariwalUNet``.
        **model_kwargs: Further options of that U-Net.
    """

    def __init__(
        self,
        img_resolution: Side,
        img_channels: Size,
        label_dim: Classes = 0,
        use_fp16: bool = False,
        sigma_min: Finite = 0.0,
        sigma_max: Finite | None = math.inf,
        sigma_data: Finite = 0.5,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Any,
    ):
        super().__init__({**locals(), "sigma_max": math.inf if sigma_max is None else sigma_max}, model_kwargs)


class GDDPrecond(EDMPrecond):
    """EDM preconditioning that is the identity at σ = 0.002 instead of 0, as GDD's one-step generators have it.

    Options as `EDMPrecond`.

    Source: GDD (arXiv:2405.20750); ``tests/golden/README.md``, fact 22.
    """

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        return edm_coefficients(sigma, self.sigma_data, 0.002)


class ECTPrecond(EDMPrecond):
    """EDM preconditioning in training, and in evaluation the identity at σ = 0.003, as ECT's networks have it.

    Options as `EDMPrecond`.

    Source: locuslab/ect:training/networks.py.
    """

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        return edm_coefficients(sigma, self.sigma_data, 0.0 if self.training else 0.003)


class EDM2Precond(UNetPrecond):
    """EDM2's preconditioned denoiser, with the encoder logits of SiDA's variant.

    Args:
        img_resolution: Side of the square images or latents.
        img_channels: Channels of the images or latents.
        label_dim: Number of classes; 0 = unconditional.
        use_fp16: Whether the U-Net computes in float16 on CUDA.
        sigma_data: Standard deviation of the data.
        logvar_channels: Width of the log-variance head's embedding; None = no head (generators have none).
        weight_norm: Times at which normalised weights replace the stored ones. (Forward passes always use normalised
            weights.) ``off``: never. ``in_forward`` (EDM2) and ``pre_hook`` (SiDA): in training mode, when a layer
            runs; they differ only in copies by the official code. ``always``: when a layer
            runs, also in evaluation mode. Rewriting invalidates earlier graphs through the same weights: two forward
            passes in training mode before one backward pass fail with autograd's version error.
        **unet_kwargs: Further options of `EDM2UNet`.

    State-dict names equal those of ``NVlabs/edm2:training/networks_edm2.py``.
    """

    unet_name = "unet"
    family = EDM2

    @classmethod
    def family_of(cls, kwargs: Mapping[str, Any]) -> Family:
        """See `Precond.family_of`; networks of size S have other settings in SiDA."""
        return EDM2_S if EDM2_S.fits(kwargs) else EDM2

    @classmethod
    def unet_class(cls, kwargs: Mapping[str, Any]) -> type[EDM2UNet]:
        """See `UNetPrecond.unet_class`."""
        return EDM2UNet

    def __init__(
        self,
        img_resolution: Side,
        img_channels: Size,
        label_dim: Classes = 0,
        use_fp16: bool = True,
        sigma_data: Finite = 0.5,
        logvar_channels: Size | None = 128,
        weight_norm: WeightNorm = "in_forward",
        **unet_kwargs: Any,
    ):
        super().__init__(locals(), unet_kwargs, EDM2Precond)
        self.logvar_fourier = None if logvar_channels is None else MPFourier(logvar_channels)
        self.logvar_linear = None if logvar_channels is None else MPConv(logvar_channels, 1)
        self.weight_norm = weight_norm

    @property
    def weight_norm(self) -> WeightNorm:
        """Times at which normalised weights replace the stored ones (see the class); can be set at any time."""
        return cast(WeightNorm, self.init_config["kwargs"]["weight_norm"])

    @weight_norm.setter
    def weight_norm(self, mode: WeightNorm) -> None:
        if mode not in get_args(WeightNorm):
            raise SettingError("weight_norm", f"unknown mode '{mode}'{suggestion(str(mode), get_args(WeightNorm))}")
        self.init_config["kwargs"]["weight_norm"] = mode
        for layer in self._layers():
            layer.weight_norm = mode

    def _layers(self) -> list[MPConv]:
        return [module for module in self.modules() if isinstance(module, MPConv)]

    def evaluation_copy(self) -> EDM2Precond:
        """See `Precond.evaluation_copy`; a copy is only needed in the mode ``always``: its weights are normalised once.

        Repeated rewriting changes the weights by rounding (a relative 1e-7), so that an image would depend on the
        number of batches before.
        """
        if self.weight_norm != "always":
            return self
        copied = copy.deepcopy(self)
        for layer in copied._layers():
            layer.normalize_weight()
        copied.weight_norm = "off"
        return copied

    def logvar(self, c_noise: Tensor) -> Tensor:
        """Learned log-variance of the denoising loss at a noise level (EDM2, equation 15).

        Args:
            c_noise: Encoded noise levels: N entries in any shape.

        Returns:
            float32 (N, 1, 1, 1).

        Raises:
            ValueError: The network has no log-variance head.
        """
        if self.logvar_fourier is None or self.logvar_linear is None:
            return super().logvar(c_noise)
        return self.logvar_linear(self.logvar_fourier(c_noise.flatten())).reshape(-1, 1, 1, 1)
