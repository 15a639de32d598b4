"""Reads verdicts of ``sida-eval claims`` without trusting the file: a results folder may come from someone else."""

from __future__ import annotations

import os
from typing import Any

from eval.claims.model import SIGNS
from sida.errors import UserError
from sida.files.atomic import read_hashed_json

_AGAIN = "decide the claims again (sida-eval claims)"


def read_verdicts(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record of :func:`eval.claims.write.verdicts_record`.

    Raises:
        UserError: The file is missing, damaged or of another kind.
    """
    record = read_hashed_json(path)
    try:
        known = isinstance(record.get("preamble", ""), str) and isinstance(record["claims"], list)
        known = known and isinstance(record.get("comparisons", ""), str) and all(map(_is_claim, record["claims"]))
    except KeyError as error:
        raise UserError(f"{path}: no key {error}; {_AGAIN}") from None
    except (TypeError, AttributeError):
        known = False
    if not known:
        raise UserError(f"{path}: holds something else than verdicts; {_AGAIN}")
    return record


def _is_claim(claim: Any) -> bool:
    texts = [claim[key] for key in ("id", "statement", "source", "counterpart", "note")]
    lists = [claim.get(key, []) for key in ("rows", "unmeasured")]
    return (
        isinstance(claim.get("chance", False), bool)
        and _are_texts(texts)
        and all(map(_are_texts, lists))
        and _is_decided(claim)
        and _is_printed(claim)
    )


def _is_printed(claim: Any) -> bool:
    return "by_published" not in claim or _is_decided(claim["by_published"])


def _is_decided(record: Any) -> bool:
    findings = record["findings"]
    decided = record["verdict"] in SIGNS and _are_texts(record["evidence"])
    return decided and isinstance(findings, list) and all(map(_is_finding, findings))


def _is_finding(finding: Any) -> bool:
    effect = finding.get("effect")
    known = isinstance(finding["rule"], str) and isinstance(finding["numbers"], dict)
    return known and (effect is None or (_are_texts([effect["what"], effect["text"]]) and _is_number(effect["value"])))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
