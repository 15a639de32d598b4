"""Cards of this machine, from the driver."""

import contextlib
import ctypes

from sida.errors import UserError


def driver_cards() -> list[float]:
    """Memory in GB of each visible card, from the driver (importing torch takes seconds); empty without one."""
    count, card, size = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_size_t(0)
    sizes = []
    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        driver.cuInit(0)
        driver.cuDeviceGetCount(ctypes.byref(count))
        for index in range(count.value):
            driver.cuDeviceGet(ctypes.byref(card), index)
            driver.cuDeviceTotalMem_v2(ctypes.byref(size), card)
            sizes.append(size.value / 1e9)
    return sizes


def check_card(device: str, where: str) -> None:
    """Refuses jobs of a GPU on a machine without one, before other jobs prepare data for them.

    Raises:
        UserError: The device is a GPU, and the driver shows none.
    """
    if device.startswith("cuda") and not driver_cards():
        remedy = "run it on a machine with one or through a scheduler (docs/cluster.md), or choose another preset"
        raise UserError(where, f"device: '{device}', but this machine has no GPU", f"{remedy} (sida presets)")
