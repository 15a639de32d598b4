"""Residual blocks of the U-Nets with fused kernels between the convolutions, on channels-last maps, for GPUs.

They compute :class:`sida.networks.edm_unet.UNetBlock` and :class:`sida.networks.edm2_unet.EDM2Block` with the same
parameters; results differ by rounding. :func:`replacements` lists the methods of single modules.

The parameters of all fused blocks of an encoder or decoder are prepared together for one pass: the conversion of
weights to the maps' dtype and of their gradients back, the products with the embedding, and the sums of the
normalisations' gradients over the batch take one operation for all blocks instead of one for each layer.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from sida.config.kernels import Replacement
from sida.networks.edm2_unet import NORM_EPS, EDM2Block, EDM2UNet, MPConv, cat_weights, square_filter
from sida.networks.edm_unet import Conv2d, GroupNorm, UNetBlock
from sida.networks.precond import parts_in_half, store_half
from sida.networks.unet import Mode, UNet, resampled
from sida.plugins.kernels.edm2_norms import pixel_norm, pixel_norm_silu, unit_rows
from sida.plugins.kernels.group_norm import Affine, norm_act
from sida.plugins.kernels.pointwise import concat, double, halve, scaled_silu
from sida.plugins.kernels.residual import fork, residual


class PartInputs(NamedTuple):
    """Inputs of the blocks of an encoder or decoder besides the map.

    Attributes:
        prepared: Weights that multiply maps in the maps' dtype, by parameter; and ``(N, C)``, for each sample, every γ
            and β, and in blocks with adaptive scale the first convolution's bias.
        rows: By block, its affine function of the embedding, ``(N, C or 2C)``, float32; in blocks without adaptive
            scale plus the first convolution's bias.
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
    # All blocks multiply the same embedding, so that one product serves them.
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
    """Parameters of a block that the block uses in the dtype of the maps."""
    layers = [layer for layer in block.children() if isinstance(layer, Conv2d)]
    biases = [cast(nn.Parameter, block.qkv.bias)] if block.num_heads else []
    return [*(layer.weight for layer in layers if layer.weight is not None), *biases]


def _vectors(block: UNetBlock) -> list[Tensor]:
    norms = [vector for norm in block.children() if isinstance(norm, GroupNorm) for vector in (norm.weight, norm.bias)]
    return [*norms, *([cast(Tensor, block.conv0.bias)] if block.adaptive_scale else [])]


class _Converted(torch.autograd.Function):
    """Converts tensors to another dtype, and their gradients back."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        ctx.set_materialize_grads(False)
        return _copies(tensors, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        copies = iter(_copies([grad for grad in grads if grad is not None], ctx.dtype))
        return None, *(None if grad is None else next(copies) for grad in grads)


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


#: Fused kernels read weights of convolutions, and write maps, in this order.
channels_last = True


def replacements(net: nn.Module) -> list[Replacement]:
    """Methods of a network's U-Net that fused kernels compute; none without a U-Net of EDM or EDM2.

    Args:
        net: Network.
    """
    bodies = [part for part in net.modules() if getattr(part, "fused", False)]
    modules = [module for body in bodies for module in body.modules()]
    return [Replacement(module, *method) for module in modules for method in _methods(module).items()]


def _methods(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """Functions by the name of the method that each replaces in one module, its first argument."""
    if isinstance(module, UNetBlock):
        return {"compute": _edm_block}
    if isinstance(module, EDM2Block):
        return {"compute": _edm2_block}
    if isinstance(module, GroupNorm):
        return {"activated": _normed}
    if isinstance(module, EDM2UNet):
        return {"encode": _encode_edm2, "keep": _keep, "join": _join_edm2}
    if isinstance(module, UNet):
        return {"encode": _encode_edm, "decode": _decode_edm, "keep": _keep, "join": _join_edm}
    return {}


def _encode_edm(unet: UNet, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
    """See :meth:`UNet.encode`; blocks get the prepared parameters instead of the embedding."""
    x = x.contiguous(memory_format=torch.channels_last)
    return type(unet).encode(unet, x, cast(Any, part_inputs(unet.enc, x, emb)))


def _decode_edm(unet: UNet, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
    """See :meth:`UNet.decode` and :func:`_encode_edm`."""
    return type(unet).decode(unet, x, skips, cast(Any, part_inputs(unet.dec, x, emb)))


def _encode_edm2(unet: EDM2UNet, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
    """See :meth:`EDM2UNet.encode`."""
    return type(unet).encode(unet, x.contiguous(memory_format=torch.channels_last), emb)


def _keep(unet: UNet, x: Tensor, skips: list[Tensor]) -> Tensor:
    """See :meth:`UNet.keep`; one kernel sums the gradients of both uses."""
    x, skip = fork(x)
    skips.append(skip)
    return x


def _join_edm(unet: UNet, x: Tensor, skip: Tensor) -> Tensor:
    """See :meth:`UNet.join`."""
    return concat(x, skip)


def _join_edm2(unet: EDM2UNet, x: Tensor, skip: Tensor) -> Tensor:
    """See :meth:`EDM2UNet.join`."""
    return concat(x, skip, *cat_weights(x, skip, unet.concat_balance))


def convert_frozen_weights(net: nn.Module) -> None:
    """Stores the parameters of fused blocks that multiply maps as the blocks use them on a GPU, in half precision.

    EDM2's are normalised and multiplied by their gain.

    Args:
        net: Network that is not trained any more, changed in place; results do not change.
    """
    store_half(net)
    for precond in parts_in_half(net):
        for block in precond.modules():
            for parameter in converted_parameters(block) if isinstance(block, UNetBlock) else ():
                parameter.data = parameter.data.to(precond.half_dtype)
            for conv in block.children() if isinstance(block, EDM2Block) else ():
                if isinstance(conv, MPConv) and conv.kernel and conv.weight_norm != "always":
                    conv.weight.data = _unit(conv, precond.half_dtype)


def _edm_block(block: UNetBlock, x: Tensor, inputs: PartInputs) -> Tensor:
    """See :meth:`UNetBlock.compute`. Biases of convolutions are added in the next pass over the map."""
    add = functools.partial(residual, share=block.skip_scale, skip_share=block.skip_scale)
    prepared = lambda parameter: inputs.prepared.get(parameter, parameter)
    normed = lambda norm, x, silu=True: norm_act(
        x, Affine(prepared(norm.weight), prepared(norm.bias)), norm.num_groups, norm.eps, silu
    )
    h, x = normed(block.norm0, x)
    h = _convolved(block.conv0, h, prepared(block.conv0.weight))
    vector, gamma, beta = inputs.rows[block], prepared(block.norm1.weight), prepared(block.norm1.bias)
    if block.adaptive_scale:
        scale, shift = vector.chunk(2, dim=1)
        affine = Affine(gamma, beta, prepared(block.conv0.bias), scale, shift)
    else:
        affine = Affine(gamma, beta, vector)
    dropout = block.dropout if block.training else 0.0
    h, _ = norm_act(h, affine, block.norm1.num_groups, block.norm1.eps, dropout=dropout)
    bias, skip_bias = block.conv1.bias, None
    if block.skip is not None:
        x, skip_bias = _convolved(block.skip, x, prepared(block.skip.weight)), block.skip.bias
    h = _convolved(block.conv1, h, prepared(block.conv1.weight))
    x = add(h, x, bias, skip_bias)
    if block.num_heads:
        h, x = normed(block.norm2, x, silu=False)
        rows = prepared(block.qkv.weight).flatten(1), prepared(block.qkv.bias)
        heads = _pointwise(h, *(rows if block.stacked else (_by_kind(each, block.num_heads) for each in rows)))
        h = _pointwise(_attended(heads, block.num_heads), prepared(block.proj.weight).flatten(1))
        x = add(h, x, block.proj.bias)
    return x


def _edm2_block(block: EDM2Block, x: Tensor, emb: Tensor) -> Tensor:
    """See :meth:`EDM2Block.compute`."""
    x = _resampled(x, block.mode, square_filter(block.taps, x.device))
    if block.flavor == "enc":
        if block.conv_skip is not None:
            x = _magnitude_preserving(block.conv_skip, x)
        x, h = pixel_norm_silu(x, NORM_EPS)
    else:
        h, x = scaled_silu(x)
    h = _magnitude_preserving(block.conv_res0, h)
    scale = F.linear(emb, _unit(block.emb_linear, emb.dtype, block.emb_gain)) + 1
    h, _ = scaled_silu(h, scale.float(), block.dropout if block.training else 0.0)
    h = _magnitude_preserving(block.conv_res1, h)
    if block.flavor == "dec" and block.conv_skip is not None:
        x = _magnitude_preserving(block.conv_skip, x)
    attends = block.attn_qkv is not None and block.attn_proj is not None
    x = residual(h, x, skip_share=block.res_keep, clip=None if attends else block.clip_act)
    if block.attn_qkv is not None and block.attn_proj is not None:
        heads = _pointwise(x, _by_kind(_unit(block.attn_qkv, x.dtype).flatten(1), block.num_heads))
        n, c, height, width = heads.shape
        per_head = heads.permute(0, 2, 3, 1).reshape(-1, c // 3 // block.num_heads)
        normed = pixel_norm(per_head, NORM_EPS).view(n, height, width, c).permute(0, 3, 1, 2)
        h = _magnitude_preserving(block.attn_proj, _attended(normed, block.num_heads))
        x = residual(h, x, skip_share=block.attn_keep, clip=block.clip_act)
    return x


def _normed(norm: GroupNorm, x: Tensor) -> Tensor:
    """See :meth:`GroupNorm.activated`."""
    return norm_act(x, Affine(norm.weight, norm.bias), norm.num_groups, norm.eps)[0]


def _convolved(conv: Conv2d, x: Tensor, weight: Tensor | None) -> Tensor:
    """See :meth:`Conv2d.forward`, without the bias.

    Args:
        conv: Layer.
        x: Map.
        weight: Weight of the layer in the map's dtype; None where the layer has none.
    """
    if weight is not None and conv.kernel == 1 and conv.mode == "up":
        # A pointwise map commutes with the filter, and is cheaper at the lower resolution.
        return _resampled(_pointwise(x, weight.flatten(1)), conv.mode, conv.filter)
    x = _resampled(x, conv.mode, conv.filter)
    if weight is None:
        return x
    return _pointwise(x, weight.flatten(1)) if conv.kernel == 1 else _spatial(x, weight)


def _resampled(x: Tensor, mode: Mode, kernel: Tensor | None) -> Tensor:
    """See :func:`sida.networks.unet.resampled`."""
    if mode == "keep" or kernel is not None:
        return resampled(x, mode, kernel)
    return double(x) if mode == "up" else halve(x)


def _spatial(x: Tensor, weight: Tensor) -> Tensor:
    """Same-size convolution with the weight in the map's dtype and memory order."""
    weight = weight.to(dtype=x.dtype, memory_format=torch.channels_last)
    if x.requires_grad and not weight.requires_grad:
        result: Tensor = _FrozenConvolution.apply(x, weight)
        return result
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class _FrozenConvolution(torch.autograd.Function):
    """Same-size convolution whose weight gets no gradient. Unlike torch's convolution it does not keep its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape = x.shape
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return conv2d_input(ctx.shape, weight, grads[0], padding=weight.shape[-1] // 2), None


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Applies a matrix ``(out, in)`` at each position of a map."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.linear(x.permute(0, 2, 3, 1), weight.to(x.dtype), bias).permute(0, 3, 1, 2)


def _magnitude_preserving(conv: MPConv, x: Tensor) -> Tensor:
    weight = _unit(conv, x.dtype)
    return _pointwise(x, weight.flatten(1)) if conv.kernel == 1 else _spatial(x, weight)


def _unit(conv: MPConv, dtype: torch.dtype, gain: Tensor | None = None) -> Tensor:
    """See :meth:`MPConv.effective_weight`; a weight of :func:`convert_frozen_weights` already is what it returns."""
    if conv.weight.dtype == dtype != torch.float32:
        return conv.weight
    conv.rewrite_weight()
    return unit_rows(conv.weight, conv.gain if gain is None else gain, NORM_EPS, dtype)


def _by_kind(parameters: Tensor, num_heads: int) -> Tensor:
    """Reorders rows from head, channel, kind (q, k, v) to kind, head, channel."""
    rest = parameters.shape[1:]
    return parameters.view(num_heads, -1, 3, *rest).movedim(2, 0).reshape(parameters.shape)


def _attended(heads: Tensor, num_heads: int) -> Tensor:
    """Attention over the positions of a map ``(N, 3C, H, W)`` whose channels are ordered kind, head, channel."""
    n, width, height, length = heads.shape
    assert width % (3 * num_heads) == 0
    parts: tuple[Tensor, Tensor, Tensor] = _Kinds.apply(heads, num_heads)
    mixed = F.scaled_dot_product_attention(*parts)
    return mixed.transpose(1, 2).reshape(n, height, length, width // 3).permute(0, 3, 1, 2)


class _Kinds(torch.autograd.Function):
    """Query, key and value ``(N, heads, L, channels)`` as views; one copy joins their gradients to a map."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, num_heads: int) -> tuple[Tensor, ...]:
        n, width, height, length = heads.shape
        ctx.shape = n, height, length, width
        split = heads.permute(0, 2, 3, 1).view(n, height * length, 3, num_heads, width // 3 // num_heads)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        joined = torch.stack([grad.transpose(1, 2) for grad in grads], 2)
        return joined.view(ctx.shape).permute(0, 3, 1, 2), None
