"""What a training process sets for itself: threads, exact arithmetic, memory, and what signals mean to it.

Torch is imported late: the numerical libraries must know their threads before they are loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from sida.errors import UserError

if TYPE_CHECKING:
    import torch

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Blocks up to 32 MiB (the most that older glibc accepts) come from the heap, of which up to 1 GiB stays with us.
_HEAP_BLOCK, _KEEP_FREE = 32 << 20, 1 << 30
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: A workflow forwards the same Ctrl-C more than once; only a signal after this many seconds means 'at once'.
_PATIENCE = 5.0


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

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    keep_freed_memory()


def check_device(name: str, where: str) -> torch.device:
    """The device of that name.

    Raises:
        UserError: No such device here.
    """
    import torch

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


class Interruption:
    """Context manager that turns the first SIGINT or SIGTERM into a request; one much later acts at once.

    Attributes:
        requested: Whether the process was asked to stop.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Python lets only the main thread set handlers; elsewhere signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises KeyboardInterrupt if the process was asked to stop."""
        if self.requested:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > _PATIENCE:
            raise KeyboardInterrupt
