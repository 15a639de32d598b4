"""EDM's U-Nets: that of DDPM++ and NCSN++, the ADM U-Net, their residual block and their layers.

Source: Karras et al. 2022, "EDM", appendices F.1 (Song et al. 2021) and F.3 (Dhariwal and Nichol 2021).
"""

import math
from typing import ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sida.errors import SettingError
from sida.networks.body import (
    Block,
    Classes,
    Few,
    Init,
    Linear,
    Share,
    Side,
    Size,
    constants_device,
    has_forward_derivatives,
)
from sida.networks.unet import SQRT_HALF, Mode, UNet, attend, attention_heads, resampled, split_heads

#: Taps of a filter along one dimension.
Taps = tuple[int, ...]


class Conv2d(nn.Module):
    """Same-size convolution, optionally after a factor-two resampling by a separable filter.

    Args:
        in_channels, out_channels: Channels of input and output.
        kernel: Odd kernel size, or 0 for only resampling.
        init: Initial parameters.
        mode: Change of the resolution before the convolution.
        taps: Those of the one-dimensional filter; (1, 1) is nearest-neighbour up and box down.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    resample_filter: Tensor | None

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, init: Init, mode: Mode = "keep", taps: Taps = (1, 1)
    ):
        super().__init__()
        self.kernel, self.mode, self.box = kernel, mode, tuple(taps) == (1, 1)
        shape = (out_channels, in_channels, kernel, kernel)
        self.weight, self.bias = init.parameters(shape) if kernel else (None, None)
        line = torch.tensor(taps, dtype=torch.float32, device=constants_device())
        square = torch.outer(line, line)[None, None] / line.sum().square()
        self.register_buffer("resample_filter", None if mode == "keep" else square)

    @property
    def filter(self) -> Tensor | None:
        """See :func:`sida.networks.unet.resampled`."""
        return None if self.box else self.resample_filter

    def forward(self, x: Tensor, weight_scale: float = 1.0) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, out_channels, H', W').

        Args:
            x: Feature maps.
            weight_scale: Factor on the result, applied to weight and bias because they are smaller than the maps.
        """
        if self.weight is None or self.bias is None:
            return resampled(x, self.mode, self.filter)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if weight_scale != 1:
            weight, bias = weight * weight_scale, bias * weight_scale
        if self.mode == "up" and self.kernel == 1:
            # A pointwise map commutes with the filter, and is four times cheaper before it.
            if self.box:
                return resampled(F.conv2d(x, weight, bias), "up", None)
            return resampled(F.conv2d(x, weight), "up", self.filter) + bias[:, None, None]
        return F.conv2d(resampled(x, self.mode, self.filter), weight, bias, padding=self.kernel // 2)


class ImageDown(Conv2d):
    """Convolution at full resolution whose result is halved, with the zero padding of both at once (NCSN++)."""

    def forward(self, x: Tensor, weight_scale: float = 1.0) -> Tensor:
        """See `Conv2d.forward`."""
        weight, bias = cast(Tensor, self.weight).to(x.dtype), cast(Tensor, self.bias).to(x.dtype)
        padding = self.kernel // 2 + (cast(Tensor, self.resample_filter).shape[-1] - 1) // 2
        return resampled(F.conv2d(x, weight, padding=padding), "down", self.filter, padding=0) + bias[:, None, None]


class GroupNorm(nn.Module):
    """Group normalisation with at most 32 groups of at least four channels.

    Args:
        num_channels: Channels of the maps.
        eps: Constant added to the variance.

    Raises:
        SettingError: The channels do not divide into these groups.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5):
        super().__init__()
        self.num_groups = max(1, min(32, num_channels // 4))
        if num_channels % self.num_groups:
            fault = f"{num_channels} feature channels cannot form {self.num_groups} equal groups"
            raise SettingError("model_channels, channel_mult", fault, "use multiples of 4, above 128 channels of 32")
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, C, H, W)."""
        if has_forward_derivatives():
            # Attention leaves channels last, and torch 2.5's derivative views its input.
            x = x.contiguous()
        return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)

    def activated(self, x: Tensor) -> Tensor:
        """SiLU of the normalised (N, C, H, W)."""
        return F.silu(self(x))


class PositionalEmbedding(nn.Module):
    """Cosines and sines of geometrically spaced frequencies from 1 to 1/10000 (DDPM++ and ADM).

    Args:
        num_channels: Width of the embedding (even).
        endpoint: Whether 1/10000 itself is the last frequency.
    """

    freqs: Tensor

    def __init__(self, num_channels: int, endpoint: bool = False):
        super().__init__()
        half = num_channels // 2
        exponent = torch.arange(half, dtype=torch.float32, device=constants_device()) / max(half - int(endpoint), 1)
        # A constant outside the state dict, as in the official files.
        self.register_buffer("freqs", (1 / 10000) ** exponent, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Embeds (N,) as (N, num_channels): cosines, then sines."""
        angle = torch.outer(x, self.freqs.to(x.dtype))
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """Random Fourier features (NCSN++); the frequencies are drawn once and stored.

    Args:
        num_channels: Width of the embedding (even).
    """

    freqs: Tensor

    def __init__(self, num_channels: int):
        super().__init__()
        self.register_buffer("freqs", torch.randn(num_channels // 2, device=constants_device()) * 16)

    def forward(self, x: Tensor) -> Tensor:
        """Embeds (N,) as (N, num_channels): cosines, then sines."""
        angle = torch.outer(x, (2 * math.pi * self.freqs).to(x.dtype))
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class BlockStyle(NamedTuple):
    """Facts that all residual blocks of a network share.

    Attributes:
        init: Initial parameters of ordinary layers.
        init_zero: Those of the last layer of each residual branch.
        init_attn: Those of the query-key-value layer.
        adaptive_scale: ADM's block: the embedding gives scale and shift after the second norm. Else that of DDPM++ and
            NCSN++: the embedding gives a shift before the norm, sums are scaled to keep the variance, and a resampling
            skip connection also has a 1×1 convolution.
        dropout: Probability of zeroing an activation before the second convolution, in training mode.
        taps: Resampling filter, see `Conv2d`.
        stacked: Whether the query, key and value channels of attention follow each other as blocks; else they alternate
            (:func:`~sida.networks.unet.split_heads`).
    """

    init: Init
    init_zero: Init
    init_attn: Init
    adaptive_scale: bool
    dropout: float
    taps: Taps = (1, 1)
    stacked: bool = False


class UNetBlock(Block):
    """Norm, SiLU, convolution (twice) around a skip connection, conditioned on an embedding; then attention.

    Args:
        in_channels, out_channels, emb_channels: Channels in and out, and width of the embedding.
        style: Facts of all blocks of the network.
        mode: Change of the resolution.
        num_heads: Attention heads; 0 = no attention.
    """

    def __init__(
        self, in_channels: int, out_channels: int, emb_channels: int, style: BlockStyle, mode: Mode, num_heads: int
    ):
        super().__init__()
        self.num_heads, self.dropout, self.adaptive_scale = num_heads, style.dropout, style.adaptive_scale
        self.stacked = style.stacked
        eps, self.skip_scale = (1e-5, 1.0) if style.adaptive_scale else (1e-6, SQRT_HALF)
        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, style.init, mode, style.taps)
        self.affine = Linear(emb_channels, out_channels * (2 if style.adaptive_scale else 1), style.init)
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, style.init_zero)
        self.skip: Conv2d | None = None
        if out_channels != in_channels or mode != "keep":
            kernel = 0 if style.adaptive_scale and out_channels == in_channels else 1
            self.skip = Conv2d(in_channels, out_channels, kernel, style.init, mode, style.taps)
        if num_heads:
            self.norm2 = GroupNorm(out_channels, eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, 1, style.init_attn)
            self.proj = Conv2d(out_channels, out_channels, 1, style.init_zero)

    def compute(self, x: Tensor, emb: Tensor) -> Tensor:
        """See `Block.compute`."""
        h = F.silu(self.modulated(self.conv0(F.silu(self.norm0(x))), emb))
        if self.training and self.dropout:
            h = F.dropout(h, self.dropout)
        h = self.conv1(h, self.skip_scale)
        x = torch.add(h, x if self.skip is None else self.skip(x), alpha=self.skip_scale)
        if self.num_heads:
            h = attend(split_heads(self.qkv(self.norm2(x)), self.num_heads, self.stacked))
            x = torch.add(self.proj(h.view(x.shape), self.skip_scale), x, alpha=self.skip_scale)
        return x

    def modulated(self, h: Tensor, emb: Tensor) -> Tensor:
        """The normalised map between both convolutions, shifted (and scaled) by the embedding."""
        shift = self.affine(emb)[:, :, None, None].to(h.dtype)
        if self.adaptive_scale:
            scale, shift = shift.chunk(2, dim=1)
            return torch.addcmul(shift, self.norm1(h), scale + 1)
        normed: Tensor = self.norm1(h + shift)
        return normed


class SongUNet(UNet):
    """The U-Net of DDPM++ (defaults) or NCSN++.

    NCSN++ has ``embedding_type="fourier"``, ``encoder_type="residual"``, ``channel_mult_noise=2`` and
    ``resample_filter=(1, 3, 3, 1)``.

    Args:
        img_resolution: Side of the square images.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        label_dim: Number of classes; 0 = unconditional.
        augment_dim: Width of the augmentation labels; 0 = none, and given labels are ignored.
        model_channels: Channels of the first level.
        channel_mult: Multiplier of ``model_channels`` per level, from full resolution downwards.
        channel_mult_emb: Multiplier for the width of the conditioning vector.
        num_blocks: Residual blocks per level (the decoder has one more).
        attn_resolutions: Resolutions with self-attention. The decoder's first block always has it.
        dropout: Dropout inside the residual branches, in training mode.
        label_dropout: Probability of dropping a sample's class label, in training mode.
        embedding_type: ``positional`` (DDPM++) or ``fourier`` (NCSN++) embedding of the noise level.
        channel_mult_noise: Multiplier for the width of the noise embedding: 1 for DDPM++, 2 for NCSN++.
        encoder_type: ``standard`` (DDPM++) or ``residual`` (NCSN++).
        decoder_type: ``standard``, which the authors' files record.
        resample_filter: Taps: (1, 1) for DDPM++, (1, 3, 3, 1) for NCSN++.

    Raises:
        SettingError: The resolution does not fit the levels.

    State-dict names equal those of ``NVlabs/edm:training/networks.py``.

    Attributes:
        times: Number of times that are embedded side by side.
        stacked: Whether the query, key and value channels of attention follow each other as blocks.
        block_class: Class of the blocks.
    """

    times: ClassVar[int] = 1
    stacked: ClassVar[bool] = False
    block_class: ClassVar[type[UNetBlock]] = UNetBlock

    def __init__(
        self,
        img_resolution: Side,
        in_channels: Size,
        out_channels: Size,
        label_dim: Classes = 0,
        augment_dim: Classes = 0,
        model_channels: Size = 128,
        channel_mult: tuple[Few, ...] = (1, 2, 2, 2),
        channel_mult_emb: Few = 4,
        num_blocks: Few = 4,
        attn_resolutions: tuple[Size, ...] = (16,),
        dropout: Share = 0.10,
        label_dropout: Share = 0.0,
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: Few = 1,
        encoder_type: Literal["standard", "residual"] = "standard",
        decoder_type: Literal["standard"] = "standard",
        resample_filter: tuple[Size, ...] = (1, 1),
    ):
        super().__init__()
        self._describe(locals())
        noise_channels = model_channels * channel_mult_noise
        emb_channels = model_channels * channel_mult_emb
        init = Init("xavier_uniform")
        init_zero, init_attn = init._replace(weight=1e-5), init._replace(weight=0.2**0.5)
        style = BlockStyle(init, init_zero, init_attn, False, dropout, resample_filter, self.stacked)
        emb_inputs = self.times * noise_channels

        def block(_: str, inputs: int, outputs: int, mode: Mode = "keep", attention: bool = False) -> UNetBlock:
            return self.block_class(inputs, outputs, emb_channels, style, mode, int(attention))

        def image_down(inputs: int, outputs: int) -> ImageDown:
            return ImageDown(inputs, outputs, 3, init, "down", resample_filter)

        fourier = embedding_type == "fourier"
        self.map_noise = FourierEmbedding(noise_channels) if fourier else PositionalEmbedding(noise_channels, True)
        self.map_label = Linear(label_dim, emb_inputs, init) if label_dim else None
        self.map_augment = Linear(augment_dim, emb_inputs, init, bias=False) if augment_dim else None
        self.map_layer0 = Linear(emb_inputs, emb_channels, init)
        self.map_layer1 = Linear(emb_channels, emb_channels, init)
        stem = Conv2d(in_channels, model_channels, 3, init)
        self._make_levels(stem, block, image_down if encoder_type == "residual" else None, attend_once=True)
        at = f"{img_resolution}x{img_resolution}"
        self.dec[f"{at}_aux_norm"] = GroupNorm(self.widths[0], eps=1e-6)
        self.dec[f"{at}_aux_conv"] = Conv2d(self.widths[0], out_channels, 3, init_zero)

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """See `UNet.embed`."""
        emb = self.embed_noise(noise_labels)
        if self.map_label is not None:
            assert class_labels is not None
            emb = emb + self.map_label(self.drop_labels(class_labels) * self.label_dim**0.5)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def embed_noise(self, noise_labels: Tensor) -> Tensor:
        """Maps encoded noise levels (N or 1,) to (N or 1, noise_channels)."""
        emb: Tensor = self.map_noise(noise_labels)
        # Published weights expect the sines before the cosines.
        return emb.roll(emb.shape[1] // 2, dims=1)

    def image(self, x: Tensor) -> Tensor:
        """See `UNet.image`."""
        *_, norm, conv = self.dec.values()
        image: Tensor = conv(cast(GroupNorm, norm).activated(x))
        return image


class DhariwalUNet(UNet):
    """ADM: wide levels, multi-head attention, scale-and-shift conditioning.

    Attention has ``channels // 64`` heads, so levels narrower than 64 channels have none.

    Args:
        img_resolution, in_channels, out_channels, label_dim, augment_dim, channel_mult_emb, num_blocks: See `SongUNet`.
        model_channels: Multiplied by ``channel_mult`` for the channels of a level.
        channel_mult: Multipliers per level, from full resolution downwards.
        attn_resolutions: Resolutions with self-attention. The decoder's first block always has it, if wide enough.
        dropout, label_dropout: See `SongUNet`.

    Raises:
        SettingError: The resolution does not fit the levels, or heads do not divide a level's channels.

    State-dict names equal those of ``NVlabs/edm:training/networks.py``.
    """

    def __init__(
        self,
        img_resolution: Side,
        in_channels: Size,
        out_channels: Size,
        label_dim: Classes = 0,
        augment_dim: Classes = 0,
        model_channels: Size = 192,
        channel_mult: tuple[Few, ...] = (1, 2, 3, 4),
        channel_mult_emb: Few = 4,
        num_blocks: Few = 3,
        attn_resolutions: tuple[Size, ...] = (32, 16, 8),
        dropout: Share = 0.10,
        label_dropout: Share = 0.0,
    ):
        super().__init__()
        self._describe(locals())
        emb_channels = model_channels * channel_mult_emb
        init, init_zero = Init("kaiming_uniform", 3**-0.5, 3**-0.5), Init("kaiming_uniform", 0.0)
        style = BlockStyle(init, init_zero, init, True, dropout)

        def block(_: str, inputs: int, outputs: int, mode: Mode = "keep", attention: bool = False) -> UNetBlock:
            heads = attention_heads(outputs, 64) if attention else 0
            return UNetBlock(inputs, outputs, emb_channels, style, mode, heads)

        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, init_zero, bias=False) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels, init)
        self.map_layer1 = Linear(emb_channels, emb_channels, init)
        # Standard deviation sqrt(label_dim)/sqrt(fan_in) = 1: a one-hot row selects a column of unit variance.
        self.map_label = Linear(label_dim, emb_channels, Init(weight=label_dim**0.5), bias=False) if label_dim else None
        stem = Conv2d(in_channels, self.widths[0], 3, init)
        self._make_levels(stem, block)
        self.out_norm = GroupNorm(self.widths[0])
        self.out_conv = Conv2d(self.widths[0], out_channels, 3, init_zero)

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """See `UNet.embed`."""
        emb = self.map_noise(noise_labels)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None:
            assert class_labels is not None
            emb = emb + self.map_label(self.drop_labels(class_labels))
        return F.silu(emb)

    def image(self, x: Tensor) -> Tensor:
        """See `UNet.image`."""
        return self.out_conv(self.out_norm.activated(x))
