"""Cards of this machine, from the driver, and whether torch has code for them."""

import contextlib
import ctypes
from collections.abc import Iterable

from sida.errors import UserError


def without_code(capability: tuple[int, int], built: Iterable[str]) -> bool:
    """Whether a build of torch has no code for a card: no code of the card's major capability up to its minor one.

    Args:
        capability: Compute capability of the card.
        built: ``torch.cuda.get_arch_list()``; code for 8.0 runs on 8.9, but not on 9.0.
    """
    numbers = [int("".join(filter(str.isdigit, name.partition("_")[2]))) for name in built if name.startswith("sm_")]
    return all(capability[0] != number // 10 or capability[1] < number % 10 for number in numbers)


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
