"""EDM's U-Nets: that of DDPM++ and NCSN++, the ADM U-Net, and their residual block.

Source: Karras et al. 2022, "EDM", appendices F.1 (Song et al. 2021) and F.3 (Dhariwal and Nichol 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sida.networks.layers import (
    Conv2d,
    FourierEmbedding,
    GroupNorm,
    Linear,
    PositionalEmbedding,
    attend,
    attention_heads,
    split_heads,
)
from sida.networks.unet import Block, UNet, UNetPlan

_SQRT_HALF = 0.5**0.5
_CHANNELS_PER_HEAD = 64


class UNetBlock(Block):
    """Norm, SiLU, convolution (twice) around a skip connection, conditioned on an embedding; then attention.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        emb_channels: Width of the embedding.
        up: Doubles the resolution.
        down: Halves the resolution.
        num_heads: Attention heads; 0 = no attention.
        dropout: Probability of zeroing an activation before the second convolution, in training mode.
        skip_scale: Factor after each residual sum.
        eps: Constant of the group norms.
        resample_filter: Taps, see `Conv2d`.
        resample_proj: Whether a resampling skip connection also has a 1×1 convolution.
        adaptive_scale: The embedding gives scale and shift after the second norm (ADM), not a shift before it.
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
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        resample_filter: tuple[int, ...] = (1, 1),
        resample_proj: bool = False,
        adaptive_scale: bool = True,
        init: dict[str, Any],
        init_zero: dict[str, Any],
        init_attn: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.skip_scale = skip_scale
        self.adaptive_scale = adaptive_scale
        resampling: dict[str, Any] = {"up": up, "down": down, "resample_filter": resample_filter}

        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, **resampling, **init)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1), **init)
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, **init_zero)
        self.skip: Conv2d | None = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_proj or out_channels != in_channels else 0
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
        x = self._add(self.conv1(h, self.skip_scale), x if self.skip is None else self.skip(x))
        if self.num_heads:
            h = attend(split_heads(self.qkv(self.norm2(x)), self.num_heads))
            x = self._add(self.proj(h.view(x.shape), self.skip_scale), x)
        return x

    def _add(self, scaled: Tensor, x: Tensor) -> Tensor:
        """Residual sum; the branch is already multiplied by ``skip_scale``."""
        return torch.add(scaled, x, alpha=self.skip_scale)


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
        UserError: A choice is unknown, or the resolution does not fit the levels.

    State-dict names equal those of ``NVlabs/edm:training/networks.py``.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: tuple[int, ...] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: tuple[int, ...] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Literal["standard", "residual"] = "standard",
        decoder_type: Literal["standard"] = "standard",
        resample_filter: tuple[int, ...] = (1, 1),
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
            "skip_scale": _SQRT_HALF,
            "eps": 1e-6,
            "resample_filter": tuple(resample_filter),
            "resample_proj": True,
            "adaptive_scale": False,
            "init": init,
            "init_zero": init_zero,
            "init_attn": {**init, "init_weight": 0.2**0.5},
        }

        def block(inputs: int, outputs: int, mode: str = "keep", attention: bool = False) -> nn.Module:
            shape: dict[str, Any] = {"up": mode == "up", "down": mode == "down", "num_heads": int(attention)}
            return UNetBlock(inputs, outputs, emb_channels, **shape, **options)

        resampling: dict[str, Any] = {"resample_filter": tuple(resample_filter)}
        self.map_noise = (
            PositionalEmbedding(noise_channels, endpoint=True)
            if embedding_type == "positional"
            else FourierEmbedding(noise_channels)
        )
        self.map_label = Linear(label_dim, noise_channels, **init) if label_dim else None
        self.map_augment = Linear(augment_dim, noise_channels, bias=False, **init) if augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels, **init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **init)
        levels = UNetPlan(img_resolution, widths, num_blocks, attn_resolutions, block)
        stem = Conv2d(in_channels, model_channels, 3, **init)
        extras = _image_down(in_channels, {**resampling, **init}) if encoder_type == "residual" else None
        self.enc, kept = levels.encoder(stem, model_channels, extras)
        self.dec = levels.decoder(kept, attend_once=True)
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


def _image_down(channels: int, options: dict[str, Any]) -> Callable[[int], dict[str, nn.Module]]:
    """Modules after a halving: those of the path on which the image itself is halved, too."""

    def extras(width: int) -> dict[str, nn.Module]:
        nonlocal channels
        inputs, channels = channels, width
        return {"aux_residual": Conv2d(inputs, width, 3, down=True, filter_after=True, **options)}

    return extras


class DhariwalUNet(UNet):
    """ADM: wide levels, multi-head attention, scale-and-shift conditioning.

    Attention has ``channels // 64`` heads, so levels narrower than 64 channels have none.

    Args:
        img_resolution: Side of the square images.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        label_dim: Number of classes; 0 = unconditional.
        augment_dim: Width of the augmentation labels; 0 = none, and given labels are ignored.
        model_channels: Multiplied by ``channel_mult`` for the channels of a level.
        channel_mult: Multipliers per level, from full resolution downwards.
        channel_mult_emb: Multiplier for the width of the conditioning vector.
        num_blocks: Residual blocks per level (the decoder has one more).
        attn_resolutions: Resolutions with self-attention. The decoder's first block always has it, if wide enough.
        dropout: Dropout inside the residual branches, in training mode.
        label_dropout: Probability of dropping a sample's class label, in training mode.

    Raises:
        UserError: The resolution does not fit the levels, or heads do not divide a level's channels.

    State-dict names equal those of ``NVlabs/edm:training/networks.py``.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: tuple[int, ...] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: tuple[int, ...] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
    ):
        super().__init__()
        self._describe(locals())
        emb_channels = model_channels * channel_mult_emb
        init: dict[str, Any] = {"init_mode": "kaiming_uniform", "init_weight": 3**-0.5, "init_bias": 3**-0.5}
        init_zero: dict[str, Any] = {"init_mode": "kaiming_uniform", "init_weight": 0.0, "init_bias": 0.0}

        def block(inputs: int, outputs: int, mode: str = "keep", attention: bool = False) -> nn.Module:
            heads = attention_heads(outputs, _CHANNELS_PER_HEAD) if attention else 0
            options: dict[str, Any] = {"dropout": dropout, "init": init, "init_zero": init_zero, "num_heads": heads}
            return UNetBlock(inputs, outputs, emb_channels, up=mode == "up", down=mode == "down", **options)

        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, bias=False, **init_zero) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels, **init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **init)
        # Standard deviation sqrt(label_dim)/sqrt(fan_in) = 1: a one-hot row selects a column of unit variance.
        self.map_label = (
            Linear(label_dim, emb_channels, bias=False, init_mode="kaiming_normal", init_weight=label_dim**0.5)
            if label_dim
            else None
        )
        widths = [model_channels * mult for mult in channel_mult]
        levels = UNetPlan(img_resolution, widths, num_blocks, attn_resolutions, block)
        self.enc, kept = levels.encoder(Conv2d(in_channels, widths[0], 3, **init), widths[0])
        self.dec = levels.decoder(kept)
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
