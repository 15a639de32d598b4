"""Checks a results folder, also one from someone else: nothing in it is executed, trusted or changed.

Lists its files without following links, compares each with its own hash, the manifest and its recorded parents, and
tables with measurements with trials.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from sida.data.archive import is_intact_zip
from sida.errors import Progress, UserError
from sida.eval.results.csv_files import csv_text, parse_csv, read_csv
from sida.eval.results.identity import require_comparable
from sida.eval.results.measurements import FURTHER, MEASUREMENT_COLUMNS, load_measurements
from sida.eval.results.stored import STORED
from sida.eval.results.trial_files import long_rows, read_measurement
from sida.files.atomic import read_hashed_json, read_jsonl, sha256_file
from sida.files.ordinary import file_below, ordinary_files
from sida.files.tensors import read_tensor_header, verify_tensors
from sida.files.text_files import HASH_KEY, parse_json, read_text
from sida.workflow.archive.findings import TRIAL, Report, ignoring_faults
from sida.workflow.archive.manifest import CODE, CRATE, MANIFEST, is_unlisted, read_manifest
from sida.workflow.archive.remake import check_products

_NETWORK = "network.safetensors"
_MEASUREMENTS = ("measurements.csv", "measurements.csv.gz")
#: JSON without a hash: specs, records of downloads, and the crate.
_NO_HASH = re.compile(r"(specs|assets)/.*\.json|samples/.*/dataset\.json|ro-crate-metadata\.json")


def check_own_hash(path: Path, name: str) -> bool:
    """Compares a file with the hash in it; returns False for a file without a hash.

    Args:
        path: The file.
        name: Path of the file in the results folder, which determines its kind.

    Raises:
        UserError: The file is damaged or of another kind.
    """
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix == ".safetensors":
        return verify_tensors(path)
    if name.startswith("samples/") and suffix in (".npz", ".zip"):
        if not is_intact_zip(path):
            raise UserError(path, "damaged: its checksums or sizes do not agree", "delete it and sample again")
        return True
    if suffix not in (".json", ".jsonl") or _NO_HASH.fullmatch(name):
        return False
    if suffix == ".jsonl":
        if not read_jsonl(path) and path.name == "train.jsonl" and path.with_name(_NETWORK).is_file():
            raise UserError(path, "damaged: has no line of the finished run beside it", "train again")
        return False
    read_measurement(path) if TRIAL.fullmatch(name) else read_hashed_json(path)
    return f'"{HASH_KEY}"' in read_text(path)


def check_manifest(report: Report) -> None:
    """Compares files with the manifest."""
    if MANIFEST not in report.hashes:
        report.remark(MANIFEST, "is missing: missing files, and damage in files without a hash, are not noticed")
        return
    with report.checking(MANIFEST):
        report.manifest = read_manifest(report.folder)
        for name, entry in report.manifest.files.items():
            if name not in report.hashes:
                report.fault(name, "is missing; the manifest lists it")
            elif report.hashes[name] != entry.sha256:
                report.fault(name, "is not the file that the manifest lists: damaged, or made again since")
            else:
                report.counts["files equal to the manifest"] += 1
        for name in report.hashes:
            if name not in report.manifest.files and not is_unlisted(name):
                report.fault(name, "is not in the manifest; remove it, or make the manifest again (sida manifest)")


def check_parents(report: Report) -> None:
    """Compares the parents that networks and trials record with the networks of the folder."""
    hashes = report.hashes
    networks = {digest for name, digest in hashes.items() if name.endswith(".safetensors")}
    preset = report.folder.resolve().name
    with ignoring_faults():
        # Its name, even if the folder was renamed.
        preset = str(read_hashed_json(file_below(report.folder, "specs/preset.json")).get("preset") or preset)
    for name in hashes:
        with report.checking(name):
            for role, digest, spec in _parents(report.folder, name):
                parent = _parent_file(report.folder, hashes, spec, role, preset)
                if parent is not None and parent not in hashes:
                    report.fault(name, f"was made from {parent}, which is missing; run the workflow again")
                elif parent is not None and hashes[parent] != digest:
                    report.fault(name, f"was made from another {role} than {parent} is now; make it again")
                elif digest in networks:
                    report.counts["parents in the folder"] += 1
                else:
                    report.remark(name, f"its {role} ({digest[:12]}) is not in this folder: not compared")


def _parents(folder: Path, name: str) -> Iterator[tuple[str, str, str]]:
    """Role and recorded hash of each network that a file was made from, and the spec that names it."""
    parts, digests = PurePosixPath(name).parts, dict[str, Any]()
    if parts[0] in ("students", "teachers") and parts[2:] == (_NETWORK,):
        digests = (read_tensor_header(folder / name).record or {}).get("parents") or {}
    elif parts[0] == "measurements" and len(parts) == 3 and name.endswith(".json"):
        digests = {"network": read_measurement(folder / name).get("network_sha256")}
    for role, digest in digests.items():
        if digest is not None:
            yield role, digest, f"specs/{parts[0]}/{parts[1]}.json"


def _parent_file(folder: Path, hashes: Mapping[str, str], spec: str, role: str, preset: str) -> str | None:
    """The file in this folder that a spec names, by the end of the path."""
    if spec not in hashes:
        return None
    parent: Any = read_hashed_json(folder / spec).get(role)
    parts = PurePosixPath(parent).parts if isinstance(parent, str) else ()
    end = "/".join(parts[-3:])
    # A missing file is outside this folder, unless the path leads through the preset's folder.
    return end if end in hashes or parts[:-3] == ("results", preset) else None


def verify(folder: str | Path) -> Report:
    """Checks a results folder: each file's own hash, the manifest, parents, numbers, and the crate.

    Args:
        folder: ``results/<preset>``.

    Raises:
        UserError: No such folder, or too many files.
    """
    report = check_results(folder)
    check_crate(report)
    return report


def check_results(folder: str | Path) -> Report:
    """Checks a results folder without its crate, which may be about to be made; see :func:`verify`."""
    report = Report(Path(folder))
    if not report.folder.is_dir():
        raise UserError(folder, "no such results folder", "name one, for example results/demo")
    sizes = ordinary_files(report.folder, fault=report.fault)
    below = [name for name in sizes if name.count("/") == 1 and name.endswith(f"/{MANIFEST}")]
    if below and MANIFEST not in sizes:
        raise UserError(
            folder,
            "holds results folders, and is not one",
            f"name one: sida verify {(report.folder / below[0]).parent}",
        )
    progress = Progress(f"verify {report.folder.name}", sum(sizes.values()) / 1e6, "MB")
    own: set[str] = set()
    num_bytes = 0
    for name, size in sizes.items():
        path = report.folder / name
        with report.checking(name):
            report.hashes[name] = sha256_file(path)
            if check_own_hash(path, name):
                own.add(name)
                report.counts["files equal to their own hash"] += 1
        num_bytes += size
        progress.update(num_bytes / 1e6)
    check_manifest(report)
    listed = report.manifest.files if report.manifest else ()
    known_files = {*own, *listed, *(fault.split(": ")[0] for fault in report.faults)}
    for name in report.hashes:
        if name not in known_files and not is_unlisted(name):
            report.remark(name, "no hash: written by hand or by another program, and listed nowhere")
    check_parents(report)
    check_numbers(report)
    check_products(report)
    return report


def check_crate(report: Report) -> None:
    """Compares the files of the folder with its crate."""
    described: dict[str, str] = {}
    if CRATE in report.hashes:
        with report.checking(CRATE):
            graph = parse_json(read_text(report.folder / CRATE), CRATE)["@graph"]
            described = {unquote(entity["@id"]): str(entity["sha256"]) for entity in graph if "sha256" in entity}
            for name, digest in described.items():
                if "://" in name:
                    report.counts["downloads that the crate names, which are not compared"] += 1
                elif name not in report.hashes:
                    report.fault(name, "is missing; the crate lists it")
                elif report.hashes[name] != digest:
                    report.fault(name, "is not the file that the crate lists; make the crate again (sida crate)")
                else:
                    report.counts["files equal to the crate"] += 1
            for name in sorted({*(report.manifest.files if report.manifest else ())} - described.keys()):
                report.fault(name, "is not in the crate; make the crate again (sida crate)")
    for name in report.hashes:
        if CODE.fullmatch(name) and name not in described:
            report.fault(name, "is code that no crate lists; remove it")


def check_numbers(report: Report) -> None:
    """Compares trials with the CSV files of measurements."""
    names = report.hashes
    trials: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        if re.fullmatch(r"measurements/[^/]+/[^/]+\.json", name):
            # The comparison of hashes reports a fault of the trial itself.
            with ignoring_faults():
                record = read_measurement(report.folder / name)
                if name != f"measurements/{record['run']}/trial-{record['trial']}.json":
                    report.fault(name, f"holds trial {record['trial']} of run '{record['run']}'; was it copied?")
                written = csv_text((*MEASUREMENT_COLUMNS, *FURTHER), long_rows([record]))
                trials |= {_key(row): row for _, row in parse_csv(written, name)[1]}
    for name in names:
        if name in _MEASUREMENTS or (name.startswith("collected/") and name.endswith(".csv")):
            with report.checking(name):
                _check_collected(report, name, trials)
    for collected in _MEASUREMENTS:
        if collected not in names:
            continue
        with report.checking(collected):
            rows = load_measurements(report.folder / collected).rows
            require_comparable(((row.run, row.metric, row.identity) for row in rows), "")


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(column)) for column in ("run", "trial", "metric"))


def _check_collected(report: Report, name: str, trials: Mapping[tuple[str, ...], Mapping[str, str]]) -> None:
    """Requires that a file has exactly the rows of the trials of its runs."""
    columns, rows = read_csv(report.folder / name)
    # A further column is missing where no row has a value in it.
    column_names = [*(column for column in MEASUREMENT_COLUMNS if column in columns), *FURTHER]
    keys = set()
    for line, row in rows:
        if row.get("origin"):
            report.counts["rows that are stored or of other groups, which have no trials here"] += 1
            continue
        key = _key(row)
        keys.add(key)
        label = f"{key[2]} of trial {key[1]} of '{key[0]}'"
        if key not in trials and STORED in report.hashes:
            report.counts["rows whose trials are not stored"] += 1
        elif key not in trials:
            report.fault(name, f"line {line}: no trial holds {label}")
        elif different := [column for column in column_names if (row.get(column) or "") != trials[key][column]]:
            report.fault(name, f"line {line}: {different[0]} of {label} differs from its trial; collect again")
        else:
            report.counts["rows equal to their trials"] += 1
    runs = {key[0] for key in keys}
    if name in _MEASUREMENTS and (absent := sorted({key[0] for key in trials} - runs)):
        report.remark(name, f"has no row of '{absent[0]}', whose trials are there ({len(absent)} such runs)")
    if missing := sorted(key for key in trials if key[0] in runs and key not in keys):
        run, trial, metric = missing[0]
        others = f" (and {len(missing) - 1:,} others)" if missing[1:] else ""
        report.fault(name, f"{metric} of trial {trial} of '{run}' is missing{others}; collect again")
