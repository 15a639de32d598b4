"""The device that a text names, and that is worked on.

Torch is imported late: commands ask before the numerical libraries may know their threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sida.errors import UserError

if TYPE_CHECKING:
    import torch
import contextlib
from collections.abc import Iterator

import torch


def take_device(name: str, where: str) -> torch.device:
    """The device of that name, to work on; a GPU with a number becomes this thread's current one.

    Recordings, torch's global generator, Triton's kernels and the peak of memory are those of the current one.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:NUMBER``.
        where: Place named in errors.

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
    if device.type == "cuda" and device.index is not None:
        count = torch.cuda.device_count()
        if device.index >= count:
            raise UserError(
                f"{where}.device: there is no {name} here, the last GPU is cuda:{count - 1}; use that or cpu"
            )
        torch.cuda.set_device(device)
    return device


def set_tf32(matmul: bool, convolutions: bool) -> None:
    """Allows or forbids it in the whole process from here on."""
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allows or forbids it in both, in the whole process, and restores what was set before.

    Left alone, torch allows it in convolutions: a float32 network would then draw other images on a GPU than on a CPU.
    """
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    set_tf32(allowed, allowed)
    try:
        yield
    finally:
        set_tf32(*before)
