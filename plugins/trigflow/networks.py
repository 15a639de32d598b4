"""TrigFlow's networks: angles t for noise levels, x_t = cos t · y + sin t · σ_d n, and F the velocity of x_t over σ_d.

With t = atan(σ/σ_d) and x_t = cos t · x_σ the consistency function f(x_t, t) = cos t · x_t − sin t · σ_d F(x_t/σ_d; t)
is a denoiser D(x_σ; σ) with EDM's coefficients, but for the sign of c_out and c_noise = t. A teacher and a student of
one step are so denoisers as the other networks are. A network of segments also takes the angle at which a step ends.

Source: sCM (arXiv:2410.11081), sections 3 and 4; EpiGenomicsCode/edm2_sCM:training/networks_trigflow.py and
networks_trigflow_ddpmpp.py (commit cb05b7b5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sida.config.families import Family
from sida.config.settings import Finite
from sida.networks.body import Classes, Few, Init, Linear, Side, Size, option_fields
from sida.networks.edm2_unet import EDM2Block, EDM2UNet, MPConv, normalize
from sida.networks.edm_unet import PositionalEmbedding, SongUNet, UNetBlock
from sida.networks.unet_precond import EDM2Precond, UNetPrecond, edm_coefficients
from sida.plugins.trigflow.families import TRIGFLOW, TRIGFLOW_EDM2


class AngularDenoiser(UNetPrecond):
    """Base class of denoisers with an angle for time; U-Nets take angles (N or 1,), or with ends of steps (N or 1, 2).

    Attributes:
        segment_conditioning: Whether the U-Net also takes the angle at which a step ends, see :meth:`step`.
    """

    unet_name = "unet"
    fused = False
    segment_conditioning: bool
    logvar_pos: PositionalEmbedding | None
    logvar_linear: Any

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        c_skip, c_out, c_in, _ = edm_coefficients(sigma, self.sigma_data)
        return c_skip, -c_out, c_in, torch.atan(sigma / self.sigma_data)

    def step(self, x: Tensor, start: float, end: float, class_labels: Tensor | None = None) -> Tensor:
        """Step of a network of segments: cos(t − s) x − sin(t − s) σ_d F(x/σ_d; t, s), float32 (N, C, H, W).

        Args:
            x: Images x_t (N, C, H, W) at the angle t.
            start: t in radians.
            end: s in radians, at most t.
            class_labels: See :meth:`forward`.
        """
        angles = torch.tensor([[start, end]], device=x.device)
        raw = self.raw(x / self.sigma_data, angles, class_labels)
        return math.cos(start - end) * x - math.sin(start - end) * self.sigma_data * raw

    def logvar(self, c_noise: Tensor) -> Tensor:
        """Learned log-variance of the loss at angles: N entries in any shape give float32 (N, 1, 1, 1).

        Raises:
            ValueError: The network has no log-variance head.
        """
        if self.logvar_pos is None:
            return super().logvar(c_noise)
        logvar: Tensor = self.logvar_linear(self.logvar_pos(c_noise.flatten())).reshape(-1, 1, 1, 1)
        return logvar


def with_ends(angles: Tensor) -> tuple[Tensor, Tensor | None]:
    """Angles (N or 1,), and those at which steps end, if the argument has a second column."""
    return (angles, None) if angles.ndim == 1 else (angles[:, 0], angles[:, 1])


class TrigFlowSongBlock(UNetBlock):
    """DDPM++'s block; the embedding gives scale and shift after the second norm, both of root mean square one."""

    def __init__(self, in_channels: int, out_channels: int, emb_channels: int, style: Any, mode: Any, num_heads: int):
        super().__init__(in_channels, out_channels, emb_channels, style, mode, num_heads)
        self.affine = Linear(emb_channels, 2 * out_channels, style.init)

    def modulated(self, h: Tensor, emb: Tensor) -> Tensor:
        """See `UNetBlock.modulated`."""
        scale, shift = map(pixel_norm, self.affine(emb)[:, :, None, None].to(h.dtype).chunk(2, 1))
        return torch.addcmul(shift, self.norm1(h), scale)


def pixel_norm(x: Tensor) -> Tensor:
    """Scales the channels of (N, C, H, W) to a root mean square of one (arXiv:1710.10196, section 4.2)."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class TrigFlowSongUNet(SongUNet):
    """DDPM++ with `TrigFlowSongBlock`; its owner sets ``map_t_k``, the layer for the end of a step, or None."""

    block_class = TrigFlowSongBlock
    map_t_k: Linear | None

    def embed_noise(self, noise_labels: Tensor) -> Tensor:
        """See `SongUNet.embed_noise`, and `with_ends`."""
        angles, ends = with_ends(noise_labels)
        emb = super().embed_noise(angles)
        if ends is None:
            return emb
        assert self.map_t_k is not None
        return emb + self.map_t_k(super().embed_noise(ends))


class TrigFlowDDPMPPPrecond(AngularDenoiser):
    """TrigFlow's DDPM++, as edm2_sCM has it for CIFAR-10.

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`.
        sigma_data: Standard deviation of the data.
        logvar_channels: Width of the log-variance head's embedding; None = no head.
        channel_mult: See `SongUNet`.
        segment_conditioning: See `AngularDenoiser`.
        **unet_kwargs: Further options of `SongUNet`.

    State-dict names equal those of ``EpiGenomicsCode/edm2_sCM:training/networks_trigflow_ddpmpp.py``.
    """

    family: ClassVar[Family] = TRIGFLOW
    unet: TrigFlowSongUNet

    def __init__(
        self,
        img_resolution: Side,
        img_channels: Size,
        label_dim: Classes = 0,
        use_fp16: bool = True,
        sigma_data: Finite = 0.5,
        logvar_channels: Size | None = 128,
        channel_mult: tuple[Few, ...] = (2, 2, 2),
        segment_conditioning: bool = False,
        **unet_kwargs: Any,
    ):
        super().__init__(locals(), {**unet_kwargs, "channel_mult": channel_mult})
        width = self.unet.options["model_channels"] * self.unet.options["channel_mult_noise"]
        self.unet.map_t_k = Linear(width, width, Init(weight=0.0), bias=False) if segment_conditioning else None
        self.logvar_pos = None if logvar_channels is None else PositionalEmbedding(logvar_channels)
        self.logvar_linear = None if logvar_channels is None else Linear(logvar_channels, 1, Init())

    @classmethod
    def unet_class(cls, kwargs: Mapping[str, Any]) -> type[TrigFlowSongUNet]:
        """See `UNetPrecond.unet_class`."""
        return TrigFlowSongUNet


class MPPositional(PositionalEmbedding):
    """`PositionalEmbedding` of unit variance, whose last frequency is 1/10000; the state dict has the frequencies."""

    def __init__(self, num_channels: int):
        super().__init__(num_channels, endpoint=True)
        self.register_buffer("freqs", self.freqs)

    def forward(self, x: Tensor) -> Tensor:
        """See `PositionalEmbedding.forward`."""
        return super().forward(x.float()) * math.sqrt(2)


class TrigFlowBlock(EDM2Block):
    """EDM2's block with unit channels of the map between both convolutions, of its scale and of its shift."""

    emb_gain: None  # type: ignore[assignment]

    def __init__(self, in_channels: int, out_channels: int, emb_channels: int, *options: Any):
        super().__init__(in_channels, out_channels, emb_channels, *options)
        self.emb_gain = None
        self.emb_linear = MPConv(emb_channels, 2 * out_channels)

    def modulated(self, y: Tensor, emb: Tensor) -> Tensor:
        """See `EDM2Block.modulated`."""
        scale, shift = (normalize(rows, 1)[:, :, None, None].to(y.dtype) for rows in self.emb_linear(emb).chunk(2, 1))
        return torch.addcmul(shift, normalize(y, 1), scale)


class TrigFlowUNet(EDM2UNet):
    """EDM2's U-Net with `TrigFlowBlock`; its owner sets ``emb_t_k``, the layer for the end of a step, or None."""

    block_class = TrigFlowBlock
    emb_t_k: Linear | None

    def make_noise_embedding(self, channels: int) -> None:
        """See `EDM2UNet.make_noise_embedding`."""
        self.emb_pos = MPPositional(channels)

    def embed_noise(self, noise_labels: Tensor) -> Tensor:
        """See `EDM2UNet.embed_noise`, and `with_ends`."""
        angles, ends = with_ends(noise_labels)
        emb: Tensor = self.emb_noise(self.emb_pos(angles))
        if ends is None:
            return emb
        assert self.emb_t_k is not None
        return emb + self.emb_t_k(self.emb_pos(ends))


class TrigFlowPrecond(AngularDenoiser, EDM2Precond):
    """TrigFlow's EDM2 network, as edm2_sCM has it for ImageNet 64.

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`; half precision is bfloat16.
        segment_conditioning: See `AngularDenoiser`.
        **options: Further options of `EDM2Precond`.

    State-dict names equal those of ``EpiGenomicsCode/edm2_sCM:training/networks_trigflow.py``.
    """

    family: ClassVar[Family] = TRIGFLOW_EDM2
    unet: TrigFlowUNet
    _half_dtype = torch.bfloat16

    def __init__(
        self,
        img_resolution: Side,
        img_channels: Size,
        label_dim: Classes = 0,
        use_fp16: bool = True,
        segment_conditioning: bool = False,
        **options: Any,
    ):
        EDM2Precond.__init__(self, img_resolution, img_channels, label_dim, use_fp16, **options)
        self.record(TrigFlowPrecond, locals())
        emb_channels, width = self.unet.emb_noise.weight.shape
        self.unet.emb_t_k = Linear(width, emb_channels, Init(weight=0.0), bias=False) if segment_conditioning else None
        self.logvar_pos = None if self.logvar_fourier is None else MPPositional(len(self.logvar_fourier.freqs))
        self.logvar_fourier = None

    @classmethod
    def family_of(cls, kwargs: Mapping[str, Any]) -> Family:
        """See `Precond.family_of`."""
        return cls.family

    @classmethod
    def options_of(cls, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """See `Precond.options_of`."""
        return option_fields(EDM2Precond) | super().options_of(kwargs)

    @classmethod
    def unet_class(cls, kwargs: Mapping[str, Any]) -> type[TrigFlowUNet]:
        """See `UNetPrecond.unet_class`."""
        return TrigFlowUNet
