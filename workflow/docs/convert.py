"""Converts results of earlier versions, whose values name the digest of a whole protocol, to identities of values.

    python -m workflow.docs.convert results/demo studies/demo/stored

Converted are trials (``measurements/<run>/trial-<t>.json``), tables of measurements (``*.csv``, ``*.csv.gz``), digests
of rows in ``stored.json``. A trial itself records what decides its values; for a table, the digest must be that of a
protocol of ``config/protocols`` or beside a study. Values stay as they are, and so do finished trials: their new
digests are computed from what the files say.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.measuring.protocol import OF_ALL_TRIALS, Protocol, load_protocol
from eval.results.measurements import write_measurement
from eval.results.stored import STORED, read_stored
from sida.config.resources import ROOT
from sida.config.settings import from_mapping, load_yaml, names_object
from sida.errors import UserError
from sida.files.atomic import atomic_path, read_hashed_json, sha256_json, write_hashed_json
from sida.files.content_hash import HASH_KEY, csv_text
from sida.files.text_files import gzip_bytes, read_csv
from workflow.preset import Preset
from workflow.preset.files import preset_files
from workflow.preset.spec_files import row_digest

_COVARIANCES = ("frechet", "frechet_infinity")
_NEW = ("settings", "classes", "resolution")


def convert(path: Path) -> list[Path]:
    """Converts the files of a folder; returns the paths of files that changed.

    Raises:
        UserError: A damaged file, or a digest that is of no known protocol.
    """
    changed = [file for file in sorted(path.rglob("trial-*.json")) if _convert_trial(file)]
    tables = [file for file in sorted([*path.rglob("*.csv"), *path.rglob("*.csv.gz")]) if _convert_table(file)]
    stored = path / STORED
    return [*changed, *tables, *([stored] if tables and stored.is_file() and _convert_stored(stored) else [])]


def _convert_trial(path: Path) -> bool:
    record = read_hashed_json(path)
    former = record.get("protocol", {})
    if "sha256" not in former:
        return False
    fields = dict(former["fields"])
    references, ddof = fields.pop("references", {}), fields.pop("cov_ddof", 0)
    metrics = {}
    for key, facts in fields.pop("metrics").items():
        source = references.get(facts.get("reference"), {})
        kept = {name: value for name, value in facts.items() if name != "reference"}
        if facts["kind"] in _COVARIANCES or names_object(facts["kind"]):
            kept["cov_ddof"] = ddof
            kept["reference"] = {k: source[k] for k in ("cov_ddof", "entry") if k in source}
        metrics[key] = kept
    images = {name: value for name, value in fields.items() if name not in OF_ALL_TRIALS}
    digest = sha256_json({"run": record["run"], "source": record.get("source", {}), "images": images})
    protocol = {"name": former["name"], "fields": fields | {"metrics": metrics}}
    kept = {key: value for key, value in record.items() if key != HASH_KEY}
    write_measurement(path, kept | {"protocol": protocol, "spec_sha256": digest})
    return True


def _convert_table(path: Path) -> bool:
    columns, lines = read_csv(path)
    if not {"metric", "protocol_sha256"} <= set(columns):
        return False
    place = columns.index("protocol_sha256")
    names = [name for name in (*columns[:place], *_NEW, *columns[place + 1 :]) if name != HASH_KEY]
    rows = [{name: cell for name, cell in row.items() if name != HASH_KEY} for _, row in lines]
    for row in rows:
        words = [_facts(digest, row["metric"], path) for digest in row.pop("protocol_sha256").split()]
        row |= {name: " ".join(sorted(set(values))) for name, values in zip(_NEW, zip(*words))}
    text = csv_text(names, rows)
    with atomic_path(path) as part:
        part.write_bytes(gzip_bytes(text) if path.suffix == ".gz" else text.encode())
    return True


def _convert_stored(path: Path) -> bool:
    """Gives unchanged rows their present digest."""
    facts = {key: value for key, value in read_stored(path.parent).items() if key != HASH_KEY}
    preset = Preset.load(*preset_files(facts["preset"], ROOT))
    same = {run for run, digest in facts["rows"].items() if run in preset.runs and digest in _former(preset, run)}
    rows = {run: row_digest(preset, run) if run in same else digest for run, digest in facts["rows"].items()}
    write_hashed_json(path, facts | {"rows": rows})
    return True


def _facts(digest: str, metric: str, path: Path) -> tuple[str, str, str]:
    """Settings, classes and resolution of a metric under the protocol with a former digest."""
    protocol = _protocols().get(digest)
    if protocol is None or metric not in [known.key for known in protocol.metrics]:
        raise UserError(
            path,
            f"digest {digest[:12]} is of no protocol of this version with a metric '{metric}'",
            "convert the trials, and collect them again",
        )
    identity = protocol.identity(metric, "", "")
    return identity.settings, identity.classes, identity.resolution


def _protocols(known: dict[str, Protocol] = {}) -> dict[str, Protocol]:  # noqa: B006 - a cache
    """Protocols by the digest that earlier versions gave them, with and without metrics of cached networks."""
    if not known:
        for path in [*ROOT.glob("config/protocols/*.yaml"), *ROOT.glob("studies/*/protocols/*.yaml")]:
            for protocol in _forms(path):
                known[sha256_json(protocol.recorded_facts())] = protocol
    return known


def _forms(path: Path) -> Iterator[Protocol]:
    protocol = load_protocol(path)
    yield protocol
    if "if_cached" in load_yaml(path):
        whole = from_mapping(Protocol, load_yaml(path), str(path))
        for metrics in itertools.chain.from_iterable(
            itertools.combinations(whole.if_cached, n) for n in range(len(whole.if_cached) + 1)
        ):
            yield dataclasses.replace(whole, metrics=whole.metrics + metrics, if_cached=())


def _former(preset: Preset, run: str) -> set[str]:
    """Digests of a row's settings in earlier versions, whose protocols did not name the watched metrics."""
    return {_former_digest(preset, run, named) for named in (False, True)}


def _former_digest(preset: Preset, run: str, named: bool) -> str:
    def content(protocol: Protocol) -> dict[str, Any]:
        return {key: value for key, value in protocol.content().items() if named or key != "watch"}

    row, protocol = preset.runs[run], preset.protocol(preset.runs[run])
    asked: dict[str, Any] = {"measure": {**preset.specs.measurement(run), "protocol": content(protocol)}}
    if row.trained_here:
        asked["student"] = preset.specs.student(run)
        if monitor := (asked["student"].get("evaluation") or {}).get("kwargs"):
            monitor["protocol"] = content(dataclasses.replace(protocol, metrics=protocol.watched))
        asked["parents"] = {parent: _former_digest(preset, parent, named) for parent in preset.parents(row)}
    if row.teacher in preset.trained_teachers():
        asked["teacher"] = preset.specs.teacher(str(row.teacher))
    return sha256_json(asked)


def main() -> int:
    """Converts the folders of the command line and prints the files that changed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="results folders and stored studies")
    try:
        for folder in parser.parse_args().folders:
            for path in convert(folder):
                print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
