"""Small tensors on their way to a GPU."""

from __future__ import annotations

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device. A GPU gets it in its turn, and nobody waits for what it computes before.

    A plain ``to`` copies from memory that the system may move, so it waits until the GPU has come that far, which in
    every step is time in which the GPU gets no new work. From pinned memory nothing needs to wait.

    Args:
        tensor: On any device; not to be changed in place afterwards.
        device: Where it is wanted.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
