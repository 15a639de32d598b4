"""Training: teachers, distillation, and what both share."""

from sida.training.config import DistillConfig, TeacherConfig
from sida.training.distiller import Distiller, IterationRecord
from sida.training.schedule import Phase, Schedule, ema_beta
from sida.training.student import distill
from sida.training.teacher import train_teacher

__all__ = [
    "DistillConfig",
    "Distiller",
    "IterationRecord",
    "Phase",
    "Schedule",
    "TeacherConfig",
    "distill",
    "ema_beta",
    "train_teacher",
]
