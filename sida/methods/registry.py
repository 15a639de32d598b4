"""All distillation methods by name. A custom method is also such an object, named ``module:object``.

This module does not import torch, because each command line reads :data:`METHODS` at its start.
"""

from __future__ import annotations

from typing import Any

from sida.config.recipe import EDM_P_MEAN, EDM_P_STD, SIDA_ALPHA
from sida.config.registry import Registry
from sida.methods.cd import CD
from sida.methods.diff_instruct import DIFF_INSTRUCT
from sida.methods.dmd import DMD, DMD2
from sida.methods.ect import ECT
from sida.methods.f_distill import F_DISTILL
from sida.methods.gdd import GDD, GDD_I
from sida.methods.instance import INSTANCE
from sida.methods.method import Method
from sida.methods.sida import SID, SID2A, SIDA
from sida.methods.uni_instruct import UNI_INSTRUCT

#: Default β₁ and β₂ of Adam.
BETAS = (0.0, 0.999)
#: Values of settings that a method does not read; no result depends on them, but they enter a run's digest.
UNREAD: dict[str, Any] = {
    "P_mean": EDM_P_MEAN, "P_std": EDM_P_STD, "alpha": SIDA_ALPHA, "grad_clip_value": 0.0, "lambda_d": 1.0,
    "logvar": False,
}  # fmt: skip
METHODS = Registry(
    "method",
    "sida.methods.method:Method",
    {
        method.name: method
        for method in (
            *(SID, SIDA, SID2A, GDD, GDD_I, INSTANCE),
            *(DIFF_INSTRUCT, DMD, DMD2, F_DISTILL, UNI_INSTRUCT, ECT, CD),
        )
    },
)


def is_method(name: str) -> bool:
    """Whether a name belongs to a method or has the form of a custom method (which is not imported)."""
    return METHODS.knows(name)


def find_method(name: str, where: str = "method") -> Method:
    """Returns the method of a name, or the custom method ``module:object``.

    Raises:
        UserError: The method does not exist.
    """
    found: Method = METHODS.find(name, where)
    return found
