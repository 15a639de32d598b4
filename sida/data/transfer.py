"""Transfer of small tensors to a GPU without waiting for it."""

from __future__ import annotations

import torch


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copies a tensor to a device asynchronously.

    A plain ``to`` copies from pageable memory and waits for the GPU, which gets no new work meanwhile. A copy from
    pinned memory does not wait.

    Args:
        tensor: Tensor on any device, which must not be changed in place afterwards.
        device: Target device.
    """
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
