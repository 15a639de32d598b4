"""Specs are files by content: written by a run when they say something new, short on command lines."""

import copy
import json
import os
import subprocess
import sys

import pytest
import yaml

from eval.figures import build_figure
from eval.measuring.monitor import monitor_facts
from eval.measuring.protocol import load_protocol
from eval.results.sheet import read_runs
from eval.tables import make_table
from sida.config.resources import ROOT
from sida.config.settings import from_mapping
from sida.methods import DistillConfig
from sida.methods.distillation import student_digest
from sida.training import TeacherConfig
from sida.training.identity import teacher_digest
from tests.workflow.workspace import Workspace, jobs_in, settings_of
from workflow.preset import Preset
from workflow.preset.files import find_preset
from workflow.preset.spec_files import SpecFiles
from workflow.preset.specs import find_needs

DEMO = settings_of("demo")
PROTOCOL = yaml.safe_load((ROOT / "config/protocols/digits.yaml").read_text())


def digests(document: dict) -> dict[str, str]:
    made = Preset(document, "demo.yaml")
    specs = SpecFiles(made)
    named = [("teachers", name) for name in made.trained_teachers()]
    named += [("students", run.run) for run in made.students()] + [("measurements", run) for run in made.runs]
    named += [("samples", run, "0") for run in made.sampled]
    named += [(kind, name) for kind in ("tables", "figures") for name in made.layouts[kind]]
    return {"/".join(name): specs.digest(*name) for name in named}


def with_protocol(tmp_path, **changes) -> dict:
    path = tmp_path / "elsewhere.yaml"
    path.write_text(yaml.safe_dump({**PROTOCOL, **changes}))
    return {**DEMO, "protocol": str(path)}


def changed_jobs(before: dict[str, str], document: dict) -> set[str]:
    after = digests(document)
    assert set(after) == set(before)
    return {name for name in before if before[name] != after[name]}


def test_a_changed_key_touches_its_own_jobs(tmp_path):
    before = digests(DEMO)
    students, figures = {"students/sida-a1.0", "students/sid2a-a1.0"}, {"figures/samples"}
    measured = {name for name in before if name.startswith("measurements/")}
    document = copy.deepcopy(DEMO)
    document["recipes"]["sida"]["lambda_d"] = 3
    assert changed_jobs(before, document) == {"students/sida-a1.0"}
    document = copy.deepcopy(DEMO)
    document["samplers"]["heun-18"]["S_churn"] = 10
    assert changed_jobs(before, document) - figures == {"measurements/teacher-nfe35", "samples/teacher-nfe35/0"}
    assert changed_jobs(before, {**DEMO, "title": "Other", "gpus": 1, "claims": None}) == set()

    def changed(**protocol):
        return changed_jobs(before, with_protocol(tmp_path, **protocol))

    # A protocol counts by what it says, not by where it lies and what it tells people.
    assert changed(title="Other words", notes="") == set()
    assert changed(metrics=[{**metric, "label": "X"} for metric in PROTOCOL["metrics"]]) == set()
    more = [{**metric, "k": 5} if metric["kind"] == "recall" else metric for metric in PROTOCOL["metrics"]]
    assert changed(metrics=more) - figures == measured
    # A metric changes no training, whether or not the protocol says what trainings watch.
    further = [*PROTOCOL["metrics"], {**PROTOCOL["metrics"][0], "key": "fd_glyphs", "extractor": "glyphs"}]
    assert changed(metrics=further) - figures == measured
    assert changed(watch=None) >= students
    before = digests(with_protocol(tmp_path, watch=None))
    assert changed(metrics=further, watch=None) - figures == measured


def test_what_changes_no_result_is_no_reason_to_train_again(tmp_path):
    """As in a run's own digest, which knows a finished training by what decides its result."""
    document = copy.deepcopy(DEMO)
    document["datasets"] = {"mine": {"kind": "zip", "path": "a.zip", "resolution": 8, "channels": 1, "label_dim": 10}}
    before = digests({**document, "dataset": "mine"})
    for training in (document["recipes"]["sida"], document["teachers"]["digits-short"]["training"]):
        training |= {"state_minutes": 7, "pictures": 0, "on_divergence": "stop"}
    document["datasets"]["mine"]["cache"] = True
    changed = changed_jobs(before, {**document, "dataset": "mine"})
    assert not {name for name in changed if not name.startswith(("tables/", "figures/"))}
    trained = {name for name in digests(DEMO) if name.startswith(("students/", "teachers/"))}
    for changes in ({"trials": PROTOCOL["trials"] + 1}, {"ddof": 0}, {"is_spread": "splits"}):
        assert not changed_jobs(digests(with_protocol(tmp_path)), with_protocol(tmp_path, **changes)) & trained


@pytest.mark.parametrize("name", ["demo", "afternoon", "released"])
def test_a_protocol_by_content_is_the_same_protocol(name):
    shipped = Preset.load(find_preset(name))
    for path in {shipped.protocol_of(run) for run in shipped.runs.values()}:
        protocol = load_protocol(path)
        content = json.loads(json.dumps(protocol.content()))
        assert load_protocol(content).facts() == protocol.facts()
        if protocol.labels_asset is None:  # counts from a download are in neither
            assert load_protocol(content).label_counts == protocol.label_counts or protocol.label_counts.source
    for run in shipped.students():
        evaluation = shipped.specs.student(run.run)["evaluation"]
        if evaluation is None:
            # Its last network is kept, and nothing of a protocol decides which.
            assert not shipped.settings.recipes[run.recipe].get("evaluation"), run.run
            continue
        kwargs = evaluation["kwargs"]
        by_path = {**kwargs, "protocol": shipped.protocol_of(run), "dataset": None}
        assert monitor_facts(**{**kwargs, "dataset": None}) == monitor_facts(**by_path)


def test_digests_of_recorded_runs_stay():
    """As made before recipes, specs and methods were rearranged: a finished run is still known as finished."""
    tiny = Preset.load(ROOT / "tests/workflow/tiny.yaml")
    teacher = from_mapping(TeacherConfig, tiny.specs.teacher("digits-short"), "teacher")
    assert teacher_digest(teacher, "data")[:16] == "015b279590057ae2"
    recorded = {"sid-a1.0": "d7619e5fbe91efb4", "sida-a1.0": "7d7210f943b294d9", "sid2a-a1.0": "aaebefb112bec467"}
    for run, digest in recorded.items():
        student = from_mapping(DistillConfig, tiny.specs.student(run), run)
        assert student_digest(student, "data", {"teacher": "t"})[:16] == digest


def test_the_workflow_starts_without_torch():
    code = "from workflow.preset import Preset; from workflow.preset.rehearsal import check_preset; import sys; "
    code += "from workflow.preset import spec_files, targets; p = Preset.load('studies/demo/preset.yaml'); "
    code += "check_preset(p); p.specs.student('sida-a1.0'), p.specs.figure('samples'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_files_are_written_where_they_say_something_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    specs = SpecFiles(Preset(DEMO, "demo.yaml"))
    path = tmp_path / specs.path("students", "sida-a1.0")
    other = tmp_path / specs.path("samples", "sida-a1.0", "3")
    assert not path.exists()
    specs.write()
    assert path.parent.parent == tmp_path / "results/demo/specs"
    assert json.loads(path.read_text())["method"] == "sida"
    assert json.loads(other.read_text())["seeds"] == "7500-9999"
    assert len(list((tmp_path / "results/demo/specs").rglob("*.json"))) == 2
    for file in (path, other):
        os.utime(file, (1, 1))
    other.write_text("{}")
    specs.write()
    assert path.stat().st_mtime == 1
    assert json.loads(other.read_text())["seeds"] == "7500-9999"


@pytest.fixture(scope="module")
def preset():
    return Preset.load(ROOT / "studies/afternoon/preset.yaml")


@pytest.fixture
def stored():
    return ROOT / "studies/afternoon/stored"


def test_tables_get_their_rows_and_are_the_same(preset, stored, tmp_path):
    measured, sheet, own = stored / "measurements.csv.gz", ROOT / preset.sheet, tmp_path / "own.json"
    for name in preset.layouts["tables"]:
        spec = preset.specs.table(name)
        own.write_text(json.dumps(spec))
        assert 0 < len(read_runs(own)) < len(preset.runs) / 2
        layout = preset.layout("tables", name)
        first, second = (make_table(layout, measured, runs, spec=spec, results=stored) for runs in (sheet, own))
        assert first == second


@pytest.mark.slow
def test_figures_get_their_rows_and_are_the_same(preset, stored, tmp_path):
    measured, own = stored / "measurements.csv.gz", tmp_path / "own.json"
    for name in preset.layouts["figures"]:
        spec, layout = preset.specs.figure(name), preset.layout("figures", name)
        own.write_text(json.dumps(spec))
        needs = find_needs(layout, preset.runs)
        if "generators" in spec:
            assert [generator["run"] for generator in spec["generators"]] == needs.networks
            continue
        for runs, out in ((ROOT / preset.sheet, "sheet"), (own, "own")):
            build_figure(layout, runs, stored, tmp_path / out / f"{name}.pdf", measurements=measured, spec=str(own))
        for suffix in ("csv", "png"):
            first, second = (tmp_path / out / f"{name}.{suffix}" for out in ("sheet", "own"))
            assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_a_figure_of_400_rows_has_a_short_command_and_a_dry_run_writes_nothing(tmp_path):
    workspace = Workspace(tmp_path)
    rows = "\n".join(f"row-{i}\tOne step\tRow {i}\tsid\tdigits-short\tsid\tone-step\t{i}" for i in range(400))
    (tmp_path / "many.tsv").write_text(f"run\tfamily\tlabel\tmethod\tteacher\trecipe\tsampler\tseed\n{rows}\n")
    (tmp_path / "tables").mkdir()
    (tmp_path / "figures").mkdir()
    panels = [{"where": {"run": f"row-{i}"}} for i in range(400)]
    layout = {"kind": "samples", "title": "Many", "rows": 2, "columns": 2, "panels": panels}
    (tmp_path / "figures/many.yaml").write_text(yaml.safe_dump(layout))
    document = {**DEMO, "runs": "many.tsv", "tables": [], "figures": ["many"], "claims": None}
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(document))
    text = workspace.done("-n", "-p", "--quiet", "host", "--configfile", "many.yaml", "--", "figures/many.pdf")
    jobs = jobs_in(text)
    assert (jobs["distill"], jobs["figure"]) == (400, 1)
    command = next(line for line in text.splitlines() if " eval figure " in line)
    assert "--spec results/demo/specs/figures/many.json" in command
    assert len(command) < 1000
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["published"]
