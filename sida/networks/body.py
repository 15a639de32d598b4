"""Parts that the bodies of all networks share: types of options, return flags, layers, and blocks with recomputation.

A class's signature is the schema of its options, which are recorded for building the network again.
"""

import contextlib
import contextvars
import inspect
import math
import typing
import warnings
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import attention as attentions
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sida.config.settings import Range

# Types of options. Their ranges bound the memory of a network that an untrusted file describes, because the network is
# built before the file's tensors are compared with it.
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
    return {p.name: plain(options[p.name]) for p in parameters if p.kind != p.VAR_KEYWORD}


def plain(value: Any) -> Any:
    """A value as strict JSON: lists for tuples, null for infinity."""
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def option_fields(cls: type) -> dict[str, Any]:
    """Options of a constructor as fields of a dataclass: name, type and default."""
    hints = typing.get_type_hints(cls.__init__, include_extras=True)  # type: ignore[misc]
    parameters = [p for p in inspect.signature(cls).parameters.values() if p.kind != p.VAR_KEYWORD]
    return {p.name: (p.name, hints[p.name], *([] if p.default is p.empty else [p.default])) for p in parameters}


RETURN_FLAGS = ("decoder", "encoder", "encoder_decoder", "features")
Output = Tensor | tuple[Tensor, ...]


def check_flags(return_flag: str, decode: int | None, samples: int) -> None:
    """Checks the arguments that say what a network computes; see :meth:`sida.networks.Precond.forward`.

    Raises:
        ValueError: The flag is unknown, or ``decode`` has another flag or is not a number of samples of the batch.
    """
    if return_flag not in RETURN_FLAGS:
        raise ValueError(f"return_flag must be one of {', '.join(RETURN_FLAGS)}, got {return_flag!r}")
    if decode is not None and not (return_flag == "encoder_decoder" and 0 <= decode <= samples):
        raise ValueError(f"decode={decode} is not a part of {samples} samples with return_flag='encoder_decoder'")


def without_content() -> bool:
    """Whether new tensors have only a shape: random numbers and arithmetic then would import torch's compiler."""
    return torch.get_default_device().type == "meta"


def constants_device() -> torch.device:
    """Device of new constants: the default one, or the processor, so that constants always have content."""
    return torch.device("cpu") if without_content() else torch.get_default_device()


class Init(NamedTuple):
    """Initial parameters of a layer.

    Attributes:
        mode: Xavier (Glorot) variance 2/(fan_in + fan_out) or Kaiming (He, linear gain) variance 1/fan_in, uniform or
            normal: ``xavier_uniform``, ``kaiming_normal``, ...
        weight: Factor on the weights.
        bias: Factor on the biases; 0 starts them at zero.
    """

    mode: str = "kaiming_normal"
    weight: float = 1.0
    bias: float = 0.0

    def parameters(self, shape: tuple[int, ...], bias: bool = True) -> tuple[nn.Parameter, nn.Parameter | None]:
        """Draws weights (out, in, ...) and biases (out,) from torch's global generator.

        On the meta device they have only a shape.
        """
        outputs, inputs, area = *shape[:2], math.prod(shape[2:])
        variance = 2 / ((inputs + outputs) * area) if self.mode.startswith("xavier") else 1 / (inputs * area)

        def drawn(shape: tuple[int, ...], factor: float) -> nn.Parameter:
            if without_content():
                return nn.Parameter(torch.empty(shape))
            if self.mode.endswith("uniform"):
                return nn.Parameter(math.sqrt(3 * variance) * (torch.rand(shape) * 2 - 1) * factor)
            return nn.Parameter(math.sqrt(variance) * torch.randn(shape) * factor)

        return drawn(shape, self.weight), drawn((outputs,), self.bias) if bias else None


class Linear(nn.Module):
    """Affine map whose float32 parameters follow the dtype of the input.

    Args:
        in_features, out_features: Widths of input and output.
        init: Initial parameters.
        bias: Whether there is a bias.
    """

    def __init__(self, in_features: int, out_features: int, init: Init, bias: bool = True):
        super().__init__()
        self.weight, self.bias = init.parameters((out_features, in_features), bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in_features) to (..., out_features)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


_FORWARD = contextvars.ContextVar("forward", default=False)


@contextlib.contextmanager
def forward_derivatives() -> Iterator[None]:
    """Within, networks take only operations that have forward derivatives (:func:`torch.func.jvp`)."""
    token = _FORWARD.set(True)
    try:
        with warnings.catch_warnings():
            # torch.func.jvp imports scripts that torch itself has deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        _FORWARD.reset(token)


def has_forward_derivatives() -> bool:
    """Whether this is within :func:`forward_derivatives`."""
    return _FORWARD.get()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention (N, heads, T, channels); torch's fused kernels have no forward derivatives."""
    if not _FORWARD.get():
        return F.scaled_dot_product_attention(q, k, v)
    with attentions.sdpa_kernel(attentions.SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v)


_AGAIN = contextvars.ContextVar("again", default=False)


def is_computed_again() -> bool:
    """Whether a backward pass computes a checkpointed block again."""
    return _AGAIN.get()


class _Repetition:
    """Context of recomputing a block; each backward pass of one graph enters it anew."""

    def __enter__(self) -> None:
        self._token = _AGAIN.set(True)

    def __exit__(self, *_: object) -> None:
        _AGAIN.reset(self._token)


class Block(nn.Module):
    """Base class of the residual blocks of networks.

    Attributes:
        checkpointed: Whether the block keeps only its inputs for the backward pass, which recomputes the rest.
        in_one_dtype: Whether the block reads its parameters in the dtype of ``emb`` alone, half precision with
            ``use_fp16``, so that they can be stored in it.
    """

    checkpointed = False
    in_one_dtype: ClassVar[bool] = False

    def forward(self, x: Tensor, emb: Any) -> Tensor:
        """Maps an activation of N samples to the next one; ``emb`` is (N or 1, emb_channels)."""
        # Without a backward pass nothing is recomputed, and torch 2.5's checkpoints have no forward derivatives.
        if not (self.checkpointed and torch.is_grad_enabled()):
            return self.compute(x, emb)
        contexts = lambda: (contextlib.nullcontext(), _Repetition())
        return cast(Tensor, checkpoint(self.compute, x, emb, use_reentrant=False, context_fn=contexts))

    def compute(self, x: Tensor, emb: Any) -> Tensor:
        """Computes the result of :meth:`forward`."""
        raise NotImplementedError


def blocks_of(net: nn.Module) -> list[Block]:
    """Blocks of a network whose ``checkpointed`` can be changed."""
    return [module for module in net.modules() if isinstance(module, Block)]
