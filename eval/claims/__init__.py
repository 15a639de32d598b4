"""Claims: statements as data, decided by rules over measurements with their uncertainty."""

from eval.claims.evidence import Evidence
from eval.claims.model import RULES, Claim, Finding, Operand, Rule, Verdict, load_claims
from eval.claims.verdicts import combined, decide
from eval.claims.write import verdicts_markdown, write_verdicts

__all__ = [
    "RULES",
    "Claim",
    "Evidence",
    "Finding",
    "Operand",
    "Rule",
    "Verdict",
    "combined",
    "decide",
    "load_claims",
    "verdicts_markdown",
    "write_verdicts",
]
