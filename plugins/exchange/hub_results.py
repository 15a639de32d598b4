"""Values of a generator for the leaderboard of a benchmark on the Hugging Face Hub: ``.eval_results/sida.yaml``.

Source: huggingface/hub-docs:eval_results.yaml; huggingface_hub has the types.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from sida.errors import UserError
from sida.eval.tables.render import terminal_text
from sida.files.atomic import write_text
from sida.files.text_files import yaml_text

#: Place of the file in a folder for the Hub.
PATH = ".eval_results/sida.yaml"
_PLACE = re.compile(r"([\w.-]+/[\w.-]+):([A-Za-z0-9][\w.-]{0,95})", re.ASCII)


def read_benchmarks(texts: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Reads ``METRIC=OWNER/DATASET:TASK``, or ``PROTOCOL/METRIC=...``: data set and task by metric.

    Raises:
        UserError: A text of another form, or a data set whose name the Hub does not take.
    """
    benchmarks = {}
    for metric, text in texts.items():
        where, match = f"--benchmark {metric}={text}", _PLACE.fullmatch(text)
        if not match:
            raise UserError(where, "is not METRIC=OWNER/DATASET:TASK", "name data set and task")
        try:
            validate_repo_id(match[1])
        except ValueError:
            raise UserError(where, f"{match[1]} is not a name that the Hub takes", "name the data set's page") from None
        benchmarks[metric] = match[1], match[2]
    return benchmarks


def benchmark_entries(results: Sequence[EvalResult], benchmarks: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Entries for benchmarks, as the Hub reads them.

    Args:
        results: Values of one generator, as ``model-index`` has them.
        benchmarks: Data set and task by metric, or by ``PROTOCOL/METRIC``.

    Raises:
        UserError: A metric was not measured, or was under several protocols; huggingface_hub is too old.
    """
    if not benchmarks:
        return []
    try:
        from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    except ImportError:
        raise UserError("--benchmark", "needs a newer huggingface_hub", "pip install -U huggingface_hub") from None
    entries = []
    for name, (dataset, task) in benchmarks.items():
        protocol, _, metric = name.rpartition("/")
        matches = [result for result in results if result.metric_type == metric]
        matches = [result for result in matches if protocol in ("", _arguments(result)["protocol"])]
        if len(matches) != 1:
            names = [f"{_arguments(result)['protocol']}/{result.metric_type}" for result in matches or results]
            fault = "was measured more than once" if matches else "was not measured for this generator"
            raise UserError(f"--benchmark {name}", fault, f"name one of {', '.join(names) or 'a measured generator'}")
        result, about = matches[0], _arguments(matches[0])
        entries.append(
            EvalResultEntry(
                dataset_id=dataset, task_id=task, value=result.metric_value, date=about["date"], notes=_notes(about)
            )
        )
    return eval_result_entries_to_yaml(entries)


def write_entries(folder: Path, entries: list[dict[str, Any]]) -> None:
    """Writes the entries into a folder for the Hub; nothing without entries."""
    if entries:
        (folder / PATH).parent.mkdir()
        write_text(folder / PATH, yaml_text(entries))


def _arguments(result: EvalResult) -> dict[str, Any]:
    return result.metric_args or {}


def _notes(about: Mapping[str, Any]) -> str:
    """Note on the settings behind the value, and on its spread."""
    spread = "" if about["std"] is None else f", standard deviation over trials {about['std']}"
    return terminal_text(
        f"self-reported; mean of {about['trials']} trials of {about['images']:,} images{spread}; NFE {about['nfe']}; "
        f"protocol {about['protocol']} of sida-repro, identity {about['identity_sha256']}; "
        f"networks that the generator was exposed to: {about['saw']}"
    )
