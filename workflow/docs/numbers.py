"""Numbers of a stored study as text, for markers in the documentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.claims.amounts import decimals_of
from eval.claims.cost import cost_table
from eval.claims.model import SIGNS
from eval.claims.power import plans, power_table
from eval.effects.contrast import difference, mean_interval
from eval.effects.variance import components
from eval.results.agreement import HIGHER_IS_BETTER
from eval.results.summary import Estimate, measured_days
from eval.results.training_logs import read_evaluations
from eval.tables import Table, to_markdown
from eval.tables.effects import effect_text
from sida.analytic.numbers import NUMBERS, read_analytic
from sida.errors import UserError, suggestion
from workflow.docs.stored import stored_lines
from workflow.docs.study import Study

#: Names of metrics in answers.
_NAMES = {
    "fd": "FD",
    "is": "inception score",
    "fd_pixel": "FD in pixels",
    "fd_own": "FD in GDD's features",
    "fd_heldout": "FD to held-out images",
    "fd_glyphs_heldout": "FD to held-out images in features of fonts",
    "copies_pixel": "near copies",
    "memory_mb": "memory",
    "seconds_per_kimg": "seconds per image",
}
#: Decimals, factor and unit of a metric, or of a quantity of a training log, in running text.
_FORMS = {
    "fd": (2, 1, ""), "is": (2, 1, ""), "fd_pixel": (3, 1, ""), "accuracy": (1, 100, " %"),
    "weight_rms.generator": (4, 1, ""), "weight_rms.fake_score": (4, 1, ""),
}  # fmt: skip
_FORM = (2, 1, "")
_TERMS = {
    "evaluation": "evaluation: one trial of one generator",
    "training": "training seed, from one teacher",
    "teacher": "teacher seed, equal settings",
}


class StudyNumbers:
    """Numbers of a study as text; markers use the properties and methods.

    A group of runs is given by conditions on the sheet (``recipe=sida,teacher=t30|t30b``), or by runs with commas
    between them, each with the runs that differ from it in the training seed only. A single run also means its group,
    except in :meth:`trials`.

    Args:
        study: The study.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._training = stored_lines(study.folder / "training.csv")

    @property
    def generators(self) -> int:
        """Number of generators that are measured."""
        return len(self._study.measured.runs)

    @property
    def trained(self) -> int:
        """Number of students that are trained."""
        return len({line["run"] for line in self._training})

    @property
    def teachers(self) -> int:
        """Number of teachers that are trained."""
        return len(self._study.facts["teachers"])

    @property
    def core_hours(self) -> str:
        """Core-hours of all trainings."""
        return f"{self._study.facts['seconds_of_training'] / 3600:.1f}"

    @property
    def measured(self) -> str:
        """Sentence with the number of measured rows of the sheet."""
        return f"{self.generators} of {len(self._study.preset.runs)} rows are measured."

    @property
    def origin(self) -> str:
        """Sentence with the days of the measurements and the version of the code."""
        rows = self._study.measured.rows
        return f"Run of {measured_days(rows)}, code {', '.join(sorted({row.code_version for row in rows}))}."

    @property
    def verdicts(self) -> str:
        """Counts of verdicts: ``17 ✓, 9 ✗, 12 –``."""
        outcomes = [claim["verdict"] for claim in self._study.decided.values()]
        return ", ".join(f"{outcomes.count(word)} {mark}" for word, mark in SIGNS.items())

    def word(self, claim: str) -> str:
        """A claim's verdict as an answer: ``yes``, ``no`` or ``not decided``."""
        return {"supported": "yes", "contradicted": "no"}.get(self._decided(claim)["verdict"], "not decided")

    def answer(self, claim: str) -> str:
        """A claim's verdict with the effect behind it; several comparisons give the range of their effects."""
        found = [finding for finding in self._decided(claim)["findings"] if finding["effect"]]
        first = [finding for finding in found if finding["effect"]["what"] == found[0]["effect"]["what"]]
        word = self.word(claim).capitalize()
        return f"{word}: {in_words(first)}" if first else word

    def trials(self, metric: str, run: str) -> str:
        """Mean ± standard deviation of one generator over its trials."""
        return _text(metric, self._study.measured.estimate(run, metric))

    def seeds(self, metric: str, group: str) -> str:
        """Mean ± standard deviation over training seeds; a single seed has no spread."""
        means = [self._study.measured.estimate(name, metric).mean for name in self._study.group(group)]
        return _text(metric, Estimate.of(means))

    def end(self, metric: str, run: str) -> str:
        """Mean ± standard deviation of the last evaluation during training, over seeds."""
        return self._curves(metric, run, lambda values: values[-1])

    def lowest(self, metric: str, run: str) -> str:
        """Mean ± standard deviation of the lowest evaluation during training, over seeds."""
        return self._curves(metric, run, min)

    def above_lowest(self, metric: str) -> str:
        """Fresh trials minus the lowest evaluation, which chose the network: mean over the trained runs, in words.

        Runs without evaluations, and runs whose start was kept, are left out.
        """
        above, measured = [], self._study.measured
        for log in sorted(self._study.unpacked.glob("students/*/evaluations.jsonl")):
            lowest = min(read_evaluations(log, metric), key=lambda point: point.value)
            if lowest.nimg > 0 and measured.has(log.parent.name, metric):
                above.append(measured.estimate(log.parent.name, metric).mean - lowest.value)
        mean = mean_interval({"": above})
        span = f"{mean.low:.3f} to {mean.high:.3f}".replace("-", "−")
        return f"{mean.value:.3f} (95 % interval {span}; {len(above)} runs)".replace("-", "−")

    def logged(self, quantity: str, run: str) -> str:
        """A quantity at the end of the training logs, such as ``weight_rms.generator``, over seeds."""
        names = self._study.group(run)
        last = {line["run"]: line.get(quantity, "") for line in self._training if line["run"] in names}
        if not last or "" in last.values():
            raise UserError(f"no '{quantity}' of run '{run}' is stored")
        return _text(quantity, Estimate.of([float(value) for value in last.values()]))

    def setting(self, run: str, key: str) -> str:
        """A setting of a run's training, such as ``lambda_adv``."""
        self._study.group(run)
        spec = self._study.preset.specs.student(run)
        if key not in spec:
            raise UserError(f"run '{run}' has no setting '{key}'{suggestion(key, spec)}")
        return f"{spec[key]:g}" if isinstance(spec[key], float) else str(spec[key])

    def analytic(self, name: str, form: str = ".3g") -> str:
        """A number of the analytic study in a Python format; ``–`` if it is not stored or does not exist."""
        if name not in NUMBERS:
            raise UserError(f"no number '{name}' of the analytic study{suggestion(name, NUMBERS)}")
        path = self._study.unpacked / "analytic.json"
        value = read_analytic(path)["numbers"].get(name) if path.is_file() else None
        return "–" if value is None else format(value, form).replace("-", "−")

    def effect(self, metric: str, first: str, second: str) -> str:
        """Difference first − second over training seeds, within teachers, with its 95 % interval."""
        decimals, factor, unit = _FORMS.get(metric, _FORM)
        a, b = (
            {teacher: [sum(trials) / len(trials) for trials in runs.values()] for teacher, runs in nested.items()}
            for nested in (self._nested(metric, first), self._nested(metric, second))
        )
        return effect_text(difference(a, b), decimals, factor) + unit

    def variances(self, metric: str, *groups: str) -> str:
        """Table of the standard deviations of nested runs: evaluations, training seeds, teachers."""
        found = components([self._nested(metric, group) for group in groups])
        _, factor, unit = _FORMS.get(metric, _FORM)
        lines = ["| what scatters | standard deviation (95 % interval) | degrees of freedom |", "| --- | ---: | ---: |"]
        for term, title in _TERMS.items():
            cells = "not known | "
            if one := getattr(found, term):
                std, low, high = (f"{number * factor:.2g}" for number in (one.std, one.low, one.high))
                cells = f"{std}{unit} ({low} to {high}) | {one.df:.0f}"
            lines.append(f"| {title} | {cells} |")
        return _block("\n".join(lines))

    def costs(self) -> str:
        """All comparisons by rule COST as a table."""
        return _markdown(cost_table(self._study.claims, self._study.evidence))

    def power(self, smallest: str | None = None) -> str:
        """The table of ``sida-eval power``."""
        return _markdown(power_table(plans(self._study.claims, self._study.evidence, smallest)))

    def table(self, name: str) -> str:
        """A table of the preset, with cells that do not break."""
        known = self._study.preset.config["tables"]
        if name not in known:
            raise UserError(f"no table '{name}'{suggestion(name, known)}")
        return re.sub(r"(?<=[^\s|]) (?=[^\s|])", "\u00a0", _markdown(self._study.make_table(name)))

    def _decided(self, claim: str) -> dict[str, Any]:
        if claim not in self._study.decided:
            raise UserError(f"no claim '{claim}'{suggestion(claim, self._study.decided)}")
        return self._study.decided[claim]

    def _curves(self, metric: str, run: str, chosen: Callable[[list[float]], float]) -> str:
        logs = [self._study.unpacked / "students" / name / "evaluations.jsonl" for name in self._study.group(run)]
        return _text(metric, Estimate.of([chosen([p.value for p in read_evaluations(log, metric)]) for log in logs]))

    def _nested(self, metric: str, group: str) -> dict[str, dict[str, list[float]]]:
        """Trials by run by teacher."""
        nested: dict[str, dict[str, list[float]]] = {}
        for name in self._study.group(group):
            self._study.measured.estimate(name, metric)
            trials = [line.value for line in self._study.measured.lines(name, metric)]
            nested.setdefault(self._study.preset.runs[name].teacher or "", {})[name] = trials
        return nested


def _text(metric: str, estimate: Estimate) -> str:
    decimals, factor, unit = _FORMS.get(metric, _FORM)
    text = f"{estimate.mean * factor:.{decimals}f}"
    return text + (f" ± {estimate.std * factor:.{decimals}f}" if estimate.std is not None else "") + unit


def _markdown(table: Table) -> str:
    return _block("\n".join(line for line in to_markdown(table).splitlines() if line.startswith("|")))


def _block(text: str) -> str:
    """Text for markers on separate lines."""
    return f"\n\n{text}\n\n"


def in_words(findings: Sequence[Mapping[str, Any]]) -> str:
    """Effects of comparisons by one quantity in words: ``FD 0.87 higher, 95 % interval 0.56 to 1.18``."""
    what, signed = (findings[0]["effect"][key] for key in ("what", "signed"))
    values = sorted(finding["effect"]["value"] for finding in findings)
    numbers = findings[0]["numbers"]
    interval, named = [], ""
    if len(findings) > 1:
        named = f" ({len(findings)} comparisons)"
    elif "low" in numbers:
        interval, named = [numbers["low"], numbers["high"]], ", 95 % interval "
    elif "bound" in numbers:
        interval, named = [values[0] - numbers["bound"], values[0] + numbers["bound"]], ", with noise "
    if what.startswith("diverging"):
        return str(findings[0]["effect"]["text"]) + named
    decimals = decimals_of((interval or values)[-1] - (interval or values)[0])
    subject = " ".join(_NAMES.get(part, part) for part in what.split())
    if signed and what in (*_NAMES, *HIGHER_IS_BETTER):
        up = what in HIGHER_IS_BETTER
        text = f"{subject} {_directed(values, decimals, up)}{named}"
        return text + (_directed(interval, decimals, up, values[0]) if interval else "")
    return f"{subject} {_span(values, decimals)}{named}" + (_span(interval, decimals) if interval else "")


def _directed(values: Sequence[float], decimals: int, up: bool, said: float | None = None) -> str:
    """A gain, or a range of gains, with ``higher`` or ``lower``; without the word if ``said`` has the same sign."""
    better, worse = ("higher", "lower") if up else ("lower", "higher")
    first, last = values[0], values[-1]
    if first * last >= 0:
        ends = sorted(abs(value) for value in (first, last))
        text = _span(ends if len(values) > 1 else ends[:1], decimals)
        return text if said is not None and said * last > 0 else f"{text} {better if last > 0 else worse}"
    return f"{-first:.{decimals}f} {worse} to {last:.{decimals}f} {better}"


def _span(values: Sequence[float], decimals: int) -> str:
    ends = dict.fromkeys(f"{value:.{decimals}f}".replace("-", "−") for value in (values[0], values[-1]))
    return " to ".join(ends)
