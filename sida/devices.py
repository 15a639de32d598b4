"""Which device a text names.

Torch is imported late: commands ask before the numerical libraries may know their threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sida.errors import UserError

if TYPE_CHECKING:
    import torch


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
