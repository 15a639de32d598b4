"""Measurement files: one JSON object per generator and trial, and the long table that collects them."""

import contextlib
import math
import numbers
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.errors import UserError, say, suggestion
from sida.eval.results.identity import NO_DIGEST, Identity, comparable, identity_of, joined, lacks_digest
from sida.eval.results.measurements import Measurements, checked_lines, measurements_of, measurements_text
from sida.files.atomic import read_hashed_json, set_aside, write_hashed_json, write_text
from sida.files.ordinary import UnreadableError, ordinary_files
from sida.files.text_files import DamagedError

_FORMAT = "sida-measurement/1"
_AGAIN = "measure this trial again"
#: Remedy for a damaged file of ``sida score``.
RESCORE = "score the images again"


def trial_path(folder: str | os.PathLike[str], trial: int) -> Path:
    """Path of a trial: ``<folder>/trial-<t>.json``."""
    return Path(folder) / f"trial-{trial}.json"


def write_measurement(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Writes a measurement atomically.

    Raises:
        UserError: A metric is not finite.
    """
    for key, value in record["metrics"].items():
        if not math.isfinite(value):
            raise UserError(path, f"metric '{key}' is {value}", "the generator's images or features are broken")
    write_hashed_json(path, {**record, "format": _FORMAT})


def read_measurement(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks a measurement.

    Raises:
        UserError: The file is missing or damaged, or a field is missing or wrong.
    """
    path = Path(path)
    record = read_hashed_json(path, _AGAIN)
    try:
        _ = [{**record.get(key, {})} for key in ("details", "source", "held_out")], record["spec_sha256"]
        fault = contradiction(record)
        checked_lines(long_rows([record]), str(path))
        # A metric without a value has the reason in its details.
        metrics = record["protocol"].get("fields", {}).get("metrics", {})
        keys = {*record["metrics"], *record.get("details", {})}
        missing = [key for key in metrics if key not in keys] or ([] if metrics or keys else ["*"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(path, f"is not a measurement of a trial ({error})", _AGAIN) from None
    if fault or missing:
        raise UserError(path, fault or f"metrics.{missing[0]}: was not measured", _AGAIN)
    return record


def contradiction(record: Mapping[str, Any]) -> str | None:
    """Reason why the fields of a measurement contradict each other (number of images, seeds, metrics), or None."""
    fields, n, trial = record["protocol"].get("fields", {}), record["n"], record["trial"]
    size, seed0, metrics = fields.get("num_samples", n), fields.get("seed0"), fields.get("metrics")
    if n != size:
        return f"n: {n} images, and its protocol takes {size}"
    has_seeds = seed0 is not None and not _is_of_files(record)
    if has_seeds and record["seeds"] != [seed0 + trial * n, seed0 + (trial + 1) * n - 1]:
        return f"seeds: {record['seeds']} do not belong to trial {trial}, whose seeds start at {seed0 + trial * n}"
    unknown = [key for key in record["metrics"] if metrics is not None and key not in metrics]
    return f"metrics.{unknown[0]}: its protocol has no such metric" if unknown else None


def _is_of_files(record: Mapping[str, Any]) -> bool:
    """Whether a trial has images in files, whose seeds are unknown; earlier records have their positions as seeds."""
    return record.get("sampler", {}).get("kind") == "images"


def is_kept(
    path: str | os.PathLike[str], spec_sha256: str, identities: Mapping[str, Identity], names: Mapping[str, Any]
) -> bool:
    """Whether a file has the measurement of a trial; fields that decide no value are updated in it.

    Args:
        path: File of a trial, which may be missing.
        spec_sha256: Digest of what decides the images of the trial.
        identities: Identities of the metrics by key.
        names: Fields that decide no value (label, family, protocol, ...).

    Raises:
        UnreadableError: The file cannot be read. Its content may be valid, so it is not measured again.
    """
    if not Path(path).is_file():
        return False
    try:
        record = read_measurement(path)
    except UnreadableError:
        raise
    except UserError as error:
        say(f"{error} (which is done now)")
        return False
    keys = {*record["metrics"], *record.get("details", {})}
    if record["spec_sha256"] != spec_sha256 or not keys <= identities.keys():
        return False
    if any(key not in keys or record_identity(record, key) != identity for key, identity in identities.items()):
        return False
    if any(record.get(key) != value for key, value in names.items()):
        write_measurement(path, {**record, **names})
    return True


def collect(folder: str | os.PathLike[str], runs: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Reads and checks all ``<folder>/<run>/trial-<t>.json``, in order of runs (else by name) and trials.

    An empty list of runs gives no records, for presets that measure nothing.

    Raises:
        UserError: No measurements, a link, a damaged file, a file in the wrong place, or trials of one run that are
            not comparable (other protocol, generator, reference or version of the code).
    """
    folder = Path(folder)
    if runs is not None and not runs:
        return []
    if not folder.is_dir():
        raise UserError(folder, "no such folder of measurements", "measure first (sida measure)")
    present: dict[str, list[Path]] = {}
    for name in ordinary_files(folder):
        if match := re.fullmatch(r"([^/]+)/trial-[^/]*\.json", name):
            present.setdefault(match[1], []).append(folder / name)
    if runs is None:
        runs = sorted(present)
    for run in runs:
        if run not in present:
            raise UserError(folder / run, f"no measurements of run '{run}'{suggestion(run, present)}")
    if not runs:
        raise UserError(folder, "holds no measurements", "measure first (sida measure)")
    return [record for run in runs for record in _read_run(run, present[run])]


def _read_run(run: str, paths: Sequence[Path]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for path in sorted(paths, key=lambda path: (len(path.name), path.name)):
        try:
            record = read_measurement(path)
        except DamagedError as error:
            note = ""
            # A read-only folder keeps the file.
            with contextlib.suppress(OSError):
                note = f" (set aside as {set_aside(path).name}: the same workflow command measures it)"
            raise UserError(error.where, error.fault, f"{error.remedy}{note}") from None
        if record["run"] != run or path.name != trial_path(path.parent, record["trial"]).name:
            raise UserError(
                path, f"holds trial {record['trial']} of run '{record['run']}'", "was it copied? measure it again"
            )
        _check_same(records[0] if records else record, record, path)
        records.append(record)
    return records


def _check_same(first: Mapping[str, Any], other: Mapping[str, Any], path: Path) -> None:
    """Requires that trials of one run have equal metrics, generator, identities and (if known) version of the code."""
    metrics = [list(dict.fromkeys([*record["metrics"], *record.get("details", {})])) for record in (first, other)]
    changes = []
    for key in metrics[0] if first is not other else ():
        identity = record_identity(first, key)
        why = comparable(identity, record_identity(other, key)) or (NO_DIGEST if lacks_digest(identity) else None)
        changes += [f"{key} ({why})"] if why and key in metrics[1] else []
    changes += [f"metric '{key}'" for key in sorted({*metrics[0]} ^ {*metrics[1]})]
    changes += ["network_sha256"] if first.get("network_sha256") != other.get("network_sha256") else []
    codes = [record["environment"].get("code") for record in (first, other)]
    if all(codes) and codes[0] != codes[1]:  # old records do not have the version
        changes.append(f"the version of the code ({codes[0]}, {codes[1]})")
    # The remaining difference is the source of the images: sampler, guide, data, function or files.
    if not changes and first["spec_sha256"] != other["spec_sha256"]:
        fields = differences(first.get("source", {}), other.get("source", {}), "source.")
        changes.append("; ".join(fields) or "spec_sha256")
    if changes:
        raise UserError(
            path,
            f"differs from trial {first['trial']} of the same run in {', '.join(changes)}",
            "delete the older trials and measure again",
        )


def record_identity(record: Mapping[str, Any], metric: str) -> Identity:
    """Identity of a metric in a measurement."""
    facts = record["protocol"].get("fields", {}).get("metrics", {}).get(metric, {})
    reference = record.get("metric_references", {}).get(metric) or {}
    # A mean has the networks of the metrics that it combines.
    parts = facts["of"].values() if isinstance(facts.get("of"), dict) else [facts]
    extractor = joined([record["extractors"].get(part.get("extractor")) or "" for part in parts])
    return identity_of(record["protocol"], metric, reference.get("sha256"), extractor)


def long_rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per record and metric, with the keys of :data:`sida.eval.results.measurements.MEASUREMENT_COLUMNS`.

    Raises:
        TypeError: A number is a text, true or false.
    """
    rows = []
    for record in records:
        optional = {name: record.get(name) or 0 for name in ("nfe", "kept_at")}
        first, last = (None, None) if _is_of_files(record) else record["seeds"]
        seeds = {} if _is_of_files(record) else {"first seed": first, "last seed": last}
        counts = {"trial": record["trial"], "n": record["n"], **seeds, **optional, **record["metrics"]}
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(f"{name} is {value!r:.40}, not a number")
        images = {
            name: record.get(name) for name in ("run", "method", "trial", "n", "nfe", "kept_at", "network_sha256")
        }
        images |= {"seed_first": first, "seed_last": last, "saw": record.get("saw") or None}
        images |= {"order": record.get("source", {}).get("order")}
        images |= {name: record.get(name) for name in ("trained", "trained_on")}
        for metric, value in record["metrics"].items():
            identity, environment = record_identity(record, metric), record["environment"]
            facts = {name: environment.get(name) for name in ("device", "code_version", "date")}
            facts["held_out"] = record.get("held_out", {}).get(metric)
            facts |= {name: getattr(identity, name) for name in ("protocol", "settings", "classes", "resolution")}
            files = {"reference_sha256": identity.reference or None, "extractor_sha256": identity.extractor or None}
            rows.append({**images, "metric": metric, "value": repr(float(value)), **facts, **files})
    return rows


def write_csv(
    path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]], more_rows: Sequence[Mapping[str, Any]] = ()
) -> int:
    """Writes the long table atomically; returns its number of rows.

    Args:
        path: CSV file.
        records: Measurements of this suite.
        more_rows: Rows from elsewhere (:func:`sida.eval.results.stored.taken`), which the column ``origin`` marks.

    Raises:
        UserError: A run from elsewhere has the name of one of this suite, or of another origin.
    """
    rows, origins = long_rows(records), {record["run"]: "" for record in records}
    for row in more_rows:
        if origins.setdefault(row["run"], row["origin"]) != row["origin"]:
            raise UserError(path, f"two origins have a run '{row['run']}'", f"rename one ('{row['origin']}')")
    write_text(path, measurements_text([*rows, *more_rows]))
    return len(rows) + len(more_rows)


def score_of(record: Mapping[str, Any], path: str) -> Measurements:
    """Measurements of the content of a file of ``sida score --out``, whose path is named in errors.

    Raises:
        UserError: The file is of another kind, or its numbers contradict each other.
    """
    try:
        fault = next(filter(None, map(contradiction, record["measurements"])), None)
        rows = long_rows(record["measurements"])
    except (LookupError, TypeError, ValueError, AttributeError):
        rows, fault = [], None
    if fault:
        raise UserError(path, fault, RESCORE)
    if not rows:
        raise UserError(path, "is not a result of sida score", "give its --out")
    return measurements_of(rows, path)


def differences(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the fields in which two mappings differ, e.g. ``"sampler.num_steps: 18 != 10"``."""
    texts = []
    for key in sorted({*first, *second}):
        mine, theirs = first.get(key, "absent"), second.get(key, "absent")
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            texts += differences(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            values_text = ["a mapping" if isinstance(value, Mapping) else str(value) for value in (mine, theirs)]
            texts.append(f"{prefix}{key}: {' != '.join(values_text)}")
    return texts
