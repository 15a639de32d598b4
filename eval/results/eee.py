"""Reads records of Every Eval Ever, an exchange schema of evaluations, that this suite wrote."""

from pathlib import Path

from eval.results.summary import Measurement, checked_lines
from sida.errors import UserError
from sida.files.text_files import parse_json, read_text

SCHEMA_VERSION = "0.3.0"
#: Field of an own record with the lines of measurements as JSON.
LINES = "sida_measurements"


def is_record(path: str | Path) -> bool:
    """Whether a file is a record of Every Eval Ever, by its keys."""
    content = parse_json(read_text(path), str(path))
    return isinstance(content, dict) and {"schema_version", "evaluation_id", "evaluation_results"} <= content.keys()


def read_record(path: str | Path) -> list[Measurement]:
    """Measurements of a record that this suite wrote, with the name of who measured them as their origin.

    Raises:
        UserError: The file is damaged, of another version, or was written by another tool.
    """
    record = parse_json(read_text(path), str(path))
    version = record.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(f"{path}: schema_version", f"is {version!r}, not '{SCHEMA_VERSION}'", "convert the record")
    try:
        origin = str(record["source_metadata"]["source_organization_name"])
        texts = [result["score_details"]["details"][LINES] for result in record["evaluation_results"]]
    except (LookupError, TypeError):
        fault = "has no measurements of this suite, whose trials and digests decide what it may stand beside"
        raise UserError(path, fault, "add a number of another tool to results/board") from None
    lines: list[Measurement] = []
    for number, text in enumerate(texts):
        where = f"{path}: evaluation_results[{number}]"
        rows = parse_json(text, where)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(where, f"{LINES} is not a list of measurements", "export the record again")
        cells = ({key: "" if value is None else str(value) for key, value in row.items()} for row in rows)
        lines += checked_lines([{**row, "origin": row.get("origin") or origin} for row in cells], where)
    return lines
