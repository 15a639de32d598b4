"""Searches each method's settings, chooses, and trains all rows: ``python studies/fashion/bench.py``.

The steps are runs of the suite's own workflow in pieces; the same command continues after an interruption, and trials
that ``trials.csv`` has are not trained again. Run it where ``results/`` shall lie; further words are those of
``sida run``. From ``space.yaml`` and the trials follow ``search.tsv``, ``recipes/trials.yaml``, ``trials.csv`` and
``chosen.yaml``.
``--numbers`` prints what the page says about the search.
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import qmc, spearmanr

HERE = Path(__file__).resolve().parent
MEASURED = Path("results/fashion-search/measurements")
METHODS = ("sid", "sida", "gdd", "sid2a")
#: Axes that a method does not have.
WITHOUT = {"sid": {"adversarial"}, "gdd": {"grad_clip_value"}}
SHEET = ("run", "label", "method", "teacher", "init", "alpha", "recipe", "sampler")
Settings = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A training of the search: its number and settings, and its length in thousands of images."""

    run: str
    method: str
    number: int
    kimg: float
    point: Settings

    def row(self) -> Settings:
        """Its line of ``trials.csv``, without the value."""
        return {"run": self.run, "method": self.method, "trial": self.number, "kimg": self.kimg, **self.point}


class Search:
    """The space, and what its trials measured.

    Args:
        folder: Folder with ``space.yaml`` and ``trials.csv``.
        measured: Folder of measurements, which come before the stored trials.
    """

    def __init__(self, folder: Path = HERE, measured: Path = MEASURED) -> None:
        self.folder, self.measured = folder, measured
        self.space = yaml.safe_load((folder / "space.yaml").read_text())
        stored = folder / "trials.csv"
        lines = list(csv.DictReader(stored.read_text().splitlines())) if stored.exists() else []
        self.stored = {line["run"]: line for line in lines}

    def points(self, method: str) -> list[Settings]:
        """Settings of a method's trials: the known ones, then points of the Sobol sequence."""
        axes, count = self.space["axes"], self.space["trials"]
        sequence = qmc.Sobol(len(axes), seed=0).random(count)[: count - 1]
        found = [self.space["known"][method]]
        found += [{name: _value(axes[name], float(u)) for name, u in zip(axes, point)} for point in sequence]
        kept = {"init_sigma": self.chosen("sid")["init_sigma"]} if method == "sid2a" else {}
        kept |= dict.fromkeys(WITHOUT.get(method, ()), "")
        return [{**point, **kept} for point in found]

    def trials(self, method: str) -> list[Trial]:
        """A method's short trials, then those of full length."""
        points, long = list(enumerate(self.points(method))), self.space["long"]
        found = [Trial(f"trial-{method}-{k}", method, k, self.space["short"], point) for k, point in points]
        if method == long["method"]:
            found += [
                Trial(f"long-{method}-{k}", method, k, self.space["full"], point)
                for k, point in points[: long["trials"]]
            ]
        return found

    def value(self, trial: Trial) -> float | None:
        """FD of a trial by the network that chooses; infinite if it is no number, None if it was not measured."""
        file = self.measured / trial.run / "trial-0.json"
        if file.exists():
            fd = json.loads(file.read_text())["metrics"]["fd_choice"]
            return math.inf if fd is None or not math.isfinite(fd) else float(f"{fd:.6g}")
        line = self.stored.get(trial.run, {})
        same = all(line.get(key) == str(value) for key, value in trial.row().items())
        return float(line["fd_choice"]) if same and line["fd_choice"] else None

    def short_values(self, method: str) -> list[float | None]:
        """Values of a method's short trials."""
        return [self.value(trial) for trial in self.trials(method) if trial.run.startswith("trial-")]

    def complete(self, method: str) -> bool:
        """Whether all short trials of a method have a value."""
        return (method != "sid2a" or self.complete("sid")) and None not in self.short_values(method)

    def chosen(self, method: str) -> Settings:
        """Settings of a method's best trial; the known ones until all trials have a value."""
        values = self.short_values(method) if self.complete(method) else [0.0]
        return self.points(method)[min(range(len(values)), key=lambda k: values[k] or 0)]

    def recipe(self, method: str, point: Settings, kimg: float) -> Settings:
        """Recipe of a method with a point of the space."""
        made = {**self.space["frame"], "total_kimg": kimg, "lr": point["lr"]}
        made["fake_score_lr"] = float(f"{point['lr'] * point['ratio']:.3g}")
        made |= {"betas": [point["beta1"], 0.99 if method == "gdd" else 0.999], "init_sigma": point["init_sigma"]}
        if method == "gdd":
            factor = self.space["weights"]["gdd"][point["adversarial"]]
            return made | {"options": {"backbones": ["clothes"], "loss_images": factor}}
        made["grad_clip_value"] = point["grad_clip_value"]
        if method != "sid":
            lambda_adv, lambda_d = self.space["weights"]["sida"][point["adversarial"]]
            made |= {"lambda_adv": lambda_adv, "lambda_d": lambda_d, "adversarial_kimg": 0}
        return made

    def write(self) -> None:
        """Writes all files that follow from the space and the trials."""
        trials = [
            trial for method in METHODS if method != "sid2a" or self.complete("sid") for trial in self.trials(method)
        ]
        half = self.space["short"] / 2
        recipes = {"sid-half": self.recipe("sid", self.chosen("sid"), half)}
        rows = [_line("half-sid", "sid", self.chosen("sid"), "sid-half")]
        for one in trials:
            # SiD2A starts after half of the images, from SiD with its chosen settings and σ_init.
            recipes[one.run] = self.recipe(one.method, one.point, half if one.method == "sid2a" else one.kimg)
            rows.append(_line(one.run, one.method, one.point, one.run, "half-sid" if one.method == "sid2a" else ""))
        table = [{**one.row(), "fd_choice": self.value(one)} for one in trials]
        _table(self.folder / "search.tsv", rows, "\t")
        _table(self.folder / "trials.csv", table, ",")
        _yaml(self.folder / "recipes/trials.yaml", recipes, "Settings of the search's trials, written by bench.py.")
        known = (
            ""
            if all(map(self.complete, METHODS))
            else " Methods whose trials are incomplete have their known settings."
        )
        _yaml(
            self.folder / "chosen.yaml", self.settings(), f"Settings that the search chose, written by bench.py.{known}"
        )

    def settings(self) -> Settings:
        """Samplers and recipes of the study's rows; SiD2A's images are half SiD's and half its own."""
        full, samplers, recipes = self.space["full"], {}, {}
        for method in METHODS:
            point = self.chosen(method)
            samplers[method] = {"kind": "one_step", "init_sigma": point["init_sigma"]}
            recipes[method] = self.recipe(method, point, full / 2 if method == "sid2a" else full)
        return {
            "samplers": samplers,
            "recipes": {**recipes, "sid-half": self.recipe("sid", self.chosen("sid"), full / 2)},
        }


def _value(axis: Settings, u: float) -> float:
    if "choices" in axis:
        choice: float = axis["choices"][int(u * len(axis["choices"]))]
        return choice
    low, high = (math.log(end) for end in axis["log"])
    return float(f"{math.exp(low + u * (high - low)):.3g}")


def _line(run: str, method: str, point: Settings, recipe: str, init: str = "") -> Settings:
    alpha, sampler = "" if method == "gdd" else "1.0", f"one-step-{point['init_sigma']}"
    return dict(zip(SHEET, (run, run, method, "one", init, alpha, f"trials/{recipe}", sampler)))


def _table(path: Path, rows: list[Settings], delimiter: str) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _yaml(path: Path, content: Settings, comment: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# {comment}\n{yaml.safe_dump(content, sort_keys=False)}")


def best_of(values: list[float], k: int) -> float:
    """Mean of the lowest of k values drawn from all without return."""
    ranked, count = sorted(values), len(values)
    return sum(math.comb(count - 1 - i, k - 1) * x for i, x in enumerate(ranked) if count - 1 - i >= k - 1) / math.comb(
        count, k
    )


def numbers(search: Search) -> None:
    """Prints the best of k trials by method, and the rank correlation of short and full length."""
    for method in METHODS:
        if search.complete(method):
            values = [value for value in search.short_values(method) if value is not None]
            curve = "  ".join(f"{k}: {best_of(values, k):.3f}" for k in (1, 2, 4, len(values)))
            print(f"{method}  trial {values.index(min(values))}  best of {curve}")
    pairs = [(search.value(one), search.value(two)) for one, two in _lengths(search)]
    if pairs and None not in sum(pairs, ()):
        print(f"rank correlation of {len(pairs)} settings: {spearmanr(*zip(*pairs)).statistic:.2f}")


def _lengths(search: Search) -> list[tuple[Trial, Trial]]:
    trials = {one.run: one for one in search.trials(search.space["long"]["method"])}
    return [(trials[run.replace("long", "trial")], one) for run, one in trials.items() if run.startswith("long")]


def train(preset: str, *rows: str) -> None:
    """Trains and measures rows, and writes what follows from them."""
    command = [sys.executable, "-m", "sida.workflow", "run", str(HERE / preset), *rows]
    subprocess.run([*command, *sys.argv[1:]], check=True)
    Search().write()


def main() -> None:
    """Searches, chooses and trains, in pieces."""
    if sys.argv[1:] == ["--numbers"]:
        return numbers(Search())
    Search().write()
    for methods in (METHODS[:3], METHODS[3:]):  # SiD2A starts from SiD with the settings that SiD's trials choose
        search = Search()
        trials = [trial for method in methods for trial in search.trials(method)]
        if wanted := [trial.run for trial in trials if search.value(trial) is None]:
            train("search.yaml", *wanted)
    train("preset.yaml", "--extend")


if __name__ == "__main__":
    main()
