"""What a training process sets for itself: threads, exact arithmetic, memory.

Torch is imported late: the numerical libraries must know their threads before they are loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Blocks up to 32 MiB (the most that older glibc accepts) come from the heap, of which up to 1 GiB stays with us.
_HEAP_BLOCK, _KEEP_FREE = 32 << 20, 1 << 30


def limit_library_threads(threads: int) -> None:
    """Makes numpy, scipy and torch use as many threads as configured; call it before importing them.

    Two students side by side on two cores must not each spread an eigendecomposition over both: waiting for each
    other costs more than the second thread gives.
    """
    for variable in _VARIABLES:
        os.environ[variable] = str(threads)


def prepare_process(threads: int = 1) -> None:
    """Sets CPU threads, turns TF32 off (as all published runs did) and keeps freed memory.

    Args:
        threads: Intra-operation threads, at least 1.
    """
    import torch

    from sida.runtime.devices import set_tf32

    torch.set_num_threads(threads)
    set_tf32(matmul=False, convolutions=False)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of handing every activation back to the kernel.

    A training step frees and asks for the same megabytes again and again; by default most of them come back as fresh
    pages that the kernel must clear (thousands of page faults per step). Elsewhere than on glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, _HEAP_BLOCK)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEEP_FREE)


def peak_memory(processes: int = 1) -> dict[str, float | str]:
    """Most memory used so far, in MiB: ``memory_mb``, by tensors on a GPU or by the process without one.

    On a GPU ``memory_reserved_mb`` is what was taken from it for them, and ``gpus`` the cards of these processes.
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        cards = f"{processes} × {torch.cuda.get_device_name()}"
        return {"memory_mb": allocated / 2**20, "memory_reserved_mb": reserved / 2**20, "gpus": cards}
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_mb": peak / 2**20 if sys.platform == "darwin" else peak / 2**10}
