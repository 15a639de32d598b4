"""The study `fashion`: its presets, the search's files and choice, and equal settings of its rows."""

import csv
import itertools
import json
import shutil
from statistics import mean

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import beta

from sida.config.lookup import ROOT
from sida.eval.measuring.protocol import load_protocol
from sida.eval.results.stored import stored_rows
from sida.workflow.preset import load_preset
from sida.workflow.preset.checks import check_preset, search_remarks
from sida.workflow.preset.extension import write_extension
from sida.workflow.preset.jobs import training
from studies.fashion import scatter
from studies.fashion.bench import Search, best_of
from tests.plugins import needs
from tests.slow import quick_but

pytestmark = needs("judges")

STUDY = ROOT / "studies/fashion"


@pytest.fixture
def search(tmp_path):
    """The study's search in a folder of its own, without trials."""
    shutil.copy(STUDY / "space.yaml", tmp_path)
    return Search(tmp_path, tmp_path / "measured")


def measure(search, **values):
    """Writes FDs of trials, by method, as the workflow does."""
    for method, found in values.items():
        for number, value in enumerate(found):
            folder = search.measured / f"trial-{method}-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "trial-0.json").write_text(json.dumps({"metrics": {"fd_choice": value}}))


@pytest.mark.parametrize("name", ["preset", "search", "teachers", "fashion-anew"])
def test_the_presets_are_whole(name):
    check_preset(load_preset(STUDY / f"{name}.yaml"))


def test_files_of_the_search_follow_from_the_space_and_the_trials(search):
    shutil.copy(STUDY / "trials.csv", search.folder)
    type(search)(search.folder, search.measured).write()
    for name in ("search.tsv", "trials.csv", "chosen.yaml", "recipes/trials.yaml"):
        assert (search.folder / name).read_text() == (STUDY / name).read_text(), name


def test_the_best_trial_is_chosen_when_all_have_a_value(search):
    eight = [3.0, 2.0, None, 1.5, 9.0, 4.0, 5.0, 6.0]
    measure(search, sida=eight[:7])
    assert search.chosen("sida") == search.points("sida")[0]
    measure(search, sida=eight)
    assert search.chosen("sida") == search.points("sida")[3]
    measure(search, sid=eight)
    assert {point["init_sigma"] for point in search.points("sid2a")} == {search.points("sid")[3]["init_sigma"]}
    # Stored trials count only as long as their settings are the same.
    search.write()
    again = type(search)(search.folder, search.folder / "none")
    assert again.chosen("sida") == search.chosen("sida")
    again.space["axes"]["lr"]["log"][0] /= 2
    assert again.short_values("sida")[1:] == [None] * 7


def test_rows_differ_in_the_method_teacher_and_seed_alone():
    preset, frame = load_preset(STUDY / "preset.yaml"), yaml.safe_load((STUDY / "space.yaml").read_text())["frame"]
    rows = [run for run in preset.students if run.family != "Parent"]
    named = {(run.teacher, run.method, run.seed) for run in rows}
    assert len(named) == len(rows) == 24
    for run in rows:
        recipe = preset.settings.recipes[run.recipe]
        assert all(recipe.get(key) == value for key, value in frame.items())
        start = preset.settings.recipes["sid-half"]["total_kimg"] if run.init else 0
        assert recipe["total_kimg"] + start == 24
    assert all(preset.runs[run.init].seed == run.seed for run in rows if run.init)


def test_a_method_from_outside_is_one_training_beside_the_stored_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_ALLOW_CODE", "docs.examples")
    path, rows = write_extension([STUDY / "preset.yaml"], str(STUDY / "mine.tsv"), STUDY / "stored")
    assert rows == ["one-matching-s3"]
    check_preset(load_preset(STUDY / "preset.yaml", path))
    table = yaml.safe_load((path.parent / "tables/fashion.yaml").read_text())
    assert rows[0] in [row.get("run") for row in table["rows"]]


def test_best_of_k_is_the_mean_over_all_draws():
    assert [best_of([4.0, 1.0, 2.0], k) for k in (1, 2, 3)] == pytest.approx([7 / 3, 4 / 3, 1])


def test_the_network_that_chooses_does_not_report():
    """Nor does the network of GDD's discriminator, which is no extractor."""
    reported, chosen = (
        {metric["extractor"] for metric in yaml.safe_load((STUDY / f"protocols/{name}.yaml").read_text())["metrics"]}
        for name in ("fashion", "fashion-choice")
    )
    assert chosen
    assert not reported & chosen


def test_rows_and_trials_of_real_images_and_of_a_distance_as_loss(tmp_path):
    rows, more = ((STUDY / name).read_text().splitlines() for name in ("runs.tsv", "real.tsv"))
    lines = [dict(zip(part[0].split("\t"), line.split("\t"))) for part in (rows, more) for line in part[1:]]
    columns = list(dict.fromkeys(key for line in lines for key in line))
    sheet = tmp_path / "both.tsv"
    table = [columns, *([line.get(name, "") for name in columns] for line in lines)]
    sheet.write_text("\n".join(map("\t".join, table)))
    # The sheet awaits the settings that the search chooses; until then it has the known ones of σ_init.
    known = {"samplers": {"sida": {"init_sigma": 2.5}}, "recipes": {"sida": {"init_sigma": 2.5}}}
    (tmp_path / "trials.yaml").write_text(yaml.safe_dump(known))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"runs": str(sheet), **known}))
    check_preset(load_preset(STUDY / "real-search.yaml", tmp_path / "trials.yaml"))
    preset = load_preset(STUDY / "preset.yaml", tmp_path / "own.yaml")
    check_preset(preset)
    assert str(preset.runs["one-fd-loss-s1"].exposure) == "loss:clothes_plain"
    assert training(preset, "one-control-image-s1").spec["dataset"]["path"] == "datasets/fashion-28x28-by-one"


def test_trainings_anew_have_seeds_of_their_own_and_the_settings_of_the_first_block():
    first, anew = (load_preset(STUDY / f"{name}.yaml") for name in ("preset", "fashion-anew"))
    assert search_remarks(anew) == []
    rows = [run for run in anew.students if run.family == "One Step"]
    known = {first.rows[run.run].seed for run in first.students}
    assert len({run.seed for run in rows}) == len(rows) == 24
    others = [run for run in anew.students if run.recipe == "gdd-lite0"]
    assert len({run.seed for run in rows + others} - known) == 28
    for run in rows:
        ours, theirs = (training(preset, name).spec for preset, name in ((anew, run.run), (first, paired(run))))
        differing = {key for key in ours if ours[key] != theirs[key]} - {
            "name",
            "seed",
            "init",
            "parents",
            "evaluation",
        }
        assert not differing, run.run
    assert {str(run.exposure) for run in others} == {"loss:efficientnet_lite0"}
    recipes = anew.settings.recipes
    unlike = {key for key in recipes["gdd"] if recipes["gdd"][key] != recipes["gdd-lite0"][key]}
    assert unlike == {"options"}
    protocols = [load_protocol(STUDY / f"protocols/{name}.yaml") for name in ("fashion", "fashion-anew")]
    shared = [{metric.key: metric for metric in protocol.metrics} for protocol in protocols]
    assert {key for key in shared[1] if shared[1][key] != shared[0].get(key)} == {"fd_lite0"}


def paired(run):
    """Row of the first block with the teacher and method of a row."""
    return f"{run.teacher}-{run.method}-s1"


@pytest.fixture(scope="module")
def values():
    """Values of the first block by metric and row."""
    found = {}
    for row in stored_rows(STUDY / "stored"):
        found.setdefault(row["metric"], {}).setdefault(row["run"], []).append(float(row["value"]))
    return found


def of_method(values, metric, method):
    return mean(mean(trials) for run, trials in values[metric].items() if f"-{method}-" in run)


PAGE = (STUDY / "README.md").read_text()
METHODS = {"SiD": "sid", "SiDA": "sida", "SiD²A": "sid2a", "GDD": "gdd"}


def table(head):
    """Cells of the table of the page that begins with a cell, by the first cell of a row."""
    lines = PAGE[PAGE.index(f"\n| {head} |") + 1 :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(cells[0][1:], row[1:])) for row in cells[2:]}


def test_the_pages_tables_are_those_of_the_stored_rows(values):
    fds = table("teacher")
    for teacher in ("one", "two", "three"):
        for label, method in METHODS.items():
            found = [mean(values["fd"][f"{teacher}-{method}-s{seed}"]) for seed in (1, 2)]
            assert next(fds[teacher][key] for key in fds[teacher] if key.split(" §")[0] == label) == (
                f"{found[0]:.3f}, {found[1]:.3f}"
            )
    columns = {
        "FD, held-out": ("fd_heldout", 3, 1),
        "FD, pixels": ("fd_pixel", 1, 1),
        "precision": ("precision", 2, 1),
        "recall": ("recall", 2, 1),
        "accuracy": ("accuracy", 1, 100),
        "nearer": ("copies", 2, 1),
        "near copies": ("copies_tail", 2, 100),
    }
    shown = table("method")
    for label, row in shown.items():
        for head, (metric, decimals, scale) in columns.items():
            value = (
                mean(values[metric]["data"]) if label == "real images" else of_method(values, metric, METHODS[label])
            )
            text = row[head].removesuffix(" %")
            assert abs(float(text) - scale * value) <= 0.51 * 10 ** -len(text.split(".")[1]), (label, head)
            assert len(text.split(".")[1]) == (1 if text == "21.6" else decimals)


def test_the_page_names_every_training_again_and_bounds_copies(values):
    again = {}
    for name in ("again.csv", "real-rows.csv"):
        # Lines of larger files, whose hashes hold their places there.
        for row in csv.DictReader((STUDY / name).read_text().splitlines()):
            if row["metric"] == "fd" and (name == "again.csv" or "-sida-again-" in row["run"]):
                again.setdefault((name, row["run"]), []).append(float(row["value"]))
    assert len(again) == 8
    part = PAGE.split("**Trained again**")[1].split("`python studies")[0]
    for (_, run), trials in again.items():
        assert f"{mean(trials):.3f}" in part
        assert f"{mean(values['fd'][run.replace('sida-again', 'sida')]):.3f}" in part or "sid2a" in run
    tails = {run: sum(trials) * 5000 for run, trials in values["copies_tail"].items() if run != "data"}
    drawn_again, most = mean(values["copies_tail"]["data"]), round(max(tails.values()))
    bound = beta.ppf(0.95, most + 1, 10_000 - most) / drawn_again
    assert f"at most {100 * bound:.0f} % of its images are exact copies" in PAGE
    assert f"at most {most / 100:.1f} % for any generator, against {100 * drawn_again:.0f} % of training images" in PAGE


def test_the_page_can_be_read_in_minutes():
    assert sum(any(map(str.isalnum, word)) for word in PAGE.split()) <= 1200


def test_scatter_of_training_seeds_is_that_of_the_page():
    table = scatter.scatter(scatter.values_of())
    (line,) = (line for line in PAGE.splitlines() if line.startswith("| training seed (3)"))
    for method, row in table.iterrows():
        text = f"{row['training seed']:.1f} ({row['seed, low']:.0f} to {row['seed, high']:.0f})"
        assert text in line, (method, text)


@pytest.mark.parametrize("trial", quick_but({0.1}, [0.1, 1.0]))
def test_the_interval_of_the_scatter_of_seeds_has_its_coverage(trial):
    """Also where trials scatter as much as seeds; 400 blocks as large as the bench, in each of which seeds have 1."""
    source = np.random.default_rng(0)
    grid = list(itertools.product(map(str, range(400)), range(3), (1, 2), (0, 1)))
    values = pd.DataFrame(grid, columns=["method", "teacher", "seed", "trial"])
    runs = values.groupby(["method", "teacher", "seed"]).ngroup()
    values["value"] = 100 + source.normal(size=runs.max() + 1)[runs] + trial * source.normal(size=len(values))
    table = scatter.scatter(values)
    covered = (table["seed, low"] < 1) & (table["seed, high"] > 1)
    assert 0.92 < covered.mean() < 0.98
