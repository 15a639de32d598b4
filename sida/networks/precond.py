"""Preconditioning, which turns a U-Net F into a denoiser D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise).

EDM's with its variants of GDD and ECT, those of VP and VE diffusion models (Karras et al. 2022, table 1), and EDM2's.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar, cast, get_args

import torch
from torch import Tensor, nn

from sida.config.families import EDM, EDM2, EDM2_S, Family, WeightNorm
from sida.config.settings import Finite
from sida.errors import SettingError, suggestion
from sida.networks.edm2_unet import EDM2UNet, MPConv, MPFourier
from sida.networks.edm_unet import DhariwalUNet, SongUNet
from sida.networks.unet import Classes, Side, Size, UNet, plain_options

#: U-Nets by the value of ``model_type``; imported here, since the code of an exported network follows imports.
UNETS: dict[str, type[UNet]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


class Precond(nn.Module):
    """Base class of preconditioned denoisers; subclasses give the coefficients.

    Args:
        options: The ``locals()`` of the subclass's constructor: its named parameters become attributes.
        unet_options: Options of the U-Net, except those that follow from ``options``.

    Attributes:
        img_resolution: Side of the square images in pixels.
        img_channels: Channels of the images.
        label_dim: Number of classes; 0 = unconditional.
        use_fp16: Whether the U-Net computes in half precision on CUDA; parameters, input and output stay float32.
        sigma_min: Lowest noise level for samplers.
        sigma_max: Highest noise level for samplers.
        sigma_data: Standard deviation of the data, for the coefficients of EDM.
        init_config: ``{"class", "kwargs"}`` from which `build_network` builds the same architecture.
    """

    img_resolution: int
    img_channels: int
    label_dim: int
    use_fp16: bool
    _half_dtype: torch.dtype = torch.float16
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    sigma_data: float
    init_config: dict[str, Any]
    unet_name: ClassVar[str] = "model"
    family: ClassVar[Family] = EDM

    def __init__(self, options: Mapping[str, Any], unet_options: Mapping[str, Any]):
        super().__init__()
        own = plain_options(type(self), options)
        unet_class = self.unet_class(own)
        if "model_type" in own:
            own["model_type"] = unet_class.__name__
        follows = {name: options[name] for name in ("img_resolution", "label_dim")}
        follows |= dict.fromkeys(unet_class.channel_options, options["img_channels"])
        unet = unet_class(**follows, **unet_options)
        setattr(self, self.unet_name, unet)
        inner = {name: value for name, value in unet.options.items() if name not in follows}
        self.init_config = {"class": class_name(type(self)), "kwargs": {**own, **inner}}
        for name in own:
            setattr(self, name, options[name])

    @property
    def half_dtype(self) -> torch.dtype:
        """Type of half precision: float16 or bfloat16; can be set at any time.

        `init_config`, and so the network's files, record a type other than float16.
        """
        return self._half_dtype

    @half_dtype.setter
    def half_dtype(self, dtype: torch.dtype) -> None:
        self._half_dtype = dtype
        self.init_config["kwargs"].pop("half_dtype", None)
        if dtype != torch.float16:
            self.init_config["kwargs"]["half_dtype"] = str(dtype).removeprefix("torch.")

    @classmethod
    def family_of(cls, kwargs: Mapping[str, Any]) -> Family:
        """Family of the network with these constructor arguments."""
        return cls.family

    @classmethod
    def unet_class(cls, kwargs: Mapping[str, Any]) -> type[UNet]:
        """Class of the U-Net whose options the constructor arguments include.

        The suffix that SiDA's code gives to the same architectures is understood.

        Raises:
            SettingError: The U-Net is unknown.
        """
        given = str(kwargs.get("model_type", inspect.signature(cls).parameters["model_type"].default))
        name = given.removesuffix("_EncoderDecoder")
        if name not in UNETS:
            raise SettingError("model_type", f"unknown network '{given}'{suggestion(name, UNETS)}")
        return UNETS[name]

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor]:
        """Returns c_skip, c_out, c_in and c_noise for float32 ``sigma`` (N or 1, 1, 1, 1); None means 1.

        By default those of EDM and EDM2.
        """
        return edm_coefficients(sigma, self.sigma_data)

    def evaluation_copy(self) -> Precond:
        """A network for sampling, whose weights do not change in evaluation; by default the network itself."""
        return self

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        *,
        augment_labels: Tensor | None = None,
        return_flag: str = "decoder",
        return_logvar: bool = False,
        decode: int | None = None,
    ) -> Any:
        """Returns denoised images, discriminator logits, or both.

        Args:
            x: Noisy images, (N, C, H, W); computed in float32.
            sigma: Noise levels: a number, (N,), (N, 1, 1, 1) or one value for the batch.
            class_labels: One-hot rows (N, label_dim); one row is shared by the batch; None = a row of zeros.
            augment_labels: (N, augment_dim), or None; ignored by a network without augmentation layer.
            return_flag: ``decoder`` (default): D(x; σ). ``encoder``: discriminator logits only, without running the
                decoder. ``encoder_decoder``: both from one pass. ``features``: the encoder's maps, see `UNet.forward`.
            return_logvar: Whether to return the log-variance of the loss, too; only EDM2 networks have it.
            decode: With ``encoder_decoder``: denoise only this many leading samples; the logits still cover the whole
                batch. This is exact, because no layer mixes samples: one pass over fake and real images gives a
                denoising loss on the fakes and a discriminator loss on both. (In training mode dropout masks are drawn
                for the whole batch, so they differ from two passes.)

        Returns:
            float32 image (M, C, H, W), logits (N, 1, h, w), or ``(image, logits)``; with ``return_logvar`` the
            log-variance (N or 1, 1, 1, 1) is appended.

        Raises:
            ValueError: Shapes do not fit the network, an unconditional network gets class labels, the flag is unknown
                or ``decode`` does not fit it, or the network has no log-variance head.
        """
        sigma, class_labels = self._check(x, sigma, class_labels, augment_labels)
        x, (c_skip, c_out, c_in, c_noise) = x.float(), self.coefficients(sigma)
        half = self.use_fp16 and x.is_cuda
        scaled = (x if c_in is None else c_in * x).to(self.half_dtype if half else torch.float32)
        if augment_labels is not None:
            augment_labels = augment_labels.float()
        unet = getattr(self, self.unet_name)
        output = unet(scaled, c_noise.flatten(), class_labels, augment_labels, return_flag, decode)
        if return_flag in ("decoder", "encoder_decoder"):
            raw, *logits = output if isinstance(output, tuple) else (output,)
            if decode is not None:
                x, c_out = x[:decode], c_out[:decode]
                c_skip = None if c_skip is None else c_skip[:decode]
            image = torch.addcmul(x if c_skip is None else c_skip * x, c_out, raw.float())
            output = (image, *logits) if logits else image
        if not return_logvar:
            return output
        logvar = self.logvar(c_noise)
        return (*output, logvar) if isinstance(output, tuple) else (output, logvar)

    def logvar(self, c_noise: Tensor) -> Tensor:
        """Log-variance of the loss; see `EDM2Precond.logvar`.

        Raises:
            ValueError: The network has no log-variance head.
        """
        raise ValueError(f"{type(self).__name__} has no log-variance output; use return_logvar=False")

    def _check(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None, augment_labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Checks shapes; returns σ as (N or 1, 1, 1, 1) and the labels in float32."""
        n, shape = x.shape[0], (self.img_channels, self.img_resolution, self.img_resolution)
        if x.ndim != 4 or tuple(x.shape[1:]) != shape:
            raise ValueError(f"images must have shape (N, {shape[0]}, {shape[1]}, {shape[2]}), got {tuple(x.shape)}")
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
        if sigma.shape[0] not in (1, n):
            raise ValueError(f"sigma must have one value or one per image ({n}), got {sigma.shape[0]}")
        augment_dim = getattr(self, self.unet_name).augment_dim
        if augment_dim and augment_labels is not None:
            _check_rows("augment_labels", augment_labels, n, augment_dim)
        if self.label_dim == 0:
            if class_labels is not None and class_labels.numel():
                raise ValueError(f"class_labels of shape {tuple(class_labels.shape)} given to an unconditional network")
            return sigma, None
        if class_labels is None:
            return sigma, torch.zeros([1, self.label_dim], device=x.device)
        _check_rows("class_labels", class_labels, n, self.label_dim)
        return sigma, class_labels.float()


def _check_rows(name: str, labels: Tensor, rows: int, width: int) -> None:
    if labels.ndim != 2 or labels.shape[1] != width or labels.shape[0] not in (1, rows):
        raise ValueError(f"{name} must have shape ({rows}, {width}), got {tuple(labels.shape)}")


def class_name(cls: type) -> str:
    """Name of a class for :func:`sida.networks.build_network`; ``module:object`` for a custom class."""
    return cls.__name__ if cls.__module__.startswith("sida.networks.") else f"{cls.__module__}:{cls.__qualname__}"


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


class EDMPrecond(Precond):
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


class VPPrecond(Precond):
    """Variance-preserving preconditioning (DDPM++ teachers trained with the VP loss).

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`.
        beta_d: Extent of the noise schedule.
        beta_min: Start of the noise schedule.
        M: Number of time steps that c_noise is scaled to.
        epsilon_t: Smallest time; gives ``sigma_min``.
        model_type: ``SongUNet`` or ``DhariwalUNet``.
        **model_kwargs: Further options of that U-Net.
    """

    beta_d: float
    beta_min: float
    M: int

    def __init__(
        self,
        img_resolution: Side,
        img_channels: Size,
        label_dim: Classes = 0,
        use_fp16: bool = False,
        beta_d: Finite = 19.9,
        beta_min: Finite = 0.1,
        M: Size = 1000,
        epsilon_t: Finite = 1e-5,
        model_type: str = "SongUNet",
        **model_kwargs: Any,
    ):
        super().__init__(locals(), model_kwargs)
        with torch.device("cpu"):  # real numbers, even if the network is built on the meta device
            self.sigma_min = float(self.sigma(epsilon_t))
            self.sigma_max = float(self.sigma(1.0))

    def coefficients(self, sigma: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        return None, -sigma, (sigma.square() + 1).rsqrt(), (self.M - 1) * self.sigma_inv(sigma)

    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise level at time t of [0, 1]."""
        t = torch.as_tensor(t)
        return (0.5 * self.beta_d * t.square() + self.beta_min * t).expm1().sqrt()

    def sigma_inv(self, sigma: Tensor | float) -> Tensor:
        """Time at which the noise level is ``sigma``."""
        integral = torch.as_tensor(sigma).square().log1p()
        return ((self.beta_min**2 + 2 * self.beta_d * integral).sqrt() - self.beta_min) / self.beta_d


class VEPrecond(Precond):
    """Variance-exploding preconditioning (NCSN++ teachers trained with the VE loss).

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`.
        sigma_min: Lowest supported noise level.
        sigma_max: Highest one.
        model_type: ``SongUNet`` or ``DhariwalUNet``.
        **model_kwargs: Further options of that U-Net.
    """

    def __init__(
        self,
        img_resolution: Side,
        img_channels: Size,
        label_dim: Classes = 0,
        use_fp16: bool = False,
        sigma_min: Finite = 0.02,
        sigma_max: Finite = 100.0,
        model_type: str = "SongUNet",
        **model_kwargs: Any,
    ):
        super().__init__(locals(), model_kwargs)

    def coefficients(self, sigma: Tensor) -> tuple[None, Tensor, None, Tensor]:
        """See `Precond.coefficients`."""
        return None, sigma, None, (0.5 * sigma).log()


class EDM2Precond(Precond):
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
        size = inspect.signature(EDM2UNet).parameters["model_channels"].default
        return EDM2_S if kwargs.get("model_channels", size) == size else EDM2

    @classmethod
    def unet_class(cls, kwargs: Mapping[str, Any]) -> type[EDM2UNet]:
        """See `Precond.unet_class`."""
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
        super().__init__(locals(), unet_kwargs)
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
