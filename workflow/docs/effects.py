"""Queries of markers about effects: differences with intervals, components of variance, costs, power.

A group of runs is a run (with those that differ from it by their seed only), several with commas between, or
conditions on the sheet: ``recipe=sida,teacher=t30|t30b``, with ``|`` between alternatives.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from eval.claims.cost import as_table as cost_table
from eval.claims.cost import costs_of, ratio_text
from eval.claims.evidence import NotMeasuredError
from eval.claims.model import Claim, Part
from eval.claims.power import Plan, as_table, plans
from eval.claims.verdicts import main_scope
from eval.effects.contrast import Effect, difference
from eval.effects.variance import Component, components
from eval.tables.effects import effect_text
from eval.tables.layout import EffectSpec
from eval.tables.model import Table
from eval.tables.text import to_markdown
from sida.errors import UserError, suggestion
from workflow.docs.forms import FORM, FORMS
from workflow.docs.study import Study

TERMS = {
    "evaluation": "evaluation: one trial of one generator",
    "training": "training seed, from one teacher",
    "teacher": "teacher seed, equal settings",
}


def effect(study: Study, metric: str, first: str, second: str) -> str:
    """Difference first − second over training seeds, within teachers, with its 95 % interval."""
    decimals, factor, unit = FORMS.get(metric, FORM)
    return effect_text(_effect(study, metric, first, second), decimals, factor) + unit


def standardised(study: Study, metric: str, first: str, second: str) -> str:
    """The same difference in standard deviations over training seeds."""
    return effect_text(_effect(study, metric, first, second), 1, spec=EffectSpec("", "standardised"))


def variance(study: Study, term: str, metric: str, *groups: str) -> str:
    """One standard deviation of nested runs, with its 95 % interval: 'evaluation', 'training' or 'teacher'."""
    found = _terms(study, metric, groups)
    if term not in found:
        raise UserError(f"no term '{term}'{suggestion(term, found)}")
    component = found[term]
    if component is None:
        raise UserError(f"nothing is known about the term '{term}' of {', '.join(groups)}: too few of them")
    return _std(metric, component)


def variances(study: Study, metric: str, *groups: str) -> str:
    """All three as a table; its markers stand on lines of their own."""
    lines = ["| what scatters | standard deviation (95 % interval) | degrees of freedom |", "| --- | ---: | ---: |"]
    for term, component in _terms(study, metric, groups).items():
        known = f"{_std(metric, component)} | {component.df:.0f}" if component else "not known | "
        lines.append(f"| {TERMS[term]} | {known} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def cost(study: Study, claim: str) -> str:
    """The ratio of a claim by rule COST: ``ratio 4.1 [3.2, 5.2] of 6 pairs``."""
    part = _part(study, claim, "COST")
    try:
        return ratio_text(costs_of(part, study.evidence, claim).ratio)
    except NotMeasuredError as reason:
        raise UserError(f"{claim}: {reason}") from None


def costs(study: Study) -> str:
    """All comparisons by rule COST as a table; its markers stand on lines of their own."""
    return _lines(cost_table(_main_claims(study), study.evidence))


def power(study: Study, smallest: str | None = None) -> str:
    """The table of ``sida-eval power``; its markers stand on lines of their own."""
    return _lines(as_table(plans(_main_claims(study), study.evidence, smallest)))


def needed(study: Study, claim: str, smallest: str | None = None) -> str:
    """Training seeds that a claim needs, for the measured difference or the smallest of interest."""
    plan = _plan(study, claim, smallest)
    number = plan.needed if smallest is None else plan.needed_smallest
    return "more than 1,000" if number is None else f"{number:,}"


def detectable(study: Study, claim: str) -> str:
    """Smallest difference that a claim's seeds show with power 80 %."""
    return f"{_plan(study, claim, None).detectable:.2g}"


#: By name; each takes the study first.
EFFECTS: dict[str, Callable[..., str]] = {
    "effect": effect, "standardised": standardised, "variance": variance, "variances": variances,
    "cost": cost, "costs": costs, "power": power, "needed": needed, "detectable": detectable,
}  # fmt: skip


def _effect(study: Study, metric: str, first: str, second: str) -> Effect:
    a, b = (
        {
            teacher: [statistics.fmean(trials) for trials in runs.values()]
            for teacher, runs in _nested(study, metric, group).items()
        }
        for group in (first, second)
    )
    return difference(a, b)


def _nested(study: Study, metric: str, group: str) -> dict[str, dict[str, list[float]]]:
    """Trials by run by teacher."""
    nested: dict[str, dict[str, list[float]]] = {}
    for name in study.group(group):
        study.measured.estimate(name, metric)
        trials = [line.value for line in study.measured.lines(name, metric)]
        nested.setdefault(study.preset.runs[name].teacher or "", {})[name] = trials
    return nested


def _terms(study: Study, metric: str, groups: tuple[str, ...]) -> dict[str, Component | None]:
    found = components([_nested(study, metric, group) for group in groups])
    return {"evaluation": found.evaluation, "training": found.training, "teacher": found.teacher}


def _std(metric: str, component: Component) -> str:
    _, factor, unit = FORMS.get(metric, FORM)
    std, low, high = (number * factor for number in (component.std, component.low, component.high))
    return f"{std:.2g}{unit} ({low:.2g} to {high:.2g})"


def _main_claims(study: Study) -> list[Claim]:
    scope = main_scope(study.claims, study.evidence)
    return [claim for claim in study.claims if claim.scope == scope]


def _lines(table: Table) -> str:
    lines = to_markdown(table).splitlines()
    return "\n".join(["", "", *(line for line in lines if line.startswith("|")), "", ""])


def _part(study: Study, claim: str, rule: str) -> Part:
    """The comparison that ``M-07`` (the first one by this rule) or ``M-07/2`` (the second of all) names."""
    name, _, number = claim.partition("/")
    known = {entry.id: entry for entry in study.claims}
    if name not in known:
        raise UserError(f"no claim '{name}'{suggestion(name, known)}")
    parts = known[name].parts
    chosen = parts[int(number) - 1 : int(number)] if number.isdigit() else parts
    found = [part for part in chosen if part.rule == rule]
    if not found:
        raise UserError(f"claim '{claim}' has no comparison by rule {rule}")
    return found[0]


def _plan(study: Study, claim: str, smallest: str | None) -> Plan:
    chosen = [entry for entry in study.claims if entry.id == claim.partition("/")[0]]
    known = {plan.claim: plan for plan in plans(chosen, study.evidence, smallest)}
    if claim not in known:
        raise UserError(f"no claim '{claim}' by rule TRAIN{suggestion(claim, [one.id for one in study.claims])}")
    if known[claim].difference is None:
        raise UserError(f"{claim}: {known[claim].reason}")
    return known[claim]
