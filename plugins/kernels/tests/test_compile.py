"""Kernels compile for a Hopper GPU, which needs none: the interpreter does not look at types.

As a program this module compiles all of them with what their functions pass to them, and prints how many there are:
with all optional tensors, or with the word ``plain`` without any.
"""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from sida.plugins.kernels import group_norm
from sida.plugins.kernels.edm2_norms import pixel_norm, pixel_norm_silu, unit_rows
from sida.plugins.kernels.group_norm import Affine, norm_act
from sida.plugins.kernels.pointwise import adam_step, concat, double, gradient_norm, halve, scaled_silu
from sida.plugins.kernels.residual import residual

TYPES = {torch.float16: "*fp16", torch.float32: "*fp32", torch.int64: "*i64", int: "i32", float: "fp32"}
COMPILED: set[str] = set()


def compile_launch(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **more: Any) -> None:
    """Takes the place of a launch: compiles for the machine code of compute capability 9.0."""
    given = dict(zip(kernel.arg_names, arguments)) | {name: more.pop(name) for name in kernel.arg_names if name in more}
    constants = {name: value for name, value in given.items() if value is None or name in kernel.fn.__annotations__}
    signature = {
        name: "constexpr" if name in constants else TYPES[getattr(value, "dtype", type(value))]
        for name, value in given.items()
    }
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options=more)
    COMPILED.add(kernel.fn.__name__)


def launch_all(whole: bool) -> None:
    """Calls every function and its derivative on maps of half precision, with all optional tensors or with none."""

    def derive(*results: Tensor) -> None:
        # Without the last of several results, what stands beside a gradient is missing.
        used = results if whole else results[:1]
        torch.autograd.backward(used, [torch.zeros_like(result) for result in used])

    x, other = (torch.zeros(2, 64, 8, 8, dtype=torch.float16, requires_grad=True) for _ in range(2))
    vector, rows, number = (torch.zeros(size, requires_grad=True) for size in ((64,), (2, 64), ()))
    dropout = 0.1 * whole
    derive(residual(x, other, *([vector, vector] if whole else []), clip=1.0 if whole else None))
    for result in (concat(x, other, 0.5), double(x), halve(x), pixel_norm(x.flatten(1), 1e-4)):
        derive(result)
    derive(unit_rows(vector[:, None], number if whole else 1.0, 1e-4, torch.float16))
    derive(*pixel_norm_silu(x, 1e-4))
    derive(*scaled_silu(x, rows if whole else None, dropout))
    for group_norm.MAX_WHOLE_POSITIONS in (0, 1024):
        derive(*norm_act(x, Affine(vector, vector, *[rows] * 3 * whole), 4, 1e-5, silu=whole, dropout=dropout))
    flat = vector.detach()
    gradient_norm(flat, 1e5)
    adam_step(flat, flat, flat if whole else None, flat, 1e-3, (0.9, 0.9), 1e-8, 1, 1e5, None)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [[], ["plain"]], ids=["whole", "plain"])
def test_all_kernels_compile(parts):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "plugins.kernels.tests.test_compile", *parts]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) >= 18


if __name__ == "__main__":
    JITFunction.run = compile_launch
    launch_all("plain" not in sys.argv)
    print(len(COMPILED))
