"""Reads records of Every Eval Ever, an exchange schema of evaluations.

A record that this suite wrote holds the lines of its measurements. The scores of any other record are printed numbers,
since the schema does not have the fields by which numbers are comparable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from sida.errors import UserError
from sida.eval.results.measurements import Measurement, checked_lines
from sida.eval.results.published import Published
from sida.eval.results.sheet import check_cells
from sida.files.text_files import number_in, parse_json

SCHEMA_VERSION = "0.3.0"
#: Field of an own record with the lines of measurements as JSON.
LINES = "sida_measurements"
#: Fields of an own record of printed numbers: value and spread with the printed digits.
PRINTED, PRINTED_STD = "printed_value", "printed_std"
#: Largest number of characters of a name in a table.
_MOST_CHARACTERS = 200
_NATURAL = re.compile("[1-9][0-9]{0,8}")


def read_record(record: Mapping[str, Any], where: str) -> tuple[list[Measurement], list[Published]] | None:
    """Measurements of a record of this suite, with who measured them as their origin, or printed numbers of another.

    None for content without the keys of a record.

    Args:
        record: Content of the file.
        where: Path of the file, for messages.

    Raises:
        UserError: The record is damaged, of another version, or has two values of a metric for one evaluation.
    """
    if not {"schema_version", "evaluation_id", "evaluation_results"} <= record.keys():
        return None
    version = record["schema_version"]
    if version != SCHEMA_VERSION:
        raise UserError(f"{where}: schema_version", f"is {version!r}, not '{SCHEMA_VERSION}'", "convert the record")
    try:
        results = [{**result} for result in record["evaluation_results"]]
        details = [{**result["score_details"].get("details", {})} for result in results]
        if any(LINES in texts for texts in details):
            return _own_lines(record, [texts[LINES] for texts in details], where), []
        return [], _published_numbers(record, results, details, where)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        fault = f"is not a record of the schema ({type(error).__name__}: {error})"
        raise UserError(where, fault, "check it: every_eval_ever validate FILE") from None


def _own_lines(record: Mapping[str, Any], texts: list[str], where: str) -> list[Measurement]:
    origin = str(record["source_metadata"]["source_organization_name"])
    lines: list[Measurement] = []
    for number, text in enumerate(texts):
        part = f"{where}: evaluation_results[{number}]"
        rows = parse_json(text, part)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(part, f"{LINES} is not a list of measurements", "export the record again")
        cells = ({key: "" if value is None else str(value) for key, value in row.items()} for row in rows)
        lines += checked_lines([{**row, "origin": row.get("origin") or origin} for row in cells], part)
    return lines


def _published_numbers(
    record: Mapping[str, Any], results: list[dict[str, Any]], details: list[dict[str, Any]], where: str
) -> list[Published]:
    source, model = record["source_metadata"], record["model_info"]
    nfe = str(model["additional_details"].get("nfe", ""))
    numbers: dict[tuple[str, str], Published] = {}
    for number, (result, texts) in enumerate(zip(results, details, strict=True)):
        part = f"{where}: evaluation_results[{number}]"
        config, name = {**result["metric_config"]}, _text(result["evaluation_name"], f"{part}: evaluation_name")
        metric = _text(config.get("metric_id") or config.get("metric_name") or name, f"{part}: metric_id")
        score = result["score_details"]["score"]
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise UserError(f"{part}: score", f"is {score!r:.40}, not a number", "correct it")
        published = Published(
            id=f"{_text(record['evaluation_id'], f'{where}: evaluation_id')}#{number}",
            source=_text(source["source_organization_name"], f"{where}: source_organization_name"),
            row_label=_text(model["name"], f"{where}: model_info.name"),
            method="",
            dataset=name,
            nfe=nfe if _NATURAL.fullmatch(nfe) else "",
            metric=metric,
            text=_digits(texts.get(PRINTED), score) or repr(score),
            std=_digits(texts.get(PRINTED_STD)),
            own=source["evaluator_relationship"] == "first_party",
            notes="",
            literal="",
        )
        if reason := published.fault:
            raise UserError(f"{part}: score", *reason)
        if (other := numbers.setdefault((name, published.metric_key), published)) is not published:
            fault = f"is a second {published.metric} of '{name}' ({published.text} beside {other.text})"
            raise UserError(part, fault, "keep one of them")
    return list(numbers.values())


def _digits(text: object, score: float | None = None) -> str:
    """A number with its printed digits, if the text is the score as a number; else empty."""
    value = number_in(text, float) if isinstance(text, str) else None
    return str(text) if value is not None and math.isfinite(value) and score in (None, value) else ""


def _text(value: object, where: str) -> str:
    """A text for a cell: one line."""
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_CHARACTERS:
        raise UserError(where, f"is not a text of 1 to {_MOST_CHARACTERS} characters", "correct it")
    check_cells([value], where)
    return value
