"""Whether Triton kernels can be used here: for the operations of a U-Net between its convolutions, and the optimizer.

Each kernel computes in float32, in as few passes over memory as possible. Results differ from those of the networks'
torch modules by rounding only.
"""

import functools
import importlib
from typing import TYPE_CHECKING, Any, cast

from sida.errors import UserError

if TYPE_CHECKING:
    from sida.config.kernels import Kernels

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


def require_fused(where: str = "kernels") -> "Kernels":
    """Fused kernels of U-Nets and of the optimizer.

    Args:
        where: Place named in errors.

    Raises:
        UserError: Triton is missing or too old.
    """
    return _kernels("fused", where)


def require_compiled(where: str = "kernels") -> "Kernels":
    """Compiled blocks of any network, and fused kernels of the optimizer; see :func:`require_fused`."""
    return _kernels("compiled", where)


def _kernels(name: str, where: str) -> "Kernels":
    # This module is imported while that one is.
    from sida.config.kernels import Kernels

    if (reason := unavailable_reason()) is not None:
        raise UserError(where, f"{name} kernels cannot be used: {reason}", "install a newer one, or choose 'torch'")
    network, optimizer = (cast(Any, importlib.import_module(f"{__package__}.{part}")) for part in (name, "pointwise"))
    return Kernels(network, optimizer, getattr(network, "news", lambda: None))
