"""The U-Net of DDPM++ and NCSN++ (Song et al. 2021) as EDM uses it (Karras et al. 2022, appendix F.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from sida.networks.layers import Conv2d, FourierEmbedding, GroupNorm, Linear, PositionalEmbedding, UNetBlock
from sida.networks.unet import UNet, UNetPlan

Architecture = Literal["standard", "skip", "residual"]
_SQRT_HALF = 0.5**0.5


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
        encoder_type: ``standard`` (DDPM++), ``residual`` (NCSN++) or ``skip``.
        decoder_type: ``standard`` or ``skip``.
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
        encoder_type: Architecture = "standard",
        decoder_type: Literal["standard", "skip"] = "standard",
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
        self.enc, kept = levels.encoder(stem, model_channels, _image_down(encoder_type, in_channels, resampling, init))
        extras = _image_up(decoder_type, out_channels, widths, resampling, init_zero)
        self.dec = levels.decoder(kept, attend_once=True, extras=extras)

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
        aux, given = x, self.prepare(self.enc, x, emb)
        for name, block in self.enc.items():
            if isinstance(block, UNetBlock) or name.endswith("_conv"):
                x, skip = self.fork(block(x, given) if isinstance(block, UNetBlock) else block(x))
                kept.append(skip)
            elif name.endswith("_aux_down"):
                aux = block(aux)
            elif name.endswith("_aux_skip"):
                x = kept[-1] = x + block(aux)
            else:
                x = kept[-1] = aux = (x + block(aux)) * _SQRT_HALF
        return x, kept

    def decode(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """See `UNet.decode`."""
        image: Tensor | None = None
        normed, given = x, self.prepare(self.dec, x, emb)
        for name, block in self.dec.items():
            if isinstance(block, UNetBlock):
                x = block(self.join(x, skips.pop()) if "_block" in name else x, given)
            elif name.endswith("_aux_up"):
                image = block(image)
            elif name.endswith("_aux_norm"):
                normed = cast(GroupNorm, block).activated(x)
            else:
                image = block(normed) if image is None else image + block(normed)
        assert image is not None
        return image


def _image_down(
    architecture: Architecture, channels: int, resampling: dict[str, Any], init: dict[str, Any]
) -> Callable[[int], dict[str, nn.Module]]:
    """Modules after a halving: those of the path on which the image itself is halved, too."""

    def extras(width: int) -> dict[str, nn.Module]:
        nonlocal channels
        if architecture == "skip":
            halve = Conv2d(channels, channels, 0, down=True, **resampling)
            return {"aux_down": halve, "aux_skip": Conv2d(channels, width, 1, **init)}
        if architecture == "residual":
            inputs, channels = channels, width
            return {"aux_residual": Conv2d(inputs, width, 3, down=True, filter_after=True, **resampling, **init)}
        return {}

    return extras


def _image_up(
    architecture: Architecture, channels: int, widths: list[int], resampling: dict[str, Any], init: dict[str, Any]
) -> Callable[[int], dict[str, nn.Module]]:
    """Modules after a level of the decoder, from its maps to the image; with ``skip`` at every level."""

    def extras(level: int) -> dict[str, nn.Module]:
        layers: dict[str, nn.Module] = {}
        if architecture == "skip" and level < len(widths) - 1:
            layers["aux_up"] = Conv2d(channels, channels, 0, up=True, **resampling)
        if architecture == "skip" or level == 0:
            layers["aux_norm"] = GroupNorm(widths[level], eps=1e-6)
            layers["aux_conv"] = Conv2d(widths[level], channels, 3, **init)
        return layers

    return extras
