"""torch for modules that programs read without computing: it is imported when one of its names is first used.

The workflow and the command lines read the settings and facts of all methods; importing torch takes longer than that.
"""

import importlib
from typing import TYPE_CHECKING, Any


class _LateModule:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self._name), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import torch as torch
    from torch import Tensor as Tensor
else:
    torch = _LateModule("torch")
    #: For annotations, which nothing reads.
    Tensor = Any
