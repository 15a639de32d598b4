"""Labels of pictures by name from a file beside them, for the child process (:mod:`sida.data.reader`).

Formats: ``{"labels": [[name, label], …]}`` or null in ``dataset.json`` (NVlabs/edm:dataset_tool.py); rows with
``file_name`` and ``label`` in ``metadata.jsonl`` or ``metadata.csv`` (huggingface/datasets, ImageFolder).
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from typing import Any

from sida.errors import UserError
from sida.files.content import START, placeholder_in
from sida.files.text_files import decoded

#: Largest number of classes: labels become one-hot rows of this width.
MAX_CLASSES = 100_000
#: Names of the files; the first one that is there counts.
LABEL_FILES = ("dataset.json", "metadata.jsonl", "metadata.csv")
#: Other names of a column of labels, in lower case.
_ALIKE = {"label", "labels", "label_id", "class", "classes", "class_id", "class_label", "category", "target", "targets"}
#: Remedy for labels that are not needed.
WITHOUT_LABELS = "leave labels out (--labels none of sida data prepare, new and score; labels: false of a data set)"


def same_name(name: str) -> str:
    """Normal form of a file's name: composed Unicode, slashes, no roots."""
    return relative_name(unicodedata.normalize("NFC", name).replace("\\", "/"))


def relative_name(name: str) -> str:
    """A member's name without the roots that some tools write."""
    return name.removeprefix("./").lstrip("/")


def parse_labels(name: str, content: bytes) -> dict[str, Any] | None:
    """Labels by file name of one of :data:`LABEL_FILES`; None if its labels are null, or its rows have none."""
    is_metadata = name.endswith(LABEL_FILES[1:])
    try:
        entries = _of_metadata(name, decoded(content)) if is_metadata else json.loads(content)["labels"]
        pairs = None if entries is None else [(same_name(str(file)), label) for file, label in entries]
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error):
        text = placeholder_in(content[:START])
        if text is not None and not text.is_plain:
            raise UserError("", f"is {text.kind}, not a list of labels", text.remedy) from None
        fault = "must be JSON with the key 'labels', of pairs [file name, label] or null"
        if is_metadata:
            fault = "must have rows of 'file_name' and 'label'"
        raise UserError("", fault, "write it again") from None
    if pairs is None:
        return None
    if len(labels := dict(pairs)) < len(pairs):
        raise UserError("", "has two labels for one file", "remove one")
    return labels


def _of_metadata(name: str, text: str) -> list[tuple[str, Any]] | None:
    """Pairs of file name and label from rows; None if no row has a label."""
    if name.endswith(".csv"):
        # Excel of many countries writes semicolons.
        rows = [*csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=text.partition("\n")[0].count))]
    else:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not any("label" in row for row in rows):
        columns = {str(column): None for row in rows for column in row}
        if alike := [column for column in columns if column.strip().lower() in _ALIKE]:
            raise UserError("", f"has no column 'label', but '{alike[0]}'", f"call it 'label', or {WITHOUT_LABELS}")
        return None
    pairs = [(row["file_name"], row["label"]) for row in rows]
    return [(file, int(label) if isinstance(label, str) and label.isdecimal() else label) for file, label in pairs]
