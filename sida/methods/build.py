"""The trainer of a configuration, made of teacher, guide and initial generator."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from sida.config.augmentation import OFFICIAL_FLAGS
from sida.config.families import Family, WeightNorm
from sida.data import AugmentPipe
from sida.errors import UserError
from sida.losses import SiDLoss
from sida.methods.distiller import Distiller, DistillerSettings
from sida.methods.method import Method
from sida.methods.recipe import ResolvedConfig
from sida.networks import architecture, build_network
from sida.networks.checkpointing import checkpoint_blocks
from sida.networks.guidance import GuidedDenoiser
from sida.training.micro_batches import OptimizerStep
from sida.training.schedule import Schedule
from sida.training.student_trainer import StudentTrainer, TrainerSettings

_Made = TypeVar("_Made")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Parts that a method makes its trainer of (:attr:`sida.methods.Method.trainer`).

    Attributes:
        method: The method.
        config: Settings, each with its value.
        options: The method's own settings, in its dataclass; None where it has none.
        family: Of the teacher's network.
        teacher: The teacher, on the device.
        initial: The network that the generator starts as.
        device: Where networks are.
        where: Place named in errors.
        guide: Guiding network, on the device; None without guidance.
    """

    method: Method
    config: ResolvedConfig
    options: Any
    family: Family
    teacher: torch.nn.Module
    initial: torch.nn.Module
    device: torch.device
    where: str
    guide: torch.nn.Module | None = None

    @property
    def true_score(self) -> torch.nn.Module:
        """φ, as the generator's loss asks it: the teacher, guided where the recipe says so."""
        if self.guide is None:
            return self.teacher
        return GuidedDenoiser(self.teacher, self.guide, self.config.guidance)

    def copy(self, source: torch.nn.Module, weight_norm: WeightNorm | None) -> torch.nn.Module:
        """A copy of a network that learns, with the configured dropout, precision and weight normalisation."""
        network = copy.deepcopy(architecture(source))
        if self.config.dropout is not None:
            network["kwargs"]["dropout"] = self.config.dropout
        if self.device.type == "cuda":
            network["kwargs"]["use_fp16"] = self.config.fp16
        if weight_norm is not None:
            network["kwargs"]["weight_norm"] = weight_norm
        net = build_network(network).to(self.device)
        net.load_state_dict(source.state_dict())
        if self.config.checkpointing:
            checkpoint_blocks(net, f"{self.where}.checkpointing")
        net.half_dtype = getattr(torch, self.config.half)
        return net.requires_grad_(True)

    def initial_as(self, cls: str) -> torch.nn.Module:
        """The initial network's weights in another preconditioning of EDM's networks.

        Args:
            cls: Name of the class.

        Raises:
            UserError: The network is of another kind.
        """
        network = architecture(self.initial)
        if network["class"] not in ("EDMPrecond", cls):
            raise UserError(
                f"{self.where}.teacher: {self.config.method} starts from a network of class EDMPrecond, not "
                f"{network['class']} ({self.config.teacher}); choose another teacher"
            )
        net = build_network({**network, "class": cls}).to(self.device)
        net.load_state_dict(self.initial.state_dict())
        return net

    def make(self, cls: type[_Made], **more: Any) -> _Made:
        """A loss or settings (a dataclass) with the settings and options that have the names of its fields, and more.

        Settings that the method does not read keep the default of ``cls``.
        """
        fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        settings = {field.name for field in dataclasses.fields(self.config)} - self.method.unread
        given = {name: getattr(self.config, name) for name in settings} | (
            {} if self.options is None else vars(self.options)
        )
        return cls(**{name: value for name, value in given.items() if name in fields} | more)

    def schedule(self) -> Schedule:
        """Phases and rates as configured; a method without this setting has no adversarial phase."""
        none = {} if "adversarial_kimg" in self.method.settings else {"adversarial_kimg": None}
        return self.make(Schedule, **none)

    def trainer(self, steps: Sequence[OptimizerStep]) -> StudentTrainer:
        """The trainer of a method that has no fake score, as configured."""
        return StudentTrainer(steps, self.schedule(), self.make(TrainerSettings))

    def augment(self, official: Mapping[str, float] = OFFICIAL_FLAGS) -> AugmentPipe | None:
        """The configured augmentation; ``official`` is what it does where the flags are left out."""
        settings = self.config.augment
        return None if settings is None else AugmentPipe.from_config(settings, f"{self.where}.augment", official)


def make_score_distiller(
    parts: Parts,
    loss: SiDLoss | None = None,
    others: Sequence[OptimizerStep] = (),
    fake_score: torch.nn.Module | None = None,
    psi_steps: int | None = None,
    graphs: bool = True,
) -> Distiller:
    """Teacher, fake score and generator of a configuration.

    Args:
        parts: Settings and networks.
        loss: None makes the method's.
        others: Further steps between fake score and generator.
        fake_score: None makes a copy of the teacher.
        psi_steps: Steps of the fake score in an iteration; None takes the method's.
        graphs: Whether a step can be recorded and replayed.
    """
    config, settings = parts.config, parts.make(DistillerSettings)
    return Distiller(
        parts.true_score,
        parts.copy(parts.teacher, config.fake_score_weight_norm) if fake_score is None else fake_score,
        parts.copy(parts.initial, config.weight_norm),
        parts.method.loss(parts) if loss is None else loss,
        parts.schedule(),
        settings if graphs else dataclasses.replace(settings, cuda_graphs=False),
        augment=parts.augment(),
        psi_steps=parts.method.psi_steps if psi_steps is None else psi_steps,
        others=others,
    )
