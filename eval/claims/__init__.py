"""Claims and the rules that decide them: the names that a study's ``claims.py`` imports."""

from eval.claims.claim import Claims
from eval.claims.evidence import Evidence
from eval.claims.finding import Finding, number, printed, row, rows
from eval.claims.rules import better, equal, no_rule, ratio, reaches
from eval.results.retraining import Retraining, load_retraining

__all__ = [
    "Claims", "Evidence", "Finding", "Retraining", "better", "equal", "load_retraining", "no_rule", "number", "printed",
    "ratio", "reaches", "row", "rows",
]  # fmt: skip
