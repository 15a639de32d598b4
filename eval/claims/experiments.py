"""Experiments as data (``studies/*/questions.yaml``): questions with predictions written before the measurement.

An experiment names claims, and rules decide their verdicts. Predictions stand with the experiment and not with the
claims, so that no rule depends on the expected answer.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from eval.claims.model import UNDECIDED, Outcome
from eval.results.sheet import listed_entries
from sida.config.settings import Pattern, from_mapping
from sida.errors import SettingError, UserError

Prediction = Literal["supported", "contradicted", "undecided"]
#: The verdict that each prediction expects.
EXPECTED: dict[str, Outcome] = {"supported": "supported", "contradicted": "contradicted", "undecided": UNDECIDED}
_TIMES = {10: "%Y-%m-%d", 17: "%Y-%m-%dT%H:%MZ"}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A question of a preset, its prediction, and the claims, tables and figures that answer it.

    Attributes:
        id: Names the target ``experiments/<id>.json`` and places in pages.
        title: A few words.
        question: One sentence.
        prediction: The expected answer, and the reason.
        predicted: The expected verdict of each claim: ``supported``, ``contradicted`` or ``undecided``; the first
            claim is the one that the experiment was made for.
        written: Day or time of the prediction (UTC, ``2026-11-21T02:40Z``). A claim needs a row that was
            measured later.
        stored: Whether the question was asked of measurements that existed: earlier measurements count, and pages say
            that they test no prediction.
        tables: Tables of the preset that show the answer.
        figures: Figures of the preset that show the answer, the most important one first.
        limits: Limits of the answer.
        paper_scale: Trainings that would decide the rest at the paper's scale.
        plan: Targets of the preset in ``config/plan.yaml`` for these trainings; ``sida plan`` counts their cost.
    """

    id: Annotated[str, Pattern("[a-z][a-z0-9-]*", "of a-z, 0-9 and '-', first a letter")]
    title: str
    question: str
    prediction: str
    predicted: dict[str, Prediction]
    written: Annotated[
        str, Pattern(r"\d{4}-\d\d-\d\d(T\d\d:\d\dZ)?", "a day (2026-11-21) or a time in UTC (2026-11-21T02:40Z)")
    ]
    stored: bool = False
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    limits: str
    paper_scale: str = ""
    plan: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in ("title", "question", "prediction", "limits"):
            if not getattr(self, key).strip():
                raise SettingError(key, "is empty", "say it before it runs")
        if not self.predicted:
            raise SettingError(
                "predicted", "names no claim", "an experiment is decided by one at least (CLAIM: supported)"
            )
        try:
            datetime.datetime.strptime(self.written, _TIMES[len(self.written)])
        except ValueError:
            raise SettingError("written", f"there is no such day or time as '{self.written}'") from None

    @property
    def claims(self) -> tuple[str, ...]:
        """Ids of the claims; the first is the claim that the experiment was made for."""
        return tuple(self.predicted)

    def foreseen(self, time: str) -> bool:
        """Whether the prediction was written before a time (``2026-11-21T02:40:07Z`` or a day), to the coarser unit."""
        digits = min(len(time), len(self.written.rstrip("Z")))
        return time[:digits] >= self.written[:digits]


@dataclass(frozen=True, kw_only=True)
class Experiments:
    """A file of experiments.

    Attributes:
        experiments: In the order in which pages show them.
    """

    experiments: tuple[Experiment, ...]


def load_experiments(path: str | Path) -> list[Experiment]:
    """Reads a file of experiments: a list under ``experiments``.

    Raises:
        UserError: Missing file, unknown or missing key, wrong type, an id used twice, or a claim in two experiments
            (file, experiment and key are named).
    """
    found: list[Experiment] = []
    for where, entry in listed_entries(path, "experiment", "id, title, question, prediction, predicted and written"):
        experiment = from_mapping(Experiment, _plain(entry), where)
        for other in found:
            if shared := sorted(set(experiment.claims) & set(other.predicted)):
                raise UserError(
                    f"{where}.predicted", f"claim '{shared[0]}' is decided in '{other.id}' already", "name it once"
                )
        found.append(experiment)
    return found


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with ``written`` as text: YAML reads days and times as dates."""
    written = entry.get("written")
    if isinstance(written, datetime.datetime):
        # PyYAML keeps the offset of a time; settings are in UTC.
        text = written.astimezone(datetime.UTC).strftime(_TIMES[17]) if written.tzinfo else str(written)
        return {**entry, "written": text}
    return {**entry, "written": written.isoformat()} if isinstance(written, datetime.date) else entry
