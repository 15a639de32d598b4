"""From command-line options to verdict files."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from eval.claims.decide import decide
from eval.claims.evidence import Evidence
from eval.claims.model import Claim, counted, load_claims
from eval.claims.write import write_verdicts
from eval.results.published import load_published
from eval.results.selection import matching
from eval.results.summary import Measurements, load_measurements
from sida.errors import UserError, suggestion
from sida.preset import read_runs


def decide_claims(args: argparse.Namespace) -> tuple[list[Path], str]:
    """Writes ``.md`` and ``.json``; returns their paths and a summary of the verdicts.

    Raises:
        UserError: Faulty claims, measurements or sheet, or an unknown scope.
    """
    claims = load_claims(args.claims)
    measurements = load_measurements(args.measurements) if args.measurements else Measurements([], "no measurements")
    runs = {run.run: run for run in read_runs(args.runs)} if args.runs else {}
    students = Path(args.results) / "students" if args.results else None
    evidence = Evidence(measurements, runs, load_published(args.published), students)
    scope = args.scope or main_scope(claims, evidence)
    chosen = [claim for claim in claims if claim.scope == scope]
    if not chosen:
        scopes = {claim.scope for claim in claims}
        raise UserError(f"--scope {scope}: no claim has this scope{suggestion(scope, scopes)}")
    verdicts = decide(chosen, evidence, args.claims)
    printed = decide(chosen, replace(evidence, by_published=True), args.claims) if scope == "paper" else []
    protocols = sorted({row.protocol for row in measurements.rows})
    about = f"Measured under the protocol {', '.join(protocols)}" if protocols else "Nothing was measured"
    text = f"{about}. The statements are about {'the papers’ data sets' if scope == 'paper' else scope}"
    text += "." if scope == "paper" else ", not about the papers' data sets."
    paths = write_verdicts(verdicts, args.out, printed, text)
    counts = counted(v.outcome for v in verdicts)
    return paths, counts


def main_scope(claims: list[Claim], evidence: Evidence) -> str:
    """The scope whose claims name most of the measured runs; the papers' where nothing was measured."""
    counts = {claim.scope: 0 for claim in claims}
    for claim in claims:
        for part in claim.parts:
            for operand in (part.a, part.b):
                if operand is None:
                    continue
                named = operand.run in evidence.measurements.runs
                found = operand.where is not None and bool(matching(evidence.runs, operand.where))
                counts[claim.scope] += named or found
    best = max(counts, key=lambda scope: counts[scope])
    return best if counts[best] else "paper"
