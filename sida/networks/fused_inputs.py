"""Parameters of all fused blocks of an encoder or decoder, prepared together for one pass.

Each step takes one operation for all blocks instead of one for each layer: the conversion of weights to the maps' dtype
and of their gradients back, the products with the embedding, and the sums of the normalisations' gradients over the
batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sida.networks.blocks import UNetBlock
from sida.networks.layers import Conv2d, GroupNorm


class PartInputs(NamedTuple):
    """Inputs of the blocks of an encoder or decoder besides the map.

    Attributes:
        prepared: For each weight that multiplies maps: it in the maps' dtype. For each γ and β, and in blocks with
            adaptive scale the first convolution's bias: it for each sample, ``(N, C)``.
        rows: For each block: its affine function of the embedding, ``(N, C or 2C)``, float32; in blocks without
            adaptive scale plus the first convolution's bias.
    """

    prepared: Mapping[Tensor, Tensor]
    rows: Mapping[nn.Module, Tensor]


def part_inputs(part: nn.ModuleDict, x: Tensor, emb: Tensor) -> PartInputs:
    """Prepares the parameters of the blocks of an encoder or decoder.

    Args:
        part: Its layers.
        x: Map ``(N, C, H, W)``.
        emb: Embedding ``(N or 1, channels)``.
    """
    blocks = [block for block in part.values() if isinstance(block, UNetBlock)]
    weights = [weight for block in blocks for weight in converted_parameters(block) if weight.dtype != x.dtype]
    vectors = [vector for block in blocks for vector in _vectors(block)]
    prepared = dict(zip(vectors, _PerSample.apply(len(x), *vectors)))
    if weights:
        prepared |= dict(zip(weights, _Converted.apply(x.dtype, *weights)))
    layers = [block.affine for block in blocks]
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([cast(Tensor, layer.bias) for layer in layers])
    rows = F.linear(emb, weight.to(emb.dtype), bias.to(emb.dtype)).float()
    if not blocks[0].adaptive_scale:
        # A sum of rows, not of biases: the gradients of two biases must not share memory.
        rows = rows + torch.cat([cast(Tensor, block.conv0.bias) for block in blocks])
    widths = [len(layer.weight) for layer in layers]
    return PartInputs(prepared, dict(zip(blocks, rows.expand(len(x), -1).split(widths, 1))))


def converted_parameters(block: UNetBlock) -> list[nn.Parameter]:
    """Parameters of a block that it uses in the dtype of the maps."""
    layers = [layer for layer in block.children() if isinstance(layer, Conv2d)]
    biases = [cast(nn.Parameter, block.qkv.bias)] if block.num_heads else []
    return [*(layer.weight for layer in layers if layer.weight is not None), *biases]


def _vectors(block: UNetBlock) -> list[Tensor]:
    norms = [vector for norm in block.children() if isinstance(norm, GroupNorm) for vector in (norm.weight, norm.bias)]
    return [*norms, *([cast(Tensor, block.conv0.bias)] if block.adaptive_scale else [])]


class _Converted(torch.autograd.Function):
    """Tensors in another dtype; their gradients in the tensors' own."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        ctx.set_materialize_grads(False)
        return _copies(tensors, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        there = iter(_copies([grad for grad in grads if grad is not None], ctx.dtype))
        return None, *(None if grad is None else next(there) for grad in grads)


def _copies(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)


class _PerSample(torch.autograd.Function):
    """Vectors ``(C,)`` as views ``(N, C)``; the gradients of all of them are summed over the batch at once."""

    @staticmethod
    def forward(ctx: Any, n: int, *vectors: Tensor) -> tuple[Tensor, ...]:
        ctx.widths = [len(vector) for vector in vectors]
        return tuple(vector.expand(n, -1) for vector in vectors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, *torch.cat(grads, 1).sum(0).split(ctx.widths)
