"""Queries of markers about single numbers: means over trials and seeds, training logs, settings, the analytic study.

Where a query is over training seeds, a run stands for those that differ from it by their seed only, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from eval.results.summary import Estimate
from eval.results.training_logs import read_evaluations
from sida.analytic.numbers import NUMBERS, read_analytic
from sida.errors import UserError, suggestion
from workflow.docs.forms import FORM, FORMS
from workflow.docs.stored_lines import read_csv
from workflow.docs.study import Study


def trials(study: Study, metric: str, run: str) -> str:
    """Mean ± standard deviation of one generator over its trials."""
    return _text(metric, study.measured.estimate(run, metric))


def mean(study: Study, metric: str, run: str) -> str:
    """Mean of one generator over its trials."""
    estimate = study.measured.estimate(run, metric)
    return _text(metric, Estimate(estimate.mean, None, 1))


def seeds(study: Study, metric: str, run: str) -> str:
    """Mean ± standard deviation over training seeds; a single seed has no spread."""
    return _text(metric, _over_seeds(study, metric, run))


def gain(study: Study, metric: str, worse: str, better: str) -> str:
    """Difference of the means over training seeds, with its sign."""
    decimals, factor, unit = FORMS.get(metric, FORM)
    difference = _over_seeds(study, metric, worse).mean - _over_seeds(study, metric, better).mean
    return f"{difference * factor:+.{decimals}f}{unit}".replace("-", "−")


def start(study: Study, metric: str, run: str) -> str:
    """First evaluation during training, over seeds."""
    return _text(metric, Estimate.of([values[0] for values in _curves(study, metric, run)]))


def end(study: Study, metric: str, run: str) -> str:
    """Last evaluation during training, over seeds."""
    return _text(metric, Estimate.of([values[-1] for values in _curves(study, metric, run)]))


def lowest(study: Study, metric: str, run: str) -> str:
    """Lowest evaluation during training, over seeds."""
    return _text(metric, Estimate.of([min(values) for values in _curves(study, metric, run)]))


def logged(study: Study, quantity: str, run: str) -> str:
    """A quantity at the end of the training log, over seeds: ``weight_rms.generator``."""
    names = study.siblings(run)
    rows = {row["run"]: row for row in read_csv(study.folder / "training.csv") if row["run"] in names}
    values = [row.get(quantity, "") for row in rows.values()]
    if not values or "" in values:
        raise UserError(f"no '{quantity}' of run '{run}' is stored")
    return _text(quantity, Estimate.of([float(value) for value in values]))


def slower(study: Study, run: str, other: str) -> str:
    """How much more time per image a run took than another: medians over the records of their logs."""
    times = [_seconds(study, name) for name in (run, other)]
    return f"{100 * (times[0] / times[1] - 1):+.0f} %".replace("-", "−")


def setting(study: Study, run: str, key: str) -> str:
    """What a run was trained with, e.g. ``lambda_adv``."""
    study.siblings(run)
    spec = study.preset.specs.student(run)
    if key not in spec:
        raise UserError(f"run '{run}' has no setting '{key}'{suggestion(key, spec)}")
    return f"{spec[key]:g}" if isinstance(spec[key], float) else str(spec[key])


def analytic(study: Study, name: str, form: str = ".3g") -> str:
    """A number of the analytic study, in a format of Python's; ``–`` while it is not stored, or does not exist."""
    if name not in NUMBERS:
        raise UserError(f"no number '{name}' of the analytic study{suggestion(name, NUMBERS)}")
    path = study.unpacked / "analytic.json"
    value = read_analytic(path)["numbers"].get(name) if path.is_file() else None
    return "–" if value is None else format(value, form).replace("-", "−")


#: By name; each takes the study first.
NUMBERS_OF_STUDIES: dict[str, Callable[..., str]] = {
    "trials": trials, "mean": mean, "seeds": seeds, "gain": gain, "start": start, "end": end, "lowest": lowest,
    "logged": logged, "slower": slower, "setting": setting, "analytic": analytic,
}  # fmt: skip


def _over_seeds(study: Study, metric: str, run: str) -> Estimate:
    return Estimate.of([study.measured.estimate(name, metric).mean for name in study.group(run)])


def _curves(study: Study, metric: str, run: str) -> list[list[float]]:
    logs = [study.unpacked / "students" / name / "evaluations.jsonl" for name in study.siblings(run)]
    return [[point.value for point in read_evaluations(log, metric)] for log in logs]


def _seconds(study: Study, run: str) -> float:
    speeds = [float(row["img_per_s"]) for row in read_csv(study.folder / "training.csv") if row["run"] == run]
    if not speeds:
        raise UserError(f"no training log of run '{run}' is stored")
    return 1 / statistics.median(speeds[1:] or speeds)


def _text(metric: str, estimate: Estimate) -> str:
    decimals, factor, unit = FORMS.get(metric, FORM)
    text = f"{estimate.mean * factor:.{decimals}f}"
    return text + (f" ± {estimate.std * factor:.{decimals}f}" if estimate.std is not None else "") + unit
