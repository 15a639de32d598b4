"""Selection of the device to compute on, transfer to it, and TF32.

Functions import torch late, because commands read this module before they limit the threads of the libraries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sida.errors import UserError

if TYPE_CHECKING:
    import torch


def take_device(name: str, where: str) -> torch.device:
    """Returns the device of a name; a GPU with a number becomes this thread's current device.

    CUDA graphs, torch's global generator, Triton's kernels and the peak of memory belong to the current device.

    Args:
        name: ``cpu``, ``cuda`` or ``cuda:NUMBER``.
        where: Place named in errors.

    Raises:
        UserError: This machine does not have the device.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{where}.device", f"'{name}' is no device", "use cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{where}.device", f"'{name}', but no GPU is available here", "use cpu")
    if device.type == "cuda" and device.index is not None:
        count = torch.cuda.device_count()
        if device.index >= count:
            raise UserError(
                f"{where}.device", f"there is no {name} here, the last GPU is cuda:{count - 1}", "use that or cpu"
            )
        torch.cuda.set_device(device)
    return device


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copies a tensor to a device asynchronously.

    A plain ``to`` copies from pageable memory and waits for the GPU, which gets no new work meanwhile. A copy from
    pinned memory does not wait.

    Args:
        tensor: Tensor on any device, which must not be changed in place afterwards.
        device: Target device.
    """
    import torch

    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def set_tf32(matmul: bool, convolutions: bool) -> None:
    """Allows or forbids TF32 in the whole process."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = convolutions


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Sets torch's CPU threads within a context; 0 changes nothing."""
    import torch

    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allows or forbids TF32 in the whole process for a while, then restores the former setting.

    By default torch allows TF32 in convolutions, so a float32 network draws other images on a GPU than on a CPU.
    """
    import torch

    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    set_tf32(allowed, allowed)
    try:
        yield
    finally:
        set_tf32(*before)
