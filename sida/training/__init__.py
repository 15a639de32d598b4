"""Training: the engine that teachers and students share, and the training of teachers.

Names are loaded on first use, so that errors of a configuration are reported before torch is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sida.training.averages import ema_beta
    from sida.training.config import TeacherConfig
    from sida.training.meter import IterationRecord
    from sida.training.schedule import Phase, Schedule
    from sida.training.teacher import train_teacher

__all__ = ["IterationRecord", "Phase", "Schedule", "TeacherConfig", "ema_beta", "train_teacher"]

_HOMES = {
    "IterationRecord": "meter",
    "Phase": "schedule",
    "Schedule": "schedule",
    "TeacherConfig": "config",
    "ema_beta": "averages",
    "train_teacher": "teacher",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
