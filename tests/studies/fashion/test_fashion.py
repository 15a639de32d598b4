"""The study `fashion`: its presets, the search's files and choice, and equal settings of its rows."""

import json
import shutil

import pytest
import yaml

from sida.config.lookup import ROOT
from studies.fashion.bench import Search, best_of
from workflow.preset import load_preset
from workflow.preset.checks import check_preset
from workflow.preset.extension import write_extension
from workflow.preset.trainings import training

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


@pytest.mark.parametrize("name", ["preset", "search", "teachers"])
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
    assert rows == ["one-matching-s1"]
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
