"""Jobs of presets: what each makes and reads, what its digest holds, each table and figure without the others."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from sida.assets.registry import load_registry
from sida.cli.main import parser_of
from sida.config.lookup import ROOT, our_object
from sida.config.named_files import find_file
from sida.config.settings import from_mapping
from sida.eval.measuring.monitor import monitor_facts
from sida.eval.measuring.protocol import load_protocol
from sida.eval.results.extended import read_extended
from sida.eval.results.sheet import read_runs
from sida.eval.tables.build import make_table
from sida.methods import DistillConfig
from sida.methods.distillation import student_digest
from sida.training import TeacherConfig
from sida.training.run_folder import teacher_digest
from sida.workflow.cli import all_verbs
from sida.workflow.preset import load_preset, preset_from
from sida.workflow.preset.jobs import (
    find_needs,
    measurement,
    most_gpus,
    product,
    sampled_rows,
    sampling,
    source_of,
    teacher_training,
    training,
)
from sida.workflow.preset.specs import Jobs, content_digest, own_digest, write_specs
from sida.workflow.preset.targets import Targets
from tests.plugins import needs
from tests.refused import refused
from tests.workflow.workspace import TINY, Workspace, changed, put, settings_of, shipped, study

DEMO = settings_of("demo")
PROTOCOL = read_extended(ROOT / "config/protocols/digits-five.yaml", by_name=True)


class Made(NamedTuple):
    """A job with its digests at the time when it was made."""

    spec: dict
    needs: dict
    own: str
    digest: str


def made_job(preset, stage: str, name: str, jobs: Jobs | None = None) -> Made:
    jobs = jobs or Jobs(preset)
    job = jobs.named(stage, name)
    return Made(job.spec, job.needs, own_digest(stage, job.spec), jobs.digest(stage, name))


def jobs(changes: dict) -> dict:
    """Jobs of the demo with changes, by name."""
    made = preset_from(changed(DEMO, changes), "demo.yaml")
    named = [("teachers", name) for name in made.trained_teachers]
    named += [("students", run.run) for run in made.students] + [("measurements", run) for run in made.runs]
    named += [("samples", f"{run}/trial-0") for run in sampled_rows(made)]
    named += [(kind, name) for kind in ("tables", "figures") for name in made.layouts[kind]]
    each = Jobs(made)
    return {"/".join(name): made_job(made, *name, each) for name in named}


def touched(changes: dict, digest: str = "own", since: dict | None = None) -> set[str]:
    """Jobs whose digest a change touches."""
    before, after = jobs(since or {}), jobs(changes)
    assert set(after) == set(before)
    return {name for name in before if getattr(before[name], digest) != getattr(after[name], digest)}


@pytest.fixture
def protocol(tmp_path):
    """Writes the demo's protocol with changes in another place; returns the change of the preset."""

    def write(**changes) -> dict:
        path = tmp_path / "elsewhere.yaml"
        path.write_text(yaml.safe_dump({**PROTOCOL, **changes}))
        return {"protocol": str(path)}

    return write


def test_a_changed_key_touches_its_own_jobs(protocol):
    students, figures = {"students/sida-a1.0", "students/sid2a-a1.0"}, {"figures/samples"}
    measured = {name for name in jobs({}) if name.startswith("measurements/")}
    assert touched({"recipes/sida/lambda_d": 3}) == {"students/sida-a1.0"}
    sampled = {"measurements/teacher-nfe35", "samples/teacher-nfe35/trial-0"}
    assert touched({"samplers/heun-18/S_churn": 10}) - figures == sampled
    # A protocol counts by its content: not by its place, and not by its texts for people.
    metrics = PROTOCOL["metrics"]
    for unseen in ({}, {"title": "Other words", "notes": ""}, {"metrics": [one | {"label": "X"} for one in metrics]}):
        assert touched(protocol(**unseen) | {"title": "Other", "gpus": 1, "claims": None}) == set()
    more = [{**metric, "k": 5} if metric["kind"] == "recall" else metric for metric in metrics]
    # A metric changes no training, whether or not the protocol says what trainings watch.
    for changes in (more, [*metrics, {**metrics[0], "key": "fd_glyphs", "extractor": "glyphs"}]):
        assert touched(protocol(metrics=changes)) - figures == measured
    assert touched(protocol(watch=None)) >= students


def test_a_digest_holds_those_of_the_jobs_above():
    below = {f"{kind}/{run}" for kind in ("students", "measurements") for run in ("sid-a1.0", "sid2a-a1.0")}
    below |= {"samples/sid-a1.0/trial-0", "samples/sid2a-a1.0/trial-0"}
    below |= {"tables/main", "figures/samples", "figures/convergence"}
    assert touched({"recipes/sid/total_kimg": 3}, "digest") == below
    of_teacher = touched({"teachers/digits-short/training/total_kimg": 3}, "digest")
    assert {*jobs({})} - of_teacher == {"measurements/data", "samples/data/trial-0"}


def test_settings_that_change_no_result_are_no_reason_to_train_again(protocol):
    mine = {"kind": "zip", "path": "a.zip", "resolution": 8, "channels": 1, "label_dim": 10}
    since = {"datasets": {"mine": mine}, "dataset": "mine"}
    changes = since | {"datasets": {"mine": mine | {"cache": True}}}
    for part in ("recipes/sida", "teachers/digits-short/training"):
        unseen = {"state_minutes": 7, "pictures": 0, "on_divergence": "stop"}
        changes |= {f"{part}/{key}": value for key, value in unseen.items()}
    assert {name.partition("/")[0] for name in touched(changes, since=since)} <= {"tables", "figures"}
    for changes in ({"trials": PROTOCOL["trials"] + 1}, {"ddof": 0}, {"is_spread": "splits"}):
        found = {name.partition("/")[0] for name in touched(protocol(**changes), "digest")}
        assert not found & {"students", "teachers"}


@pytest.mark.slow
def test_a_chain_of_rows_longer_than_pythons_stack(tmp_path):
    common = {"label": "R", "teacher": "digits-short", "sampler": "one-step"}
    rows = {f"r{i}": common | {"method": "sid2a", "recipe": "sid2a", "init": f"r{i - 1}"} for i in range(1, 1500)}
    rows["r0"] = common | {"method": "sid", "recipe": "sid"}
    preset = study(tmp_path, {"tables": [], "figures": []}, rows)
    assert made_job(preset, "measurements", "r1499").needs["students"] == ["r1499"]


def test_a_recipe_of_ones_own_goes_before_the_shared_ones(tmp_path):
    own = {"sida": {"total_kimg": 1, "batch_size": 8, "lr": 1}}
    changes = {"rows/sida-a1.0/recipe": "imagenet64/sida", "recipes/imagenet64.yaml": own}
    assert training(study(tmp_path, changes | {"figures": []}), "sida-a1.0").spec["total_kimg"] == 1


@pytest.mark.parametrize("name", ["demo", "released"])
def test_a_protocol_by_content_is_the_same_protocol(name):
    preset = shipped(name)
    for path in {row.protocol_path for row in preset.rows.values()}:
        protocol = load_protocol(path)
        content = json.loads(json.dumps(protocol.content()))
        assert load_protocol(content).facts() == protocol.facts()
    for run in preset.students:
        if (evaluation := training(preset, run.run).spec["evaluation"]) is not None:
            kwargs = evaluation["kwargs"]
            by_path = {**kwargs, "protocol": preset.rows[run.run].protocol_path, "dataset": None}
            assert monitor_facts(**{**kwargs, "dataset": None}) == monitor_facts(**by_path)


def test_digests_of_recorded_runs_stay():
    """Finished runs of the versions before are known as finished."""
    tiny = shipped(TINY)
    teacher = from_mapping(TeacherConfig, teacher_training(tiny, "digits-short").spec, "teacher")
    assert teacher_digest(teacher, "data")[:16] == "015b279590057ae2"
    recorded = {"sid-a1.0": "d7619e5fbe91efb4", "sida-a1.0": "7d7210f943b294d9", "sid2a-a1.0": "aaebefb112bec467"}
    for run, digest in recorded.items():
        student = from_mapping(DistillConfig, training(tiny, run).spec, run)
        assert student_digest(student, "data", {"teacher": "t"})[:16] == digest


def test_specs_are_written_where_they_say_something_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset, named = preset_from(DEMO, "demo.yaml"), ["students/sida-a1.0", "samples/sida-a1.0/trial-3", "preset"]
    path, other, _ = (tmp_path / f"results/demo/specs/{name}.json" for name in named)
    write_specs(preset, named)
    assert json.loads(path.read_text())["method"] == "sida"
    assert json.loads(other.read_text())["seeds"] == "7500-9999"
    for file in (path, other):
        os.utime(file, (1, 1))
    other.write_text("{}")
    write_specs(preset, named)
    assert path.stat().st_mtime == 1
    assert json.loads(other.read_text())["seeds"] == "7500-9999"


def test_tables_get_their_rows_and_are_the_same(tmp_path):
    preset, stored = shipped("afternoon"), ROOT / "studies/afternoon/stored"
    measured, own, every = next(stored.glob("measurements.csv*")), tmp_path / "own.json", tmp_path / "every.json"
    # The rows as the preset reads them: their options and starts say which networks they met.
    rows = [row for name in preset.layouts["tables"] for row in product(preset, "tables", name).spec["runs"]]
    every.write_text(json.dumps({"runs": [*{row["run"]: row for row in rows}.values()]}))
    for name, layout in preset.layouts["tables"].items():
        spec = product(preset, "tables", name).spec
        own.write_text(json.dumps(spec))
        assert 0 < len(read_runs(own)) < len(preset.runs)
        sheets = (every, own)
        first, second = (make_table(layout, measured, runs, spec=spec, results=stored) for runs in sheets)
        assert first == second


@pytest.mark.parametrize("name", [None, "digits"])
def test_a_table_has_the_scatter_of_a_training_that_the_preset_names(name):
    spec = product(preset_from(settings_of("afternoon") | {"retraining": name}), "tables", "main").spec
    assert ("retraining" in spec, "std" in spec.get("retraining", {})) == (name is not None,) * 2


@pytest.mark.parametrize(
    ("gpus", "batch_size", "batch_gpu", "used"),
    [(0, 512, 64, 0), (8, 512, 64, 8), (8, 512, None, 8), (8, 192, 32, 6), (5, 192, 32, 3), (1, 7, 7, 1)],
)
def test_a_training_has_gpus_with_equal_numbers_of_whole_batches(gpus, batch_size, batch_gpu, used):
    assert most_gpus(gpus, batch_size, batch_gpu) == used


def test_products_and_short_names():
    demo = shipped("demo")
    targets = Targets(demo)
    products = targets.tables_and_figures()
    assert len(products) == len(set(products)) == 1 + 4 + 2 * 3 + 2
    assert {"results/demo/tables/main.tex", "results/demo/figures/samples.png"} < set(products)
    assert targets.paths_of("data") == [f"results/demo/measurements/data/trial-{trial}.json" for trial in range(5)]
    assert targets.paths_of("tables/main.tex") == targets.paths_of("results/demo/tables/main.tex")
    assert len(targets.paths_of("figures/")) == 6
    assert targets.paths_of("samples/sida-a1.0/trial-0") == ["results/demo/samples/sida-a1.0/trial-0"]
    assert targets.paths_of("measurements") == ["results/demo/measurements.csv"]
    assert "results/demo/teachers/digits-short/network.safetensors" in targets.paths_of("networks")
    assert "results/demo/samples/sida-a1.0/trial-4" in targets.paths_of("samples")
    downloads = Targets(shipped("released")).paths_of("downloads")
    assert {"results/released/assets/inception.json", "results/released/assets/fid-ref-cifar10.json"} < {*downloads}
    refused(r"^sida-b1: .*'sida-a1.0'", targets.paths_of, "sida-b1")
    refused(r"^samples/sida-a1.0/trial-5: .*trial-0 to trial-4$", targets.paths_of, "samples/sida-a1.0/trial-5")
    refused(r"^samples/sida-a1.0/trial-01: no product", targets.paths_of, "samples/sida-a1.0/trial-01")
    for path in ("./results/demo/tables/main.tex", str(Path("results/demo/tables/main.tex").absolute())):
        assert targets.paths_of(path) == ["results/demo/tables/main.tex"]
    refused(r"^/results/demo/tables/main.tex: no product", targets.paths_of, "/results/demo/tables/main.tex")
    refused(r"^samples/sida-b1/trial-0: no product", targets.paths_of, "samples/sida-b1/trial-0")
    refused(r"^main: no product .*'tables/main.tex'", targets.paths_of, "main")
    refused(r"^convergence.csv: no product .*'figures/convergence.csv'", targets.paths_of, "convergence.csv")


def test_what_trainings_and_measurements_read():
    demo, released, paper = map(shipped, ("demo", "released", "paper"))
    needs = training(demo, "sid2a-a1.0").needs
    found = {kind: names for kind, names in needs.items() if names}
    assert found == {"teachers": ["digits-short"], "students": ["sid-a1.0"]}
    assert demo.starts == {"sid-a1.0"}
    assert measurement(demo, "teacher-nfe35").needs["teachers"] == ["digits-short"]
    assert not any(measurement(demo, "data").needs.values())
    run = released.runs["cifar10-uncond-sida-a1"]
    needs = measurement(released, run.run).needs
    assert (needs["imports"], needs["downloads"]) == ([run.checkpoint], ["fid-ref-cifar10", "inception"])
    needed = {"fid-ref-img512", "inception", "dinov2-vitl14", "dinov2-code", "sd-vae-ft-mse", "sd-vae-ft-mse-config"}
    assert needed | {"labels-imagenet"} == {*measurement(released, "edm2-xs-sida").needs["downloads"]}
    # A method that sees no images needs counts of classes and no archive.
    assert "labels-imagenet" in training(paper, "edm2-xs-sid").needs["downloads"]
    assert not training(paper, "edm2-xs-sid").needs["files"]
    assert training(paper, "edm2-xs-sida").needs["files"]


def test_a_training_reads_the_images_of_a_reference_that_it_measures(tmp_path):
    shape = {"kind": "zip", "path": "mine.zip", "resolution": 8, "channels": 1, "label_dim": 10}
    counted = {"num_images": 50, "counts": "labels-imagenet", "made_from": {"source": "cifar10-python"}}
    changes = {"datasets": {"mine": shape | counted}, "dataset": "mine", "protocol": "p.yaml"}
    changes |= {"tables": [], "figures": []}
    own = read_extended(ROOT / "tests/workflow/tiny-protocol.yaml", by_name=True)
    stored = {"kind": "statistics", "asset": "fid-ref-cifar10"}
    for reference, files in ((stored, []), ({"kind": "dataset"}, ["mine.zip"])):
        preset = study(tmp_path, changes | {"p.yaml": own | {"references": {"data": reference}}})
        assert training(preset, "sid-a1.0").needs["files"] == files


def test_an_archive_is_an_input_of_what_draws_its_classes(tmp_path):
    shape = {"kind": "zip", "path": "mine.zip", "resolution": 8, "label_dim": 10}
    data = {"datasets": {"mine": shape | {"made_from": {"source": "cifar10-python"}}}, "dataset": "mine"}
    metric = {"key": "fid", "kind": "frechet", "extractor": "inception", "reference": "data"}
    asked = {"name": "p", "num_samples": 9, "trials": 1, "metrics": [metric]}
    asked["references"] = {"data": {"kind": "statistics", "asset": "fid-ref-cifar10"}}
    changes = data | {"protocol": "p.yaml", "tables": [], "figures": []}
    for distribution, files in (("empirical", ["mine.zip"]), ("uniform", [])):
        preset = study(tmp_path, changes | {"p.yaml": asked | {"label_dist": distribution}})
        assert measurement(preset, "sid-a1.0").needs["files"] == files
        assert sampling(preset, "sid-a1.0/trial-0").needs["files"] == files


def test_an_own_archive_is_an_input_of_what_opens_it_and_counts_by_size_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = {"kind": "zip", "path": "mine.zip", "resolution": 8, "channels": 1, "label_dim": 10}
    changes = {"datasets": {"mine": own}, "dataset": "mine", "tables": [], "figures": []}
    made = []
    for content in ("", "a", "a"):
        put(tmp_path / "mine.zip", content)
        os.utime(tmp_path / "mine.zip", ns=(7, 7))
        preset = study(tmp_path, changes)
        names = {"teachers": "digits-short", "students": "sid-a1.0", "measurements": "sid-a1.0"}
        made.append([made_job(preset, *name) for name in names.items()])
    for first, second, same in zip(*made, strict=True):
        assert [Path(path).name for path in first.needs["files"]] == ["mine.zip"]
        assert first.digest != second.digest == same.digest
        assert first.own == second.own
    (tmp_path / "mine.zip").unlink()
    assert not training(study(tmp_path, changes), "sid-a1.0").needs["files"]


def test_custom_code_is_an_input_and_counts_by_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_ALLOW_CODE", "mine")
    rows, found = {"mine": {"label": "Mine", "method": "external", "checkpoint": "mine:sample"}}, []
    for text in ("def sample(seeds): ...\n", "def sample(seeds): pass\n"):
        (tmp_path / "mine.py").write_text(text)
        content_digest.cache_clear()
        found.append(made_job(study(tmp_path, {"tables": [], "figures": []}, rows), "measurements", "mine"))
    first, second = found
    assert first.needs["files"] == ["mine.py"]
    (tmp_path / "pictures").mkdir()
    rows["mine"]["checkpoint"] = "pictures"
    assert (
        measurement(study(tmp_path, {"tables": [], "figures": []}, rows), "mine").needs["files"][0].endswith("pictures")
    )
    assert (first.own, first.digest == second.digest) == (second.own, False)
    assert source_of("mine.nowhere:f") is None


@needs("meanflow")
def test_code_of_data_methods_and_networks_is_an_input_wherever_python_finds_it(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setenv("SIDA_ALLOW_CODE", "path_data,path_method,path_network")
    lines = {
        "path_data": "def opened(config, **views): ...",
        "path_method": "from sida.plugins.meanflow.method import MEANFLOW as METHOD",
        "path_network": "from sida.networks.precond import Precond\n\n\nclass Net(Precond): ...",
    }
    for name, text in lines.items():
        put(tmp_path / f"lib/{name}.py", f"{text}\n")
    recipe = {"total_kimg": 1, "batch_size": 32, "lr": 1e-3, "network": {"class": "path_network:Net", "kwargs": {}}}
    row = {"label": "M", "method": "path_method:METHOD", "recipe": "mine", "sampler": "one-step"}
    data = {"kind": "path_data:opened", "resolution": 8, "channels": 1, "label_dim": 10}
    changes = {"tables": [], "figures": [], "recipes/mine": recipe, "datasets": {"mine": data}, "dataset": "mine"}
    made = []
    for edited in ("", *lines):
        if edited:
            put(tmp_path / f"lib/{edited}.py", f"{lines[edited]}\n# edited\n")
        content_digest.cache_clear()
        preset = study(tmp_path, changes, {"mine": row})
        made.append([made_job(preset, stage, "mine") for stage in ("students", "measurements")])
    assert {Path(path).stem for path in made[0][0].needs["files"]} == {*lines}
    assert [Path(path).stem for path in made[0][1].needs["files"]] == ["path_data"]
    assert all(len({job.digest for job in each}) == 4 for each in zip(*made, strict=True))
    assert source_of("json:dumps") is source_of("numpy:load") is None


JUDGE = """from sida.eval.features.pixels import PixelExtractor


class Judge(PixelExtractor):
    assets = ("inception",)
"""


@pytest.mark.parametrize(("watch", "trained"), [(["fd"], False), (["fd", "own"], True)])
def test_code_and_downloads_of_a_metric_reach_a_training_that_watches_it(tmp_path, monkeypatch, watch, trained):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SIDA_ALLOW_CODE", "own_judge")
    own = {"key": "own", "kind": "frechet", "extractor": "own_judge:Judge", "reference": "data"}
    protocol = PROTOCOL | {"metrics": [*PROTOCOL["metrics"], own], "watch": watch}
    made = {"students": [], "measurements": []}
    for text in (JUDGE, f"{JUDGE}\n# edited\n"):
        (tmp_path / "own_judge.py").write_text(text)
        content_digest.cache_clear()
        preset = study(tmp_path, {"tables": [], "figures": [], "protocol": "p.yaml", "p.yaml": protocol})
        for stage, jobs_made in made.items():
            jobs_made.append(made_job(preset, stage, "sid-a1.0"))
    for stage, reads in (("students", trained), ("measurements", True)):
        first, second = made[stage]
        assert ("own_judge.py" in first.needs["files"], "inception" in first.needs["downloads"]) == (reads, reads)
        assert (first.digest != second.digest) == reads, stage


CONFIG, PAPERS, AFTERNOON = ROOT / "config", ROOT / "studies/papers", ROOT / "studies/afternoon"
STUDENTS = ("sid-a1.0", "sida-a1.0", "sid2a-a1.0")


@pytest.mark.parametrize(
    ("preset", "layout", "measured", "networks"),
    [
        ("demo", CONFIG / "figures/convergence.yaml", {"teacher-nfe35", *STUDENTS}, {*STUDENTS}),
        ("demo", CONFIG / "figures/samples.yaml", set(), {"data", "teacher-nfe35", *STUDENTS}),
        ("released", PAPERS / "tables/table1.yaml", {"cifar10-uncond-sida-a1"}, set()),
        ("released", PAPERS / "tables/table4.yaml", {"edm2-xs-sid"}, set()),
        ("afternoon", AFTERNOON / "tables/digits-table8.yaml", set(), {"t30-sid", "t30-sida"}),
    ],
)
def test_a_layout_names_the_rows_that_it_shows(preset, layout, measured, networks):
    """Curves and settings read logs, grids networks; columns and variables are filled in."""
    needs = find_needs(layout.parent.name, layout, shipped(preset).runs)
    assert measured <= set(needs.measured)
    assert networks <= set(needs.networks)
    assert measured or not needs.measured


def test_a_faulty_layout_needs_every_row_and_leaves_the_message_to_the_builder(tmp_path):
    layout = tmp_path / "x.yaml"
    layout.write_text("columns: [{head: A, field: label}]\nrows: [{each: {method: gdd}}]\n")
    for path in (layout, tmp_path / "none.yaml"):
        assert find_needs("tables", path, shipped("demo").runs).measured == list(shipped("demo").runs)


def test_a_preset_carries_its_data_sets_protocol_and_layouts(tmp_path, monkeypatch):
    own, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    elsewhere.mkdir()
    document = settings_of("demo")
    document |= {"runs": "runs.tsv", "dataset": "mine", "protocol": "mine", "tables": ["mine"]}
    document["datasets"] = {"mine": {"kind": "zip", "path": "data/mine.zip", "resolution": 8, "label_dim": 10}}
    document["datasets"]["made"] = {"kind": "zip", "path": "made.zip", "made_from": {"source": "pictures"}}
    put(own / "pictures/a.png")
    preset_file = put(own / "preset.yaml", yaml.safe_dump(document))
    shutil.copy(ROOT / "studies/demo/runs.tsv", own / "runs.tsv")
    protocol = yaml.safe_load((ROOT / "config/protocols/digits.yaml").read_text())
    protocol["references"]["heldout"] = {"kind": "dataset", "dataset": "mine", "fixed": True}
    put(own / "protocols/mine.yaml", yaml.safe_dump(protocol))
    put(own / "tables/mine.yaml", "extends: main.yaml\n")
    put(own / "data/mine.zip", "")
    monkeypatch.chdir(elsewhere)
    preset = load_preset(preset_file)
    spec = measurement(preset, "sida-a1.0").spec
    place = {"name": "mine", "path": str(own / "data/mine.zip")}
    assert spec["dataset"] == document["datasets"]["mine"] | place
    assert load_protocol(spec["protocol"]).name == "digits"
    assert spec["protocol"]["references"]["heldout"]["spec"] == spec["dataset"]
    assert Path(preset.rows["sida-a1.0"].protocol_path) == own / "protocols/mine.yaml"
    assert preset.layout("tables", "mine") == own / "tables/mine.yaml"
    assert preset.data.origin("made").source == str(own / "pictures")
    # Settings as JSON mean the same without the folder: the builder of Table 8 gets them so.
    assert preset_from(dataclasses.asdict(preset.settings)).runs == preset.runs


@pytest.mark.parametrize("fixed", [True, False])
def test_a_measurement_waits_for_its_rows_data_only_if_it_opens_them(fixed, tmp_path):
    """A reference that is the same for all rows is another data set."""
    protocol = yaml.safe_load((ROOT / "config/protocols/digits.yaml").read_text()) | {"label_dist": "uniform"}
    protocol["references"] = {"data": {"kind": "dataset", "dataset": "theirs" if fixed else "digits", "fixed": fixed}}
    datasets = {
        name: {"kind": "zip", "path": f"{name}.zip", "resolution": 8, "label_dim": 10} for name in ("mine", "theirs")
    }
    for name in datasets:
        put(tmp_path / f"{name}.zip", "")
    preset = study(tmp_path, {"protocol": "own.yaml", "dataset": "mine", "datasets": datasets, "own.yaml": protocol})
    needed = {Path(name).name for name in measurement(preset, "sid-a1.0").needs["files"]}
    assert needed == {"theirs.zip" if fixed else "mine.zip"}


def test_a_layout_by_its_path_makes_a_product_of_its_name(tmp_path):
    layout = {"extends": "../../config/tables/main.yaml"}
    preset = study(tmp_path, {"tables": ["lay/mine.yaml"], "lay/mine.yaml": layout})
    assert f"{preset.results}/tables/mine.tex" in Targets(preset).tables_and_figures()
    assert preset.layout("tables", "mine") == tmp_path / "lay/mine.yaml"


def test_an_archive_is_made_of_an_installed_folder_where_there_is_one_else_of_downloads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    origin = {"source": "fashion-mnist-train-images", "beside": ["fashion-mnist-train-labels"], "installed": "here"}
    shape = {"kind": "zip", "path": "mine.zip", "resolution": 28, "channels": 1, "label_dim": 10}
    preset = study(tmp_path, {"datasets": {"mine": {**shape, "made_from": origin}}, "dataset": "mine"})
    assert preset.archives.needs("mine.zip")["downloads"] == [origin["source"], *origin["beside"]]
    targets = {load_registry()[name].target for name in (origin["source"], *origin["beside"])}
    assert len({Path(target).parent for target in targets}) == 1
    assert preset.archives.flags("mine.zip")[:2] == ["--source", origin["source"]]
    assert preset.archives.flags("mine.zip")[-2:] == ["--channels", "1"]
    (tmp_path / "here").mkdir()
    assert preset.archives.needs("mine.zip")["downloads"] == []
    assert preset.archives.flags("mine.zip")[:2] == ["--source", "here"]


def test_the_command_reads_the_flags_of_each_archive_of_the_papers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archives = shipped("paper").archives
    verb = all_verbs()["data"]
    parser = parser_of("data", our_object(verb.object), verb.help)
    encoded = {path for path in archives.made if archives.made_from(path).dataset}
    assert encoded
    assert encoded < {*archives.made}
    for path in archives.made:
        for source in archives.needs(path)["files"]:
            put(tmp_path / source, "")
        args = parser.parse_args(["encode" if path in encoded else "prepare", *archives.flags(path)])
        assert args.out == path


def test_a_name_is_looked_for_in_the_presets_folder_then_here_then_in_the_checkout(tmp_path, monkeypatch):
    own, here = tmp_path / "study", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert find_file("protocols", "cifar10", [own]) == ROOT / "config/protocols/cifar10.yaml"
    put(here / "config/protocols/cifar10.yaml", "a: 1\n")
    assert find_file("protocols", "cifar10", [own]) == Path("config/protocols/cifar10.yaml")
    mine = put(own / "protocols/cifar10.yaml", "a: 1\n")
    assert find_file("protocols", "cifar10", [own]) == find_file("protocols", "protocols/cifar10.yaml", [own]) == mine
    dotted = put(own / "protocols/my.v2.yaml", "a: 1\n")
    assert find_file("protocols", "my.v2", [own]) == find_file("protocols", "protocols/my.v2.yaml", [own]) == dotted
    refused(r"'my.v3' .*'my.v2'", find_file, "protocols", "my.v3", [own])
    refused(r"^no such file 'mine/p.yaml'; ", find_file, "protocols", "mine/p.yaml")


def test_an_archive_that_is_there_is_not_made_again_with_another_one_of_its_source(tmp_path):
    workspace = Workspace(tmp_path)
    put(tmp_path / "datasets/img512.zip")
    students = [f"results/paper/students/{name}/network.safetensors" for name in ("edm2-xs-sida", "imagenet64-sida-a1")]
    planned = workspace.planned("--configfile", "studies/papers/paper.yaml", "--", *students)
    assert (planned["prepare_data"], planned["encode_data"]) == (1, 1)
