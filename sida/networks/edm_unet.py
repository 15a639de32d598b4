"""EDM's U-Nets: that of DDPM++ and NCSN++, the ADM U-Net, their residual block and their layers.

Source: Karras et al. 2022, "EDM", appendices F.1 (Song et al. 2021) and F.3 (Dhariwal and Nichol 2021).
"""

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sida.errors import SettingError
from sida.networks.unet import (
    Block,
    Classes,
    Few,
    Share,
    Side,
    Size,
    UNet,
    attend,
    attention_heads,
    constants_device,
    make_levels,
    resampled,
    split_heads,
    without_content,
)

_SQRT_HALF = 0.5**0.5


def initial_values(shape: tuple[int, ...], mode: str, fan_in: int, fan_out: int, factor: float) -> Tensor:
    """Draws initial weights from torch's global generator; on the meta device they have a shape alone.

    Args:
        shape: Shape of the result.
        mode: Xavier (Glorot) variance 2/(fan_in + fan_out) or Kaiming (He, linear gain) variance 1/fan_in,
            uniform or normal: ``xavier_uniform``, ``kaiming_normal``, ...
        fan_in: Inputs of one unit, kernel area included.
        fan_out: Outputs of one input, kernel area included.
        factor: Factor on the result.
    """
    if without_content():
        return torch.empty(shape)
    variance = 2 / (fan_in + fan_out) if mode.startswith("xavier") else 1 / fan_in
    if mode.endswith("uniform"):
        return math.sqrt(3 * variance) * (torch.rand(shape) * 2 - 1) * factor
    return math.sqrt(variance) * torch.randn(shape) * factor


class Linear(nn.Module):
    """Affine map whose float32 parameters follow the dtype of the input.

    Args:
        in_features, out_features: Widths of input and output.
        bias: Whether there is a bias.
        init_mode: See `initial_values`.
        init_weight: Factor on the initial weights.
        init_bias: Factor on the initial biases; 0 starts them at zero.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        init_mode: str = "kaiming_normal",
        init_weight: float = 1.0,
        init_bias: float = 0.0,
    ):
        super().__init__()
        fans = (in_features, out_features)
        self.weight = nn.Parameter(initial_values((out_features, in_features), init_mode, *fans, init_weight))
        self.bias = nn.Parameter(initial_values((out_features,), init_mode, *fans, init_bias)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class Conv2d(nn.Module):
    """Same-size convolution, optionally after (or merged with) a factor-two resampling by a separable filter.

    Args:
        in_channels, out_channels: Channels of input and output.
        kernel: Odd kernel size, or 0 for resampling alone.
        up: Doubles the resolution before the convolution.
        down: Halves the resolution.
        resample_filter: Taps of the one-dimensional filter; (1, 1) is nearest-neighbour up and box down.
        filter_after: With ``down``: convolve at full resolution and filter afterwards; the convolution then has the
            zero padding of both (as in the residual encoder of NCSN++).
        init_mode, init_weight, init_bias: See `Linear`.
    """

    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        resample_filter: tuple[int, ...] = (1, 1),
        filter_after: bool = False,
        init_mode: str = "kaiming_normal",
        init_weight: float = 1.0,
        init_bias: float = 0.0,
    ):
        super().__init__()
        self.kernel, self.up, self.down, self.filter_after = kernel, up, down, filter_after
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if kernel:
            fans = (in_channels * kernel**2, out_channels * kernel**2)
            shape = (out_channels, in_channels, kernel, kernel)
            self.weight = nn.Parameter(initial_values(shape, init_mode, *fans, init_weight))
            self.bias = nn.Parameter(initial_values((out_channels,), init_mode, *fans, init_bias))
        taps = torch.tensor(resample_filter, dtype=torch.float32, device=constants_device())
        square = torch.outer(taps, taps)[None, None] / taps.sum().square()
        self.register_buffer("resample_filter", square if up or down else None)
        self.box = tuple(resample_filter) == (1, 1)

    def forward(self, x: Tensor, weight_scale: float = 1.0) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, out_channels, H', W').

        Args:
            x: Feature maps.
            weight_scale: Factor on the result, applied to weight and bias because they are smaller than the maps.
        """
        if self.weight is None or self.bias is None:
            return self.resample(x)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if weight_scale != 1:
            weight, bias = weight * weight_scale, bias * weight_scale
        pad = self.kernel // 2
        if self.down and self.filter_after:
            x = F.conv2d(x, weight, padding=pad + (cast(Tensor, self.resample_filter).shape[-1] - 1) // 2)
            return self.resample(x, padding=0) + bias[:, None, None]
        if self.up and self.kernel == 1:
            # A pointwise map commutes with the filter, and is four times cheaper before it.
            if self.box:
                return self.resample(F.conv2d(x, weight, bias))
            return self.resample(F.conv2d(x, weight)) + bias[:, None, None]
        return F.conv2d(self.resample(x), weight, bias, padding=pad)

    def resample(self, x: Tensor, padding: int | None = None) -> Tensor:
        """Applies the filter alone: doubles, halves or returns (N, C, H, W)."""
        mode = "up" if self.up else "down" if self.down else "keep"
        return resampled(x, mode, None if self.box else self.resample_filter, padding)


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


class UNetBlock(Block):
    """Norm, SiLU, convolution (twice) around a skip connection, conditioned on an embedding; then attention.

    Args:
        in_channels, out_channels, emb_channels: Channels in and out, and width of the embedding.
        up: Doubles the resolution.
        down: Halves the resolution.
        num_heads: Attention heads; 0 = no attention.
        dropout: Probability of zeroing an activation before the second convolution, in training mode.
        resample_filter: Taps, see `Conv2d`.
        adaptive_scale: ADM's block: the embedding gives scale and shift after the second norm. Else that of DDPM++ and
            NCSN++: the embedding gives a shift before the norm, sums are scaled to keep the variance, and a resampling
            skip connection also has a 1×1 convolution.
        init: Initialisation keywords of ordinary layers.
        init_zero: Initialisation keywords of the last layer of each residual branch.
        init_attn: Initialisation keywords of the query-key-value layer (None = ``init``).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        up: bool = False,
        down: bool = False,
        num_heads: int = 0,
        dropout: float = 0.0,
        resample_filter: tuple[int, ...] = (1, 1),
        adaptive_scale: bool = True,
        init: dict[str, Any],
        init_zero: dict[str, Any],
        init_attn: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.skip_scale = 1.0 if adaptive_scale else _SQRT_HALF
        self.adaptive_scale = adaptive_scale
        eps = 1e-5 if adaptive_scale else 1e-6
        resampling: dict[str, Any] = {"up": up, "down": down, "resample_filter": resample_filter}
        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, **resampling, **init)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1), **init)
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, **init_zero)
        self.skip: Conv2d | None = None
        if out_channels != in_channels or up or down:
            kernel = 0 if adaptive_scale and out_channels == in_channels else 1
            self.skip = Conv2d(in_channels, out_channels, kernel, **resampling, **init)
        if num_heads:
            self.norm2 = GroupNorm(out_channels, eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, 1, **(init if init_attn is None else init_attn))
            self.proj = Conv2d(out_channels, out_channels, 1, **init_zero)

    def compute(self, x: Tensor, emb: Tensor) -> Tensor:
        """See `Block.compute`."""
        h = self.conv0(F.silu(self.norm0(x)))
        shift = self.affine(emb)[:, :, None, None].to(h.dtype)
        if self.adaptive_scale:
            scale, shift = shift.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm1(h), scale + 1)
        else:
            h = self.norm1(h + shift)
        h = F.silu(h)
        if self.training and self.dropout:
            h = F.dropout(h, self.dropout)
        h = self.conv1(h, self.skip_scale)
        x = torch.add(h, x if self.skip is None else self.skip(x), alpha=self.skip_scale)
        if self.num_heads:
            h = attend(split_heads(self.qkv(self.norm2(x)), self.num_heads))
            x = torch.add(self.proj(h.view(x.shape), self.skip_scale), x, alpha=self.skip_scale)
        return x


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
    """

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
        widths = [model_channels * mult for mult in channel_mult]
        noise_channels = model_channels * channel_mult_noise
        emb_channels = model_channels * channel_mult_emb
        init: dict[str, Any] = {"init_mode": "xavier_uniform"}
        init_zero = {**init, "init_weight": 1e-5}
        options: dict[str, Any] = {
            "dropout": dropout,
            "resample_filter": resample_filter,
            "adaptive_scale": False,
            "init": init,
            "init_zero": init_zero,
            "init_attn": {**init, "init_weight": 0.2**0.5},
        }

        def block(_: str, inputs: int, outputs: int, mode: str = "keep", attention: bool = False) -> nn.Module:
            shape: dict[str, Any] = {"up": mode == "up", "down": mode == "down", "num_heads": int(attention)}
            return UNetBlock(inputs, outputs, emb_channels, **shape, **options)

        image_channels = in_channels

        def image_down(width: int) -> nn.Module:
            """The next layer of the path on which the image itself is halved, too."""
            nonlocal image_channels
            inputs, image_channels = image_channels, width
            return Conv2d(inputs, width, 3, down=True, filter_after=True, resample_filter=resample_filter, **init)

        fourier = embedding_type == "fourier"
        self.map_noise = FourierEmbedding(noise_channels) if fourier else PositionalEmbedding(noise_channels, True)
        self.map_label = Linear(label_dim, noise_channels, **init) if label_dim else None
        self.map_augment = Linear(augment_dim, noise_channels, bias=False, **init) if augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels, **init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **init)
        stem = Conv2d(in_channels, model_channels, 3, **init)
        levels = (img_resolution, widths, num_blocks, attn_resolutions)
        further = image_down if encoder_type == "residual" else None
        self.enc, self.dec = make_levels(*levels, stem, block, image_down=further, attend_once=True)
        at = f"{img_resolution}x{img_resolution}"
        self.dec[f"{at}_aux_norm"] = GroupNorm(widths[0], eps=1e-6)
        self.dec[f"{at}_aux_conv"] = Conv2d(widths[0], out_channels, 3, **init_zero)

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """See `UNet.embed`."""
        # Published weights expect the sines before the cosines.
        emb = self.map_noise(noise_labels)
        emb = emb.roll(emb.shape[1] // 2, dims=1)
        if self.map_label is not None:
            assert class_labels is not None
            emb = emb + self.map_label(self.drop_labels(class_labels) * self.label_dim**0.5)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `UNet.encode`."""
        kept: list[Tensor] = []
        image = x
        for name, block in self.enc.items():
            if name.endswith("_aux_residual"):
                x = kept[-1] = image = (x + block(image)) * _SQRT_HALF
            else:
                x = self.keep(block(x) if name.endswith("_conv") else block(x, emb), kept)
        return x, kept

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
        init: dict[str, Any] = {"init_mode": "kaiming_uniform", "init_weight": 3**-0.5, "init_bias": 3**-0.5}
        init_zero: dict[str, Any] = {"init_mode": "kaiming_uniform", "init_weight": 0.0, "init_bias": 0.0}

        def block(_: str, inputs: int, outputs: int, mode: str = "keep", attention: bool = False) -> nn.Module:
            heads = attention_heads(outputs, 64) if attention else 0
            options: dict[str, Any] = {"dropout": dropout, "init": init, "init_zero": init_zero, "num_heads": heads}
            return UNetBlock(inputs, outputs, emb_channels, up=mode == "up", down=mode == "down", **options)

        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, bias=False, **init_zero) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels, **init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **init)
        # Standard deviation sqrt(label_dim)/sqrt(fan_in) = 1: a one-hot row selects a column of unit variance.
        labels = {"bias": False, "init_weight": label_dim**0.5}
        self.map_label = Linear(label_dim, emb_channels, **labels) if label_dim else None
        widths = [model_channels * mult for mult in channel_mult]
        stem = Conv2d(in_channels, widths[0], 3, **init)
        self.enc, self.dec = make_levels(img_resolution, widths, num_blocks, attn_resolutions, stem, block)
        self.out_norm = GroupNorm(widths[0])
        self.out_conv = Conv2d(widths[0], out_channels, 3, **init_zero)

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
