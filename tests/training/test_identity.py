"""What makes a run another run: content, wherever it lies, and code from outside this package."""

import shutil

import yaml

from sida.config.lookup import ALLOW
from sida.config.settings import from_mapping
from sida.data import load_dataset
from sida.data.dataset import read_sketch
from sida.methods import distill
from sida.methods.distillation import student_digest
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.networks.file import load_network, read_metadata, save_network
from sida.training import TeacherConfig, train_teacher
from sida.training.run_folder import teacher_digest
from tests.training.toy import DATASET, NETWORK, SID_STUDENT, STUDENT, TEACHER

METRIC = {"key": "fd", "kind": "frechet", "extractor": "pixels", "reference": "data"}
PROTOCOL = {
    "name": "p", "num_samples": 100, "trials": 2, "references": {"data": {"kind": "dataset"}},
    "metrics": [METRIC, {**METRIC, "key": "recall", "kind": "recall"}],
}  # fmt: skip
BRIEF = {"total_kimg": 0.016, "evaluation": None, "snapshot_kimg": None}
GIVEN = {**STUDENT, "teacher": "t"}


def digest(spec, **changes):
    """The digest of a teacher's or a student's settings, whose data and parents have digests of their own."""
    if "network" in spec:
        return teacher_digest(from_mapping(TeacherConfig, {**spec, **changes}, "spec"), "data")
    return student_digest(from_mapping(DistillConfig, {**spec, **changes}, "spec"), "data", {})


def test_a_protocol_and_the_data_of_a_monitor_count_by_what_is_measured(tmp_path):
    def watched(name="p.yaml", size=200, **changes):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({**PROTOCOL, **changes}))
        kwargs = {"dataset": {**DATASET, "max_size": size}, "protocol": str(path), "num_samples": 64}
        monitor = {"monitor": "sida.eval.measuring.monitor:make_monitor", "kwargs": kwargs}
        return digest(GIVEN, evaluation={"every_kimg": 0.016, **monitor})

    first = watched()
    # The watched distance on other features or other data: another network may be the best one.
    others = {
        watched(metrics=[{**METRIC, "extractor": "digits"}]),
        watched(cov_ddof=1),
        *(watched(size=size) for size in (100, 120)),
    }
    assert len({first, *others}) == 5
    # What the monitor never looks at, and where the file lies, changes nothing; nor does going back.
    assert watched(title="Another title", trials=10, num_samples=200, metrics=[METRIC]) == first
    assert watched("elsewhere/q.yaml") == watched() == first


EVALUATION = STUDENT["evaluation"]


def test_settings_that_came_later_leave_old_digests():
    defaults = {"lr_rampup_kimg": 0, "lr_ref_batches": 0.0, "data_order": "shuffled", "power_ema": []}
    others = {"lr_rampup_kimg": 0.1, "lr_ref_batches": 10, "data_order": "edm2", "power_ema": [0.1, 0.2]}
    assert digest(TEACHER) == digest(TEACHER, **defaults)
    assert len({digest(TEACHER), *(digest(TEACHER, **{name: value}) for name, value in others.items())}) == 5
    same = {"pictures": 3, "on_divergence": "stop", "state_minutes": 1.0}
    assert digest(GIVEN) == digest(GIVEN, **same, evaluation={**EVALUATION, "patience": None})
    assert digest(GIVEN) != digest(GIVEN, evaluation={**EVALUATION, "patience": 3})


def test_changed_source_is_another_run(tmp_path, teacher, monkeypatch):
    """Of a package any of its modules, the monitor's, and a network's; a module far from them changes nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ALLOW, "own_package,own_monitor,own_flow")
    sources = {
        "own_package/__init__.py": "from own_package.inner.core import MINE\n",
        "own_package/inner/core.py": "import dataclasses\nfrom sida.methods import SID\n\n"
        "MINE = dataclasses.replace(SID, name='mine', saw=None)\n",
        "own_monitor.py": "from own_factory import make\n",
        "own_factory.py": "from tests.training.toy import make_monitor\n\n\ndef make(**kwargs):\n"
        "    return make_monitor(**kwargs)\n",
        "own_flow.py": "from docs.examples.flow import FlowPrecond\n\n\nclass Own(FlowPrecond):\n    pass\n",
        "unasked.py": "",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    spec = {**SID_STUDENT, "teacher": teacher, "method": "own_package:MINE"}
    spec |= {"evaluation": {**EVALUATION, "monitor": "own_monitor:make"}}
    network, own = read_metadata(teacher)["network"], {"class": "own_flow:Own", "kwargs": NETWORK["kwargs"]}

    def digests():
        student = student_digest(resolve_recipe(DistillConfig(**spec), network), "data", {})
        return {"student": student, "teacher": digest(TEACHER, network=own)}

    changed, before = {}, digests()
    for name, text in sources.items():
        (tmp_path / name).write_text(f"{text}# another line\n")
        changed[name] = {run for run, after in digests().items() if after != before[run]}
        before = digests()
    assert [*changed.values()] == [*[{"student"}] * 4, {"teacher"}, set()]


def test_strength_and_guide_make_another_run_and_paths_do_not(tmp_path, teacher):
    """The header's entries of both: tests/workflow/test_guidance.py."""
    shutil.copy(teacher, tmp_path / "moved.safetensors")
    other = str(train_teacher({**TEACHER, "total_kimg": 0.016, "snapshot_kimg": None}, tmp_path / "other"))
    spec = {**SID_STUDENT, **BRIEF, "teacher": teacher, "guidance": 1.5}
    changes = [{"guide": teacher}, {"guide": str(tmp_path / "moved.safetensors")}, {"guidance": 1}, {"guide": other}]
    changes += [{"guide": teacher, "guidance": 3}]
    headers = [read_metadata(distill({**spec, **more}, tmp_path / str(n))) for n, more in enumerate(changes)]
    first, moved, *others = (header["config_sha256"] for header in headers)
    assert first == moved
    assert len({first, *others}) == 4


def test_the_header_knows_the_images_of_a_network_and_of_its_parents(tmp_path):
    first, second = ({**DATASET, "random_seed": seed} for seed in (0, 1))
    brief = {**TEACHER, "dataset": first, "total_kimg": 0.016, "snapshot_kimg": None}
    teacher, unknown = train_teacher(brief, tmp_path / "teacher"), tmp_path / "official.safetensors"
    student = distill({**SID_STUDENT, **BRIEF, "dataset": second, "teacher": str(teacher)}, tmp_path / "student")
    save_network(load_network(teacher)[0], unknown, {})
    of_unknown = distill({**SID_STUDENT, **BRIEF, "teacher": str(unknown)}, tmp_path / "other")
    sketches = [read_sketch(read_metadata(path).get("images")) for path in (teacher, student, of_unknown)]
    seen = [load_dataset(data).sketch for data in (first, second)]
    found = [[sketch and sketch.shared(one)[0] == 200 for one in seen] for sketch in sketches]
    assert found == [[True, False], [True, True], [None, None]]
