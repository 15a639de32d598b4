"""Settings of a training process: threads, exact arithmetic, memory.

Functions import torch late, because the numerical libraries read their number of threads when they are loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Blocks of up to 32 MiB (the limit of older glibc) come from the heap, which keeps up to 1 GiB of freed memory.
_HEAP_BLOCK, _KEEP_FREE = 32 << 20, 1 << 30


def limit_library_threads(threads: int) -> None:
    """Limits numpy, scipy and torch to the configured number of threads; call it before importing them.

    If two students on two cores each used both cores for an eigendecomposition, their threads would wait for each other
    for longer than the second thread saves.
    """
    for variable in _VARIABLES:
        os.environ[variable] = str(threads)


def prepare_process(threads: int = 1) -> None:
    """Sets CPU threads, turns TF32 off (as in all published runs) and keeps freed memory.

    Args:
        threads: Intra-operation threads, at least 1.
    """
    import torch

    from sida.runtime.devices import set_tf32

    torch.set_num_threads(threads)
    set_tf32(matmul=False, convolutions=False)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory instead of returning every activation to the kernel.

    A training step frees and allocates the same megabytes repeatedly; by default most of them are fresh pages that the
    kernel must clear (thousands of page faults per step). Without glibc the function does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _HEAP_BLOCK)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_FREE)


def peak_memory(processes: int = 1) -> dict[str, float | str]:
    """Peak memory so far, in MiB: ``memory_mb`` of tensors on a GPU, or of the process without a GPU.

    On a GPU, ``memory_reserved_mb`` is the memory reserved for tensors, and ``gpus`` names the cards of the processes.
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        cards = f"{processes} × {torch.cuda.get_device_name()}"
        return {"memory_mb": allocated / 2**20, "memory_reserved_mb": reserved / 2**20, "gpus": cards}
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_mb": peak / 2**20 if sys.platform == "darwin" else peak / 2**10}
