"""The ADM U-Net (Dhariwal and Nichol 2021) as EDM uses it for ImageNet 64×64 (Karras et al. 2022, appendix F.3)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sida.networks.layers import Conv2d, GroupNorm, Linear, PositionalEmbedding, UNetBlock
from sida.networks.unet import UNet, UNetPlan

_CHANNELS_PER_HEAD = 64


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
        UserError: The resolution does not fit the levels.

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
            heads = outputs // _CHANNELS_PER_HEAD if attention else 0
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
