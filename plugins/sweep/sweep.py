"""A sweep: every candidate on few images of equal seeds, then the best one in full on other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sida.config.feature_networks import OTHER, network_of
from sida.errors import UserError, suggestion
from sida.eval.measuring.measure import measure
from sida.eval.measuring.protocol import Protocol
from sida.eval.measuring.score import Score, run_score
from sida.eval.measuring.score_plan import NetworkFile, ScorePlan, chosen_protocol, plan_score
from sida.eval.metrics.metric import Metric
from sida.eval.results.identity import read_exposure
from sida.eval.results.trial_files import read_measurement, trial_path
from sida.methods.method import Exposure
from sida.plugins.sweep.choice import Choice, choose
from sida.plugins.sweep.kinds import Extrapolated

#: Most images of the search for each candidate, as a share of those of a trial.
SHARE = 0.15
#: Key of the extrapolated distance in a search's measurements.
SEARCHED = "extrapolated"
#: Its kind, which no protocol of a file needs and no registry has.
KIND = "sida.plugins.sweep.kinds:Extrapolated"


def search_protocol(protocol: Protocol, metric: Metric, trials: int, num_samples: int | None = None) -> Protocol:
    """The protocol of a search: one distance in one trial, whose seeds follow those of all trials of the full score.

    Args:
        protocol: Protocol of the full score.
        metric: The distance.
        trials: Trials of the full score.
        num_samples: Images of the search; None takes 15 % of those of a trial.

    Raises:
        UserError: The images are too few for the noise of the distance.
    """
    count = int(SHARE * protocol.num_samples) if num_samples is None else num_samples
    extrapolated = Extrapolated(
        key=SEARCHED,
        kind=KIND,
        extractor=metric.extractor,
        of=metric.key,
        images=protocol.num_samples,
        label=metric.label,
        decimals=metric.decimals,
    )
    if (fault := extrapolated.fault(count)) or count > protocol.num_samples:
        most = f"must be at most {protocol.num_samples:,}, the images of a trial"
        raise UserError("--search-samples", fault or most, f"got {count:,}")
    part = protocol.part([metric.key])
    return replace(
        part,
        name=f"{protocol.name}-search{count}",
        num_samples=count,
        trials=1,
        seed0=protocol.seed0 + max(trials, protocol.trials) * protocol.num_samples,
        metrics=(*part.metrics, extrapolated),
    )


@dataclass(frozen=True)
class Sweep:
    """Result of a sweep.

    Attributes:
        names: Candidates.
        metric: The distance.
        search: Measurement of each candidate in the search.
        choice: The choice.
        score: Score of the best candidate in full, whose exposure has the choice.
    """

    names: Sequence[str]
    metric: Metric
    search: Sequence[Mapping[str, Any]]
    choice: Choice
    score: Score

    @property
    def share(self) -> float:
        """Images of the search as a share of those of full scores of all candidates."""
        return float(self.search[0]["n"] / (self.score.protocol.num_samples * len(self.score.records)))

    @property
    def values(self) -> list[float]:
        """Search value of each candidate, extrapolated to the images of a trial."""
        return [record["metrics"][SEARCHED] for record in self.search]

    def line(self) -> str:
        """How many candidates this is the best of, by which metric and images, and what the choice is worth."""
        number, names, choice = f"{{:,.{self.metric.decimals}f}}".format, self.names, self.choice
        label, second, estimate = self.metric.label or self.metric.key, choice.runner_up, self._full()
        full = number(estimate["mean"])
        if estimate["standard_error"] is not None:
            full += f" ± {number(estimate['standard_error'])}"
        error = "" if self.too_few else f" ± {number(choice.errors[second])}"
        parts = [
            f"{names[choice.best]} is the best of {len(names)} candidates by {label} of {self.search[0]['n']:,} images",
            f"there {number(self.values[choice.best])}, in full on fresh seeds {full}",
            f"the choice alone is expected to make the first too low by {number(choice.optimism)}",
            f"runner-up {names[second]} is {number(choice.gaps[second])}{error} worse",
            f"another candidate is the best with probability {choice.other:.0%}",
            f"not told apart: {', '.join(names[tie] for tie in choice.ties) or 'none'}",
        ]
        if self.too_few:
            parts[2], parts[4:] = "how much the choice alone makes the first too low is unknown", []
        return "; ".join(parts)

    @property
    def too_few(self) -> bool:
        """Whether the search has fewer images than twice the reference's effective rank, where errors are too small."""
        return bool(self.search[0]["n"] < 2 * self._effective_rank)

    @property
    def _effective_rank(self) -> float:
        return float(self.search[0]["details"][self.metric.key]["reference"]["effective_rank"])

    def _full(self) -> Mapping[str, Any]:
        """Mean and standard error of the distance in the full score."""
        return self.score.summary()[self.metric.key]

    def warnings(self) -> list[str]:
        """Reasons to search with more images."""
        rank = f"the reference's effective rank ({self._effective_rank:.0f})"
        few = f"the search has fewer images than twice {rank}, so errors are left out; say --search-samples"
        return [few] if self.too_few else []

    def lines(self) -> list[str]:
        """The result as lines for people."""
        number, first = f"{{:,.{self.metric.decimals}f}}".format, self.search[0]
        label, width = self.metric.label or self.metric.key, max(map(len, self.names))
        seeds = "-".join(map(str, first["seeds"]))
        lines = [f"search by {label} of {first['n']:,} images, seeds {seeds}, {self.share:.1%} of full scores of all"]
        rows = zip(self.names, self.values, self.choice.gaps, self.choice.errors)
        for at, (name, value, gap, error) in enumerate(rows):
            spread = "" if self.too_few else f" ± {number(error)}"
            relation = "best" if at == self.choice.best else f"+{number(gap)}{spread}"
            tie = "  not told apart from the best" if at in self.choice.ties and not self.too_few else ""
            lines.append(f"  {name:<{width}}  {number(value)}  {relation}{tie}")
        return [*lines, *self.score.lines()]

    def record(self) -> dict[str, Any]:
        """The record of the full score, with that of the sweep as ``sweep``."""
        names, choice = self.names, self.choice
        columns = zip(names, self.values, choice.gaps, choice.errors, choice.better, self.search)
        candidates = [
            {"name": name, "value": value, "gap": gap, "error": error, "better": better, "measurement": record}
            for name, value, gap, error, better, record in columns
        ]
        facts: dict[str, Any] = {"metric": self.metric.key, "candidates": candidates, "best": names[choice.best]}
        facts |= {"too_few": True} if self.too_few else {}
        facts |= {"other": choice.other, "optimism": choice.optimism, "ties": [names[tie] for tie in choice.ties]}
        return {**self.score.record(), "sweep": {**facts, "share": self.share, "line": self.line()}}


def run_sweep(
    candidates: Sequence[tuple[str, NetworkFile, Mapping[str, Any]]],
    protocol: str,
    folder: Path,
    *,
    metric: str | None = None,
    search_samples: int | None = None,
) -> Sweep:
    """Searches, and scores the best candidate.

    Args:
        candidates: Name, network and keywords of :func:`sida.eval.measuring.score_plan.plan_score` of each.
        protocol: Name or file of the protocol.
        folder: Folder of the measurements of the search, with which an interrupted call resumes.
        metric: Key of a Fréchet distance; None takes the one by which trainings choose their networks.
        search_samples: See :func:`search_protocol`.

    Raises:
        UserError: A candidate cannot be measured; all are checked before the first image is drawn.
    """
    settings = candidates[0][2]
    full = chosen_protocol(protocol, settings["num_samples"])
    distance = _distance(full, metric)
    trials = settings["trials"] or full.trials
    searching = search_protocol(full, distance, trials, search_samples)
    ended: dict[str, Any] = {"num_samples": None, "trials": 1}
    plans = [plan_score(network, searching, **{**own, **ended, "name": name}) for name, network, own in candidates]
    search = _measured(plans, folder)
    choice = choose(*zip(*((one["metrics"][SEARCHED], one["details"][SEARCHED]["without"]) for one in search)))
    _, network, own = candidates[choice.best]
    score = run_score(plan_score(network, full, **own))
    names = [candidate for candidate, *_ in candidates]
    # The extractor may be the variant for processors.
    judged = with_choice(score, searching.metric(distance.key).extractor)
    sweep = Sweep(names, distance, search, choice, judged)
    remarks = (*score.remarks, sweep.line(), *sweep.warnings())
    return replace(sweep, score=replace(judged, remarks=remarks))


def _distance(protocol: Protocol, key: str | None) -> Metric:
    """The distance by which candidates are compared."""
    keys = [metric.key for metric in protocol.metrics if metric.selects]
    key = key or protocol.selection_key
    if key not in keys:
        fault = f"must be a Fréchet distance of protocol '{protocol.name}', got {key}{suggestion(str(key), keys)}"
        raise UserError("--metric", fault, f"it has {', '.join(keys) or 'none'}")
    return protocol.metric(key)


def _measured(plans: Sequence[ScorePlan], folder: Path) -> list[dict[str, Any]]:
    """Measurements of the candidates, in folders by digest; those that are there are kept."""
    folders = []
    for plan in plans:
        measurer = plan.measurer()
        # Faults of a network or its guide end the command before the first image is drawn.
        measurer.source.stream(0, 1, 1)
        folders.append(folder / measurer.digest[:32])
    for plan, place in zip(plans, folders):
        measure(plan.spec, place, [0])
    return [read_measurement(trial_path(place, 0)) for place in folders]


def with_choice(score: Score, extractor: str) -> Score:
    """The score of a generator whose settings a metric on this feature network chose.

    Unknown exposure stays unknown.
    """
    chosen = Exposure(choice=() if extractor == "pixels" else (network_of(extractor) or OTHER,))
    records = []
    for record in score.records:
        exposure = read_exposure(record.get("saw", ""))
        records.append(record if exposure is None else {**record, "saw": str(exposure | chosen)})
    return replace(score, records=records)
