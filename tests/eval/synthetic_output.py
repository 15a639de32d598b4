"""A made-up preset for tests of tables, figures and claims. The numbers are drawn, not measured: never results."""

import csv
import hashlib
import io
import json
import random
import statistics
from pathlib import Path

from sida.assets.registry import load_registry
from sida.config.lookup import ROOT
from sida.eval.results.measurements import MEASUREMENT_COLUMNS
from sida.eval.results.published import protocols
from sida.eval.tables.cells import resolve
from sida.eval.tables.layout import load_layout
from sida.files.atomic import sha256_json

#: References of published numbers.
ASSETS = sorted({found.reference for metrics in protocols().values() for found in metrics.values() if found.reference})

RUNS = """\
run\tfamily\tlabel\tmethod\tteacher\tinit\talpha\trecipe\tsampler\tseed\tcheckpoint\tdataset\tnotes
data\tData\tDigits, resampled\tdata\t\t\t\t\tdata\t\t\t\t
teacher-nfe35\tTeacher\tEDM teacher\tteacher\tdigits-short\t\t\t\theun-18\t\t\t\t
teacher-nfe19\tTeacher\tEDM teacher\tteacher\tdigits-short\t\t\t\theun-10\t\t\t\t
sid-a1.2\tOne Step\tSiD, α = 1.2\tsid\tdigits-short\t\t1.2\tsid\tone-step\t\t\t\t
sid-a1.0\tOne Step\tSiD, α = 1.0\tsid\tdigits-short\t\t1.0\tsid\tone-step\t\t\t\t
sida-a1.0\tOne Step\tSiDA, α = 1.0\tsida\tdigits-short\t\t1.0\tsida\tone-step\t\t\t\t
sid2a-a1.0\tOne Step\tSiD2A, α = 1.0\tsid2a\tdigits-short\tsid-a1.2\t1.0\tsid2a\tone-step\t\t\t\t
"""
METRICS = ("fd", "fd_pixel", "is", "precision", "recall", "accuracy")
#: By run: evaluations of the network, and the true value of each metric.
TRUTH = {
    run: (nfe, dict(zip(METRICS, values)))
    for run, nfe, *values in (
        ("data", None, 0.42, 0.021, 9.86, 0.94, 0.93, 0.996),
        ("teacher-nfe35", 35, 7.52, 0.236, 8.4, 0.7, 0.8, 0.92),
        ("teacher-nfe19", 19, 9.1, 0.52, 8.2, 0.66, 0.8, 0.91),
        ("sid-a1.2", 1, 5.93, 0.464, 9.1, 0.78, 0.61, 0.97),
        ("sid-a1.0", 1, 5.69, 0.452, 9.1, 0.78, 0.62, 0.97),
        ("sida-a1.0", 1, 4.06, 0.41, 9.4, 0.82, 0.67, 0.983),
        ("sid2a-a1.0", 1, 4.48, 0.409, 9.42, 0.83, 0.66, 0.985),
    )
}
#: By run: thousands of images between evaluations, and the distance at each.
LEARNING = {
    "sid-a1.2": (4, [9.0, 7.6, 7.0, 6.6, 6.4, 5.7, 5.3, 5.2, 5.6, 5.9]),
    "sid-a1.0": (4, [9.3, 7.5, 6.9, 6.5, 6.0, 5.6, 5.3, 5.4, 5.5, 5.6]),
    "sida-a1.0": (4, [9.6, 7.1, 6.3, 5.9, 5.6, 5.0, 4.6, 4.3, 4.1, 3.9]),
    "sid2a-a1.0": (2, [5.9, 5.5, 5.1, 4.9, 4.8, 4.7, 4.5, 4.4, 4.4, 4.4]),
}
CURVES = {run: [(step * n, fd) for n, fd in enumerate(values, 1)] for run, (step, values) in LEARNING.items()}


def digest_of(name):
    """Made-up digest of a file."""
    return hashlib.sha256(name.encode()).hexdigest()


def write_lock(folder):
    """Writes a cache's records of the references and networks of published numbers; returns the folder."""
    registry = load_registry()
    targets = {registry[asset].target: asset for asset in ASSETS} | {"extractors/dinov2": "dinov2"}
    lock = {target: {"sha256": digest_of(name), "size": 0, "url": ""} for target, name in targets.items()}
    (folder / "assets.lock").write_text(json.dumps(lock))
    return folder


def identity_columns(run, metric, trial, n):
    """Columns that decide comparability: those of the published number of the row's protocol, else made-up ones."""
    pinned = protocols().get(protocol_of(run), {}).get(metric)
    if pinned is None:
        found = {"settings": f"made_up metric={metric}", "classes": "data", "resolution": "8"}
        found |= {"reference_sha256": "4ef" * 21 + "a", "extractor_sha256": "e7" * 32}
    else:
        found, n = {name: getattr(pinned, name) for name in ("settings", "classes", "resolution")}, pinned.n
        weights = load_registry()["inception"].sha256 if pinned.extractor == "inception" else digest_of("dinov2")
        reference = digest_of(pinned.reference) if pinned.reference else ""
        found |= {"reference_sha256": reference, "extractor_sha256": weights}
    return found | {"n": n, "seed_first": trial * n, "seed_last": (trial + 1) * n - 1}


def protocol_of(run):
    """Protocol of a row of the released sheet; made-up rows have one of their own."""
    sets = {name: name for name in ("cifar10", "imagenet64", "ffhq64")} | {"afhq64": "afhqv2", "edm2": "imagenet512"}
    teacher, name = run.startswith("teacher-"), run.removeprefix("teacher-").removeprefix("edm-")
    found = next((protocol for start, protocol in sets.items() if name.startswith(start)), "synthetic")
    return f"{found}-uniform" if teacher and found.startswith("imagenet") else found


def measurement_lines(trials=10, n=5000, truth=TRUTH, date="2035-01-01T00:00:00Z"):
    """Records as in measurements.csv, with a spread of 2 % of each value; measured after every prediction."""
    noise = random.Random(0)
    for run, (nfe, metrics) in truth.items():
        for trial in range(trials):
            for metric, value in metrics.items():
                spread = 0.004 if metric in ("precision", "recall", "accuracy") else 0.02 * value
                yield {
                    "run": run,
                    "method": run.split("-")[0],
                    "trial": trial,
                    "metric": metric,
                    "value": noise.gauss(value, spread),
                    "nfe": "" if nfe is None else nfe,
                    "protocol": protocol_of(run),
                    **identity_columns(run, metric, trial, n),
                    "network_sha256": "" if nfe is None else run.encode().hex().ljust(64, "0")[:64],
                    "device": "cpu (test)",
                    "code_version": "0.0.0+test",
                    "date": date,
                }


def write_csv(path, lines, columns=MEASUREMENT_COLUMNS):
    """Writes measurement records."""
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return Path(path)


def write_preset(folder):
    """Writes measurements.csv, runs.tsv and the students' logs; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "measurements.csv", measurement_lines())
    (folder / "runs.tsv").write_text(RUNS, encoding="utf-8")
    noise = random.Random(1)
    for run, points in CURVES.items():
        student = folder / "students" / run
        student.mkdir(parents=True, exist_ok=True)
        drawn = [(kimg, [noise.gauss(fd, 0.03 * fd) for _ in range(3)]) for kimg, fd in [(0, 27.0), *points]]
        values = [
            {"fd": statistics.fmean(d), "fd_std": statistics.stdev(d), "fd_trials": d, "num_samples": 5000}
            for _, d in drawn
        ]
        ticks = [{"img_per_s": 350.0, "memory_mb": 420.0, "seconds": 2.9}] * len(points)
        write_jsonl(student / "evaluations.jsonl", [kimg for kimg, _ in drawn], values)
        write_jsonl(student / "train.jsonl", [kimg for kimg, _ in points], ticks)
    return folder


def trial_record(run="a", trial=0, value=1.5, **changes):
    """The record of a trial of forty images, as `sida measure` writes it."""
    fields = {"num_samples": 40, "metrics": {"fd": {"kind": "frechet", "extractor": "inception"}}}
    return {
        **{"run": run, "method": "sid", "trial": trial, "n": 40, "seeds": [40 * trial, 40 * trial + 39], "nfe": 1},
        **{"metrics": {"fd": value}, "extractors": {"inception": "e7" * 32}, "spec_sha256": "5e" * 32},
        "protocol": {"name": "p", "fields": fields, "sha256": sha256_json(fields)},
        "reference": {"name": "r", "sha256": "4e" * 32},
        "metric_references": {"fd": {"name": "r", "sha256": "4e" * 32}},
        "environment": {"device": "cpu", "code_version": "0", "date": "2035-01-01T00:00:00Z"},
        "source": {"images": "a"},
    } | changes


def inputs_of(folder, measurements=None):
    """Arguments of commands that read the measurements and the sheet of a preset."""
    return ["--measurements", str(measurements or folder / "measurements.csv"), "--runs", str(folder / "runs.tsv")]


def write_jsonl(path, kimgs, records):
    """Writes a training log: a record for each number of images."""
    lines = [json.dumps({"nimg": 1000 * kimg, **record}) for kimg, record in zip(kimgs, records)]
    path.write_text("".join(f"{line}\n" for line in lines))


def write_released(folder, share=0.8):
    """Made-up measurements near the published numbers for a share of the runs that the paper's layouts name."""
    noise = random.Random(2)
    layouts = sorted((ROOT / "studies/papers/tables").glob("table[1-7]*.yaml"))
    truth = {}
    for path in layouts:
        for line in resolve(load_layout(path), {}, "audit"):
            for cell in line.cells.values():
                if cell.runs and cell.published:
                    near = cell.published.estimate.mean * (1 + noise.gauss(0, 0.006))
                    truth.setdefault(cell.runs[0], (line.nfe or 1, {}))[1].setdefault(cell.metric, near)
    kept = {run: value for run, value in truth.items() if noise.random() < share}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return write_csv(folder / "measurements.csv", measurement_lines(truth=kept))


def planned_lines(preset, **columns):
    """Columns of two trials of each metric of each row that a preset measures, with made-up values."""
    for run in preset.measurable:
        row = preset.rows[run]
        about = {"run": run, "method": row.cells.method, "nfe": row.cells.nfe, "n": row.protocol.num_samples}
        about |= {"protocol": row.protocol.name, "device": "", "code_version": "", "date": "", "network_sha256": ""}
        for metric in row.protocol.metrics:
            identity = row.protocol.identity(metric.key)
            facts = {name: getattr(identity, name) for name in ("settings", "classes", "resolution")}
            for trial in range(min(2, row.protocol.trials)):
                value = {"metric": metric.key, "trial": trial, "value": 1.0 + 0.01 * trial, "reference_sha256": ""}
                yield {**about, **facts, **value, **columns}


def csv_rows(source: Path | str) -> list[dict[str, str]]:
    """Records of a CSV file, or of its text."""
    text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    return list(csv.DictReader(io.StringIO(text, newline="")))
