"""Records of Every Eval Ever, an exchange schema of evaluations: a file for each generator, and back.

A file has the values unrounded, their settings as text, and the lines of ``measurements.csv`` whole, so that
this suite reads its own files without loss. The spread over trials is the ``standard_error`` of the mean: the schema's
``standard_deviation`` is one of samples.

Source: evaleval/every_eval_ever:every_eval_ever/schemas/eval.schema.json (0.3.0), a copy of which is
``plugins/exchange/every-eval-ever-0.3.0.schema.json``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.eval.measuring.protocol import protocol_named
from sida.eval.metrics.kinds import METRIC_KINDS
from sida.eval.results.measurements import Estimate, Measurement, Measurements
from sida.eval.results.numbers import HIGHER_IS_BETTER
from sida.eval.results.published import Published
from sida.eval.results.sheet import SheetRow, exposure_of
from sida.machine import code_version
from sida.plugins.exchange.eee import LINES, PRINTED, PRINTED_STD, SCHEMA_VERSION

_LIBRARY = "sida-repro"
_UNKNOWN = "unknown"
#: Printed metrics of images; papers' settings and times are printed as well.
_OF_IMAGES = {"FID", "FD-DINOv2", "CLIP-FID", "FDr3", "FDr6", "SW-r14", "IS", "precision", "recall"}

#: Names that the store of Every Eval Ever refuses for folders: its own, and those of devices on Windows.
_RESERVED = re.compile(r"data|(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
#: Texts behind sources with a number as their name; the notes of each number have details.
_PRINTED_IN = {
    "abstract-000": "arXiv 2410.14919v4, abstract",
    "abstract-001": "arXiv 2404.04057, abstract",
    "abstract-003": "arXiv 2405.20750, abstract",
    "summary-004": "a summary by a third party",
}


def measured_records(
    measurements: Measurements, origin: str, developer: str, sheet: Mapping[str, SheetRow] | None = None
) -> Iterator[dict[str, Any]]:
    """Yields a record for each generator of some measurements.

    Args:
        measurements: Measurements, of any number of generators.
        origin: Person or group who measured.
        developer: Name of who made the generators.
        sheet: Rows of the sample sheet by run, which state the exposure of a generator where its lines do not.
    """
    # A reader does not have the sheet, so each line states the exposure of its generator.
    lines_with_exposure = (_with_saw(line, (sheet or {}).get(line.run)) for line in measurements.rows)
    measurements = Measurements(lines_with_exposure, measurements.source)
    for run in measurements.runs:
        lines = measurements.of_run(run)
        first = lines[0]
        results = [
            _measured_result(measurements, run, metric) for metric in dict.fromkeys(line.metric for line in lines)
        ]
        about = {"method": first.method, "nfe": first.nfe, "network_sha256": first.network_sha256}
        about |= {"saw": first.saw or _UNKNOWN}
        yield _record(
            name=run,
            developer=developer,
            benchmark=first.protocol,
            date=max(line.date for line in lines),
            source={
                "source_name": _LIBRARY,
                "source_type": "evaluation_run",
                "source_organization_name": first.origin or origin,
                "evaluator_relationship": "other",
            },
            about=about,
            library={"devices": ", ".join(sorted({line.device for line in lines if line.device}))},
            version=", ".join(sorted({line.code_version for line in lines if line.code_version})),
            results=results,
        )


def printed_records(numbers: Iterable[Published], date: str) -> Iterator[dict[str, Any]]:
    """Yields a record for each generator of printed numbers, with their source.

    Args:
        numbers: Printed numbers.
        date: Day on which the list was made, ISO 8601.
    """
    rows: dict[tuple[str, ...], list[Published]] = {}
    for number in (number for number in numbers if number.metric in _OF_IMAGES):
        about = (number.row_label, number.model_size, number.conditioning, number.nfe)
        rows.setdefault((number.source, *_data(number), *about), []).append(number)
    for row in rows.values():
        first = row[0]
        printed_in = _printed_in(first.source)
        yield _record(
            name=", ".join(filter(None, (first.row_label, first.model_size, first.conditioning))),
            developer=_UNKNOWN,
            benchmark=" ".join(_data(first)),
            date=date,
            source={
                "source_name": f"results/published: {first.source}",
                "source_type": "documentation",
                "source_organization_name": printed_in,
                "evaluator_relationship": "first_party" if all(number.own for number in row) else "other",
            },
            about={"method": first.method, "nfe": first.nfe, "teacher": first.teacher},
            library={},
            version=_UNKNOWN,
            results=[_printed_result(number) for number in row],
        )


def _printed_in(source: str) -> str:
    """The text that printed a number, by its source in ``results/published``."""
    if re.match(r"(table|caption-|text-|abstract-002)", source):
        return f"arXiv 2410.14919v2, {source.removesuffix('-002')}"
    return _PRINTED_IN.get(source, source)


def _data(number: Published) -> tuple[str, str]:
    return number.dataset, number.resolution


def _record(
    name: str,
    developer: str,
    benchmark: str,
    date: str,
    source: Mapping[str, str],
    about: Mapping[str, Any],
    library: Mapping[str, str],
    version: str,
    results: list[dict[str, Any]],
) -> dict[str, Any]:
    time = datetime.datetime.fromisoformat(date)
    stamp = str(time.replace(tzinfo=time.tzinfo or datetime.UTC).timestamp())
    model = f"{_slug(developer)}/{_slug(name)}"
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{_slug(benchmark)}/{model}/{stamp}",
        "evaluation_timestamp": date,
        "retrieved_timestamp": stamp,
        "source_metadata": dict(source),
        "eval_library": {"name": _LIBRARY, "version": version or code_version(), "additional_details": _texts(library)},
        "model_info": {
            "name": name,
            "id": model,
            "developer": developer,
            "additional_details": {
                "deployment_type": "self_deployed" if source["source_type"] == "evaluation_run" else _UNKNOWN,
                "model_availability": _UNKNOWN,
                **_texts(about),
            },
        },
        "evaluation_results": results,
    }


def _with_saw(line: Measurement, row: SheetRow | None) -> Measurement:
    # A method alone does not determine the networks of its training's monitor and start.
    exposure = None if row is None else exposure_of(line, row)
    return line if exposure is None else dataclasses.replace(line, saw=str(exposure))


def _measured_result(measurements: Measurements, run: str, key: str) -> dict[str, Any]:
    lines, estimate = measurements.lines(run, key), measurements.estimate(run, key)
    first = lines[0]
    kind = first.settings.split(" ")[0]
    label, higher = key, False
    # A protocol of a user may not be here; its name and settings are in the record all the same.
    with contextlib.suppress(UserError):
        metric = protocol_named(first.protocol).metric(key)
        label, higher = metric.label or key, metric.better == "higher"
    seeds = [seed for line in lines for seed in (line.seed_first, line.seed_last) if seed is not None]
    details = {
        "trials": estimate.trials,
        "values": json.dumps([line.value for line in lines]),
        "image_seeds": f"{min(seeds)}-{max(seeds)}" if seeds else _UNKNOWN,
        "std_over_trials": None if estimate.std is None else repr(estimate.std),
        LINES: json.dumps([dataclasses.asdict(line) for line in lines]),
    }
    parameters = {
        "protocol": first.protocol,
        "settings": first.settings,
        "num_images": first.n,
        "classes": first.classes,
        "resolution": first.resolution,
        "reference_sha256": first.reference_sha256,
        "extractor_sha256": first.extractor_sha256,
        "identity_sha256": first.identity.sha256,
        "held_out_images_seen": first.held_out,
    }
    return {
        "evaluation_name": first.protocol,
        "source_data": {"dataset_name": first.protocol, "source_type": "other"},
        "evaluation_timestamp": max(line.date for line in lines),
        "metric_config": _metric(key, label, kind, higher) | {"metric_parameters": parameters},
        "score_details": {
            "score": estimate.mean,
            "details": _texts(details),
            "uncertainty": _uncertainty(estimate),
        },
    }


def _printed_result(number: Published) -> dict[str, Any]:
    details = {"as_printed": number.literal or number.text, PRINTED: number.text, PRINTED_STD: number.std}
    details |= {"address": number.address, "notes": number.notes}
    details |= {"id": number.id, "protocol": number.protocol, "measured_by_authors": str(number.own).lower()}
    higher = number.metric.lower() in HIGHER_IS_BETTER
    return {
        "evaluation_name": ", ".join(filter(None, (" ".join(_data(number)), number.conditioning))),
        "source_data": {"dataset_name": " ".join(_data(number)), "source_type": "other"},
        "metric_config": _metric(number.metric_key, number.metric, "", higher),
        "score_details": {"score": number.value, "details": _texts(details)},
    }


def _metric(key: str, label: str, kind: str, higher: bool) -> dict[str, Any]:
    least, most = (None, None) if kind not in METRIC_KINDS else (METRIC_KINDS[kind].least, METRIC_KINDS[kind].most)
    kind_fields = {"metric_kind": kind} if kind else {}
    return {
        "metric_id": key,
        "metric_name": label,
        **kind_fields,
        "lower_is_better": not higher,
        "score_type": "continuous",
        "min_score": "-Infinity" if least is None else least,
        "max_score": "Infinity" if most is None else most,
    }


def _uncertainty(estimate: Estimate) -> dict[str, Any]:
    if estimate.standard_error is None:
        return {}
    method = (
        f"trials: sample standard deviation over {estimate.trials} evaluations of one network, divided by the root of "
        "their number; without the scatter of another training"
    )
    return {"standard_error": {"value": estimate.standard_error, "method": method}, "num_samples": estimate.trials}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as texts, which the schema requires of details, without None and empty ones."""
    return {name: str(value) for name, value in values.items() if value not in (None, "")}


def _slug(text: str) -> str:
    """A text as part of a path: letters, digits, dots, hyphens and underscores."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:100].strip("-._") or _UNKNOWN
    return f"_{slug}" if _RESERVED.fullmatch(slug) else slug


def record_path(record: Mapping[str, Any]) -> Path:
    """Path of a record in the store: ``BENCHMARK/DEVELOPER/MODEL/UUID.json``, the same for equal content."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()
    return Path(str(record["evaluation_id"]).rpartition("/")[0], f"{uuid.UUID(bytes=digest[:16], version=4)}.json")
