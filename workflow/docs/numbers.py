"""Numbers of a stored study as text, for markers in the documentation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from eval.claims.costs import cost_table
from eval.claims.evidence import p_text
from eval.claims.model import DEPENDS, SIGNS
from eval.claims.power import PowerPlan, plans, power_table, seeds_text
from eval.claims.write import CHANCE, deciding
from eval.effects.contrast import Interval, difference, mean_interval
from eval.effects.variance import SharedTrials, shared_trials
from eval.results.analyses import analysis_path, read_analysis
from eval.results.summary import Estimate, measured_days
from eval.results.training_logs import read_evaluations, read_ticks
from eval.tables import Table, to_markdown
from sida.errors import UserError, suggestion
from sida.files.atomic import read_hashed_json
from sida.files.text_files import read_csv
from workflow.docs.study import Study
from workflow.docs.words import block, in_words

#: Decimals, factor and unit of a metric, or of a quantity of a training log, in running text.
_FORMS = {
    "fd": (2, 1, ""), "is": (2, 1, ""), "fd_pixel": (3, 1, ""), "accuracy": (1, 100, " %"),
    "weight_rms.generator": (4, 1, ""), "weight_rms.fake_score": (4, 1, ""),
}  # fmt: skip
_FORM = (2, 1, "")
#: Training seeds of each method in numbers about trials.
_SEEDS = 3
_TERMS = {
    "common": "trial: what all generators share",
    "method": "trial: what the seeds of a method share",
    "rest": "trial: of one generator",
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

    @property
    def generators(self) -> int:
        """Number of generators that are measured."""
        return len(self._study.measured.runs)

    @property
    def trained(self) -> int:
        """Number of students that are trained."""
        return len([*self._study.folder.glob("students/*/train.jsonl")])

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
        shown = [word for word in SIGNS if word != DEPENDS or word in outcomes]
        return ", ".join(f"{outcomes.count(word)} {SIGNS[word]}" for word in shown)

    @property
    def comparisons(self) -> str:
        """Sentences with the number of comparisons that have a p value, and of those that many comparisons leave."""
        return str(read_hashed_json(self._study.verdicts_file)["comparisons"])

    @property
    def predictions(self) -> str:
        """Number of measured claims that came out as predicted: ``14 of 23``."""
        measured = [one for answer in self._study.answers for one in answer.claims if not one.waits]
        return f"{sum(one.as_predicted for one in measured)} of {len(measured)}"

    def word(self, claim: str) -> str:
        """A claim's verdict as an answer: ``yes``, ``no``, ``depends on the teacher`` or ``not decided``."""
        words = {"supported": "yes", "contradicted": "no", DEPENDS: DEPENDS}
        return words.get(self._decided(claim)["verdict"], "not decided")

    def answer(self, claim: str) -> str:
        """A claim's verdict with the effect that decides; several comparisons give the range of their effects.

        A dagger marks verdicts that do not survive the correction for many comparisons.
        """
        decided = self._decided(claim)
        found = [one for one in deciding(decided["findings"], decided["verdict"]) if one["effect"]]
        first = [finding for finding in found if finding["effect"]["what"] == found[0]["effect"]["what"]]
        word = self.word(claim).capitalize() + (f" {CHANCE}" if decided["chance"] else "")
        return f"{word}: {in_words(first, len(decided['findings']))}" if first else word

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

        Evaluations have equal images in all runs, and so have trials; the interval contains the deviations of both.
        Runs without evaluations, and runs whose start was kept, are left out.
        """
        above = {run: value for run, value, _ in self._above_lowest(metric)}
        trials = self._shared_trials(metric, *dict.fromkeys(",".join(self._study.group(run)) for run in above))
        return f"{_in_words(trials.against_one(mean_interval({'': [*above.values()]})))}; {len(above)} runs)"

    def above_lowest_early(self, metric: str) -> str:
        """The same of runs whose lowest evaluation is not their last, minus that of the other runs, within teachers."""
        sides: dict[bool, dict[str, list[float]]] = {True: {}, False: {}}
        for run, value, early in self._above_lowest(metric):
            sides[early].setdefault(self._study.preset.runs[run].teacher or "", []).append(value)
        a, b = ({name: side[name] for name in sides[True] if name in sides[False]} for side in sides.values())
        found = difference(a, b)
        return f"{_in_words(found)}; {found.seeds[0]} and {found.seeds[1]} runs)"

    def logged(self, quantity: str, run: str) -> str:
        """A quantity at the end of the training logs, such as ``weight_rms.generator``, over seeds."""
        logs = [self._study.folder / "students" / name / "train.jsonl" for name in self._study.group(run)]
        return _text(quantity, Estimate.of([read_ticks(log, quantity)[-1].value for log in logs]))

    def setting(self, run: str, key: str) -> str:
        """A setting of a run's training, such as ``lambda_adv``."""
        self._study.group(run)
        spec = self._study.preset.specs.student(run)
        if key not in spec:
            raise UserError("", f"run '{run}' has no setting '{key}'{suggestion(key, spec)}")
        return f"{spec[key]:g}" if isinstance(spec[key], float) else str(spec[key])

    def fact(self, analysis: str, name: str, form: str = ".3g") -> str:
        """A fact of an analysis without rows in a Python format; ``–`` if the settings give no such number."""
        facts = read_analysis(analysis_path(self._study.folder, analysis))["facts"]
        if name not in facts:
            raise UserError("", f"no fact '{name}' of analysis '{analysis}'{suggestion(name, facts)}")
        value = facts[name]
        return "–" if value is None else format(value, form).replace("-", "−")

    def effect(self, metric: str, first: str, second: str) -> str:
        """Difference first − second over training seeds, within teachers, with its 95 % interval."""
        decimals, factor, unit = _FORMS.get(metric, _FORM)
        a, b = (
            {teacher: [sum(trials) / len(trials) for trials in runs.values()] for teacher, runs in nested.items()}
            for nested in (self._nested(metric, first), self._nested(metric, second))
        )
        effect = difference(a, b)
        value, low, high = (number * factor for number in (effect.value, effect.low, effect.high))
        return f"{value:+.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]".replace("-", "−") + unit

    def quoted_order(self, metric: str, teacher: str) -> str:
        """Spearman's rank correlation of a study's recipes with the FIDs of ``quoted.csv`` beside it, with its p value.

        Recipes are ranked by the mean of a metric over the students of a teacher, whose name replaces ``{teacher}``.
        """
        from scipy.stats import spearmanr

        path = self._study.folder.parent / "quoted.csv"
        quoted = {record["recipe"]: float(record["fid"]) for _, record in read_csv(path)[1]}
        groups = [
            self._study.group(f"recipe={recipe.replace('{teacher}', teacher)},teacher={teacher}") for recipe in quoted
        ]
        means = [
            Estimate.of([self._study.measured.estimate(run, metric).mean for run in group]).mean for group in groups
        ]
        found = spearmanr(means, [*quoted.values()])
        return f"{found.statistic:.2f} ({p_text(float(found.pvalue))})".replace("-", "−")

    def variances(self, metric: str, *groups: str) -> str:
        """Table of the standard deviations of runs with equal trials: trials, training seeds, teachers."""
        found = self._shared_trials(metric, *groups)
        _, factor, unit = _FORMS.get(metric, _FORM)
        lines = ["| what scatters | standard deviation (95 % interval) | degrees of freedom |", "| --- | ---: | ---: |"]
        for term, title in _TERMS.items():
            cells = "not known | "
            if one := getattr(found, term):
                std, low, high = (f"{number * factor:.2g}" for number in (one.std, one.low, one.high))
                cells = f"{std}{unit} ({low} to {high}) | {one.df:.0f}"
            lines.append(f"| {title} | {cells} |")
        return block(lines)

    def trial_shares(self, metric: str, *groups: str) -> str:
        """Table of the part of trials in a difference of two methods with three training seeds each."""
        found = self._shared_trials(metric, *groups)
        lines = ["| trials | share of trials in the variance | standard error |", "| ---: | ---: | ---: |"]
        for trials in (1, 2, 3, 5, 10):
            seeds, noise = found.variances(trials, _SEEDS)
            longer = f"{100 * (math.sqrt(1 + noise / seeds) - 1):.0f} % longer" if seeds else "not known"
            lines.append(f"| {trials} | {100 * noise / (seeds + noise or 1):.0f} % | {longer} |")
        return block(lines)

    def trials_needed(self, metric: str, *groups: str) -> str:
        """Least number of trials for which endless ones shorten the standard error by less than about 5 %."""
        return str(self._shared_trials(metric, *groups).trials_needed(_SEEDS, 0.05) or "not known")

    def costs(self) -> str:
        """All comparisons by rule COST as a table."""
        return _markdown(cost_table(self._study.claims, self._study.evidence))

    def power(self, smallest: str | None = None) -> str:
        """The table of ``sida-eval power``."""
        return _markdown(power_table(plans(self._study.claims, self._study.evidence, smallest)))

    def undecided(self) -> str:
        """Claims that the measurements leave open, each with the training seeds that its difference would need."""
        needed: dict[str, list[PowerPlan]] = {}
        for plan in plans(self._study.claims, self._study.evidence):
            needed.setdefault(plan.claim.partition("/")[0], []).append(plan)
        lines = [
            "| claim | effect | training seeds of each for this difference (measured with) |",
            "| --- | --- | --- |",
        ]
        for claim in self._study.claims:
            if self.word(claim.id) != "not decided":
                continue
            effect = self.answer(claim.id).removeprefix("Not decided").lstrip(" †:")
            seeds = ", ".join(f"{seeds_text(plan.needed)} ({plan.seeds})" for plan in needed.get(claim.id, ()))
            lines.append(f"| {claim.id}: {claim.statement} | {effect or '–'} | {seeds or '–'} |")
        return block(lines)

    def table(self, name: str) -> str:
        """A table of the preset, with cells that do not break."""
        known = self._study.preset.settings.tables
        if name not in known:
            raise UserError("", f"no table '{name}'{suggestion(name, known)}")
        return re.sub(r"(?<=[^\s|]) (?=[^\s|])", "\u00a0", _markdown(self._study.make_table(name)))

    def _decided(self, claim: str) -> dict[str, Any]:
        if claim not in self._study.decided:
            raise UserError("", f"no claim '{claim}'{suggestion(claim, self._study.decided)}")
        return self._study.decided[claim]

    def _curves(self, metric: str, run: str, chosen: Callable[[list[float]], float]) -> str:
        logs = [self._study.folder / "students" / name / "evaluations.jsonl" for name in self._study.group(run)]
        return _text(metric, Estimate.of([chosen([p.value for p in read_evaluations(log, metric)]) for log in logs]))

    def _above_lowest(self, metric: str) -> Iterator[tuple[str, float, bool]]:
        """Runs, their trials minus their lowest evaluation, and whether a later evaluation follows."""
        for log in sorted(self._study.folder.glob("students/*/evaluations.jsonl")):
            run, points = log.parent.name, read_evaluations(log, metric)
            lowest = min(points, key=lambda point: point.value)
            if lowest.nimg > 0 and self._study.measured.has(run, metric):
                above = self._study.measured.estimate(run, metric).mean - lowest.value
                yield run, above, lowest.nimg < points[-1].nimg

    def _shared_trials(self, metric: str, *groups: str) -> SharedTrials:
        return shared_trials([self._nested(metric, group) for group in groups])

    def _nested(self, metric: str, group: str) -> dict[str, dict[str, list[float]]]:
        """Trials by run by teacher."""
        nested: dict[str, dict[str, list[float]]] = {}
        for name in self._study.group(group):
            self._study.measured.estimate(name, metric)
            trials = [line.value for line in self._study.measured.lines(name, metric)]
            nested.setdefault(self._study.preset.runs[name].teacher or "", {})[name] = trials
        return nested


def _in_words(found: Interval) -> str:
    return f"{found.value:.3f} (95 % interval {found.low:.3f} to {found.high:.3f}".replace("-", "−")


def _text(metric: str, estimate: Estimate) -> str:
    decimals, factor, unit = _FORMS.get(metric, _FORM)
    text = f"{estimate.mean * factor:.{decimals}f}"
    return text + (f" ± {estimate.std * factor:.{decimals}f}" if estimate.std is not None else "") + unit


def _markdown(table: Table) -> str:
    return block(line for line in to_markdown(table).splitlines() if line.startswith("|"))
