"""The magnitude-preserving U-Net of EDM2 and its layers.

Source: Karras et al. 2024, "EDM2", configuration G, section 2 and appendix B.
"""

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sida.config.families import WeightNorm
from sida.config.settings import Finite
from sida.networks.body import (
    Block,
    Classes,
    Few,
    Share,
    Side,
    Size,
    constants_device,
    is_computed_again,
    without_content,
)
from sida.networks.unet import Mode, UNet, attend, attention_heads, resampled, split_heads

NORM_EPS = 1e-4
# SiLU of a unit normal variable has this root mean square, as the paper rounds it (equation 81).
SILU_RMS = 0.596


def normalize(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Scales vectors to root mean square one.

    Args:
        x: Any tensor.
        dim: Dimensions of a vector; None = all except the first.

    Returns:
        x / (rms + 1e-4) in the dtype of x; the norm is taken in float32.
    """
    dims = tuple(range(1, x.ndim)) if dim is None else dim
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32)
    root = math.sqrt(x.numel() / norm.numel())
    return x / (norm / root + NORM_EPS).to(x.dtype)


def sum_weights(t: float) -> tuple[float, float]:
    """Factors that mix two uncorrelated unit-variance tensors, share ``t`` of the second, to unit variance (eq. 88)."""
    norm = math.hypot(1 - t, t)
    return (1 - t) / norm, t / norm


def cat_weights(a: Tensor, b: Tensor, t: float) -> tuple[float, float]:
    """Factors of two maps whose concatenated channels have shares ``1 - t`` and ``t`` (equation 103)."""
    norm = math.sqrt(a.shape[1] + b.shape[1]) / math.hypot(1 - t, t)
    return norm * (1 - t) / math.sqrt(a.shape[1]), norm * t / math.sqrt(b.shape[1])


def square_filter(taps: tuple[int, ...], device: torch.device) -> Tensor | None:
    """Filter of :func:`sida.networks.unet.resampled` from its taps along one dimension."""
    if tuple(taps) == (1, 1):
        return None
    line = torch.tensor(taps, dtype=torch.float32, device=device)
    line = line / line.sum()
    return torch.outer(line, line)


class MPFourier(nn.Module):
    """Fourier features of unit variance: sqrt(2)·cos(freqs·x + phases) (equation 75).

    Args:
        num_channels: Width.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, num_channels: int):
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(num_channels, device=constants_device()))
        self.register_buffer("phases", 2 * math.pi * torch.rand(num_channels, device=constants_device()))

    def forward(self, x: Tensor) -> Tensor:
        """Embeds (N,) as (N, num_channels)."""
        angle = torch.outer(x.float(), self.freqs.float()) + self.phases.float()
        return (angle.cos() * math.sqrt(2)).to(x.dtype)


class MPConv(nn.Module):
    """Convolution or linear map without bias whose weights act as unit vectors per output (equations 47 and 66).

    Args:
        in_channels: Channels or width of the input.
        out_channels: Channels or width of the output.
        kernel: Odd kernel size, or 0 for a linear map.
        gain: Factor on the result, applied to the weights because they are smaller than the maps.

    Attributes:
        weight_norm: Whether a forward pass also stores the normalised weights ("forced weight normalisation"), see
            :class:`sida.networks.EDM2Precond`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 0, gain: float = 1.0):
        super().__init__()
        self.kernel, self.gain = kernel, gain
        shape = (out_channels, in_channels) + ((kernel, kernel) if kernel else ())
        self.weight = nn.Parameter(torch.empty(shape) if without_content() else torch.randn(shape))
        self.weight_norm: WeightNorm = "in_forward"

    @torch.no_grad()
    def normalize_weight(self) -> None:
        """Stores the weights with root mean square one per output (less 1e-4: see `normalize`)."""
        self.weight.copy_(normalize(self.weight.float()))

    def rewrite_weight(self) -> None:
        """Stores normalised weights if ``weight_norm`` demands it in the present mode."""
        # A backward pass that computes a block again needs the weights of the forward pass, equal to the last bit.
        if not is_computed_again() and (self.weight_norm == "always" or (self.weight_norm != "off" and self.training)):
            self.normalize_weight()

    def effective_weight(self, gain: Tensor | None = None) -> Tensor:
        """The normalised float32 weights times ``gain`` or the layer's own; calls :meth:`rewrite_weight` first."""
        self.rewrite_weight()
        weight = self.weight.float()
        norm = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)
        # Unit root mean square and the fan-in's 1/sqrt(n) in one factor.
        return weight * ((self.gain if gain is None else gain) / (norm + NORM_EPS * math.sqrt(weight[0].numel())))

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """Maps (N, in, H, W) to (N, out, H, W), or (N, in) to (N, out); ``gain`` replaces the layer's own."""
        weight = self.effective_weight(gain).to(x.dtype)
        return F.conv2d(x, weight, padding=self.kernel // 2) if self.kernel else F.linear(x, weight)


class BlockOptions(NamedTuple):
    """Options that all blocks of a network share.

    Attributes:
        resample_filter: Taps of the resampling filter.
        channels_per_head: Width of an attention head; narrower levels have no attention.
        dropout: Dropout inside the residual branch, in training mode.
        res_balance: Share of the residual branch.
        attn_balance: Share of the attention branch.
        clip_act: Bound on the activations; None = none.
    """

    resample_filter: tuple[int, ...]
    channels_per_head: int
    dropout: float
    res_balance: float
    attn_balance: float
    clip_act: float | None


class EDM2Block(Block):
    """Residual block of the encoder or decoder, with optional resampling and cosine attention.

    Args:
        in_channels, out_channels, emb_channels: Channels in and out, and width of the embedding.
        options: Those of all blocks of the network.
        flavor: ``enc``: the main path is projected and pixel-normalised first; ``dec``: projected last.
        mode: Change of the resolution.
        attention: Whether to attend, with ``out_channels // channels_per_head`` heads (none if that is zero).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        options: BlockOptions,
        flavor: Literal["enc", "dec"],
        mode: Mode,
        attention: bool,
    ):
        super().__init__()
        self.flavor, self.mode, self.taps = flavor, mode, options.resample_filter
        self.dropout, self.clip_act = options.dropout, options.clip_act
        self.num_heads = attention_heads(out_channels, options.channels_per_head) if attention else 0
        self.emb_gain = nn.Parameter(torch.zeros([]))
        # Constant factors of SiLU and of the sums are multiplied into the convolutions' weights.
        self.res_keep, residual = sum_weights(options.res_balance)
        self.attn_keep, attended = sum_weights(options.attn_balance)
        first = out_channels if flavor == "enc" else in_channels
        self.conv_res0 = MPConv(first, out_channels, 3, 1 / SILU_RMS)
        self.emb_linear = MPConv(emb_channels, out_channels)
        self.conv_res1 = MPConv(out_channels, out_channels, 3, residual / SILU_RMS)
        self.conv_skip = MPConv(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.attn_qkv = MPConv(out_channels, out_channels * 3, 1) if self.num_heads else None
        self.attn_proj = MPConv(out_channels, out_channels, 1, attended) if self.num_heads else None

    def compute(self, x: Tensor, emb: Tensor) -> Tensor:
        """See `Block.compute`."""
        x = resampled(x, self.mode, square_filter(self.taps, x.device))
        if self.flavor == "enc":
            if self.conv_skip is not None:
                x = self.conv_skip(x)
            x = normalize(x, dim=1)
        y = F.silu(self.modulated(self.conv_res0(F.silu(x)), emb))
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        y = self.conv_res1(y)
        if self.flavor == "dec" and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = torch.add(y, x, alpha=self.res_keep)
        if self.attn_qkv is not None and self.attn_proj is not None:
            y = attend(normalize(split_heads(self.attn_qkv(x), self.num_heads), dim=2))
            x = torch.add(self.attn_proj(y.view(x.shape)), x, alpha=self.attn_keep)
        return x if self.clip_act is None else x.clamp_(-self.clip_act, self.clip_act)

    def modulated(self, y: Tensor, emb: Tensor) -> Tensor:
        """The map between both convolutions, scaled by the embedding."""
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1
        return y * scale[:, :, None, None].to(y.dtype)


class EDM2UNet(UNet):
    """EDM2's U-Net.

    Args:
        img_resolution: Side of the square images or latents.
        img_channels: Channels in and out.
        label_dim: Number of classes; 0 = unconditional.
        model_channels: Multiplied by ``channel_mult`` for the channels of a level.
        channel_mult: Multipliers per level, from full resolution downwards.
        channel_mult_noise: Multiplier for the width of the noise embedding; None = that of the first level.
        channel_mult_emb: Multiplier for the width of the conditioning vector; None = the largest level's.
        num_blocks: Residual blocks per level (the decoder has one more).
        attn_resolutions: Resolutions with self-attention. The decoder's first block always has it, if wide enough.
        label_balance: Share of the class embedding.
        concat_balance: Share of the encoder's maps in concatenations of the decoder.
        resample_filter, channels_per_head, dropout, res_balance, attn_balance, clip_act: See `BlockOptions`.

    Raises:
        SettingError: The resolution does not fit the levels, or heads do not divide a level's channels.

    State-dict names equal those of ``NVlabs/edm2:training/networks_edm2.py``.

    Attributes:
        block_class: Class of the blocks.
    """

    channel_options = ("img_channels",)
    block_class: ClassVar[type[EDM2Block]] = EDM2Block

    def __init__(
        self,
        img_resolution: Side,
        img_channels: Size,
        label_dim: Classes = 0,
        model_channels: Size = 192,
        channel_mult: tuple[Few, ...] = (1, 2, 3, 4),
        channel_mult_noise: Few | None = None,
        channel_mult_emb: Few | None = None,
        num_blocks: Few = 3,
        attn_resolutions: tuple[Size, ...] = (16, 8),
        label_balance: Share = 0.5,
        concat_balance: Share = 0.5,
        resample_filter: tuple[Size, ...] = (1, 1),
        channels_per_head: Size = 64,
        dropout: Share = 0.0,
        res_balance: Share = 0.3,
        attn_balance: Share = 0.3,
        clip_act: Finite | None = 256.0,
    ):
        super().__init__()
        self._describe(locals())
        self.label_balance = label_balance
        self.concat_balance = concat_balance
        noise_channels = self.widths[0] if channel_mult_noise is None else model_channels * channel_mult_noise
        emb_channels = max(self.widths) if channel_mult_emb is None else model_channels * channel_mult_emb
        options = BlockOptions(resample_filter, channels_per_head, dropout, res_balance, attn_balance, clip_act)

        def block(
            flavor: Literal["enc", "dec"], inputs: int, outputs: int, mode: Mode = "keep", attention: bool = False
        ) -> EDM2Block:
            return self.block_class(inputs, outputs, emb_channels, options, flavor, mode, attention)

        self.out_gain = nn.Parameter(torch.zeros([]))
        self.make_noise_embedding(noise_channels)
        self.emb_noise = MPConv(noise_channels, emb_channels)
        self.emb_label = MPConv(label_dim, emb_channels) if label_dim else None
        # A constant input channel of ones replaces biases.
        stem = MPConv(img_channels + 1, self.widths[0], 3)
        self._make_levels(stem, block)
        self.out_conv = MPConv(self.widths[0], img_channels, 3)

    def make_noise_embedding(self, channels: int) -> None:
        """Makes the first part of :meth:`embed_noise`, of a width."""
        self.emb_fourier = MPFourier(channels)

    def embed_noise(self, noise_labels: Tensor) -> Tensor:
        """Maps encoded noise levels (N or 1,) to (N or 1, emb_channels)."""
        emb: Tensor = self.emb_noise(self.emb_fourier(noise_labels))
        return emb

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """See `UNet.embed`; augmentation labels are ignored (EDM2 does not augment)."""
        emb = self.embed_noise(noise_labels)
        if self.emb_label is not None:
            assert class_labels is not None
            keep, share = sum_weights(self.label_balance)
            emb = torch.add(emb * keep, self.emb_label(class_labels * self.label_dim**0.5), alpha=share)
        return F.silu(emb) / SILU_RMS

    def encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `UNet.encode`."""
        return super().encode(F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0), emb)

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """See `UNet.join`."""
        first, second = cat_weights(x, skip, self.concat_balance)
        return torch.cat([x * first, skip * second], dim=1)

    def image(self, x: Tensor) -> Tensor:
        """See `UNet.image`."""
        return self.out_conv(x, gain=self.out_gain)
