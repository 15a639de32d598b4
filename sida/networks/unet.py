"""Base classes of U-Nets and their blocks, construction of levels, and constructor options.

A class's signature is the schema of its options, which are recorded for building the network again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sida.config.settings import from_mapping
from sida.errors import SettingError, UserError


def check_options(cls: type, options: Mapping[str, Any], where: str, extra: type | None = None) -> dict[str, Any]:
    """Checks keyword arguments of a network class before it is called.

    Args:
        cls: Network class, whose annotated ``__init__`` is the schema.
        options: Keyword arguments, e.g. from JSON; lists are accepted for tuples.
        where: Place named in errors.
        extra: Class whose options are accepted, too: the U-Net of a preconditioner, without the options that the
            preconditioner sets.

    Returns:
        The given options, in the annotated types.

    Raises:
        UserError: A key is unknown or missing (the message has the valid names), or has a wrong type or value.
    """
    fields = _fields(cls)
    if extra is not None:
        fields.update({k: v for k, v in _fields(extra).items() if k not in fields and k not in SET_BY_PRECOND})
    required = [(k, hint) for k, (hint, default) in fields.items() if default is inspect.Parameter.empty]
    optional = [
        (k, hint, dataclasses.field(default=default))
        for k, (hint, default) in fields.items()
        if default is not inspect.Parameter.empty
    ]
    schema = dataclasses.make_dataclass(
        cls.__name__, [*required, *optional], namespace={"__post_init__": _check_ranges}
    )
    checked: Any = from_mapping(schema, options, where)
    return {name: getattr(checked, name) for name in options}


_COUNTS = ("label_dim", "augment_dim")
_LARGEST = {"img_resolution": 4096, "label_dim": 1_000_000, "num_blocks": 64}
_LARGEST_OTHER, _LONGEST = 65_536, 32
_INFINITE = ("sigma_max",)
_SHARES = ("dropout", "label_dropout", "label_balance", "concat_balance", "res_balance", "attn_balance")


def _check_ranges(options: Any) -> None:
    """Checks that sizes are positive and bounded, counts not negative, shares in [0, 1), other numbers finite.

    The resolution must be divisible by two once per level. An untrusted file may give these options, and the network is
    built before the file's tensors are compared.
    """
    for name, value in vars(options).items():
        if name in _SHARES:
            if not 0 <= value < 1:
                raise SettingError(name, f"must be in [0, 1), got {value}")
            continue
        lowest, highest = 0 if name in _COUNTS else 1, _LARGEST.get(name, _LARGEST_OTHER)
        if isinstance(value, tuple) and len(value) > _LONGEST:
            raise SettingError(name, f"must have at most {_LONGEST} entries, got {len(value)}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number) and not (name in _INFINITE and number > 0):
                raise SettingError(name, f"must be a finite number, got {number}")
            if not isinstance(number, int) or isinstance(number, bool):
                continue
            if number < lowest:
                raise SettingError(name, f"must be at least {lowest}, got {number}")
            if number > highest:
                raise SettingError(name, f"must be at most {highest}, got {number}")
    if hasattr(options, "channel_mult") and hasattr(options, "img_resolution"):
        _check_levels(options.img_resolution, options.channel_mult)


def _check_levels(img_resolution: int, channel_mult: tuple[int, ...]) -> None:
    if not channel_mult:
        raise SettingError("channel_mult", "must have at least one level")
    divisor = 2 ** (len(channel_mult) - 1)
    if img_resolution < divisor or img_resolution % divisor:
        fault = f"{img_resolution} cannot be halved {len(channel_mult) - 1} times"
        raise SettingError("img_resolution", fault, f"use a multiple of {divisor} or fewer entries in channel_mult")


# Options of a U-Net that its preconditioner sets.
SET_BY_PRECOND = ("in_channels", "out_channels")


def _fields(cls: type) -> dict[str, tuple[Any, Any]]:
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    parameters = list(inspect.signature(cls).parameters.values())
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: (hints[p.name], p.default) for p in named}


def describe_options(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``{"class", "kwargs"}`` as strict JSON values: lists for tuples, null for infinity.

    Args:
        cls: Network class.
        options: Values by parameter name; other names (``self``, locals) are ignored.
    """
    kwargs = {name: _plain(options[name]) for name in _fields(cls) if name in options}
    return {"class": class_name(cls), "kwargs": kwargs}


def class_name(cls: type) -> str:
    """Name of a class for :func:`sida.networks.build_network`; ``module:object`` for a custom class."""
    inside = cls.__module__.startswith("sida.networks.")
    return cls.__name__ if inside else f"{cls.__module__}:{cls.__qualname__}"


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return None
    return value


RETURN_FLAGS = ("decoder", "encoder", "encoder_decoder", "features")
Output = Tensor | tuple[Tensor, ...]


class Block(nn.Module):
    """Base class of the residual blocks of U-Nets.

    Attributes:
        checkpointed: Whether the block keeps only its inputs for the backward pass, which recomputes the rest.
    """

    checkpointed = False

    def forward(self, x: Tensor, emb: Any) -> Tensor:
        """Maps (N, in_channels, H, W) to (N, out_channels, H', W'); ``emb`` is (N or 1, emb_channels)."""
        if not self.checkpointed:
            return self.compute(x, emb)
        contexts = lambda: (contextlib.nullcontext(), self.recomputing())
        result: Tensor = checkpoint(self.compute, x, emb, use_reentrant=False, context_fn=contexts)
        return result

    def compute(self, x: Tensor, emb: Any) -> Tensor:
        """Computes the result of :meth:`forward`."""
        raise NotImplementedError

    def recomputing(self) -> contextlib.AbstractContextManager[None]:
        """Context of the recomputation in the backward pass."""
        return contextlib.nullcontext()


def blocks_of(net: nn.Module) -> list[Block]:
    """Blocks of a network that :func:`checkpoint_blocks` can change."""
    return [module for module in net.modules() if isinstance(module, Block)]


def checkpoint_blocks(net: nn.Module, where: str) -> None:
    """Turns on gradient checkpointing: blocks keep only their inputs between forward and backward pass.

    Memory falls to about that of one block and the maps between blocks; a step with gradients takes about a third
    longer. Results are bit-identical, since dropout repeats its draws.

    Args:
        net: Network, changed in place without changing its state dict.
        where: Place named in errors.

    Raises:
        UserError: The network has no blocks of this package.
    """
    blocks = blocks_of(net)
    if not blocks:
        raise UserError(where, f"{type(net).__name__} has no U-Net blocks to which it could be applied", "turn it off")
    for block in blocks:
        block.checkpointed = True


class UNet(nn.Module):
    """Base class of U-Nets, with separate embedding, encoder and decoder.

    Attributes:
        img_resolution: Side of the square input in pixels.
        label_dim: Width of the class labels; 0 = unconditional.
        label_dropout: Probability of dropping a label.
        augment_dim: Width of the augmentation labels; 0 = none.
        init_config: ``{"class", "kwargs"}`` from which `build_network` builds the same architecture.
    """

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
        for name, block in self.enc.items():
            x = self.keep(block(x) if name.endswith("_conv") else block(x, emb), kept)
        return x, kept

    def keep(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        """Appends a map of the encoder to those for the decoder; returns the map for the next block."""
        kept.append(x)
        return x

    def decode(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Returns the image-shaped result; consumes ``skips`` from its end."""
        for name, block in self.dec.items():
            if isinstance(block, Block):
                x = block(self.join(x, skips.pop()) if "_block" in name else x, emb)
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

        Raises:
            ValueError: The flag is unknown, or ``decode`` has another flag or is no number of samples of the batch.
        """
        if return_flag not in RETURN_FLAGS:
            raise ValueError(f"return_flag must be one of {', '.join(RETURN_FLAGS)}, got {return_flag!r}")
        if decode is not None and not (return_flag == "encoder_decoder" and 0 <= decode <= len(x)):
            raise ValueError(f"decode={decode} is no part of {len(x)} samples with return_flag='encoder_decoder'")
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


@dataclasses.dataclass(frozen=True)
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

    def decoder(self, kept: list[int], attend_once: bool = False) -> nn.ModuleDict:
        """Makes the decoder; consumes ``kept`` from its end.

        Args:
            kept: Channels of the encoder's maps.
            attend_once: Whether only the last block of a level has attention.
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
        return layers

    def _at(self, level: int) -> str:
        resolution = self.resolution >> level
        return f"{resolution}x{resolution}"
