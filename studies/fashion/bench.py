"""Searches each method's settings, chooses, and trains all rows: ``python studies/fashion/bench.py``.

The steps are runs of the suite's own workflow in pieces; the same command continues after an interruption. Run it where
``results/`` shall lie. ``search.tsv``, ``recipes/trials.yaml`` and ``chosen.yaml`` follow from ``space.yaml`` and the
trials; ``trials.csv`` is what they measured.
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import qmc

HERE = Path(__file__).resolve().parent
SPACE = yaml.safe_load((HERE / "space.yaml").read_text())
MEASURED = Path("results/fashion-search/measurements")
METHODS, COLUMNS = (
    ("sid", "sida", "gdd", "sid2a"),
    ("run", "label", "method", "teacher", "init", "alpha", "recipe", "sampler"),
)
Settings = dict[str, Any]


def points(method: str) -> list[Settings]:
    """Settings of a method's trials: the known ones, then the Sobol sequence's."""
    axes = SPACE["axes"]
    found = [SPACE["known"][method]]
    for point in qmc.Sobol(len(axes), seed=0).random(SPACE["trials"])[: SPACE["trials"] - 1]:
        found.append({name: _value(axis, float(u)) for (name, axis), u in zip(axes.items(), point)})
    return found


def _value(axis: Settings, u: float) -> float:
    if "choices" in axis:
        return axis["choices"][int(u * len(axis["choices"]))]
    low, high = (math.log(x) for x in axis["log"])
    return float(f"{math.exp(low + u * (high - low)):.3g}")


def recipe(method: str, point: Settings, kimg: float) -> Settings:
    """Recipe of a method with a point of the space."""
    made = {**SPACE["frame"], "total_kimg": kimg, "lr": point["lr"], "fake_score_lr": point["lr"] * point["ratio"]}
    made |= {"betas": [point["beta1"], 0.99 if method == "gdd" else 0.999], "init_sigma": point["init_sigma"]}
    if method == "gdd":
        return made | {
            "options": {"backbones": ["clothes"], "loss_images": SPACE["weights"]["gdd"][point["adversarial"]]}
        }
    made["grad_clip_value"] = point["grad_clip_value"]
    if method != "sid":
        lambda_adv, lambda_d = SPACE["weights"]["sida"][point["adversarial"]]
        made |= {"lambda_adv": lambda_adv, "lambda_d": lambda_d, "adversarial_kimg": 0}
    return made


def value(run: str) -> float | None:
    """FD of a trial, by the network that chooses; infinite where it is no number, None where it is not measured."""
    file = MEASURED / run / "trial-0.json"
    if not file.exists():
        return None
    fd = json.loads(file.read_text())["metrics"]["fd_choice"]
    return fd if fd is not None and math.isfinite(fd) else math.inf


def best(method: str) -> int | None:
    """Number of a method's best trial; None until all are measured."""
    found = [value(f"trial-{method}-{k}") for k in range(SPACE["trials"])]
    return None if None in found else found.index(min(found))


def write() -> None:
    """Writes the trials' sheet and recipes, the chosen settings, and what was measured."""
    short, full, long = SPACE["short"], SPACE["full"], SPACE["long"]
    rows, recipes, table = [], {}, []
    parent = best("sid")
    for method in METHODS:
        # SiD2A starts from SiD's chosen settings, whose σ_init it keeps.
        if method == "sid2a" and parent is None:
            continue
        if method == "sid2a":
            start = points("sid")[parent]
            recipes["sid-half"] = recipe("sid", start, short / 2)
            rows.append(_row("half-sid", "sid", start, "sid-half"))
        for k, point in enumerate(points(method)):
            point = {**point, "init_sigma": start["init_sigma"]} if method == "sid2a" else point
            lengths = [("trial", short / 2 if method == "sid2a" else short)]
            lengths += [("long", full)] if method == long["method"] and k < long["trials"] else []
            for word, kimg in lengths:
                run = f"{word}-{method}-{k}"
                recipes[run] = recipe(method, point, kimg)
                rows.append(_row(run, method, point, run, "half-sid" if method == "sid2a" else ""))
                table.append(
                    {
                        "run": run,
                        "method": method,
                        "trial": k,
                        "kimg": short if word == "trial" else full,
                        **point,
                        "fd_choice": value(run),
                    }
                )
    _tsv(HERE / "search.tsv", rows)
    _yaml(
        HERE / "recipes/trials.yaml", recipes, "Settings of the search's trials, written by bench.py from space.yaml."
    )
    with (HERE / "trials.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    _yaml(
        HERE / "chosen.yaml",
        chosen(),
        "Settings of `fashion`, written by bench.py: each method's best trial, the known settings until then.",
    )


def _row(run: str, method: str, point: Settings, recipe: str, init: str = "") -> Settings:
    alpha = "" if method == "gdd" else "1.0"
    sampler = f"one-step-{point['init_sigma']}"
    return dict(zip(COLUMNS, (run, run, method, "one", init, alpha, f"trials/{recipe}", sampler)))


def chosen() -> Settings:
    """Samplers and recipes of the study's rows."""
    made: Settings = {"samplers": {}, "recipes": {}}
    picked = {method: points(method)[best(method) or 0] for method in METHODS}
    picked["sid2a"] = {**picked["sid2a"], "init_sigma": picked["sid"]["init_sigma"]}
    for method, point in picked.items():
        made["samplers"][method] = {"kind": "one_step", "init_sigma": point["init_sigma"]}
        made["recipes"][method] = recipe(method, point, SPACE["full"] / (2 if method == "sid2a" else 1))
    made["recipes"]["sid-half"] = recipe("sid", picked["sid"], SPACE["full"] / 2)
    return made


def _tsv(path: Path, rows: list[Settings]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _yaml(path: Path, content: Settings, comment: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# {comment}\n{yaml.safe_dump(content, sort_keys=False)}")


def run(preset: str, *targets: str) -> None:
    """Runs the workflow for targets, and writes what follows from them."""
    subprocess.run(["sida", "run", str(HERE / preset), *targets, *sys.argv[1:]], check=True)
    write()


def main() -> None:
    """Searches, chooses and trains, in pieces."""
    write()
    for k in range(SPACE["trials"]):
        run("search.yaml", *(f"trial-{method}-{k}" for method in METHODS[:3]))
    for k in range(SPACE["trials"]):
        run("search.yaml", f"trial-sid2a-{k}")
    run("search.yaml", *(f"long-{SPACE['long']['method']}-{k}" for k in range(SPACE["long"]["trials"])))
    run("preset.yaml")


if __name__ == "__main__":
    main()
