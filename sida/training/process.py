"""What a training process sets once for itself: threads, exact arithmetic, memory."""

from __future__ import annotations

import contextlib
import ctypes
import sys

import torch

from sida.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Blocks up to 32 MiB (the most that older glibc accepts) come from the heap, of which up to 1 GiB stays with us.
_HEAP_BLOCK, _KEEP_FREE = 32 << 20, 1 << 30


def prepare_process(threads: int = 1) -> None:
    """Sets CPU threads, turns TF32 off (as all published runs did) and keeps freed memory.

    Args:
        threads: Intra-operation threads, at least 1.
    """
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    keep_freed_memory()


def check_device(name: str, where: str) -> torch.device:
    """The device of that name.

    Raises:
        UserError: No such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{where}.device: '{name}' is no device; use cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{where}.device: '{name}', but no GPU is available here; use cpu")
    return device


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
