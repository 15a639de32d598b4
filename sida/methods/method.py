"""Definition of a distillation method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from sida.config.families import Family
from sida.config.recipe import ADVERSARIAL_SETTINGS, SCORE_SETTINGS, StudentConfig
from sida.config.settings import from_mapping
from sida.errors import SettingError, UserError

if TYPE_CHECKING:
    import torch

    from sida.losses import ScoreLoss
    from sida.training.student_trainer import StudentTrainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passes:
    """Work of a step per image, in forward passes of the teacher's network and of its encoder.

    A backward pass counts as two forward passes, or as one through a frozen network. The defaults are those of score
    distillation.

    Attributes:
        fake_score: Passes of a step of the fake score, with the generator's image.
        fake_score_encoder: Passes of the encoder alone in that step.
        generator: Passes of a step of the generator.
        generator_encoder: Passes of the encoder alone in that step.
    """

    fake_score: float = 4.0
    fake_score_encoder: float = 0.0
    generator: float = 7.0
    generator_encoder: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A method that distils a teacher into a one-step generator.

    ``dataclasses.replace(SID, name="mine", loss=...)`` differs from SiD only in its loss. Loss and trainer of this
    package may be named ``module:object``, which is imported at first use: the registry must not import torch.

    Attributes:
        name: Name in sheets and specs.
        title: Name in tables.
        about: Line of help.
        start: Start of the generator: a copy of the ``teacher``, another distilled ``generator`` that the run must name
            (``init``), or ``either``.
        real_images: Whether the method uses real images.
        defaults: Default settings by name of the network family (:mod:`sida.config.families`). Each family needs all of
            them: ``{**SID.defaults["edm"], "alpha": 1.0}`` changes one.
        loss: Loss of fake score and generator: a :class:`~sida.losses.ScoreLoss`, which takes its settings from recipe
            and options (``of``), or a function of the parts (:class:`sida.methods.distiller.Parts`). None: the trainer
            has other losses.
        fake_score: Makes the fake score from the parts; None copies the teacher.
        psi_steps: Steps of the fake score per step of the generator.
        passes: Work of these steps, for plans.
        options: Dataclass of settings that only this method has (``options`` of a recipe), or None; no name may be that
            of a recipe's setting. If it has a method ``assets(resolution)``, a workflow downloads these assets before
            it trains; a method ``recorded(given)`` returns the options as they enter a run's digest; ``passes``
            replaces those of the method in plans; ``unread`` names settings that the method does not read with these
            options.
        trainer: Makes the trainer from the parts: networks with their optimizers, losses and order. None makes
            :class:`sida.methods.Distiller` with teacher, fake score and generator.
        reads: Settings that this method reads, of :data:`sida.config.recipe.SCORE_SETTINGS` and
            :data:`~sida.config.recipe.ADVERSARIAL_SETTINGS`; None takes those of :attr:`settings`.
    """

    name: str
    title: str
    about: str
    start: Literal["teacher", "generator", "either"]
    real_images: bool
    defaults: Mapping[str, Mapping[str, Any]]
    loss: str | type[ScoreLoss] | Callable[[Any], ScoreLoss] | None = None
    fake_score: Callable[[Any], torch.nn.Module] | None = None
    psi_steps: int = 1
    passes: Passes = Passes()
    options: type | None = None
    trainer: str | Callable[[Any], StudentTrainer] | None = None
    reads: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.options is None:
            return
        settings = {field.name for field in dataclasses.fields(StudentConfig)}
        # A loss takes both by their names, so that one of two equal names would silently win.
        if equal := sorted(settings & {field.name for field in dataclasses.fields(self.options)}):
            raise UserError(
                f"method '{self.name}'",
                f"options: {', '.join(equal)}: is a setting of every recipe",
                "rename the option, or read the setting (reads)",
            )

    def settings_of(self, family: Family, where: str) -> dict[str, Any]:
        """Returns the default settings of a family, or else of the family that it resembles.

        Raises:
            UserError: The method has no defaults for the family.
        """
        for name in filter(None, (family.name, family.like)):
            if name in self.defaults:
                return dict(self.defaults[name])
        known = ", ".join(self.defaults)
        raise UserError(where, f"method '{self.name}' is for networks of {known}, this one is of {family.name}")

    def read_options(self, given: Mapping[str, Any], where: str) -> Any:
        """Returns the ``options`` of a recipe in the method's dataclass; None for a method without options.

        Raises:
            UserError: An option does not exist or has a wrong value.
        """
        if self.options is not None:
            return from_mapping(self.options, given, where)
        if given:
            raise SettingError(where, f"method '{self.name}' has no settings of its own", "remove them")
        return None

    @property
    def settings(self) -> frozenset[str]:
        """Settings that this method reads, of those that only some methods read.

        Without :attr:`reads`, a method without ``trainer`` reads the settings of score distillation and, with real
        images, the adversarial settings; a method with ``trainer`` reads none.
        """
        if self.reads is not None or self.trainer is not None:
            return self.reads or frozenset()
        return SCORE_SETTINGS | ADVERSARIAL_SETTINGS if self.real_images else SCORE_SETTINGS

    @property
    def unread(self) -> frozenset[str]:
        """Settings that other methods read and this method does not."""
        return (SCORE_SETTINGS | ADVERSARIAL_SETTINGS) - self.settings

    def check_start(self, init: object) -> None:
        """Checks that a run names a generator to start from (``init``) where the method needs one, and only there.

        Raises:
            SettingError: It does not.
        """
        if self.start == "generator" and init is None:
            raise SettingError("init", f"{self.name} starts from a distilled generator", "name one")
        if self.start == "teacher" and init is not None:
            others = "sid2a (or sid: a restart)"
            raise SettingError("init", f"'{self.name}' starts from the teacher", f"remove it, or choose {others}")

    def check(self, config: StudentConfig) -> None:
        """Checks that a run names a start that the method has, and that the method reads all settings of the run.

        Raises:
            SettingError: The first fault.
        """
        options = self.read_options(config.options, "options")
        self.check_start(config.init)
        defaults = {field.name: field.default for field in dataclasses.fields(config)}
        of_options: frozenset[str] = getattr(options, "unread", frozenset())
        found = sorted(name for name in self.unread | of_options if getattr(config, name) != defaults[name])
        if found:
            pronoun = "it" if len(found) == 1 else "them"
            these = " with these options" if of_options.intersection(found) else ""
            raise SettingError(
                found[0], f"method '{self.name}' does not read {', '.join(found)}{these}", f"remove {pronoun}"
            )
