"""Rows of a sample sheet that a table, figure or claim names: conditions on columns, and equal rows of other seeds."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sida.config.settings import names_object
from sida.errors import SettingError, UserError, suggestion
from sida.eval.results.identity import Identity
from sida.eval.results.sheet import SheetRow

#: Columns of the sample sheet that conditions may name.
SELECTABLE = ("run", "family", "label", "method", "teacher", "init", "alpha", "recipe", "sampler", "seed", "dataset")


def check_columns(key: str, names: Iterable[str]) -> None:
    """Requires that a setting names columns of the sample sheet that conditions may name.

    Raises:
        SettingError: The setting ``key`` names another.
    """
    for name in names:
        if name not in SELECTABLE:
            raise SettingError(key, f"the sample sheet has no column '{name}'{suggestion(name, SELECTABLE)}")


#: Condition on the column ``method`` for any custom method, ``module:object``.
OWN = "own"


@dataclass(frozen=True)
class Needs:
    """Rows of the sheet that a table or figure needs.

    Attributes:
        measured: Rows whose measurements are shown.
        networks: Rows whose network or training log is read.
        sampled: Whether images of these networks are drawn.
    """

    measured: Collection[str]
    networks: Collection[str]
    sampled: bool = False


@dataclass(frozen=True)
class Planned:
    """Rows of a preset with what will be measured of them; layouts are checked against it before the first job.

    Attributes:
        source: Sample sheet, for errors.
        runs: Sample sheet by run id.
        identities: Identity of each metric by its key, of each row that can be measured. References and feature
            networks have no digests.
        curve_fault: Reason why a row will have no curve of a metric; empty if it will have one.
    """

    source: str
    runs: Mapping[str, SheetRow]
    identities: Mapping[str, Mapping[str, Identity]]
    curve_fault: Callable[[str, str], str]

    @property
    def metrics(self) -> list[str]:
        """Metrics of all rows, in order."""
        return list(dict.fromkeys(metric for metrics in self.identities.values() for metric in metrics))

    def require(self, run: str, metric: str, where: str) -> None:
        """Refuses a row, or a metric of a row, that will not be measured."""
        if run not in self.identities:
            raise UserError(where, f"run '{run}' has no measurement in {self.source}{suggestion(run, self.identities)}")
        if metric not in (metrics := self.identities[run]):
            fault = f"metric '{metric}' was not measured for run '{run}' in {self.source}{suggestion(metric, metrics)}"
            raise UserError(where, fault, "add it to the protocol or remove it here")


def with_other_seeds(runs: Mapping[str, SheetRow], name: str) -> list[str]:
    """Names of a run and the runs that differ from it in the training seed only (and in the seed of their start)."""
    settings = _without_seed(runs[name])
    return [row.run for row in runs.values() if _without_seed(row) == settings]


def _without_seed(row: SheetRow) -> SheetRow:
    return dataclasses.replace(row, run="", label="", seed=None, init=None, second_protocol=None, notes="")


def matching(runs: Mapping[str, SheetRow], conditions: Mapping[str, Any]) -> list[SheetRow]:
    """Runs of the sample sheet that meet conditions on columns.

    A list of values means any of them; the method ``own`` means any custom method (``module:object``). Second
    measurements are matched by ``run`` only.
    """

    def fits(run: SheetRow) -> bool:
        return all(_meets(run, key, value if isinstance(value, list) else [value]) for key, value in conditions.items())

    return [run for run in runs.values() if fits(run) and (not run.second or "run" in conditions)]


def _meets(run: SheetRow, column: str, values: list[Any]) -> bool:
    is_own = column == "method" and OWN in values and names_object(run.method)
    return is_own or getattr(run, column) in values
