"""Parts that the bodies of all networks share: types of options, return flags, and blocks with recomputation.

A class's signature is the schema of its options, which are recorded for building the network again.
"""

import contextlib
import contextvars
import inspect
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sida.config.settings import Range

# Types of options. Files of strangers give them, too, and a network is built before a file's tensors are compared.
Side = Annotated[int, Range(least=1, most=4096)]
Size = Annotated[int, Range(least=1, most=65_536)]
Few = Annotated[int, Range(least=1, most=64)]
Classes = Annotated[int, Range(least=0, most=1_000_000)]
Share = Annotated[float, Range(least=0, below=1)]


def plain_options(cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Named parameters of a network class as strict JSON values: lists for tuples, null for infinity.

    Args:
        cls: Network class.
        options: The ``locals()`` of its constructor; other names are ignored.
    """
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: _plain(options[p.name]) for p in parameters if p.kind != p.VAR_KEYWORD}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def option_fields(cls: type) -> dict[str, Any]:
    """Options of a constructor as fields of a dataclass: name, type and default."""
    hints = typing.get_type_hints(cls.__init__, include_extras=True)  # type: ignore[misc]
    named = [p for p in inspect.signature(cls).parameters.values() if p.kind != p.VAR_KEYWORD]
    return {p.name: (p.name, hints[p.name], *([] if p.default is p.empty else [p.default])) for p in named}


RETURN_FLAGS = ("decoder", "encoder", "encoder_decoder", "features")
Output = Tensor | tuple[Tensor, ...]


def check_flags(return_flag: str, decode: int | None, samples: int) -> None:
    """Checks the arguments that say what a network computes; see :meth:`sida.networks.Precond.forward`.

    Raises:
        ValueError: The flag is unknown, or ``decode`` has another flag or is no number of samples of the batch.
    """
    if return_flag not in RETURN_FLAGS:
        raise ValueError(f"return_flag must be one of {', '.join(RETURN_FLAGS)}, got {return_flag!r}")
    if decode is not None and not (return_flag == "encoder_decoder" and 0 <= decode <= samples):
        raise ValueError(f"decode={decode} is no part of {samples} samples with return_flag='encoder_decoder'")


def without_content() -> bool:
    """Whether new tensors have a shape alone: random numbers and arithmetic then would import torch's compiler."""
    return torch.get_default_device().type == "meta"


def constants_device() -> torch.device:
    """Device of new constants: the default one, or the processor, so that constants always have content."""
    return torch.device("cpu") if without_content() else torch.get_default_device()


_AGAIN = contextvars.ContextVar("again", default=False)


def is_computed_again() -> bool:
    """Whether a backward pass computes a checkpointed block again."""
    return _AGAIN.get()


@contextlib.contextmanager
def _again() -> Iterator[None]:
    token = _AGAIN.set(True)
    try:
        yield
    finally:
        _AGAIN.reset(token)


class Block(nn.Module):
    """Base class of the residual blocks of networks.

    Attributes:
        checkpointed: Whether the block keeps only its inputs for the backward pass, which recomputes the rest.
    """

    checkpointed = False

    def forward(self, x: Tensor, emb: Any) -> Tensor:
        """Maps an activation of N samples to the next one; ``emb`` is (N or 1, emb_channels)."""
        if not self.checkpointed:
            return self.compute(x, emb)
        contexts = lambda: (contextlib.nullcontext(), _again())
        return cast(Tensor, checkpoint(self.compute, x, emb, use_reentrant=False, context_fn=contexts))

    def compute(self, x: Tensor, emb: Any) -> Tensor:
        """Computes the result of :meth:`forward`."""
        raise NotImplementedError


def blocks_of(net: nn.Module) -> list[Block]:
    """Blocks of a network whose ``checkpointed`` can be changed."""
    return [module for module in net.modules() if isinstance(module, Block)]
