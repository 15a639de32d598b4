"""``sida tune``: equal draws, edges, rungs, resumption, and the files it writes."""

import argparse
import csv
import json
import math
import shutil

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sida.files.atomic import append_jsonl
from tests.refused import refusing
from tests.workflow.small import small
from workflow.commands import tune
from workflow.preset import Preset
from workflow.preset.rehearsal import check_preset
from workflow.tuning import Axis, Tuning, beyond, draws, trial_recipe

LR = {"log": [1e-4, 1.6e-3]}
SPACE = {
    "preset": "small.yaml",
    "teachers": ["digits-short"],
    "draws": 4,
    "rungs": [{"total_kimg": 0.064}, {"total_kimg": 0.128, "settings": 2}],
    "methods": {
        "sid": {
            "method": "sid",
            "recipe": "sid",
            "sampler": "one-step",
            "alpha": 1.0,
            "space": {"lr": LR, "betas": {"choose": [[0, 0.999], [0.9, 0.999]]}},
        }
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    _, (_, config, *_) = small(tmp_path)
    (tmp_path / config).rename(tmp_path / "small.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def space(folder, **changes):
    (folder / "space.yaml").write_text(yaml.safe_dump({**SPACE, **changes}))
    return Tuning(folder / "space.yaml")


def train(tuning, value, seconds=1.0):
    """Stands for the workflow: each decided trial gets a log whose lowest value is ``value(trial)``."""
    trials = tuning.next_trials()
    for trial in trials:
        place = tuning.results / "students" / trial.run
        place.mkdir(parents=True)
        for nimg, fd in ((0, 0.5), (100, value(trial)), (200, 1.5 * value(trial))):
            append_jsonl(place / "evaluations.jsonl", {"nimg": nimg, "fd": fd if math.isfinite(fd) else None})
        tick = {"nan_count": 0, "samples": 200, "bad_steps": 0, "steps": 2}
        append_jsonl(place / "train.jsonl", {"nimg": 200, "seconds": seconds, **tick})
        (place / "network.safetensors").touch()
    return trials


@given(st.integers(2, 20), st.integers(0, 5), st.sampled_from(["sid", "dmd"]))
def test_draws_cover_each_axis_evenly(count, seed, method):
    axes = {"lr": Axis(log=(1e-4, 1e-2)), "b": Axis(choose=(1, 2)), "options.w": Axis(log=(1.0, 2.0))}
    found = draws(method, axes, count, seed)
    assert found == draws(method, axes, count, seed)
    for key, (low, high) in {"lr": (1e-4, 1e-2), "options.w": (1.0, 2.0)}.items():
        places = sorted(math.log(one[key] / low) / math.log(high / low) * count for one in found)
        # Three significant digits may cross a stratum's border.
        assert all(number - 0.1 * count <= place <= number + 1 + 0.1 * count for number, place in enumerate(places))
    values = [one["b"] for one in found]
    assert abs(values.count(1) - values.count(2)) <= 1


def test_beyond_an_edge_lies_one_setting_per_axis():
    axes = {"lr": Axis(log=(1e-4, 1.6e-3)), "w": Axis(log=(1.0, 16.0)), "b": Axis(choose=(1, 2))}
    best = {"lr": 1.1e-4, "w": 15.0, "b": 1}
    assert beyond(best, axes, 8) == {"lr": {**best, "lr": 5e-5}, "w": {**best, "w": 32.0}}
    assert beyond({"lr": 4e-4, "w": 4.0, "b": 2}, axes, 8) == {}


def test_a_shorter_trial_is_the_recipe_in_small():
    base = {"total_kimg": 12, "lr": 1e-3, "warmup_kimg": 1, "options": {"stage_kimg": 1.5, "q": 4}, "batch_size": 32}
    base["evaluation"] = {"every_kimg": 1.5, "num_samples": 2500}
    made = trial_recipe(base, {"lr": 2e-3, "options.q": 2}, 4)
    assert made["total_kimg"] == 4
    assert made["options"] == {"stage_kimg": 0.5, "q": 2}
    assert made["evaluation"] == {"every_kimg": 0.5, "num_samples": 2500}
    assert (made["lr"], made["batch_size"]) == (2e-3, 32)
    assert base["options"] == {"stage_kimg": 1.5, "q": 4}


def test_passes_follow_from_values_alone(folder):
    tuning = space(folder)
    first = train(tuning, lambda trial: trial.settings["lr"] * 1e4)
    assert [trial.name for trial in first] == ["1", "2", "3", "4"]
    edge = train(tuning, lambda trial: 0.1)
    assert [trial.name for trial in edge] == ["edge-lr"]
    assert edge[0].settings["lr"] < 1e-4
    last = train(tuning, lambda trial: 5.0 if trial.name.startswith("edge") else 3.0)
    slowest = min(first, key=lambda trial: trial.settings["lr"])
    assert [(trial.rung, trial.name) for trial in last] == [(1, "edge-lr"), (1, slowest.name)]
    assert tuning.next_trials() == []
    tuning.write_results()
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert len(rows) == 7
    assert {row["diverged"] for row in rows} == {""}
    chosen = yaml.safe_load((folder / "tuned.yaml").read_text())["recipes"]["sid-digits-short"]
    assert chosen["lr"] == json.loads(rows[-1]["settings"])["lr"] == last[1].settings["lr"]
    assert chosen["total_kimg"] == 0.256


def test_stored_trials_are_not_trained_again_and_a_diverged_one_is_last(folder):
    tuning = space(folder)
    first = train(tuning, lambda trial: math.nan if trial.name == "1" else 5.0)
    tuning.write_results()
    stored = (folder / "trials.csv").read_text()
    assert "inf,nan,yes" in stored
    assert not (folder / "tuned.yaml").exists()
    shutil.rmtree(tuning.results)
    again = Tuning(folder / "space.yaml")
    assert [trial.run for trial in again.trials()] == [trial.run for trial in first]
    assert [trial.diverged for trial in again.trials()] == [True, False, False, False]
    assert not {trial.run for trial in again.next_trials()} & {trial.run for trial in first}
    # Another draw is another setting, which no stored trial has.
    assert len(space(folder, seed=1).next_trials()) == 4
    (folder / "trials.csv").write_text(stored.replace(",5,", ",five,", 1))
    with refusing(r"trials\.csv: line 3"):
        Tuning(folder / "space.yaml")


def test_the_written_preset_is_valid_and_its_targets_exist(folder):
    tuning = space(folder)
    trials = tuning.next_trials()
    path, targets = tuning.write_preset(trials)
    written = Preset.load(path)
    check_preset(written)
    assert [*written.runs] == [trial.run for trial in trials]
    for trial, target in zip(trials, targets):
        spec = written.specs.student(trial.run)
        assert (spec["lr"], spec["total_kimg"]) == (trial.settings["lr"], 0.064)
        assert spec["on_divergence"] == "publish"
        assert target == f"students/{trial.run}/network.safetensors"
    assert written.results == tuning.preset.results


def test_a_method_with_an_initial_generator_follows_the_chosen_trial(folder):
    sid2a = {**SPACE["methods"]["sid"], "method": "sid2a", "init": "sid"}
    tuning = space(folder, methods={"sid2a": sid2a, **SPACE["methods"]})
    while tuning.next_trials()[0].method == "sid":
        train(tuning, lambda trial: 1 + abs(trial.settings["lr"] - 4e-4))
    start = tuning.chosen()["sid-digits-short"]
    trials = tuning.next_trials()
    assert all((trial.method, trial.init) == ("sid2a", start) for trial in trials)
    path, targets = tuning.write_preset(trials)
    written = Preset.load(path)
    check_preset(written)
    assert {written.runs[trial.run].init for trial in trials} == {start.run}
    assert not any(start.run in target for target in targets)
    while tuning.next_trials():
        train(tuning, lambda trial: 1 + abs(trial.settings["lr"] - 4e-4))
    tuning.write_results()
    recipes = yaml.safe_load((folder / "tuned.yaml").read_text())["recipes"]
    assert recipes["sid2a-digits-short-init"]["total_kimg"] == 0.128
    assert recipes["sid2a-digits-short-init"]["lr"] == start.settings["lr"]


def sid(**changes):
    return {"methods": {"sid": {**SPACE["methods"]["sid"], **changes}}}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (sid(init="sid3"), "methods.sid.init"),
        ({"teachers": ["digits-shrt"]}, "teachers"),
        ({"preset": "smal"}, "smal"),
        ({"rungs": [{"total_kimg": 2}, {"total_kimg": 1, "settings": 2}]}, "rungs"),
        ({"rungs": [{"total_kimg": 2}, {"total_kimg": 3}]}, "rungs"),
        (sid(recipe="sida"), "methods.sid.recipe"),
        (sid(space={"lr": {"log": [2, 1]}}), "log"),
        (sid(space={"lr": {}}), "log"),
    ],
)
def test_faults_name_the_key(folder, change, key):
    with refusing(key):
        space(folder, **change)


@pytest.mark.slow
def test_the_command_trains_all_passes(folder, capfd):
    space(folder)
    arguments = tune_arguments(folder)
    assert tune.run(arguments) == 0
    assert len(list(csv.DictReader((folder / "trials.csv").open()))) >= 6
    assert (folder / "tuned.yaml").exists()
    capfd.readouterr()
    assert tune.run(arguments) == 0  # complete: nothing is trained again
    assert "tune  " not in capfd.readouterr().out


@pytest.mark.slow
def test_a_setting_whose_training_diverges_is_a_trial(folder):
    method = {**SPACE["methods"]["sid"], "space": {"lr": {"choose": [1e-3, 1e30]}}}
    tuning = space(folder, methods={"sid": method}, draws=2, rungs=[{"total_kimg": 2}])
    assert tune.run(tune_arguments(folder)) == 0
    assert sorted(trial.diverged for trial in tuning.trials()) == [False, True]
    assert yaml.safe_load((folder / "tuned.yaml").read_text())["recipes"]["sid-digits-short"]["lr"] == 1e-3


def tune_arguments(folder):
    parser = argparse.ArgumentParser()
    tune.arguments(parser)
    return parser.parse_args([str(folder / "space.yaml"), "--cores", "2"])
