"""Jobs of presets: what each makes and reads, what its digest holds, each table and figure without the others."""

import copy
import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from eval.measuring.monitor import monitor_facts
from eval.measuring.protocol import load_protocol
from eval.results.sheet import read_runs
from eval.tables.build import make_table
from sida.assets import load_registry
from sida.config.resources import ROOT, find
from sida.config.settings import from_mapping
from sida.methods import DistillConfig
from sida.methods.distillation import student_digest
from sida.training import TeacherConfig
from sida.training.identity import teacher_digest
from tests.refused import refusing
from tests.workflow.workspace import settings_of
from workflow.preset import Preset
from workflow.preset.files import find_preset
from workflow.preset.jobs import find_needs, source_of
from workflow.preset.targets import Targets

DEMO = settings_of("demo")
PROTOCOL = yaml.safe_load((ROOT / "config/protocols/digits.yaml").read_text())


def jobs(document: dict) -> dict:
    made = Preset(document, "demo.yaml")
    named = [("teachers", name) for name in made.trained_teachers()]
    named += [("students", run.run) for run in made.students()] + [("measurements", run) for run in made.runs]
    named += [("samples", f"{run}/trial-0") for run in made.sampled]
    named += [(kind, name) for kind in ("tables", "figures") for name in made.layouts[kind]]
    return {"/".join(name): made.job(*name) for name in named}


def with_protocol(tmp_path, **changes) -> dict:
    path = tmp_path / "elsewhere.yaml"
    path.write_text(yaml.safe_dump({**PROTOCOL, **changes}))
    return {**DEMO, "protocol": str(path)}


def changed_jobs(before: dict, document: dict, digest: str = "own") -> set[str]:
    after = jobs(document)
    assert set(after) == set(before)
    return {name for name in before if getattr(before[name], digest) != getattr(after[name], digest)}


def test_a_changed_key_touches_its_own_jobs(tmp_path):
    before = jobs(DEMO)
    students, figures = {"students/sida-a1.0", "students/sid2a-a1.0"}, {"figures/samples"}
    measured = {name for name in before if name.startswith("measurements/")}
    document = copy.deepcopy(DEMO)
    document["recipes"]["sida"]["lambda_d"] = 3
    assert changed_jobs(before, document) == {"students/sida-a1.0"}
    document = copy.deepcopy(DEMO)
    document["samplers"]["heun-18"]["S_churn"] = 10
    assert changed_jobs(before, document) - figures == {"measurements/teacher-nfe35", "samples/teacher-nfe35/trial-0"}
    assert changed_jobs(before, {**DEMO, "title": "Other", "gpus": 1, "claims": None}) == set()

    def changed(**protocol):
        return changed_jobs(before, with_protocol(tmp_path, **protocol))

    # A protocol counts by its content: not by its place, and not by its texts for people.
    assert changed(title="Other words", notes="") == set()
    assert changed(metrics=[{**metric, "label": "X"} for metric in PROTOCOL["metrics"]]) == set()
    more = [{**metric, "k": 5} if metric["kind"] == "recall" else metric for metric in PROTOCOL["metrics"]]
    assert changed(metrics=more) - figures == measured
    # A metric changes no training, whether or not the protocol says what trainings watch.
    further = [*PROTOCOL["metrics"], {**PROTOCOL["metrics"][0], "key": "fd_glyphs", "extractor": "glyphs"}]
    assert changed(metrics=further) - figures == measured
    assert changed(watch=None) >= students


def test_a_digest_holds_those_of_the_jobs_above(tmp_path):
    before, document = jobs(DEMO), copy.deepcopy(DEMO)
    document["recipes"]["sid"]["total_kimg"] = 3
    row, started = "sid-a1.0", "sid2a-a1.0"
    below = {f"{kind}/{run}" for kind in ("students", "measurements") for run in (row, started)}
    below |= {f"samples/{run}/trial-0" for run in (row, started)} | {"tables/main", "figures/samples"}
    assert changed_jobs(before, document, "digest") == below | {"figures/convergence"}
    document["recipes"]["sid"]["total_kimg"] = DEMO["recipes"]["sid"]["total_kimg"]
    assert changed_jobs(before, document, "digest") == set()
    document["teachers"]["digits-short"]["training"]["total_kimg"] = 3
    assert {*before} - changed_jobs(before, document, "digest") == {"measurements/data", "samples/data/trial-0"}


def test_settings_that_change_no_result_are_no_reason_to_train_again(tmp_path):
    document = copy.deepcopy(DEMO)
    document["datasets"] = {"mine": {"kind": "zip", "path": "a.zip", "resolution": 8, "channels": 1, "label_dim": 10}}
    before = jobs({**document, "dataset": "mine"})
    for training in (document["recipes"]["sida"], document["teachers"]["digits-short"]["training"]):
        training |= {"state_minutes": 7, "pictures": 0, "on_divergence": "stop"}
    document["datasets"]["mine"]["cache"] = True
    changed = changed_jobs(before, {**document, "dataset": "mine"})
    assert not {name for name in changed if not name.startswith(("tables/", "figures/"))}
    trained = {name for name in before if name.startswith(("students/", "teachers/"))}
    for changes in ({"trials": PROTOCOL["trials"] + 1}, {"ddof": 0}, {"is_spread": "splits"}):
        assert not changed_jobs(jobs(with_protocol(tmp_path)), with_protocol(tmp_path, **changes), "digest") & trained


def test_a_chain_of_rows_longer_than_pythons_stack(tmp_path):
    heading = "run\tlabel\tmethod\tteacher\tinit\trecipe\tsampler"
    rows = [f"r{i}\tR\tsid2a\tdigits-short\tr{i - 1}\tsid2a\tone-step" for i in range(1, 1500)]
    sheet = tmp_path / "long.tsv"
    sheet.write_text("\n".join([heading, "r0\tR\tsid\tdigits-short\t\tsid\tone-step", *rows]))
    preset = Preset({**DEMO, "runs": str(sheet), "tables": [], "figures": [], "claims": None}, "demo.yaml")
    assert preset.measurement("r1499").needs["students"] == ["r1499"]


@pytest.mark.parametrize("name", ["demo", "released"])
def test_a_protocol_by_content_is_the_same_protocol(name):
    shipped = Preset.load(find_preset(name))
    for path in {shipped.protocol_of(run) for run in shipped.runs.values()}:
        protocol = load_protocol(path)
        content = json.loads(json.dumps(protocol.content()))
        assert load_protocol(content).facts() == protocol.facts()
    for run in shipped.students():
        if (evaluation := shipped.training(run.run).spec["evaluation"]) is not None:
            kwargs = evaluation["kwargs"]
            by_path = {**kwargs, "protocol": shipped.protocol_of(run), "dataset": None}
            assert monitor_facts(**{**kwargs, "dataset": None}) == monitor_facts(**by_path)


def test_digests_of_recorded_runs_stay():
    """Finished runs of the versions before are known as finished."""
    tiny = Preset.load(ROOT / "tests/workflow/tiny.yaml")
    teacher = from_mapping(TeacherConfig, tiny.teacher_training("digits-short").spec, "teacher")
    assert teacher_digest(teacher, "data")[:16] == "015b279590057ae2"
    recorded = {"sid-a1.0": "d7619e5fbe91efb4", "sida-a1.0": "7d7210f943b294d9", "sid2a-a1.0": "aaebefb112bec467"}
    for run, digest in recorded.items():
        student = from_mapping(DistillConfig, tiny.training(run).spec, run)
        assert student_digest(student, "data", {"teacher": "t"})[:16] == digest


def test_specs_are_written_where_they_say_something_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset, named = Preset(DEMO, "demo.yaml"), ["students/sida-a1.0", "samples/sida-a1.0/trial-3", "preset"]
    path, other, _ = (tmp_path / f"results/demo/specs/{name}.json" for name in named)
    preset.write(named)
    assert json.loads(path.read_text())["method"] == "sida"
    assert json.loads(other.read_text())["seeds"] == "7500-9999"
    for file in (path, other):
        os.utime(file, (1, 1))
    other.write_text("{}")
    preset.write(named)
    assert path.stat().st_mtime == 1
    assert json.loads(other.read_text())["seeds"] == "7500-9999"


def test_tables_get_their_rows_and_are_the_same(tmp_path):
    preset, stored = Preset.load(ROOT / "studies/afternoon/preset.yaml"), ROOT / "studies/afternoon/stored"
    measured, own, every = next(stored.glob("measurements.csv*")), tmp_path / "own.json", tmp_path / "every.json"
    # The rows as the preset reads them: their options and starts say which networks they met.
    shown = [row for name in preset.layouts["tables"] for row in preset.shown("tables", name).spec["runs"]]
    every.write_text(json.dumps({"runs": [*{row["run"]: row for row in shown}.values()]}))
    for name, layout in preset.layouts["tables"].items():
        spec = preset.shown("tables", name).spec
        own.write_text(json.dumps(spec))
        assert 0 < len(read_runs(own)) < len(preset.runs)
        sheets = (every, own)
        first, second = (make_table(layout, measured, runs, spec=spec, results=stored) for runs in sheets)
        assert first == second


@pytest.fixture(scope="module")
def demo():
    return Preset.load(ROOT / "studies/demo/preset.yaml")


def test_products_and_short_names(demo):
    targets = Targets(demo)
    products = targets.products()
    assert len(products) == len(set(products)) == 1 + 5 + 2 * 3 + 2 + 1
    assert {"results/demo/tables/main.tex", "results/demo/figures/samples.png"} < set(products)
    assert "results/demo/paper.pdf" in {*Targets(demo, paper=True).products()} - {*products}
    assert targets.named("data") == [f"results/demo/measurements/data/trial-{trial}.json" for trial in range(10)]
    assert targets.named("tables/main.tex") == targets.named("results/demo/tables/main.tex")
    assert len(targets.named("figures/")) == 6
    with refusing(r"^sida-b1: .*'sida-a1.0'"):
        targets.named("sida-b1")


def test_what_trainings_and_measurements_read(demo):
    assert {kind: names for kind, names in demo.training("sid2a-a1.0").needs.items() if names} == {
        "teachers": ["digits-short"],
        "students": ["sid-a1.0"],
    }
    assert demo.starts == {"sid-a1.0"}
    assert demo.measurement("teacher-nfe35").needs["teachers"] == ["digits-short"]
    assert not any(demo.measurement("data").needs.values())
    released = Preset.load(ROOT / "studies/papers/released.yaml")
    run = released.runs["cifar10-uncond-sida-a1"]
    needs = released.measurement(run.run).needs
    assert (needs["imports"], needs["downloads"]) == ([run.checkpoint], ["fid-ref-cifar10", "inception"])
    needed = {"fid-ref-img512", "inception", "dinov2-vitl14", "dinov2-code", "sd-vae-ft-mse", "sd-vae-ft-mse-config"}
    assert needed | {"labels-imagenet"} == set(released.downloads("edm2-xs-sida"))
    # A method that sees no images needs counts of classes and no archive.
    paper = Preset.load(ROOT / "studies/papers/paper.yaml")
    assert "labels-imagenet" in paper.training("edm2-xs-sid").needs["downloads"]
    assert not paper.training("edm2-xs-sid").needs["files"]
    assert paper.training("edm2-xs-sida").needs["files"]


def test_custom_code_is_an_input_and_counts_by_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIDA_ALLOW_CODE", "mine")
    (tmp_path / "mine.py").write_text("def sample(seeds): ...\n")
    (tmp_path / "own.tsv").write_text("run\tlabel\tmethod\tcheckpoint\nmine\tMine\texternal\tmine:sample\n")
    own = {**DEMO, "runs": "own.tsv", "tables": [], "figures": [], "claims": None}
    first = Preset(own, "demo.yaml").measurement("mine")
    assert first.needs["files"] == ["mine.py"]
    (tmp_path / "mine.py").rename(tmp_path / "other.py")
    (tmp_path / "mine.py").write_text("def sample(seeds): pass\n")
    from workflow.preset.jobs import content_digest

    content_digest.cache_clear()
    second = Preset(own, "demo.yaml").measurement("mine")
    assert (first.own, first.digest == second.digest) == (second.own, False)
    assert source_of("mine.nowhere:f") is None


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
    needs = find_needs(layout.parent.name, layout, Preset.load(find_preset(preset)).runs)
    assert measured <= set(needs.measured)
    assert networks <= set(needs.networks)
    assert measured or not needs.measured


def test_a_faulty_layout_needs_every_row_and_leaves_the_message_to_the_builder(demo, tmp_path):
    layout = tmp_path / "x.yaml"
    layout.write_text("columns: [{head: A, field: label}]\nrows: [{each: {method: gdd}}]\n")
    for path in (layout, tmp_path / "none.yaml"):
        assert find_needs("tables", path, demo.runs).measured == list(demo.runs)


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_preset_carries_its_data_sets_protocol_and_layouts(tmp_path, monkeypatch):
    study, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    elsewhere.mkdir()
    document = settings_of("demo")
    document |= {"runs": "runs.tsv", "dataset": "mine", "protocol": "mine", "tables": ["mine"]}
    document["datasets"] = {"mine": {"kind": "zip", "path": "data/mine.zip", "resolution": 8, "label_dim": 10}}
    preset_file = put(study / "preset.yaml", yaml.safe_dump(document))
    shutil.copy(ROOT / "studies/demo/runs.tsv", study / "runs.tsv")
    put(study / "protocols/mine.yaml", (ROOT / "config/protocols/digits.yaml").read_text())
    put(study / "tables/mine.yaml", "extends: main.yaml\n")
    put(study / "data/mine.zip", "")
    monkeypatch.chdir(elsewhere)
    preset = Preset.load(preset_file)
    spec = preset.measurement("sida-a1.0").spec
    place = {"name": "mine", "path": str(study / "data/mine.zip")}
    assert spec["dataset"] == document["datasets"]["mine"] | place
    assert load_protocol(spec["protocol"]).name == "digits"
    assert Path(preset.protocol_of(preset.runs["sida-a1.0"])) == study / "protocols/mine.yaml"
    assert preset.layout("tables", "mine") == study / "tables/mine.yaml"
    # Settings as JSON mean the same without the folder: the builder of Table 8 gets them so.
    assert Preset(dataclasses.asdict(preset.settings)).runs == preset.runs
    with refusing(r"'mien'.*'mine'"):
        Preset(document | {"dataset": "mien"}, "preset.yaml", [study])


def test_a_layout_by_its_path_makes_a_product_of_its_name(tmp_path):
    put(tmp_path / "lay/mine.yaml", "extends: ../../config/tables/main.yaml\n")
    preset = Preset({**DEMO, "tables": ["lay/mine.yaml"]}, "demo.yaml", [tmp_path])
    assert f"{preset.results}/tables/mine.tex" in Targets(preset).tables_and_figures()
    assert preset.layout("tables", "mine") == tmp_path / "lay/mine.yaml"
    with refusing(r"tables: 'main' and 'lay/main.yaml' "):
        Preset({**DEMO, "tables": ["main", "lay/main.yaml"]}, "demo.yaml", [tmp_path])


@pytest.mark.parametrize("path", ["/tmp/nowhere/mine.zip", "a/../../mine.zip"])
def test_an_archive_is_made_below_the_current_folder_alone(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"kind": "zip", "path": path, "resolution": 8, "channels": 1, "made_from": {"source": "cifar10-train"}}
    with refusing(r"^demo.yaml: datasets.mine.path: .*below"):
        Preset({**DEMO, "datasets": {"mine": entry}, "dataset": "mine"}, "demo.yaml")


def test_an_archive_is_made_of_an_installed_folder_where_there_is_one_else_of_downloads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    origin = {"source": "fashion-mnist-train-images", "beside": ["fashion-mnist-train-labels"], "installed": "here"}
    shape = {"kind": "zip", "path": "mine.zip", "resolution": 28, "channels": 1, "label_dim": 10}
    document = {**DEMO, "datasets": {"mine": {**shape, "made_from": origin}}, "dataset": "mine"}
    preset = Preset(document, "demo.yaml")
    assert preset.archive_needs("mine.zip")["downloads"] == [origin["source"], *origin["beside"]]
    targets = {load_registry()[name].target for name in (origin["source"], *origin["beside"])}
    assert len({Path(target).parent for target in targets}) == 1
    assert preset.archive_flags("mine.zip")[:2] == ["--source", origin["source"]]
    assert preset.archive_flags("mine.zip")[-2:] == ["--channels", "1"]
    (tmp_path / "here").mkdir()
    assert preset.archive_needs("mine.zip")["downloads"] == []
    assert preset.archive_flags("mine.zip")[:2] == ["--source", "here"]


def test_a_name_is_looked_for_in_the_presets_folder_then_here_then_in_the_checkout(tmp_path, monkeypatch):
    own, here = tmp_path / "study", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert find("protocols", "cifar10", [own]) == ROOT / "config/protocols/cifar10.yaml"
    put(here / "config/protocols/cifar10.yaml", "a: 1\n")
    assert find("protocols", "cifar10", [own]) == Path("config/protocols/cifar10.yaml")
    mine = put(own / "protocols/cifar10.yaml", "a: 1\n")
    assert find("protocols", "cifar10", [own]) == find("protocols", "protocols/cifar10.yaml", [own]) == mine
    dotted = put(own / "protocols/my.v2.yaml", "a: 1\n")
    assert find("protocols", "my.v2", [own]) == find("protocols", "protocols/my.v2.yaml", [own]) == dotted
    with refusing(r"'my.v3' .*'my.v2'"):
        find("protocols", "my.v3", [own])
    with refusing(r"^no such file 'mine/p.yaml'; "):
        find("protocols", "mine/p.yaml")
