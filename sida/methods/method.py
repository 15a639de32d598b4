"""Definition of a distillation method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from sida.config.families import Family
from sida.config.mapping import from_mapping
from sida.errors import UserError

if TYPE_CHECKING:
    from sida.losses import SiDLoss
    from sida.training.iteration import Turns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A way to distil a teacher into a one-step generator.

    ``dataclasses.replace(SID, name="mine", loss=...)`` is a method that differs from SiD in its loss alone.

    Attributes:
        name: As in sheets and specs.
        title: As in tables.
        about: A line of help.
        start: What the generator starts as: a copy of the ``teacher``, another distilled ``generator`` that the run
            must name (``init``), or ``either``.
        real_images: Whether it sees real images.
        defaults: Settings that a recipe leaves out, by name of the network family (:mod:`sida.config.families`): all of
            them, ``{**SID.defaults["edm"], "alpha": 1.0}`` to change one.
        loss: Makes the loss of fake score and generator, from the settings that it takes. With ``turns`` it may be any
            loss that these use.
        psi_steps: Steps of the fake score with each step of the generator.
        options: Dataclass of settings that only this method has (``options`` of a recipe); None is none. Where it has a
            method ``assets(resolution)``, a workflow fetches these downloads before it trains; a method
            ``recorded(given)`` says what of them is in a run's digest.
        turns: Makes the learners with their optimizers, losses and order. None: teacher, fake score and generator
            (:class:`sida.methods.Distiller`); a method with other networks makes its own players.
        guided: Of a method with ``turns``: whether these take the teacher's score from ``Parts.true_score``, which a
            recipe's ``guidance`` acts on. The others do.
        fused: Of a method with ``turns``: whether these heed a recipe's ``kernels`` and ``recompute``, as those of
            :func:`sida.methods.build.make_score_distiller` do. The others do.
    """

    name: str
    title: str
    about: str
    start: Literal["teacher", "generator", "either"]
    real_images: bool
    defaults: Mapping[str, Mapping[str, Any]]
    loss: Callable[[Any], SiDLoss]
    psi_steps: int = 1
    options: type | None = None
    turns: Callable[[Any], Turns] | None = None
    guided: bool = False
    fused: bool = False

    def settings_of(self, family: Family, where: str) -> dict[str, Any]:
        """Default settings for networks of a family: its own, else those of the family that it is like.

        Raises:
            UserError: The method has none.
        """
        for name in filter(None, (family.name, family.like)):
            if name in self.defaults:
                return dict(self.defaults[name])
        known = ", ".join(self.defaults)
        raise UserError(f"{where}: method '{self.name}' is for networks of {known}, this one is of {family.name}")

    def read_options(self, given: Mapping[str, Any], where: str) -> Any:
        """The ``options`` of a recipe in the method's dataclass; None where it has none.

        Raises:
            UserError: Settings that it does not have, or with a wrong value.
        """
        if self.options is not None:
            return from_mapping(self.options, given, where)
        if given:
            raise UserError(f"{where}: method '{self.name}' has no settings of its own; remove them")
        return None

    @property
    def takes_guidance(self) -> bool:
        """Whether it learns from a score that can be guided."""
        return self.turns is None or self.guided

    def check(self, init: str | None, real_source: str, guidance: float = 1.0, kernels: str = "torch") -> None:
        """Whether a run's start, source of real images, guidance and kernels fit.

        Raises:
            ValueError: ``key: what is wrong``.
        """
        if self.start == "generator" and init is None:
            raise ValueError(f"init: {self.name} starts from a distilled generator; give its network file")
        if self.start == "teacher" and init is not None:
            others = "sid2a (or sid: a restart)"
            raise ValueError(f"init: '{self.name}' starts from the teacher; remove it, or choose {others}")
        if not self.real_images and real_source != "data":
            raise ValueError(f"real_source: '{self.name}' sees no real images; remove it")
        if guidance != 1 and not self.takes_guidance:
            raise ValueError(f"guidance: '{self.name}' learns from no score that could be guided; set it to 1")
        if kernels != "torch" and self.turns is not None and not self.fused:
            raise ValueError(f"kernels: '{self.name}' does not compute with {kernels} kernels; set it to torch")
