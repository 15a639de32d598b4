"""Claims and the rules that decide them: the names that a study's ``claims.py`` imports."""

from sida.eval.claims.claim import Claims
from sida.eval.claims.evidence import Evidence
from sida.eval.claims.finding import Finding, number, printed, row, rows
from sida.eval.claims.rules import better, equal, no_rule, ratio, reaches
from sida.eval.results.retraining import Retraining, load_retraining

__all__ = [
    "Claims", "Evidence", "Finding", "Retraining", "better", "equal", "load_retraining", "no_rule", "number", "printed",
    "ratio", "reaches", "row", "rows",
]  # fmt: skip
