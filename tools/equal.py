"""Records tables, verdicts, jobs and scores of the checkout in the current folder, and compares another with a record.

    python -m tools.equal record FILE                        in a worktree of the commit before a change
    python -m tools.equal compare FILE --only cells,specs    after it: prints the first differences; status 1 if any

A record is not committed: make one from a commit by ``git worktree add``, ``make setup`` there, and ``record`` there.
A commit without this file uses its path: ``.venv/bin/python ELSEWHERE/tools/equal.py record FILE``.

=========  ============================================================================================================
part       content
=========  ============================================================================================================
specs      the spec (hashes by key) and the digest of each job of each preset
cells      each table of the papers as printed, and of each study's stored results: CSV by column and row, and Markdown
latex      the same tables as LaTeX, by line
verdicts   ``claims.json`` and ``claims.md`` of each study with stored results, made from them
score      the numbers of ``sida score`` for eleven inputs, to the last digit
demo       ``results/demo/measurements.csv`` (stored numbers in a record of a checkout without); only if named
tests      files of tests that fail among the ones for golden vectors and resumption; only if named
times      seconds (of the clock, of the processor) of three starts; printed, never compared; only if named
=========  ============================================================================================================

Equal digits of ``score`` and ``demo`` need one machine. All parts but ``specs``, which also names the layouts and specs
of the studies' tables and claims, use commands and written files alone.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import gzip
import hashlib
import importlib.util
import io
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

#: Files of tests for golden vectors, and for trainings, samplings and fetches that resume to the last bit.
TESTS = [
    *("tests/networks/test_golden.py", "tests/methods/test_recorded.py", "tests/sampling/test_samplers.py"),
    *("tests/data/test_dataset.py", "tests/data/test_augment.py", "tests/eval/test_metrics.py"),
    *("tests/eval/test_frechet.py", "tests/training/test_states.py", "tests/training/test_runs.py"),
    *("tests/training/test_steps.py", "tests/training/test_processes.py", "tests/sampling/test_job.py"),
]
#: Lines printed for each part.
SHOWN = 12
#: Start-ups that ``times`` measures, as words after the folder of programs.
STARTS = (("sida", "--help"), ("sida", "score", "--help"), ("snakemake", "-n", "--quiet"))


@functools.cache
def command() -> Callable[[list[str]], Any]:
    """The function behind the command ``sida``, as ``pyproject.toml`` names it."""
    settings = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    module, _, name = settings["project"]["scripts"]["sida"].partition(":")
    function: Callable[[list[str]], Any] = getattr(importlib.import_module(module), name)
    return function


def sida(*words: object) -> None:
    """Runs a command of the checkout in this process, silently.

    Raises:
        RuntimeError: The command fails; the message is its last line.
    """
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            status = command()([str(word) for word in words])
        except SystemExit as error:
            status = error.code
    if status:
        raise RuntimeError((output.getvalue().strip().splitlines() or [f"status {status}"])[-1])


def preset_files() -> list[Path]:
    """Files of all presets, of studies and of plugins; the template of ``sida new`` is none."""
    paths = [path for kind in ("studies/*", "plugins/*", "plugins/*/study") for path in Path().glob(f"{kind}/*.yaml")]
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(paths) if "planner" not in path.parts}
    return [path for path, text in texts.items() if re.search("^(runs|base):", text, re.MULTILINE)]


@functools.cache
def preset_jobs(file: Path) -> dict[str, dict[str, Any]]:
    """Jobs of a preset by ``<stage>/<name>``: ``spec``, ``digest`` and ``source`` (layout or file of claims).

    This function alone uses modules of the checkout.
    """
    names = [f"{package}workflow.preset" for package in ("sida.", "")]
    package = next(name for name in names if importlib.util.find_spec(name.rpartition(".")[0]))
    preset = importlib.import_module(package).load_preset(file)
    jobs, settings = importlib.import_module(f"{package}.specs").Jobs(preset), preset.settings
    keys = [("teachers", name) for name in preset.trained_teachers]
    keys += [("students", row.run) for row in preset.students]
    keys += [("measurements", run) for run in preset.measurable]
    keys += [(kind, name) for kind in ("tables", "figures") for name in getattr(settings, kind)]
    keys += [("claims", "")] * bool(settings.claims) + [("collected", ""), ("preset", "")]
    sources = {("tables", name): preset.layout("tables", name) for name in settings.tables}
    sources["claims", ""] = settings.claims
    return {
        f"{stage}/{name}".rstrip("/"): {
            "spec": json.loads(json.dumps(jobs.named(stage, name).spec)),
            "digest": jobs.digest(stage, name),
            "source": str(sources.get((stage, name))),
        }
        for stage, name in keys
    }


def specs() -> dict[str, Any]:
    """Specs and digests of all jobs by preset; each key of a spec, and each key below it, as a hash.

    Digests of a preset's tables, and of the preset, are left out if a table's spec names the folder of the checkout.
    """
    presets: dict[str, Any] = {}
    for file in preset_files():
        with recorded_fault(presets, str(file)):
            jobs = preset_jobs(file)
            text = json.dumps([job["spec"] for job in jobs.values()])
            jobs_of_file = presets[str(file)] = {}
            for name, job in jobs.items():
                spec = json.loads(json.dumps(job["spec"]).replace(os.getcwd(), "."))
                named = os.getcwd() in text and name.startswith(("tables/", "preset"))
                jobs_of_file[name] = {"spec": hashes(spec), "digest": None if named else job["digest"]}
    return presets


def hashes(spec: Any, depth: int = 2) -> Any:
    """A spec with what lies deeper than ``depth`` keys, and long values, as hashes."""
    if isinstance(spec, Mapping) and depth and spec:
        return {str(key): hashes(value, depth - 1) for key, value in spec.items()}
    text = json.dumps(spec, sort_keys=True)
    return text if len(text) <= 40 else hashlib.sha256(text.encode()).hexdigest()[:12]


@contextlib.contextmanager
def recorded_fault(items: dict[str, Any], name: str) -> Iterator[None]:
    """Lets a fault be the content of an item."""
    try:
        yield
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        if os.environ.get("EQUAL_TRACE"):
            traceback.print_exc()
        items[name] = "fails"


def studies() -> Iterator[tuple[Path, dict[str, dict[str, Any]], list[object]]]:
    """Presets with stored results, and ``published``: file, jobs, and options that name the stored results."""
    for file in preset_files():
        stored = file.parent / ("" if file.stem == "preset" else file.stem) / "stored"
        if (stored / "stored.json").exists():
            yield file, preset_jobs(file), ["--measurements", *stored.glob("measurements.csv*"), "--results", stored]
        elif file.stem == "published":
            yield file, preset_jobs(file), []


@functools.cache
def tables() -> dict[str, Any]:
    """Texts of all tables by name and format: the papers' as printed, and presets' from their stored results."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        out, spec = Path(folder, "table.tex"), Path(folder, "spec.json")

        def make(name: str, *words: object) -> None:
            with recorded_fault(found, name):
                sida("table", *words, "--out", out)
                found[name] = {end: out.with_suffix(f".{end}").read_text() for end in ("csv", "md", "tex")}

        for layout in sorted([*Path("studies/papers/tables").glob("*.yaml"), *Path("config/tables").glob("*.yaml")]):
            make(f"printed {layout.stem}", layout, "--mode", "paper")
        for file, jobs, results in studies():
            for job, made in jobs.items():
                if job.startswith("tables/"):
                    spec.write_text(json.dumps(made["spec"]))
                    rows = ("--runs", spec, "--spec", spec, "--mode", made["spec"]["mode"])
                    make(f"{file} {job}", made["source"], *results, *rows)
    return found


def cells() -> dict[str, Any]:
    """CSV of each table by column and row, without hashes; Markdown by line."""
    found: dict[str, Any] = {}
    for name, made in tables().items():
        if made == "fails":
            found[name] = made
            continue
        csv_cells: dict[str, dict[str, str]] = {}
        for row in csv.DictReader(io.StringIO(made["csv"])):
            place = " · ".join(row.get(key) or "" for key in ("row", "family", "model", "column"))
            for key, value in row.items():
                if value and key not in ("content_sha256", "row", "family", "model", "column"):
                    csv_cells.setdefault(key, {})[place] = value
        found[name] = {"csv": csv_cells, "md": lines(made["md"])}
    return found


def lines(text: str) -> dict[str, str]:
    """Lines by number."""
    return {str(number): line for number, line in enumerate(text.splitlines(), 1)}


def latex() -> dict[str, Any]:
    """LaTeX of each table by line."""
    return {name: made if made == "fails" else lines(made["tex"]) for name, made in tables().items()}


def verdicts() -> dict[str, Any]:
    """Verdicts with their numbers, and their pages, of all studies with stored results and claims."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        out, spec = Path(folder, "claims.md"), Path(folder, "spec.json")
        for file, jobs, results in studies():
            if made := jobs.get("claims"):
                spec.write_text(json.dumps(made["spec"]))
                with recorded_fault(found, str(file)):
                    sida("claims", "--claims", made["source"], *results, "--runs", spec, "--out", out)
                    claims = json.loads(out.with_suffix(".json").read_text())["claims"]
                    found[str(file)] = {"json": {claim["id"]: claim for claim in claims}, "md": lines(out.read_text())}
    return found


def score() -> dict[str, Any]:
    """Numbers of eleven inputs of ``sida score``, by trial and metric."""
    found: dict[str, Any] = {}
    network = Path("studies/demo/stored/students/sida-a1.0/network.safetensors").resolve()
    command()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_inputs()
        sys.path.insert(0, folder)
        os.environ["SIDA_ALLOW_CODE"] = "drawn"
        pair, digits = ("--against", "real"), ("--protocol", "digits", "--trials", 1, "--num-samples", 60)
        inputs: dict[str, tuple[object, ...]] = {
            name: (name, *pair, "--protocol", "pair-pixels")
            for name in ("png", "jpeg", "png.zip", "a.npz", "a.npy", "png.tar")
        }
        inputs["quick"] = ("png", *pair, "--protocol", "pair-quick", "--num-samples", 10)
        inputs["function"] = ("drawn:sample", *pair, "--protocol", "pair-pixels", "--num-samples", 20)
        inputs["edm.zip"] = ("edm.zip", *digits)
        inputs["labelled"] = ("labelled", *digits, "--groups", "classes")
        inputs["network"] = (network, *digits)
        for name, words in inputs.items():
            with recorded_fault(found, name):
                sida("score", *words, "--device", "cpu", "--batch-size", 10, "--out", "row.json")
                measured = json.loads(Path("row.json").read_text())["measurements"]
                found[name] = {str(trial): {"n": one["n"], **one["metrics"]} for trial, one in enumerate(measured)}
        os.environ.pop("SIDA_ALLOW_CODE")
    return found


def write_inputs() -> None:
    """Writes images in the current folder: the same in each call."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(126)
    for name, ending, count in (("png", "png", 20), ("jpeg", "jpg", 20), ("real", "png", 24)):
        os.mkdir(name)
        array = draw.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        for number, image in enumerate(array):
            Image.fromarray(image).save(f"{name}/{number:03}.{ending}")
        if name == "png":
            np.savez("a.npz", array)
            np.save("a.npy", array)
    with zipfile.ZipFile("png.zip", "w") as packed, tarfile.open("png.tar", "w") as tar:
        for path in sorted(Path("png").iterdir()):
            packed.write(path, path.name)
            tar.add(path, path.name)
    labels = []
    with zipfile.ZipFile("edm.zip", "w") as packed:
        for number, image in enumerate(draw.integers(0, 256, (60, 8, 8), dtype=np.uint8)):
            name, labelled = f"00000/img{number:08}.png", Path(f"labelled/{number % 10}/{number:03}.png")
            labelled.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(labelled)
            packed.write(labelled, name)
            labels.append([name, number % 10])
        packed.writestr("dataset.json", json.dumps({"labels": labels}))
    Path("drawn.py").write_text(
        "import numpy as np\n\n\ndef sample(seeds):\n    draws = [np.random.default_rng(int(seed)) for seed in seeds]\n"
        "    return np.stack([draw.integers(0, 256, (3, 16, 16), dtype=np.uint8) for draw in draws])\n"
    )


def demo() -> dict[str, Any]:
    """Numbers of the demo by row, trial and metric: of its results, else stored ones."""
    file = Path("results/demo/measurements.csv")
    file = file if file.exists() else next(Path("studies/demo/stored").glob("measurements.csv*"))
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt") as text:
        rows = list(csv.DictReader(text))
    print(f"demo: {len(rows)} numbers of {file}", file=sys.stderr)
    return {f"{row['run']} {row['trial']} {row['metric']}": row["value"] for row in rows}


def tests() -> dict[str, Any]:
    """Failing files of :data:`TESTS`."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    return {file: subprocess.run([*command, file], capture_output=True).returncode for file in TESTS}


def times() -> dict[str, Any]:
    """Medians of three starts: seconds of the clock and of the processor."""
    found = {}
    for program, *words in STARTS:
        pairs = []
        for _ in range(3):
            began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([Path(sys.executable).with_name(program), *words], capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
            pairs.append((time.perf_counter() - began, spent))
        wall, processor = (round(statistics.median(column), 2) for column in zip(*pairs, strict=True))
        found[" ".join((program, *words))] = f"{wall} s, {processor} s of a processor"
    return found


PARTS = {part.__name__: part for part in (specs, cells, latex, verdicts, score, demo, tests, times)}


def differences(recorded: Any, now: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Paths at which two records differ, each with a sentence; one for a missing key with all below it."""
    if isinstance(recorded, Mapping) and isinstance(now, Mapping):
        for key in [*recorded, *(key for key in now if key not in recorded)]:
            if key in recorded and key in now:
                yield from differences(recorded[key], now[key], (*path, key))
            else:
                yield (*path, key), "gone" if key in recorded else "new"
    elif recorded != now:
        yield path, f"recorded {short(recorded)}, now {short(now)}"


def short(value: Any) -> str:
    """A value in at most 160 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:157]}..."


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.equal", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", choices=("record", "compare"))
    parser.add_argument("file", type=Path, metavar="FILE")
    default = ",".join(name for name in PARTS if name not in ("demo", "tests", "times"))
    parser.add_argument("--only", default=default, metavar="PARTS", help=f"of {', '.join(PARTS)}, between commas")
    args = parser.parse_args()
    file, names = args.file.absolute(), args.only.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--only {unknown[0]}: no such part; name some of {', '.join(PARTS)}")
    sys.path.insert(0, os.getcwd())
    if Path(importlib.import_module("sida").__file__ or "").parent.parent.resolve() != Path.cwd().resolve():
        parser.error("the current folder is not the checkout of this Python: use its .venv/bin/python in its root")
    record = json.loads(file.read_text()) if file.exists() else {}
    differs = False
    for name in names:
        began = time.perf_counter()
        now: dict[str, Any] = {}
        with recorded_fault(now, "whole part"):
            now = json.loads(json.dumps(PARTS[name]()))
        spent = f"{time.perf_counter() - began:.0f} s"
        if name == "times":
            print("\n".join(f"times: {start}: {seconds}" for start, seconds in now.items()))
        if args.verb == "record":
            record[name] = now
            file.write_text(json.dumps(record, ensure_ascii=False, indent=0))
            print(f"{name}: {len(now)} items recorded ({spent})", flush=True)
            continue
        before = record.get(name, {"tests": dict.fromkeys(TESTS, 0), "times": now}.get(name, {}))
        found = list(differences(before, now)) if name != "times" else []
        differs |= bool(found)
        print(f"{name}: {len(found) or 'no'} difference{'s' * (len(found) != 1)} ({spent})", flush=True)
        for path, sentence in found[:SHOWN]:
            print(f"  {' > '.join(path)}: {sentence}")
        if len(found) > SHOWN:
            counts = Counter(path[-1 if name == "specs" else 0] for path, _ in found).most_common(SHOWN)
            print("  in all:", ", ".join(f"{item} {count}" for item, count in counts), flush=True)
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
