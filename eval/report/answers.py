"""Answers to experiments: the prediction and the verdict of each claim, from the verdicts of ``sida claims``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.claims.experiments import EXPECTED, Experiment
from eval.claims.model import SIGNS, UNDECIDED, Outcome, verdict_counts
from eval.claims.write import deciding, marked, read_verdicts, together
from eval.results.summary import Measurements
from eval.tables.render import markdown
from sida.errors import UserError, suggestion


@dataclass(frozen=True)
class Decided:
    """A claim of an experiment with its prediction and verdict.

    Attributes:
        id: Id of the claim.
        statement: The statement in words.
        predicted: The predicted verdict.
        verdict: The computed verdict.
        effect: Size of the difference with its interval; empty without a measurement.
        evidence: One line per comparison.
        waits: Whether the claim is undecided and some of its rows are not measured yet.
        chance: Whether the verdict does not survive the correction for many comparisons.
    """

    id: str
    statement: str
    predicted: Outcome
    verdict: Outcome
    effect: str
    evidence: Sequence[str]
    waits: bool = False
    chance: bool = False

    @property
    def as_predicted(self) -> bool:
        """Whether the verdict is the predicted one."""
        return self.verdict == self.predicted and not self.waits

    @property
    def unexpected(self) -> bool:
        """Whether the verdict differs from the prediction; False while measurements are missing."""
        return not (self.as_predicted or self.waits)


@dataclass(frozen=True)
class Answer:
    """The answer to an experiment.

    Attributes:
        experiment: The experiment.
        claims: Claims of the experiment; the first is the claim that the experiment was made for.
        measured: First and last time of the measurements behind the claims; None without measurements.
        early: A row of a claim whose measurements all are older than the prediction; None if there is none. A claim
            that compares a later row with older ones was open until the later row was measured.
    """

    experiment: Experiment
    claims: Sequence[Decided]
    measured: tuple[str, str] | None
    early: str | None

    @property
    def days(self) -> str:
        """Day or days of the measurements; empty without measurements."""
        days = dict.fromkeys(time[:10] for time in self.measured or ())
        return " to ".join(days)

    @property
    def summary(self) -> str:
        """Summary as text: ``3 of 4 claims as predicted``, with the number of claims that are not measured yet."""
        if self.experiment.stored:
            return f"{verdict_counts(claim.verdict for claim in self.claims)}; asked of stored measurements"
        claims = "claim" if len(self.claims) == 1 else "claims"
        waiting = sum(claim.waits for claim in self.claims)
        text = f"{sum(claim.as_predicted for claim in self.claims)} of {len(self.claims)} {claims} as predicted"
        return text + (f", {waiting} not measured yet" if waiting else "")

    @property
    def effect(self) -> str:
        """Effect of the first claim that has one: ``M-04: fd +1.48 [1.30, 1.66]``; – if no claim has an effect."""
        return next((f"{claim.id}: {claim.effect}" for claim in self.claims if claim.effect), "–")

    def require_foreseen(self) -> None:
        """Refuses an answer that was measured before its prediction was written, unless the experiment says so.

        Raises:
            UserError: A row was measured before the prediction was written.
        """
        if self.early is not None and self.measured is not None and not self.experiment.stored:
            raise UserError(
                f"experiment '{self.experiment.id}'",
                f"row '{self.early}' and all rows beside it were measured before "
                f"the prediction was written ({self.experiment.written})",
                "measure it again",
            )


def answers_of(experiments: Iterable[Experiment], verdicts: str | Path, measurements: Measurements) -> list[Answer]:
    """The answers to experiments.

    Args:
        experiments: Experiments, in the order of the answers.
        verdicts: The file ``claims.json``.
        measurements: Measurements behind the verdicts; their times are compared with those of the predictions.

    Raises:
        UserError: A claim has no verdict, or the file has another form.
    """
    path = Path(verdicts)
    if not path.is_file():
        raise UserError(path, "no verdicts there", "decide the claims first (sida claims)")
    records = {claim["id"]: claim for claim in read_verdicts(path)["claims"]}
    times: dict[str, list[str]] = {}
    for row in measurements.rows:
        times.setdefault(row.run, []).append(row.date)
    return [_answer(experiment, records, times, str(path)) for experiment in experiments]


def _answer(
    experiment: Experiment, records: Mapping[str, Any], times: Mapping[str, Sequence[str]], source: str
) -> Answer:
    claims, rows, early = [], dict[str, None](), None
    for name, predicted in experiment.predicted.items():
        if name not in records:
            raise UserError(
                source, f"no verdict on '{name}' of experiment '{experiment.id}'{suggestion(name, records)}"
            )
        record = records[name]
        try:
            chosen = deciding(record["findings"], record["verdict"])
            amounts = [finding["effect"] if finding in chosen else None for finding in record["findings"]]
            rows |= dict.fromkeys(record["rows"])
            unmeasured = record["unmeasured"]
        except KeyError as error:
            raise UserError(source, f"no key {error}", "decide the claims again (sida claims)") from None
        statement, verdict, lines = record["statement"], record["verdict"], record["evidence"]
        waits = verdict == UNDECIDED and bool(unmeasured)
        chance = record.get("chance", False)
        claims.append(Decided(name, statement, EXPECTED[predicted], verdict, together(amounts), lines, waits, chance))
        last = max((row for row in record["rows"] if row in times), key=lambda row: min(times[row]), default=None)
        if last is not None and not unmeasured and not experiment.foreseen(min(times[last])):
            early = early or last
    first = {row: min(times[row]) for row in rows if row in times}
    measured = (min(first.values()), max(max(times[row]) for row in first)) if first else None
    return Answer(experiment, claims, measured, early)


def answers_table(answers: Iterable[Answer], link: str = "#") -> str:
    """Table of all answers as Markdown: verdict and effect of the first claim of each experiment.

    Args:
        answers: Answers in their order.
        link: Prefix of links to experiments; the id of the experiment follows.
    """
    lines = ["| question | first claim | effect | all claims |", "|---|---|---|---|"]
    for answer in answers:
        asked = f"[{markdown(answer.experiment.question)}]({link}{answer.experiment.id})"
        lines.append(_row((asked, _verdict(answer.claims[0]), answer.effect, answer.summary)))
    return "\n".join(lines)


def answer_block(answer: Answer, picture: str = "", page: str = "", cost: str = "", evidence: bool = False) -> str:
    """One answer as Markdown.

    Args:
        answer: The answer.
        picture: Address of the first figure; empty for no figure.
        page: Address of the page with all tables and figures, up to the anchors (``miniature.md#``).
        cost: Cost at the paper's scale by ``sida plan``.
        evidence: Whether to include the evidence of the verdicts.
    """
    experiment = answer.experiment
    when = f"measured {answer.days}" if answer.days else "nothing was measured"
    parts = [
        f"**Question.** {markdown(experiment.question.strip())}",
        f"**Predicted** ({experiment.written}). {markdown(experiment.prediction.strip())}",
        f"**Came out** ({when}): {answer.summary}." + (f" {_EARLY}" if answer.early or experiment.stored else ""),
        "\n".join(["| claim | predicted | came out | effect |", "|---|---|---|---|", *map(_claim, answer.claims)]),
    ]
    if evidence:
        parts.append("\n".join(f"- {claim.id} {markdown(line)}" for claim in answer.claims for line in claim.evidence))
    if picture and experiment.figures:
        parts.append(f"![{markdown(experiment.title)}]({picture})")
    # A table and a figure may have the same name, so their headings, and the anchors, begin with the kind.
    kinds = (("figure", experiment.figures), ("table", experiment.tables))
    shown = [f"[{kind} {name}]({page}{kind}-{name})" for kind, names in kinds for name in names]
    if page and shown:
        parts.append(f"All of it: {', '.join(shown)}.")
    parts.append(f"**Limits.** {markdown(experiment.limits.strip())}")
    if scale := paper_scale(experiment, cost):
        parts.append(f"**At the paper's scale.** {markdown(scale)}")
    return "\n\n".join(parts)


_EARLY = "**Its rows were measured before the prediction was written: no test of it.**"


def paper_scale(experiment: Experiment, cost: str = "") -> str:
    """Trainings that would decide the question at the paper's scale, with their cost and the command that counts it."""
    text = experiment.paper_scale.strip()
    if not experiment.plan:
        return text
    command = f"`sida plan {' '.join(experiment.plan)}`"
    return f"{text.rstrip('.')}{': ' if text else ''}{cost + ' (' + command + ')' if cost else command}."


def _claim(claim: Decided) -> str:
    return _row(
        (
            f"{claim.id}: {markdown(claim.statement)}",
            f"{SIGNS[claim.predicted]} {claim.predicted}",
            _verdict(claim),
            claim.effect,
        )
    )


def _verdict(claim: Decided) -> str:
    verdict = "… not measured yet" if claim.waits else marked(claim.verdict, claim.chance)
    return f"**{verdict}**" if claim.unexpected else verdict


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
