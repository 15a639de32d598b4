"""Claims: statements as data, decided by rules over measurements with their uncertainty."""

from eval.claims.evidence import Evidence, Finding, Operand
from eval.claims.rules import RULES, Claim, Claims, Rule, load_claims
from eval.claims.write import Verdict, combined, decide, decide_claims

__all__ = [
    "RULES",
    "Claim",
    "Claims",
    "Evidence",
    "Finding",
    "Operand",
    "Rule",
    "Verdict",
    "combined",
    "decide",
    "decide_claims",
    "load_claims",
]
