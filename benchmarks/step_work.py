"""What the kernels of a SiDA step have to do, counted without a GPU: operations, bytes, launches, memory.

The step of :mod:`benchmarks.gpu` runs on tensors without contents (torch's device ``meta``), in the dtypes and by the
ways of a GPU. Each operation and each fused kernel is noted with the bytes that it must read and write and the
floating-point operations that it must do. No kernel can be faster than its operations at the rate of a large matrix
product, nor than its bytes at the memory's unless a cache still holds them; the sum over kernels is the least time of a
step, to be compared with what ``python -m benchmarks gpu`` measures. Memory is what is held at once: parameters,
activations, gradients, without the optimizer's, the average's and the workspace of libraries.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks import gpu
from sida.files.atomic import write_json
from sida.kernels import unavailable_reason
from sida.networks import layers
from sida.training import micro_batches

#: Of the H200 of docs/measurements.md: a large float16 matrix product, and a copy.
FLOPS, BYTES = 758e12, 4.27e12
SIDES = ("official order", "torch", "fused", "fused, again", "fused, in passes")
#: What a kernel belongs to, by the beginning of its name; the first that fits.
GROUPS = [
    ("convolution", ("convolution",)),
    ("attention", ("attention",)),
    ("matrix product", ("mm", "bmm", "addmm", "baddbmm")),
    ("normalisation", ("group_norm", "pixel_norm", "unit_rows", "native_group_norm")),
    ("activation", ("activation.", "silu", "bernoulli")),
    ("sums of maps", ("residual.",)),
    ("concatenation", ("concat", "cat", "stack")),
    ("optimizer", ("adam", "addcdiv", "lerp", "nan_to_num")),
    ("conversion, copy", ("_to_copy", "clone", "copy_", "_foreach_copy_")),
]
aten = torch.ops.aten
_EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One launch.

    Attributes:
        name: torch's operation, or ``module.function`` of a fused kernel.
        size: Bytes read and written.
        flops: Floating-point operations; counted for products of matrices only.
    """

    name: str
    size: int
    flops: float = 0.0

    @property
    def seconds(self) -> float:
        """The least that it can take."""
        return max(self.size / BYTES, self.flops / FLOPS)

    @property
    def group(self) -> str:
        """Of :data:`GROUPS`."""
        return next((group for group, parts in GROUPS if any(self.name.startswith(p) for p in parts)), "other")


class Work(TorchDispatchMode):
    """Notes all kernels that run within, and the most bytes that are held at once.

    Attributes:
        kernels: In their order.
        peak: Bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._held = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See :class:`TorchDispatchMode`."""
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            return 1.0 if args[0].dtype.is_floating_point else 0
        read = sizes([*args, *kwargs.values()])
        result = _answer(func, args, kwargs)
        written = sizes([result])
        self.hold(result)
        name = func.overloadpacket.__name__
        if func.is_view or name in _EMPTY:
            return result
        size = sum({**read, **written}.values())
        if name.endswith("_") and "copy" not in name:
            # Its first tensor is read and written.
            size += max(sizes([args[0]]).values(), default=0)
        flops = (
            flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)
            if func.overloadpacket in flop_registry
            else 0
        )
        self.kernels += [Kernel(name, size, flops), *[Kernel(name, 0)] * (_launches(name, args) - 1)]
        return result

    def hold(self, value: Any) -> None:
        """Counts new tensors as held from now on."""
        for tensor in _tensors(value):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._live:
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self._held += storage.nbytes()
        if self._held > self.peak:
            self._forget()
            self.peak = max(self.peak, self._held)

    def _forget(self) -> None:
        for key, (reference, size) in list(self._live.items()):
            if reference.expired():
                del self._live[key]
                self._held -= size


def sizes(values: Any) -> dict[Any, int]:
    """Bytes of the tensors among values, each once; of an expanded tensor those that are stored."""
    return {
        (t.untyped_storage()._cdata, t.storage_offset(), tuple(t.shape)): min(
            t.numel() * t.itemsize, t.untyped_storage().nbytes()
        )
        for t in _tensors(values)
    }


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def _launches(name: str, args: Any) -> int:
    """Launches of an operation on many tensors, as torch's CUDA code divides it."""
    if name == "cat":
        return math.ceil(len(args[0]) / 128)
    if not name.startswith("_foreach"):
        return 1
    chunks = sum(math.ceil(tensor.numel() / 65536) for tensor in args[0])
    return max(math.ceil(len(args[0]) / 64), math.ceil(chunks / 320))


def _answer(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation gives; where torch's rule for ``meta`` departs from cuDNN's or needs values, that."""
    if func is aten.index.Tensor:
        return torch.empty_like(args[0])  # all samples of a mask
    if func in (aten.index_put.default, aten.index_put_.default):
        return args[0]
    result = func(*args, **kwargs)
    if func is aten.convolution.default and args[0].stride(1) == 1:
        return result.to(memory_format=torch.channels_last)
    if func is aten.convolution_backward.default:
        image, weight, bias = result
        if args[2].stride(1) == 1 and image is not None:
            image = image.to(memory_format=torch.channels_last)
        return _laid_out_as(image, args[1] if args[1].stride(1) else image), _laid_out_as(weight, args[2]), bias
    return result


def _laid_out_as(tensor: Tensor | None, like: Tensor) -> Tensor | None:
    return None if tensor is None else torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device="meta")


def _launched(work: Work) -> Callable[..., None]:
    """In the place of a Triton kernel's launch."""

    def run(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        given = {**dict(zip(kernel.arg_names, args)), **options}
        # What is not there is stood in for by another tensor.
        there = {name: value for name, value in given.items() if given.get(name.upper()) is not False}
        both = [value for name, value in there.items() if name in ("vector", "square", "mean")]
        size = sum(sizes(list(there.values())).values()) + sum(sizes(both).values())
        work.kernels.append(Kernel(f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}", size))

    return run


def _attention(work: Work) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Attention by one kernel each way, as a GPU has it; laid out like its queries."""

    def like(query: Tensor) -> Tensor:
        n, heads, length, size = query.shape
        return query.new_empty((n, length, heads, size)).transpose(1, 2)

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            ctx.save_for_backward(query, key, value)
            note(query, 4, 4)
            return like(query)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            query = ctx.saved_tensors[0]
            note(query, 8, 10)
            return like(query), like(query), like(query)

    def note(query: Tensor, maps: int, products: int) -> None:
        flops = products * query.numel() * query.shape[2]
        work.kernels.append(Kernel("attention", maps * query.numel() * query.itemsize, flops))

    return Attention.apply


@contextlib.contextmanager
def as_on_a_gpu(work: Work) -> Iterator[None]:
    """Code asks tensors without contents what it asks those of a GPU; kernels are noted in ``work``."""
    launch: Any = contextlib.nullcontext()
    if unavailable_reason() is None:
        from triton.runtime.jit import JITFunction

        launch = mock.patch.object(JITFunction, "run", _launched(work))
    with (
        launch,
        mock.patch.object(torch.Tensor, "is_cuda", property(lambda tensor: tensor.is_meta)),
        mock.patch.object(micro_batches, "ASYNC_DEVICES", {"meta"}),
        mock.patch.object(layers, "_is_box", lambda kernel: kernel is not None and kernel.numel() == 4),
        mock.patch.object(F, "scaled_dot_product_attention", _attention(work)),
    ):
        yield


def work_of(side: str, case: gpu.Case) -> Work:
    """The second step of a side (the first makes what stays)."""
    work = Work()
    with as_on_a_gpu(work):
        step, nets = gpu.make(side, case.network, device="meta")
        batch = gpu.batch_of(case.network, case.batch, device="meta")
        rows = torch.empty(case.batch, 1, 1, 1, device="meta")
        draws = {"z": batch[0], "noise": torch.empty_like(batch[0]), "sigma_normal": rows, "t": rows}
        with Work():
            step(gpu.FIRST, batch, draws)
        work.kernels.clear()
        with work:
            work.hold([*(tensor for net in nets for tensor in net.parameters())])
            step(gpu.FIRST, batch, draws)
    return work


def row(side: str, case: gpu.Case) -> dict[str, Any]:
    """Sums of a step, by group too."""
    work = work_of(side, case)
    groups: dict[str, dict[str, float]] = defaultdict(lambda: {"count": 0, "gigabytes": 0.0, "milliseconds": 0.0})
    for kernel in work.kernels:
        group = groups[kernel.group]
        group["count"] += 1
        group["gigabytes"] += kernel.size / 1e9
        group["milliseconds"] += kernel.seconds * 1e3
    return {
        "case": case.name,
        "batch": case.batch,
        "side": side,
        "kernels": len(work.kernels),
        "tflop": sum(kernel.flops for kernel in work.kernels) / 1e12,
        "gigabytes": sum(kernel.size for kernel in work.kernels) / 1e9,
        "least_milliseconds": sum(kernel.seconds for kernel in work.kernels) * 1e3,
        "memory_gib": work.peak / 2**30,
        "groups": dict(sorted(groups.items(), key=lambda item: -item[1]["milliseconds"])),
    }


def main(out: Path) -> bool:
    """Prints and stores the table; a memory over the goal is said."""
    print(f"least times at {FLOPS / 1e12:.0f} TFLOP/s and {BYTES / 1e12:.2f} TB/s; counted, nothing was timed")
    rows, missed = [], []
    for case in gpu.CASES:
        print(f"\n{case.name}, batch {case.batch}")
        print(f"  {'':<16}{'kernels':>8}{'Tflop':>8}{'GB':>7}{'least ms':>10}{'of peak':>9}{'GiB':>7}{'ratio':>7}")
        base = 0.0
        for side in SIDES:
            line = row(side, case)
            base = base or line["memory_gib"]
            line["memory_ratio"] = line["memory_gib"] / base
            least, memory, ratio = line["least_milliseconds"], line["memory_gib"], line["memory_ratio"]
            share = line["tflop"] * 1e15 / FLOPS / least
            print(
                f"  {side:<16}{line['kernels']:>8}{line['tflop']:>8.1f}{line['gigabytes']:>7.0f}"
                f"{least:>10.1f}{share:>8.0%} {memory:>7.1f}{ratio:>7.2f}",
                flush=True,
            )
            rows.append(line)
            if side == SIDES[2]:
                parts = ", ".join(f"{g} {v['milliseconds']:.1f} ({v['count']})" for g, v in line["groups"].items())
                print(f"    least ms (kernels): {parts}")
            if side == SIDES[3] and line["memory_ratio"] > gpu.MEMORY:
                missed.append(f"{case.name}, batch {case.batch}: memory {line['memory_ratio']:.2f} (goal {gpu.MEMORY})")
    for goal in missed:
        print(f"missed: {goal}")
    write_json(out, {"rows": rows, "flops_per_s": FLOPS, "bytes_per_s": BYTES, "missed": missed})
    return not missed
