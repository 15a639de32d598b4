"""A made-up preset for tests of tables, figures and claims. The numbers are drawn, not measured: never results."""

import csv
import hashlib
import io
import json
import random
from pathlib import Path

from eval.results.published import PROTOCOLS
from eval.results.summary import MEASUREMENT_COLUMNS
from sida.assets.registry import load_registry

#: References of published numbers.
ASSETS = sorted({found.reference for metrics in PROTOCOLS.values() for found in metrics.values() if found.reference})

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
TRUTH = {
    "data": (None, {"fd": 0.42, "fd_pixel": 0.021, "is": 9.86, "precision": 0.94, "recall": 0.93, "accuracy": 0.996}),
    "teacher-nfe35": (
        35,
        {"fd": 7.52, "fd_pixel": 0.236, "is": 8.4, "precision": 0.7, "recall": 0.8, "accuracy": 0.92},
    ),
    "teacher-nfe19": (19, {"fd": 9.1, "fd_pixel": 0.52, "is": 8.2, "precision": 0.66, "recall": 0.8, "accuracy": 0.91}),
    "sid-a1.2": (1, {"fd": 5.93, "fd_pixel": 0.464, "is": 9.1, "precision": 0.78, "recall": 0.61, "accuracy": 0.97}),
    "sid-a1.0": (1, {"fd": 5.69, "fd_pixel": 0.452, "is": 9.1, "precision": 0.78, "recall": 0.62, "accuracy": 0.97}),
    "sida-a1.0": (1, {"fd": 4.06, "fd_pixel": 0.41, "is": 9.4, "precision": 0.82, "recall": 0.67, "accuracy": 0.983}),
    "sid2a-a1.0": (
        1,
        {"fd": 4.48, "fd_pixel": 0.409, "is": 9.42, "precision": 0.83, "recall": 0.66, "accuracy": 0.985},
    ),
}
CURVES = {
    "sid-a1.2": [
        (4, 9.0),
        (8, 7.6),
        (12, 7.0),
        (16, 6.6),
        (20, 6.4),
        (24, 5.7),
        (28, 5.3),
        (32, 5.2),
        (36, 5.6),
        (40, 5.9),
    ],
    "sid-a1.0": [
        (4, 9.3),
        (8, 7.5),
        (12, 6.9),
        (16, 6.5),
        (20, 6.0),
        (24, 5.6),
        (28, 5.3),
        (32, 5.4),
        (36, 5.5),
        (40, 5.6),
    ],
    "sida-a1.0": [
        (4, 9.6),
        (8, 7.1),
        (12, 6.3),
        (16, 5.9),
        (20, 5.6),
        (24, 5.0),
        (28, 4.6),
        (32, 4.3),
        (36, 4.1),
        (40, 3.9),
    ],
    "sid2a-a1.0": [
        (2, 5.9),
        (4, 5.5),
        (6, 5.1),
        (8, 4.9),
        (10, 4.8),
        (12, 4.7),
        (14, 4.5),
        (16, 4.4),
        (18, 4.4),
        (20, 4.4),
    ],
}


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
    pinned = PROTOCOLS.get(protocol_of(run), {}).get(metric)
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
        with open(student / "evaluations.jsonl", "w") as stream:
            for kimg, fd in [(0, 27.0), *points]:
                trials = [noise.gauss(fd, 0.03 * fd) for _ in range(3)]
                mean = sum(trials) / 3
                std = (sum((x - mean) ** 2 for x in trials) / 2) ** 0.5
                record = {
                    "nimg": kimg * 1000,
                    "fd": mean,
                    "fd_std": std,
                    "fd_trials": trials,
                    "num_samples": 5000,
                    "seconds": 1.0,
                }
                stream.write(json.dumps(record) + "\n")
        with open(student / "train.jsonl", "w") as stream:
            for kimg, _ in points:
                record = {
                    "nimg": kimg * 1000,
                    "losses": {"sid": 1.0},
                    "grad_norm": {},
                    "nan_count": 0,
                    "img_per_s": 350.0,
                    "memory_mb": 420.0,
                    "seconds": 2.9,
                }
                stream.write(json.dumps(record) + "\n")
    return folder


def write_released(folder, share=0.8):
    """Made-up measurements near the published numbers for a share of the runs that the paper's layouts name."""
    from pathlib import Path as _Path

    from eval.results.published import load_published
    from eval.results.summary import Measurements
    from eval.tables import load_layout
    from eval.tables.cells import resolve

    noise = random.Random(2)
    layouts = sorted((_Path(__file__).parents[2] / "studies/papers/tables").glob("table[1-7]*.yaml"))
    truth = {}
    for path in layouts:
        for line in resolve(load_layout(path), Measurements([]), {}, load_published(), "audit"):
            for source in line.sources.values():
                if source.run and source.published:
                    factor = 1 + noise.gauss(0, 0.006)
                    nfe = line.nfe or 1
                    truth.setdefault(source.run, (nfe, {}))[1].setdefault(
                        source.metric, source.published.value * factor
                    )
    kept = {run: value for run, value in truth.items() if noise.random() < share}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line | {"value": line["value"]} for line in measurement_lines(truth=kept)]
    return write_csv(folder / "measurements.csv", lines)


def csv_rows(source: Path | str) -> list[dict[str, str]]:
    """Records of a CSV file, or of its text."""
    text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    return list(csv.DictReader(io.StringIO(text, newline="")))
