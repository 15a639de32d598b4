"""Compiles every fused kernel for a Hopper GPU and prints how many there are.

``python -m tests.kernels.compile_all`` compiles each kernel with all of its optional parts; ``... plain`` with none.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import sida.kernels

#: What arguments are: pointers by name, other numbers; everything else is a 32-bit integer.
HALF, FLOAT = "*fp16", "*fp32"
POINTERS = {
    **dict.fromkeys(
        ("x", "y", "grad", "dx", "branch", "skip", "of_branch", "of_skip", "of_y", "of_s", "s", "beside", "kept"), HALF
    ),
    **dict.fromkeys(("source", "target"), HALF),
    **dict.fromkeys(("partial", "channel", "group", "gamma", "beta", "before", "scale", "after", "factors"), FLOAT),
    **dict.fromkeys(
        ("out", "bias", "skip_bias", "divisor", "weight", "dw", "lengths", "along", "gain", "vector"), FLOAT
    ),
    **dict.fromkeys(("gradient", "mean", "square"), FLOAT),
    "seed": "*i64",
}
NUMBERS = {"eps", "dropout", "share", "skip_share", "limit", "factor", "offset", "infinity", "clip", "rate",
           "mean_share", "square_share", "divisor_factor"}  # fmt: skip
SIZES = {"BLOCK": 32, "WIDTH": 64, "CHUNKS": 16, "SIZE": 8, "STEP": 48}


def main(parts: bool) -> None:
    """Compiles each kernel, with all of its optional parts or with none."""
    count = 0
    for module in pkgutil.iter_modules(sida.kernels.__path__, "sida.kernels."):
        for function in vars(importlib.import_module(module.name)).values():
            # What does not ask which program it is is a part of kernels, not one.
            here = isinstance(function, triton.JITFunction) and function.__module__ == module.name
            if here and "tl.program_id(" in function.src:
                compile_kernel(function, parts)
                count += 1
    print(count)


def compile_kernel(function: triton.JITFunction, there: bool) -> None:
    """Compiles one for the machine code of compute capability 9.0."""
    constants = {
        arg: SIZES.get(arg, there) for arg, kind in function.fn.__annotations__.items() if "constexpr" in str(kind)
    }
    signature = {arg: POINTERS.get(arg, "fp32" if arg in NUMBERS else "i32") for arg in function.arg_names}
    if not there:
        # What is not there is stood in for by a map.
        signature |= dict.fromkeys(signature.keys() & {"before", "scale", "after", "bias", "skip_bias"}, HALF)
    signature |= dict.fromkeys(constants, "constexpr")
    places = {(function.arg_names.index(arg),): value for arg, value in constants.items()}
    triton.compile(ASTSource(fn=function, signature=signature, constexprs=places), target=GPUTarget("cuda", 90, 32))


if __name__ == "__main__":
    main("plain" not in sys.argv)
