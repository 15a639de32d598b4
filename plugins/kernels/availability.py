"""Whether Triton kernels can be used here: for the operations of a U-Net between its convolutions, and the optimizer.

Each kernel computes in float32, in as few passes over memory as possible. Results differ from those of the networks'
torch modules by rounding only.
"""

import functools
import importlib
from types import ModuleType

from sida.errors import UserError

#: Oldest supported Triton, and the torch that comes with it.
OLDEST, OLDEST_TORCH = (3, 3), "2.7"


@functools.cache
def unavailable_reason() -> str | None:
    """Reason why the kernels cannot be used here, or None."""
    try:
        version = str(importlib.import_module("triton").__version__)
    except ImportError as error:
        return f"the package triton cannot be imported ({error})"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        least = ".".join(map(str, OLDEST))
        return f"triton {version} is older than {least}, which comes with torch {OLDEST_TORCH}"
    return None


def require_fused(where: str = "kernels") -> ModuleType:
    """Imports :mod:`sida.plugins.kernels.fused`, which needs the optional package triton.

    Args:
        where: Place named in errors.

    Raises:
        UserError: Triton is missing or too old.
    """
    if (reason := unavailable_reason()) is not None:
        raise UserError(where, f"fused kernels cannot be used: {reason}", "install a newer one, or choose 'torch'")
    return importlib.import_module("sida.plugins.kernels.fused")
