"""Base class of U-Nets (embed, encode, decode) and construction of their levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sida.networks.options import check_options, describe_options

RETURN_FLAGS = ("decoder", "encoder", "encoder_decoder", "features")
Output = Tensor | tuple[Tensor, ...]
#: ``concat(a, b, a_factor=1, b_factor=1)``, see `plain_concat`.
Concat = Callable[..., Tensor]


def check_flag(return_flag: str, decode: int | slice | None) -> None:
    """Refuses unknown flags and a ``decode`` without an encoder-decoder pass.

    Raises:
        ValueError: The flag is unknown, or does not allow ``decode``.
    """
    if return_flag not in RETURN_FLAGS:
        raise ValueError(f"return_flag must be one of {', '.join(RETURN_FLAGS)}, got {return_flag!r}")
    if decode is not None and return_flag != "encoder_decoder":
        raise ValueError(f"decode selects samples of return_flag='encoder_decoder', not of {return_flag!r}")


def as_slice(decode: int | slice | None, batch: int) -> slice | None:
    """Turns a number of leading samples of a batch into a slice.

    Raises:
        ValueError: The number is negative or larger than the batch.
    """
    if isinstance(decode, int):
        if not 0 <= decode <= batch:
            raise ValueError(f"decode={decode} is not a number of leading samples of a batch of {batch}")
        return slice(0, decode)
    return decode


def take_samples(x: Tensor, selection: slice | None) -> Tensor:
    """Selects samples; a tensor of one row, which the batch shares, is returned unchanged."""
    return x if selection is None or x.shape[0] == 1 else x[selection]


def plain_concat(a: Tensor, b: Tensor, a_factor: float = 1.0, b_factor: float = 1.0) -> Tensor:
    """``cat([a_factor a, b_factor b])`` along channels."""
    return torch.cat([a if a_factor == 1 else a * a_factor, b if b_factor == 1 else b * b_factor], dim=1)


class UNet(nn.Module):
    """Base class of U-Nets, with separate embedding, encoder and decoder.

    Attributes:
        img_resolution: Side of the square input in pixels.
        label_dim: Width of the class labels; 0 = unconditional.
        label_dropout: Probability of dropping a label.
        augment_dim: Width of the augmentation labels; 0 = none.
        init_config: ``{"class", "kwargs"}`` from which `build_network` builds the same architecture.
        concat: Function that concatenates decoder and encoder maps.
        fork: Function that returns a map twice: for the next block and for the decoder.
        prepare: Function of the layers of encoder or decoder, the map and the embedding that returns the blocks' second
            argument.
        memory_format: Memory order of the maps.
    """

    concat: Concat = staticmethod(plain_concat)
    fork: Callable[[Tensor], tuple[Tensor, Tensor]] = staticmethod(lambda x: (x, x))
    prepare: Callable[[nn.ModuleDict, Tensor, Tensor], Any] = staticmethod(lambda part, x, emb: emb)
    memory_format: torch.memory_format = torch.contiguous_format
    img_resolution: int
    label_dim: int
    label_dropout: float
    augment_dim: int
    init_config: dict[str, Any]
    enc: nn.ModuleDict
    dec: nn.ModuleDict
    #: Options with the number of channels of the images.
    channel_options: ClassVar[tuple[str, ...]] = ("in_channels", "out_channels")

    def _describe(self, options: Mapping[str, Any]) -> None:
        """Checks a constructor's arguments, and sets ``init_config`` and attributes.

        Args:
            options: The ``locals()`` of the constructor.

        Raises:
            UserError: A value is wrong, or the resolution does not fit the levels.
        """
        self.init_config = describe_options(type(self), options)
        check_options(type(self), self.init_config["kwargs"], type(self).__name__)
        for name in ("img_resolution", "label_dim", "augment_dim", "label_dropout"):
            setattr(self, name, options.get(name, 0))

    def drop_labels(self, class_labels: Tensor) -> Tensor:
        """In training mode, zeroes the label of a sample with probability ``label_dropout``."""
        if not (self.training and self.label_dropout):
            return class_labels
        kept = torch.rand([class_labels.shape[0], 1], device=class_labels.device) >= self.label_dropout
        return class_labels * kept.to(class_labels.dtype)

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """Returns the conditioning vector of each sample, (N or 1, emb_channels)."""
        raise NotImplementedError

    def encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the encoder's last activation and the maps kept for the decoder, in order."""
        kept: list[Tensor] = []
        given = self.prepare(self.enc, x, emb)
        for name, block in self.enc.items():
            x, skip = self.fork(block(x) if name.endswith("_conv") else block(x, given))
            kept.append(skip)
        return x, kept

    def decode(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Returns the image-shaped result; consumes ``skips`` from its end."""
        given = self.prepare(self.dec, x, emb)
        for name, block in self.dec.items():
            x = block(self.join(x, skips.pop()) if "_block" in name else x, given)
        return self.image(x)

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """Concatenates a map of the decoder and one of the encoder along channels."""
        return self.concat(x, skip)

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
        decode: int | slice | None = None,
    ) -> Output:
        """Evaluates the network.

        Args:
            x: Scaled noisy images, (N, C, H, W).
            noise_labels: Encoded noise levels, (N,) or (1,).
            class_labels: One-hot rows, (N or 1, label_dim), or None.
            augment_labels: (N, augment_dim) or None.
            return_flag: ``decoder``: image; ``encoder``: logits, without running the decoder; ``encoder_decoder``:
                both; ``features``: the encoder's maps, without running the decoder.
            decode: With ``encoder_decoder``: decode only this number of leading samples, or a slice of the batch, which
                is exact because samples never interact.

        Returns:
            Image (M, C, H, W), float32 logits (N, 1, h, w) or the pair of them. The logits are the channel mean of the
            encoder's last activation (SiDA, section 4). With ``features`` a tuple: the last block's output
            (N, C', h, w) at each resolution of the encoder, from full resolution downwards.
        """
        check_flag(return_flag, decode)
        emb = self.embed(noise_labels, class_labels, augment_labels)
        x, skips = self.encode(x.contiguous(memory_format=self.memory_format), emb)
        if return_flag == "decoder":
            return self.decode(x, skips, emb)
        if return_flag == "features":
            return tuple({tensor.shape[-1]: tensor for tensor in (*skips, x)}.values())
        logits = x.mean(dim=1, keepdim=True, dtype=torch.float32)
        if return_flag == "encoder":
            return logits
        selection = as_slice(decode, x.shape[0])
        if selection is not None:
            x, emb, skips = x[selection], take_samples(emb, selection), [skip[selection] for skip in skips]
        return self.decode(x, skips, emb), logits


@dataclass(frozen=True)
class UNetPlan:
    """Plan of a U-Net: the blocks at each resolution, under the names of the official networks.

    Modules are made in the order in which they run, so that a seed gives the same weights.

    Attributes:
        resolution: Side of the input.
        widths: Channels of each level, from full resolution downwards.
        num_blocks: Blocks per level of the encoder; the decoder has one more.
        attention: Resolutions with self-attention.
        block: ``block(inputs, outputs, mode="keep", attention=False)`` makes a block of given widths that keeps, halves
            (``down``) or doubles (``up``) the resolution.
    """

    resolution: int
    widths: list[int]
    num_blocks: int
    attention: tuple[int, ...]
    block: Callable[..., nn.Module]

    def encoder(
        self, stem: nn.Module, width: int, extras: Callable[[int], dict[str, nn.Module]] | None = None
    ) -> tuple[nn.ModuleDict, list[int]]:
        """Makes the encoder, and lists the channels of the maps that it keeps for the decoder.

        Args:
            stem: First layer.
            width: Channels of the first layer.
            extras: Function that gives further modules by name after each halving, from its number of channels.
        """
        layers, kept = nn.ModuleDict(), [width]
        for level, outputs in enumerate(self.widths):
            at = self._at(level)
            if level == 0:
                layers[f"{at}_conv"] = stem
            else:
                layers[f"{at}_down"] = self.block(width, width, "down")
                for name, module in (extras(width) if extras else {}).items():
                    layers[f"{at}_{name}"] = module
                kept.append(width)
            for index in range(self.num_blocks):
                attention = self.resolution >> level in self.attention
                layers[f"{at}_block{index}"] = self.block(width, outputs, attention=attention)
                width = outputs
                kept.append(width)
        return layers, kept

    def decoder(
        self,
        kept: list[int],
        attend_once: bool = False,
        extras: Callable[[int], dict[str, nn.Module]] | None = None,
    ) -> nn.ModuleDict:
        """Makes the decoder; consumes ``kept`` from its end.

        Args:
            kept: Channels of the encoder's maps.
            attend_once: Whether only the last block of a level has attention.
            extras: Function that gives further modules by name after the blocks of a level.
        """
        layers = nn.ModuleDict()
        width, lowest = kept[-1], len(self.widths) - 1
        for level in range(lowest, -1, -1):
            at = self._at(level)
            if level == lowest:
                layers[f"{at}_in0"] = self.block(width, width, attention=True)
                layers[f"{at}_in1"] = self.block(width, width)
            else:
                layers[f"{at}_up"] = self.block(width, width, "up")
            for index in range(self.num_blocks + 1):
                attention = self.resolution >> level in self.attention and (not attend_once or index == self.num_blocks)
                layers[f"{at}_block{index}"] = self.block(width + kept.pop(), self.widths[level], attention=attention)
                width = self.widths[level]
            for name, module in (extras(level) if extras else {}).items():
                layers[f"{at}_{name}"] = module
        return layers

    def _at(self, level: int) -> str:
        resolution = self.resolution >> level
        return f"{resolution}x{resolution}"
