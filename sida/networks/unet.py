"""Base classes of U-Nets, attention and resampling."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sida.errors import SettingError
from sida.networks.body import Block, Output, attention, plain_options

#: Change of a block's resolution: none, doubled or halved.
Mode = Literal["keep", "up", "down"]
#: Factor that keeps the variance of the sum of two maps (DDPM++ and NCSN++).
SQRT_HALF = 0.5**0.5


class UNet(nn.Module):
    """Base class of U-Nets, with separate embedding, encoder and decoder.

    Attributes:
        img_resolution: Side of the square input in pixels.
        label_dim: Width of the class labels; 0 = unconditional.
        label_dropout: Probability of dropping a label.
        drops_labels: Whether labels are dropped in training mode, see `Precond`.
        augment_dim: Width of the augmentation labels; 0 = none.
        options: Arguments of the constructor as JSON values.
        widths: Channels of each level, from full resolution downwards.
    """

    img_resolution: int
    label_dim: int
    label_dropout: float
    drops_labels: bool = False
    augment_dim: int
    options: dict[str, Any]
    enc: nn.ModuleDict
    dec: nn.ModuleDict
    #: Options with the number of channels of the images.
    channel_options: ClassVar[tuple[str, ...]] = ("in_channels", "out_channels")

    def _describe(self, options: Mapping[str, Any]) -> None:
        """Sets attributes, ``options`` among them.

        Args:
            options: The ``locals()`` of the constructor.

        Raises:
            SettingError: The resolution does not fit the levels.
        """
        self.options = plain_options(type(self), options)
        for name in ("img_resolution", "label_dim", "augment_dim", "label_dropout"):
            setattr(self, name, options.get(name, 0))
        halvings = len(options["channel_mult"]) - 1
        if halvings < 0 or self.img_resolution % 2**halvings:
            fault = f"{self.img_resolution} cannot be halved {halvings} times"
            remedy = f"use a multiple of {2**halvings} or fewer entries in channel_mult"
            raise SettingError("img_resolution", fault, remedy)
        self.widths = [options["model_channels"] * mult for mult in options["channel_mult"]]

    def _make_levels(
        self,
        stem: nn.Module,
        block: Callable[..., nn.Module],
        image_down: Callable[[int, int], nn.Module] | None = None,
        attend_once: bool = False,
    ) -> None:
        """Makes encoder and decoder from ``options``, with the names of the official networks.

        Modules are made in the order in which they run, so that a seed gives the same weights.

        Args:
            stem: First layer, whose ``weight`` has its numbers of output and input channels as first sizes.
            block: ``block(part, inputs, outputs, mode="keep", attention=False)`` makes a block of the encoder (``enc``)
                or decoder (``dec``) of given widths that keeps, halves (``down``) or doubles (``up``) the resolution.
            image_down: ``image_down(inputs, outputs)`` makes a further module after each halving: the next layer of the
                path on which the image itself is halved (NCSN++).
            attend_once: Whether only the last block of a decoder's level has attention.
        """
        self.enc, self.dec = enc, dec = nn.ModuleDict(), nn.ModuleDict()
        num_blocks, attention = self.options["num_blocks"], self.options["attn_resolutions"]
        width, image_width = cast(Tensor, stem.weight).shape[:2]
        skip_widths = [width]
        for level, outputs in enumerate(self.widths):
            side = self.img_resolution >> level
            at = f"{side}x{side}"
            if level == 0:
                enc[f"{at}_conv"] = stem
            else:
                enc[f"{at}_down"] = block("enc", width, width, "down")
                if image_down is not None:
                    enc[f"{at}_aux_residual"] = image_down(image_width, width)
                    image_width = width
                skip_widths.append(width)
            for index in range(num_blocks):
                enc[f"{at}_block{index}"] = block("enc", width, outputs, attention=side in attention)
                width = outputs
                skip_widths.append(width)
        for level, outputs in reversed(list(enumerate(self.widths))):
            side = self.img_resolution >> level
            at = f"{side}x{side}"
            if level == len(self.widths) - 1:
                dec[f"{at}_in0"] = block("dec", width, width, attention=True)
                dec[f"{at}_in1"] = block("dec", width, width)
            else:
                dec[f"{at}_up"] = block("dec", width, width, "up")
            for index in range(num_blocks + 1):
                attends = side in attention and (not attend_once or index == num_blocks)
                dec[f"{at}_block{index}"] = block("dec", width + skip_widths.pop(), outputs, attention=attends)
                width = outputs

    def drop_labels(self, class_labels: Tensor) -> Tensor:
        """In the training of a teacher, zeroes the label of a sample with probability ``label_dropout``."""
        if not (self.training and self.drops_labels and self.label_dropout):
            return class_labels
        keeps_label = torch.rand([class_labels.shape[0], 1], device=class_labels.device) >= self.label_dropout
        return class_labels * keeps_label.to(class_labels.dtype)

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """Returns the conditioning vector of each sample, (N or 1, emb_channels)."""
        raise NotImplementedError

    def encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the encoder's last activation and the maps kept for the decoder, in order."""
        skips: list[Tensor] = []
        image = x
        for name, block in self.enc.items():
            if name.endswith("_aux_residual"):
                x = skips[-1] = image = (x + block(image)) * SQRT_HALF
            else:
                x = self.keep(block(x) if name.endswith("_conv") else block(x, emb), skips)
        return x, skips

    def keep(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Appends a map of the encoder to those for the decoder; returns the map for the next block."""
        skips.append(x)
        return x

    def decode(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Returns the image-shaped result; consumes ``skips`` from its end."""
        for name, block in self.dec.items():
            if isinstance(block, Block):
                x = block(self.join(x, skips.pop()) if "_block" in name else x, emb)
        # Each map of the encoder is joined once.
        assert not skips
        return self.image(x)

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """Concatenates a map of the decoder and one of the encoder along channels."""
        return torch.cat([x, skip], dim=1)

    def image(self, x: Tensor) -> Tensor:
        """Turns the decoder's last map into the result."""
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        return_flag: str = "decoder",
        decode: int | None = None,
    ) -> Output:
        """Evaluates the network.

        Args:
            x: Scaled noisy images, (N, C, H, W).
            noise_labels: Encoded noise levels, (N,) or (1,).
            class_labels: One-hot rows, (N or 1, label_dim), or None.
            augment_labels: (N, augment_dim) or None.
            return_flag: ``decoder``: image; ``encoder``: logits, without running the decoder; ``encoder_decoder``:
                both; ``features``: the encoder's maps, without running the decoder.
            decode: With ``encoder_decoder``: decode only this number of leading samples, which is exact because samples
                never interact.

        Returns:
            Image (M, C, H, W), float32 logits (N, 1, h, w) or the pair of them. The logits are the channel mean of the
            encoder's last activation (SiDA, section 4). With ``features`` a tuple: the last block's output
            (N, C', h, w) at each resolution of the encoder, from full resolution downwards.
        """
        emb = self.embed(noise_labels, class_labels, augment_labels)
        x, skips = self.encode(x.contiguous(), emb)
        if return_flag == "decoder":
            return self.decode(x, skips, emb)
        if return_flag == "features":
            return tuple({tensor.shape[-1]: tensor for tensor in (*skips, x)}.values())
        logits = x.mean(dim=1, keepdim=True, dtype=torch.float32)
        if return_flag == "encoder":
            return logits
        if decode is not None:
            x, emb, skips = x[:decode], emb[:decode], [skip[:decode] for skip in skips]
        return self.decode(x, skips, emb), logits


def resampled(x: Tensor, mode: Mode, kernel: Tensor | None, padding: int | None = None) -> Tensor:
    """Returns (``keep``), halves (``down``) or doubles (``up``) maps (N, C, H, W) by a filter.

    Args:
        x: Maps.
        mode: See above.
        kernel: Filter (..., k, k) with sum 1; None is the 2×2 mean, for which pooling and repetition are exact and
            faster.
        padding: Zeros around the maps; None keeps their size but for the factor of two.
    """
    if mode == "keep":
        return x
    if kernel is None:
        return F.avg_pool2d(x, 2) if mode == "down" else F.interpolate(x, scale_factor=2, mode="nearest")
    channels, kernel = x.shape[1], kernel.to(x.dtype)
    padding = (kernel.shape[-1] - 1) // 2 if padding is None else padding
    if mode == "down":
        return F.conv2d(x, kernel.expand(channels, 1, -1, -1), groups=channels, stride=2, padding=padding)
    wide = (kernel * 4).expand(channels, 1, -1, -1)
    return F.conv_transpose2d(x, wide, groups=channels, stride=2, padding=padding)


# Up to this many positions two plain matrix products are faster on a CPU than the fused kernel.
_FUSED_FROM = 256


def attention_heads(channels: int, channels_per_head: int) -> int:
    """Number of attention heads of a level; 0 for a level that is narrower than a head.

    Raises:
        SettingError: The heads do not divide the channels.
    """
    heads = channels // channels_per_head
    if heads and channels % heads:
        fault = f"{channels} feature channels cannot form {heads} equal attention heads"
        raise SettingError("model_channels, channel_mult", fault, f"use multiples of {channels_per_head}")
    return heads


def split_heads(qkv: Tensor, num_heads: int, stacked: bool = False) -> Tensor:
    """Views the output of a query-key-value layer by head.

    Args:
        qkv: (N, 3C, H, W); within a head query, key and value channels alternate: q0, k0, v0, q1, ...
        num_heads: Divides C.
        stacked: Whether all query channels come first, then all key and all value channels.

    Returns:
        (N, num_heads, C/num_heads, 3, H·W).
    """
    n, width, height, length = qkv.shape
    if stacked:
        return qkv.reshape(n, 3, num_heads, width // 3 // num_heads, height * length).permute(0, 2, 3, 1, 4)
    return qkv.reshape(n, num_heads, width // 3 // num_heads, 3, height * length)


def attend(heads: Tensor) -> Tensor:
    """Scaled dot-product attention; scores are divided by sqrt(channels per head), their softmax is in float32.

    Args:
        heads: (N, heads, channels, 3, L) as from `split_heads`.

    Returns:
        (N, heads·channels, L) in the same dtype.
    """
    n, num_heads, channels, _, length = heads.shape
    if heads.is_cuda or length > _FUSED_FROM:
        # The fused kernels need contiguous channels in the last dimension; one copy arranges q, k and v.
        q, k, v = heads.permute(3, 0, 1, 4, 2).contiguous().unbind(0)
        return attention(q, k, v).transpose(2, 3).reshape(n, num_heads * channels, length)
    q, k, v = heads.reshape(n * num_heads, channels, 3, length).unbind(2)
    score = torch.bmm(q.float().transpose(1, 2), k.float() * channels**-0.5)
    weight = score.softmax(dim=2).to(v.dtype)
    return torch.bmm(v, weight.transpose(1, 2)).reshape(n, num_heads * channels, length)
