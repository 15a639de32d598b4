"""A study with stored results is extended by a row, and a stored row is measured again."""

import os
import re
import shutil
import statistics
import sys
import types
from pathlib import Path

import pytest
import yaml

from sida.config.lookup import ROOT
from sida.eval.results import load
from sida.eval.results.logs import has_log, logs_of, read_evaluations, read_log
from sida.eval.results.measurements import load_measurements
from sida.eval.results.stored import FROM_STORED, read_stored, stored_rows, taken
from sida.files.atomic import jsonl_text, write_hashed_json
from sida.machine import environment
from sida.networks.file import load_network
from sida.workflow.cli import main
from sida.workflow.commands.check import Comparison, trial_agreement
from sida.workflow.preset import load_preset
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.extension import write_extension
from sida.workflow.preset.jobs import collection, networks_read, training
from sida.workflow.preset.lock import PresetLock
from sida.workflow.preset.targets import Targets
from tests.near import is_copy
from tests.refused import command, refused
from tests.workflow.workspace import put
from tools.store_study import halve, store, write_stored

DEMO = ROOT / "studies/demo"
STORED = DEMO / "stored"
SHEET = "run\tfamily\tlabel\tmethod\tteacher\talpha\trecipe\tsampler\tseed\n"
MINE = "mine\tOne Step\tMine\tsida\tdigits-short\t1.0\t{}\tone-step\t7\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def extended(sheet: Path | None, *changes: str) -> tuple[Targets, list[str]]:
    path, rows = write_extension([DEMO / "preset.yaml"], sheet and str(sheet), STORED)
    preset = load_preset(DEMO / "preset.yaml", path, *changes)
    check_preset(preset)
    return Targets(preset), rows


def test_only_the_added_row_has_jobs(here):
    put(here / "more/my.tsv", SHEET + MINE.format("mine/quick"))
    recipe = yaml.safe_load((DEMO / "preset.yaml").read_text())["recipes"]["sida"] | {"total_kimg": 2}
    put(here / "more/recipes/mine.yaml", yaml.safe_dump({"quick": recipe}))
    targets, rows = extended(here / "more/my.tsv")
    assert rows == ["mine"]
    results = "results/demo-my"
    trials = [f"{results}/measurements/mine/trial-{trial}.json" for trial in range(5)]
    assert targets.trials(targets.preset.measurable) == trials
    assert networks_read(targets.preset, targets.preset.measurable)["students"] == ["mine"]
    # The teacher is stored, so the added row trains from it.
    teacher = here / training(targets.preset, "mine").spec["teacher"]
    assert teacher.read_bytes() == (STORED / "teachers/digits-short/network.safetensors").read_bytes()
    assert (here / results / "students/sida-a1.0/train.jsonl").is_file()
    assert targets.figures == ["convergence", "samples"]
    assert set(collection(targets.preset).needs["stored"]) == set(read_stored(STORED)["rows"])
    refused("sida-a1.0: is taken from stored results", targets.paths_of, "sida-a1.0")


def test_a_dry_run_takes_the_stored_files_so_that_its_jobs_are_those_of_the_run(here, monkeypatch):
    put(here / "my.tsv", SHEET + MINE.format("sida"))
    monkeypatch.setattr(os, "execve", lambda *arguments: sys.exit(0))
    with pytest.raises(SystemExit):
        main(["run", str(DEMO / "preset.yaml"), "--extend", "my.tsv", "-n"])
    assert (here / "results/demo-my/students/sida-a1.0/train.jsonl").is_file()


def test_the_preset_of_a_run_at_work_stays(here):
    put(here / "my.tsv", SHEET + MINE.format("sida"))
    path, _ = write_extension([DEMO / "preset.yaml"], "my.tsv", STORED)
    before = [file.read_bytes() for file in sorted(path.parent.rglob("*.*"))]
    put(here / "my.tsv", SHEET + MINE.format("sid"))
    with PresetLock(path.parents[1], ["sida", "run"]):
        refused("demo-my: another workflow", write_extension, [DEMO / "preset.yaml"], "my.tsv", STORED)
    assert [file.read_bytes() for file in sorted(path.parent.rglob("*.*"))] == before


def test_rows_of_another_length_stand_apart_in_the_table(here):
    recipe = yaml.safe_load((DEMO / "preset.yaml").read_text())["recipes"]["sida"]
    put(here / "recipes/own.yaml", yaml.safe_dump({"same": recipe, "quick": recipe | {"total_kimg": 2}}))
    rows = [MINE.format(f"own/{name}").replace("mine", name, 1) for name in ("same", "quick")]
    (here / "my.tsv").write_text(SHEET + rows[0] + rows[1].replace("\t7", "\t8"))
    layout = {"columns": [{"head": "Model", "field": "label"}], "rows": [{"run": "sida-a1.0"}]}
    (here / "named.yaml").write_text(yaml.safe_dump(layout))
    (here / "changed.yaml").write_text(yaml.safe_dump({"tables": [str(here / "named.yaml")]}))
    path, _ = write_extension([DEMO / "preset.yaml", here / "changed.yaml"], "my.tsv", STORED)
    (table,) = (path.parent / "tables").iterdir()
    found = {row["run"]: row for row in yaml.safe_load(table.read_text())["rows"]}
    assert "family" not in found["same"]
    assert found["quick"]["family"].startswith("2 thousand")
    assert found["quick"]["candidate"] is False


def test_each_training_seed_is_shown_where_the_table_does_not_pool_them(here):
    seeds = [MINE.format("sida").replace("mine", f"mine-{seed}").replace("\t7", f"\t{seed}") for seed in (7, 8)]
    (here / "my.tsv").write_text(SHEET + "".join(seeds))
    for pooled, wanted in ((False, {"mine-7", "mine-8"}), (True, {"mine-7"})):
        layout = {
            "columns": [{"head": "Model", "field": "label"}],
            "rows": [{"run": "sida-a1.0", "pool_seeds": pooled}],
        }
        (here / "named.yaml").write_text(yaml.safe_dump(layout))
        (here / "changed.yaml").write_text(yaml.safe_dump({"tables": [str(here / "named.yaml")]}))
        path, _ = write_extension([DEMO / "preset.yaml", here / "changed.yaml"], "my.tsv", STORED)
        rows = yaml.safe_load((path.parent / "tables/named.yaml").read_text())["rows"]
        assert {row["run"] for row in rows} == wanted | {"sida-a1.0"}


def test_a_changed_row_and_its_children_run_again(here):
    (here / "changed.yaml").write_text(yaml.safe_dump({"recipes": {"sid": {"lr": 1e-3}}}))
    path, rows = write_extension([DEMO / "preset.yaml", here / "changed.yaml"], None, STORED)
    assert rows == ["sid-a1.0", "sid2a-a1.0"]
    targets = Targets(load_preset(DEMO / "preset.yaml", here / "changed.yaml", path))
    assert {path.split("/")[3] for path in targets.trials(targets.preset.measurable)} == {"sid-a1.0", "sid2a-a1.0"}


def test_a_stored_network_is_there_for_the_settings_that_it_has_alone(here):
    """Snakemake has no record of a copy, and would take it for the network of a row with changed settings."""
    teacher, student = "teachers/digits-short/network.safetensors", "students/sid-a1.0/network.safetensors"
    recipe, training = {"recipes": {"sid": {"lr": 1e-3}}}, {"teachers": {"digits-short": {"training": {"lr": 1e-3}}}}
    both = {teacher, student}
    for changes, copied in (({}, both), (recipe, {teacher}), (training, set()), ({}, both)):
        (here / "changed.yaml").write_text(yaml.safe_dump(changes))
        write_extension([DEMO / "preset.yaml", here / "changed.yaml"], None, STORED)
        found = {name: here / "results/demo-extended" / name for name in both}
        assert {name for name in both if found[name].exists()} == copied
        assert all(found[name].read_bytes() == (STORED / name).read_bytes() for name in copied)
    # Nor is that of a run with other settings.
    found[student].write_text("trained here")
    write_extension([DEMO / "preset.yaml"], None, STORED)
    assert found[student].read_bytes() == (STORED / student).read_bytes()


def test_pictures_of_networks_that_are_not_stored_are_left_out(here):
    shutil.copytree(STORED, here / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    path, _ = write_extension([DEMO / "preset.yaml"], None, here / "bare")
    targets = Targets(load_preset(DEMO / "preset.yaml", path))
    assert targets.figures == ["convergence"]
    assert "sida-a1.0" in targets.rows_without_network("samples")


@pytest.mark.parametrize(
    ("row", "fault"), [(MINE.format("sida").replace("mine", "SiDA-a1.0"), "'SiDA-a1.0'"), ("", "no rows|empty")]
)
def test_faulty_sheets_are_one_line(here, row, fault):
    (here / "my.tsv").write_text(SHEET + row if row else "")
    refused(fault, write_extension, [DEMO / "preset.yaml"], "my.tsv", STORED)
    refused(r"stored\.json is missing", write_extension, [DEMO / "preset.yaml"], None, here)
    assert not (here / "results").exists()


def test_tables_name_the_taken_rows(here):
    rows = taken(STORED, "data", "sida-a1.0") + [
        row | {"run": "mine", "origin": ""} for row in stored_rows(STORED) if row["run"] == "sid-a1.0"
    ]
    write_stored(here / "all", {}, rows)
    assert {row.origin.startswith(FROM_STORED) for row in load_measurements(here / "all").rows} == {True, False}
    lines = [SHEET, MINE.format("sida"), "sida-a1.0\tOne Step\tSiDA\tsida\tdigits-short\t1.0\tsida\tone-step\t0\n"]
    (here / "runs.tsv").write_text("".join(lines))
    command = ["table", "main", "--measurements", "all", "--runs", "runs.tsv", "--out", "t.tex"]
    assert main(command) == 0
    assert "1 rows. Measured here: mine." in (here / "t.md").read_text()
    refused("run 'nobody'", taken, STORED, "nobody")


def test_rows_that_are_all_stored_are_collected_and_stored_again(here):
    runs = list(read_stored(STORED)["rows"])
    assert (
        main(["collect", "none", "--runs", *runs, "--stored", str(STORED), *runs, "--out", "all/measurements.csv"]) == 0
    )
    store(here / "all", here / "again", {"preset": "demo", "title": ""}, read_stored(STORED)["rows"])
    assert stored_rows(here / "again") == stored_rows(STORED)
    # Rows that have no value in a column of the others.
    fashion = str(ROOT / "studies/fashion/stored")
    assert main(["collect", "none", "--runs", "data", "--stored", fashion, "data", "--out", "data.csv"]) == 0
    assert {row.held_out for row in load_measurements(here / "data.csv").rows} == {""}


def test_readers_of_results_read_stored_ones(here, capsys):
    assert main(["show", "demo"]) == 0
    assert "SiDA, α = 1.0" in capsys.readouterr().out
    settings = yaml.safe_load((DEMO / "preset.yaml").read_text())
    settings |= {"tables": [], "claims": None, "runs": str(DEMO / "runs.tsv")}
    (here / "bare.yaml").write_text(yaml.safe_dump(settings))
    assert main(["show", "bare.yaml"]) == 1
    assert main(["show", "demo", "--table", "mian"]) == 1
    assert re.fullmatch("error: show: demo has no .*\nerror: --table mian: .*'main'.*\n", capsys.readouterr().err)
    shutil.copytree(DEMO, here / "new", ignore=shutil.ignore_patterns("stored"))
    (here / "new/preset.yaml").write_text((DEMO / "preset.yaml").read_text().replace("preset: demo", "preset: new"))
    refused("new: has no results; run it: sida run new", command, "show", "new")
    assert main(["verify", str(STORED)]) == 0
    assert "4 parents in the folder" in capsys.readouterr().out


def test_a_stored_number_is_measured_again(capsys):
    # The data themselves: every processor draws the same images.
    assert main(["check", "demo", "data", "--trials", "0"]) == 0
    said = capsys.readouterr()
    assert re.search(r"numbers agree to the last digit, (\d+) as printed", said.out)
    assert all(f"\n{metric} " in said.out for metric in ("fd", "is", "precision"))
    assert "measuring 1 × 2,500 images: about " in said.err


def test_missing_archives_are_made_as_the_workflow_makes_them(here, capsys, monkeypatch):
    asked = []
    failing = lambda command, **_: asked.append(command) or types.SimpleNamespace(returncode=1)
    monkeypatch.setattr("sida.workflow.commands.check.subprocess.run", failing)
    assert main(["check", "fashion-anew", "data"]) == 1
    assert "datasets/fashion-28x28.zip: could not be made" in capsys.readouterr().err
    assert asked[0][-2:] == ["datasets/fashion-28x28.zip", "datasets/fashion-28x28-heldout.zip"]


def test_trials_and_metrics_that_cannot_be_compared_are_named(here, capsys, monkeypatch):
    # A path with a space is one path.
    shutil.copytree(DEMO, here / "my study", ignore=shutil.ignore_patterns("stored"))
    facts = {**read_stored(STORED), "preset": str(here / "my study/preset.yaml")}
    monkeypatch.setattr("sida.workflow.commands.check.read_stored", lambda folder: facts)
    rows = [row for row in stored_rows(STORED) if row["run"] == "data" and row["trial"] == "0"]
    values = {row["metric"]: float(row["value"]) for row in rows}
    monkeypatch.setattr("sida.workflow.commands.check.stored_rows", lambda folder: rows)
    assert main(["check", "demo", "data", "--trials", "0,1"]) == 1
    assert "--trials: trial 1 of row 'data' is not stored" in capsys.readouterr().err
    for known, status in (({"fd"}, 0), (set(), 1)):
        metrics = {key: value for key, value in values.items() if key in known}
        monkeypatch.setattr("sida.eval.measuring.measure.measure", lambda *_: [{"trial": 0, "metrics": metrics}])  # noqa: B023
        assert main(["check", "demo", "data"]) == status
        said = capsys.readouterr()
        assert "is (has values stored and here in 0 of 1 trials)" in said.out + said.err


def test_a_network_that_was_not_measured_is_refused(here, capsys, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir("/proc")  # nothing is written beside a study
        assert main(["check", "demo", "dat"]) == 1
    assert "did you mean 'data'" in capsys.readouterr().err
    shutil.copytree(STORED, here / "stored")
    network = "students/{}/network.safetensors"
    shutil.copyfile(STORED / network.format("sid-a1.0"), here / "stored" / network.format("sida-a1.0"))
    assert main(["check", str(here), "sida-a1.0"]) == 1
    assert "is not the network that row 'sida-a1.0' was measured of" in capsys.readouterr().err


def test_a_check_from_another_folder_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", str(ROOT / "studies/fashion"), "one-gdd-s1"]) == 1
    assert "the network of row 'one-gdd-s1' is not stored" in capsys.readouterr().err
    # The study of a user, which was stored from another folder.
    shutil.copytree(DEMO, tmp_path / "mine")
    facts = read_stored(tmp_path / "mine/stored") | {"preset": "mine/preset.yaml"}
    write_hashed_json(tmp_path / "mine/stored/stored.json", facts)
    sheet = tmp_path / "mine/runs.tsv"
    row = next(line for line in sheet.read_text().splitlines() if line.startswith("sid-a1.0"))
    sheet.write_text(f"{sheet.read_text()}{row.replace('sid-a1.0', 'further', 1)}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["check", "../mine", "further"]) == 1
    assert "row 'further' is not stored; `sida run" in capsys.readouterr().err


@pytest.mark.parametrize("facts", [{"rows": ["data"]}, {"rows": {"data": 1}}, {"preset": None}, {"preset": ["demo"]}])
def test_facts_of_another_type_are_one_line(here, facts):
    shutil.copytree(STORED, here / "stored", ignore=shutil.ignore_patterns("students", "teachers"))
    write_hashed_json(here / "stored/stored.json", read_stored(STORED) | facts)
    refused("stored.json: preset must be a text and rows", command, "check", here, "data")


def of_images(trial, count):
    return {"n": str(count), "seed_first": str(trial * count), "seed_last": str((trial + 1) * count - 1)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: [*rows, rows[0] | {"value": "0.5"}], "occurs twice"),
        (
            lambda rows: [row | of_images(int(row["trial"]), 50_000) for row in rows],
            "is of 50000 images, and .* measures 2500",
        ),
    ],
)
def test_stored_lines_that_are_not_of_the_measurement_are_refused(here, change, told):
    shutil.copytree(STORED, here / "stored", ignore=shutil.ignore_patterns("students", "teachers"))
    rows = [row for row in stored_rows(STORED) if row["run"] == "data"]
    write_stored(here / "stored", read_stored(STORED), change(rows))
    refused(told, command, "check", here, "data", "--trials", "0")


def test_a_copied_study_is_checked_with_its_own_preset_and_the_screen_names_it(here):
    shutil.copytree(DEMO, here / "demo", ignore=shutil.ignore_patterns("students", "teachers"))
    preset = here / "demo/preset.yaml"
    assert f"row data of {preset}," in command("check", here / "demo", "data", "--trials", "0")


def test_agreement_tells_the_last_digit_from_the_printed_ones():
    stored = {0: 4.712345678901234, 1: 4.812345678901234}
    same = trial_agreement("fd", stored, stored, decimals=2)
    assert (same.same, same.as_printed, same.printed) == (True, True, "4.76 ± 0.07")
    near = trial_agreement("fd", stored, {0: 4.712345678, 1: 4.812345678}, decimals=2)
    assert (near.same, near.as_printed) == (False, True)
    assert near.share < 1e-7
    far = trial_agreement("fd", stored, {0: 4.9, 1: 4.8}, decimals=2)
    assert not far.as_printed
    assert (same.is_near, near.is_near, far.is_near) == (True, True, False)
    # One trial has the scatter of those that are stored.
    for value, is_near in ((4.719, True), (4.721, False)):
        assert trial_agreement("fd", stored, {0: value}, decimals=3).is_near is is_near


@pytest.mark.parametrize("device", ["cpu (1 × Another, 1 thread)", None])
@pytest.mark.parametrize(("moved", "allowed"), [(0.05, True), (0.2, False)])
def test_a_check_allows_what_another_processor_moves(here, monkeypatch, capsys, device, moved, allowed):
    rows = [row for row in stored_rows(STORED) if (row["run"], row["metric"]) == ("data", "fd")]
    values = {int(row["trial"]): float(row["value"]) for row in rows}
    ours = environment("cpu")["device"]
    rows = [row | {"device": device or ours} for row in rows]
    monkeypatch.setattr("sida.workflow.commands.check.stored_rows", lambda folder: rows)
    difference = moved * statistics.stdev(values.values())
    again = [{"trial": trial, "metrics": {"fd": value + difference}} for trial, value in values.items()]
    monkeypatch.setattr("sida.eval.measuring.measure.measure", lambda *_: again)
    monkeypatch.setattr("sida.workflow.commands.check._formats", lambda preset: {"fd": (9, 1)})
    assert main(["check", "demo", "data"]) == (0 if device and allowed else 1)
    said = capsys.readouterr().out
    assert ("within 0.1 standard deviations" in said) is bool(device)


def test_storing_keeps_networks_where_asked(here):
    for networks, count in ((False, 0), (True, 4)):
        store(STORED, here / "a", {"preset": "demo", "title": ""}, {"sid-a1.0": "x"}, networks=networks)
        assert len([*(here / "a").rglob("*.safetensors")]) == count


def test_rows_that_are_stored_stay_when_others_join_them(here):
    digests, about = read_stored(STORED)["rows"], {"preset": str(DEMO / "preset.yaml"), "title": ""}
    for run in ("sid-a1.0", "sida-a1.0"):
        rows = [row for row in stored_rows(STORED) if row["run"] == run]
        write_stored(here / run, {"format": "sida-stored/1", "rows": {}}, rows)
        shutil.copytree(STORED / "students" / run, here / run / "students" / run)
        name = f"students/{run}/train.jsonl"
        (here / run / name).write_text(jsonl_text(dict(logs_of(STORED))[name]))
        assert store(here / run, here / "all", about, digests, networks=True, trials=5) == {run}
    assert list(read_stored(here / "all")["rows"]) == [run for run in digests if run in ("sid-a1.0", "sida-a1.0")]
    assert len([*(here / "all/students").iterdir()]) == 2
    # A stored row that is trained again keeps its log. Stored networks stay, whether or not those of new rows are.
    (here / "sid-a1.0/students/sida-a1.0").mkdir()
    (here / "sid-a1.0" / name).write_text(jsonl_text(dict(logs_of(STORED))[name][:2]))
    store(here / "sid-a1.0", here / "all", about, digests, trials=5)
    assert len([*(here / "all/students").iterdir()]) == 2
    assert dict(logs_of(here / "all"))[name] == dict(logs_of(STORED))[name]
    # A row of which trials are missing waits; one whose settings have changed leaves.
    store(here / "sid-a1.0", here / "all", about, digests | {"sida-a1.0": "other"}, networks=True, trials=5)
    assert list(read_stored(here / "all")["rows"]) == ["sid-a1.0"]
    refused("holds no measurements", store, here / "sid-a1.0", here / "all", about, digests, trials=11)


def test_the_log_of_a_start_is_stored_beside_the_row_that_needs_it(here):
    digests, about = read_stored(STORED)["rows"], {"preset": str(DEMO / "preset.yaml"), "title": ""}
    logs = dict(logs_of(STORED))
    rows = [row for row in stored_rows(STORED) if row["run"] == "sid2a-a1.0"]
    write_stored(here / "run", {"format": "sida-stored/1", "rows": {}}, rows)
    names = [f"students/{run}/train.jsonl" for run in ("sid2a-a1.0", "sid-a1.0", "sida-a1.0")]
    for name in names:
        (here / "run" / name).parent.mkdir(parents=True)
        (here / "run" / name).write_text(jsonl_text(logs[name]))
    store(here / "run", here / "all", about, digests, trials=5, before={"sid2a-a1.0": ["sid-a1.0"]})
    assert {*dict(logs_of(here / "all"))} == {*names[:2]}


@pytest.mark.parametrize("printed", ["4.73", "4.74"])
def test_a_network_becomes_float16_only_if_its_numbers_stay_as_printed(here, monkeypatch, capsys, printed):
    shutil.copytree(STORED, here / "stored")
    preset, asked = load_preset(DEMO / "preset.yaml"), []

    def again(spec, *_):
        asked.append(load_network(spec["network"])[0])
        return [Comparison("fd", "4.73", printed, False, 0.01, None)], []

    monkeypatch.setattr("tools.store_study.compared_again", again)
    path = here / "stored/students/sida-a1.0/network.safetensors"
    before, size = load_network(path)[0].state_dict(), path.stat().st_size
    assert halve(here / "stored", preset, "sida-a1.0").startswith("float16" if printed == "4.73" else "float32")
    assert path.stat().st_size < 0.6 * size if printed == "4.73" else path.stat().st_size == size
    for name, tensor in load_network(path)[0].state_dict().items():
        assert is_copy(tensor, before[name].half().float() if printed == "4.73" else before[name])
    # Others train from these.
    for row in ("sid-a1.0", "teacher-nfe35"):
        assert halve(here / "stored", preset, row).startswith("float32")
    assert len(asked) == 1
    assert main(["check", str(here), "sida-a1.0", "--trials", "99"]) == 1
    assert "--trials" in capsys.readouterr().err  # the file counts as the network that was measured
    shutil.copyfile(path, here / "stored/students/sid2a-a1.0/network.safetensors")
    assert main(["check", str(here), "sid2a-a1.0"]) == 1
    assert "is not the network that row 'sid2a-a1.0' was measured of" in capsys.readouterr().err


def test_stored_logs_are_one_file_that_every_reader_takes(here):
    found = dict(logs_of(STORED))
    assert {name.split("/")[0] for name in found} == {"students", "teachers"}
    store(STORED, here / "a", {"preset": "demo", "title": ""}, {})
    assert dict(logs_of(here / "a")) == found
    assert load(STORED).curves.equals(load(here / "a").curves)
    path = STORED / "students/sida-a1.0/evaluations.jsonl"
    assert has_log(path)
    assert [point.nimg for point in read_evaluations(path, "fd")] == [record["nimg"] for record in read_log(path)]


def test_links_in_stored_results_are_not_followed(here):
    name = "teachers/digits-short/network.safetensors"
    shutil.copytree(STORED, here / "stored")
    (here / "secret").write_text("secret")
    (here / "stored" / name).unlink()
    (here / "stored" / name).symlink_to(here / "secret")
    (here / "my.tsv").write_text(SHEET + MINE.format("sida"))
    refused(rf"{name}.*(link|ordinary)", write_extension, [DEMO / "preset.yaml"], str(here / "my.tsv"), here / "stored")
    refused(rf"{name}.*(link|ordinary)", store, here / "stored", here / "again", {}, {"sid-a1.0": "x"}, networks=True)
