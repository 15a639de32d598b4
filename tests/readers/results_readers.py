"""Results: what a stranger may hand over as a results folder, verified, collected, compared and shown."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

from eval.results.measurements import read_measurement
from eval.results.summary import load_measurements
from sida.config.resources import ROOT
from sida.errors import UserError
from sida.files.content_hash import HASH_KEY
from sida.files.text_files import read_csv
from tests.data.test_archive import write_folder
from tests.eval.synthetic_output import measurement_lines, write_csv, write_preset
from tests.readers.changes import CSV_BOMBS, JSON_BOMBS, Change, encoded, json_text, lines, tokens
from tests.readers.checkpoint_readers import header
from tests.readers.data_readers import ZIP_BOMBS
from tests.readers.frame import FaultError, Reader, command
from tests.workflow.results_folder import write_results
from workflow.archive.verify import verify

Files = Mapping[str, bytes]
#: Stands for a slash in the name of a genuine file, which says where in the folder it belongs.
SLASH = "~"


# The folders, each made once and written anew for each case


@functools.cache
def small() -> Files:
    """A whole folder with every kind of file that `sida verify` reads."""
    return _made(write_results)


@functools.cache
def shown() -> Files:
    """A folder with made-up measurements, and the table and verdicts made of them."""

    def make(folder: Path) -> None:
        write_preset(folder)
        write_csv(folder / "measurements.csv", measurement_lines(trials=2))
        made = ["--measurements", folder / "measurements.csv", "--runs", folder / "runs.tsv"]
        command("sida", "table", "main", *made, "--out", folder / "tables/main.tex")
        first = "- id:".join((ROOT / "studies/demo/claims.yaml").read_text().split("- id:")[:7]).rstrip(" ")
        (folder / "claims.yaml").write_text(first)
        made += ["--claims", folder / "claims.yaml", "--results", folder]
        command("sida", "claims", *made, "--out", folder / "claims.md")

    return _made(make)


def _made(make: Callable[[Path], object]) -> Files:
    with tempfile.TemporaryDirectory() as text, redirect_stdout(io.StringIO()):
        folder = Path(text) / "tiny"
        make(folder)
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(files: Files, path: Path, own: Path) -> Path:
    """The folder with the damaged file in its place."""
    return Path(write_folder(own / "tiny", {**files, place(path): path.read_bytes()}))


def place(path: Path) -> str:
    """Where in the folder a file belongs."""
    return path.name.removeprefix("plain").replace(SLASH, "/")


def genuine(files: Callable[[], Files], *ends: str) -> Callable[[Path], None]:
    """Writes the files with these ends, and JSON also without the hashes, with which no change gets any further."""

    def write(folder: Path) -> None:
        for name, content in files().items():
            if name.endswith(ends):
                (folder / name.replace("/", SLASH)).write_bytes(content)
                if name.endswith((".json", ".jsonl")):
                    (folder / f"plain{name.replace('/', SLASH)}").write_bytes(strip_hashes(content))

    return write


def strip_hashes(content: bytes) -> bytes:
    """JSON, or lines of it, without hashes."""
    texts = content.splitlines() if content.count(b"\n") > 1 and b"{\n" not in content else [content]
    values = [json.loads(text) for text in texts]
    return b"\n".join(
        json.dumps({key: item for key, item in value.items() if key != HASH_KEY}).encode() for value in values
    )


# What reads them


def read_verified(path: Path, own: Path) -> None:
    """`sida verify`: with the manifest every change is a fault, without it hashes and content decide."""
    name, content = place(path), path.read_bytes()
    folder = put(small(), path, own)
    listed = not path.name.startswith("plain") and bool(hashlib.sha256(content).digest()[0] % 2)
    if not listed and name != "manifest.json":
        (folder / "manifest.json").unlink()
    report = verify(folder)
    for line in (*report.faults, *report.remarks, report.summary):
        if not line.isprintable():
            raise FaultError(f"printed {line[:300]!r}")
    if listed and not report.faults and not same(name, content, small()[name]):
        raise FaultError(f"{name}: another content than the manifest's was taken")
    if report.faults:
        raise UserError("", report.faults[0])


def same(name: str, content: bytes, genuine: bytes) -> bool:
    """Whether a file is as it was written; of the manifest, which names all others, the values decide."""
    return content == genuine or (name == "manifest.json" and json.loads(content) == json.loads(genuine))


def read_trial(path: Path, own: Path) -> None:
    """`sida collect`: a trial with its hash is what was written, and what is collected can be read."""
    put({}, path, own)
    name = place(path)
    command("sida", "collect", own / "tiny/measurements", "--out", own / "measurements.csv")
    record = read_measurement(own / "tiny" / name)
    if HASH_KEY in json.loads(path.read_bytes()) and record != without_hash(small()[name]):
        raise FaultError("a trial with another hash than its own was taken")
    load_measurements(own / "measurements.csv")
    no_formula(own / "measurements.csv")


def without_hash(content: bytes) -> dict[str, Any]:
    """A genuine record as it is read."""
    return {key: value for key, value in json.loads(content).items() if key != HASH_KEY}


def read_measured(path: Path, own: Path) -> None:
    """`sida table`, `claims` and `compare`, one of them for each case."""
    folder = put(shown(), path, own)
    made = ["--measurements", folder / "measurements.csv", "--runs", folder / "runs.tsv"]
    verb = ("table", "claims", "compare")[hashlib.sha256(path.read_bytes()).digest()[0] % 3]
    if verb == "table":
        command("sida", "table", "main", *made, "--out", own / "x.tex")
        no_formula(own / "x.csv")
        no_command((own / "x.html").read_text())
    elif verb == "claims":
        made += ["--claims", folder / "claims.yaml", "--results", folder]
        command("sida", "claims", *made, "--out", own / "x.md")
        no_command((own / "x.html").read_text())
    else:
        command("sida", "compare", folder, folder / "measurements.csv")


def read_shown(path: Path, own: Path) -> None:
    """`sida page`."""
    folder = put(shown(), path, own)
    command("sida", "page", folder, "--out", own / "x.html")
    no_command((own / "x.html").read_text())


def no_formula(path: Path) -> None:
    """Requires a CSV file without a cell that a spreadsheet runs."""
    for _, row in read_csv(path)[1]:
        if any(str(cell).startswith(("=", "@")) for cell in row.values()):
            raise FaultError("wrote a formula into CSV")


def no_command(text: str) -> None:
    """Requires a page without an element that came with the values."""
    if "<script>alert" in text or "<img src=x" in text:
        raise FaultError("wrote an element into HTML")


# Changes that know the formats


COMMANDS = tokens(
    b'"a"', b'"data"', b"sid-a1.0", b"sida-a1.0", b"fd", b"<script>alert(1)</script>", b"=1+1", b"@SUM(A1)",
    b"<img src=x onerror=alert(1)>", b"../../x", b"<b>", b"</table>", b"javascript:alert(1)", b"0", b"nan", b"null",
)  # fmt: skip


def any_json(data: bytes, rng: Random) -> bytes:
    """A change of JSON, of one of its lines, or of a tensor file's header."""
    if not data.startswith((b"{", b"[")):
        return header(data, rng)
    rows = data.split(b"\n")
    if data.startswith(b"{\n") or len(rows) < 2:
        return json_text(data, rng)
    at = rng.randrange(len(rows))
    rows[at] = json_text(rows[at], rng)
    return b"\n".join(rows)


_JSON: tuple[Change, ...] = (any_json, any_json, any_json, COMMANDS)
_BOMBS: Change = lambda data, rng: rng.choice((JSON_BOMBS, CSV_BOMBS, ZIP_BOMBS))(data, rng)

#: Things that stand in the place of a file: links to endless, missing, outside and looping places, a pipe, a folder.
# The guards would take os.symlink for a deed of the reader.
_symlink = ctypes.CDLL(None).symlink
OTHERS = ("/dev/zero", "/dev/tty", "nowhere", "/etc/hostname", ".", "..", "pipe", "folder")


def write_places(folder: Path) -> None:
    """Numbers, of which a case makes the place of a link and its target."""
    (folder / "places.txt").write_text("0 1 2\n")


def read_linked(path: Path, own: Path) -> None:
    """`sida verify` and the page, of a folder in which links, a pipe or a folder have the place of two files."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    names, folder = sorted(shown()), Path(write_folder(own / "results", shown()))
    for first, second in (digest[:2], digest[2:4]) if path.read_text(errors="ignore") != "0 1 2\n" else ():
        spot, other = folder / names[first % len(names)], OTHERS[second % len(OTHERS)]
        if spot.is_symlink() or not spot.is_file():
            continue
        spot.unlink()
        if other == "pipe":
            os.mkfifo(spot)
        elif other == "folder":
            spot.mkdir()
        else:
            _symlink(other.encode(), str(spot).encode())
    verify(folder)
    with redirect_stdout(io.StringIO()):
        command("sida", "page", folder, "--out", own / "page.html")


SHOWN = ("measurements.csv", "a1.0/evaluations.jsonl", "a1.0/train.jsonl")
READERS = (
    Reader("links in a results folder", write_places, read_linked, cases=10),
    Reader(
        "results folder (verify)", genuine(small, ".json", ".jsonl", ".csv", ".safetensors", ".tex"), read_verified,
        (*_JSON, lines, _BOMBS), cases=25,
    ),
    Reader("trials (collect)", genuine(small, "trial-0.json"), read_trial, (*_JSON, *_JSON, JSON_BOMBS), 0.9, cases=25),
    Reader(
        "measurements (table, claims, compare)", genuine(shown, *SHOWN), read_measured,
        (lines, lines, encoded, COMMANDS, COMMANDS, any_json, _BOMBS), 0.7, cases=25,
    ),
    Reader(
        "results folder (page)", genuine(shown, "claims.json", "tables/main.json", "train.jsonl"), read_shown,
        (*_JSON, lines, lines, _BOMBS), 0.7, cases=15,
    ),
)  # fmt: skip
