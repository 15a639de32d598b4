"""What makes a run another run: content, wherever it lies."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from sida.config.plugins import ALLOW
from sida.config.settings import from_mapping
from sida.data import load_dataset
from sida.data.dataset import read_sketch
from sida.methods import distill
from sida.methods.distillation import student_digest
from sida.methods.fd_loss import FD_LOSS
from sida.methods.registry import DistillConfig
from sida.networks.file import load_network, read_metadata, save_network
from sida.training import TeacherConfig, train_teacher
from sida.training.run import teacher_digest
from tests.training.toy import DATASET, SID_STUDENT, STUDENT, TEACHER

METRIC = {"kind": "frechet", "extractor": "pixels", "reference": "data"}
PROTOCOL = {
    "name": "p", "num_samples": 100, "trials": 2, "references": {"data": {"kind": "dataset"}},
    "metrics": [{**METRIC, "key": "fd"}, {**METRIC, "key": "recall", "kind": "recall"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def spec(teacher):
    return {**STUDENT, "total_kimg": 0.032, "tick_kimg": 0.016, "snapshot_kimg": None, "teacher": teacher}


def with_monitor(spec, path, **kwargs):
    kwargs = {"dataset": DATASET, "protocol": str(path), "num_samples": 64, **kwargs}
    return {
        **spec,
        "evaluation": {"every_kimg": 0.016, "monitor": "eval.measuring.monitor:make_monitor", "kwargs": kwargs},
    }


def write(path, **changes):
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**PROTOCOL, **changes}))
    return path


def test_an_edited_protocol_is_another_run(spec, tmp_path, capsys):
    path, run = write(tmp_path / "p.yaml"), tmp_path / "run"

    def again(path=path):
        capsys.readouterr()
        metadata = read_metadata(distill(with_monitor(spec, path), run))
        return metadata["config_sha256"], "already trained" in capsys.readouterr().err

    first, skipped = again()
    assert not skipped
    assert again() == (first, True)
    # The watched distance on other features: another network may be the best one.
    write(path, metrics=[{**PROTOCOL["metrics"][0], "extractor": "digits"}])
    capsys.readouterr()
    second, skipped = again()
    assert not skipped
    assert second != first
    # What the monitor never looks at, and where the file lies, changes nothing; nor does going back.
    write(path, title="Another title", trials=10, num_samples=200, metrics=PROTOCOL["metrics"][:1])
    assert again() == (first, True)
    moved = write(tmp_path / "elsewhere" / "q.yaml")
    assert again(moved) == (first, True)
    write(path, cov_ddof=1)
    assert again()[0] not in (first, second)


EVALUATION = STUDENT["evaluation"]


@pytest.mark.parametrize(
    ("spec", "same", "others"),
    [
        (
            TEACHER,
            {"lr_rampup_kimg": 0, "lr_ref_batches": 0.0, "data_order": "shuffled", "power_ema": []},
            [{"lr_rampup_kimg": 0.1}, {"lr_ref_batches": 10}, {"data_order": "edm2"}, {"power_ema": [0.1, 0.2]}],
        ),
        (
            {**STUDENT, "teacher": "t"},
            {"pictures": 3, "loggers": ["tensorboard"], "on_divergence": "stop", "state_minutes": 1.0}
            | {"evaluation": {**EVALUATION, "patience": None}},
            [{"evaluation": {**EVALUATION, "patience": 3}}],
        ),
    ],
    ids=["teacher", "student"],
)
def test_settings_that_came_later_leave_old_digests(spec, same, others):
    def digest(change):
        if spec is TEACHER:
            return teacher_digest(from_mapping(TeacherConfig, {**spec, **change}, "spec"), "data")
        return student_digest(from_mapping(DistillConfig, {**spec, **change}, "spec"), "data", {})

    assert digest({}) == digest(same)
    assert len({digest({}), *map(digest, others)}) == 1 + len(others)


def test_the_monitors_own_data_count_by_content(spec, tmp_path):
    path = write(tmp_path / "p.yaml")
    watched = lambda size: with_monitor(spec, path, dataset={**DATASET, "max_size": size})
    digest = lambda size: student_digest(from_mapping(DistillConfig, watched(size), "spec"), "data", {})
    assert digest(100) == digest(100) != digest(120)


def test_the_header_knows_the_images_of_a_network_and_of_its_parents(tmp_path):
    first, second = ({**DATASET, "random_seed": seed} for seed in (0, 1))
    step = {"total_kimg": 0.016, "evaluation": None}
    teacher = train_teacher({**TEACHER, "dataset": first, "total_kimg": 0.016}, tmp_path / "teacher")
    student = distill({**SID_STUDENT, **step, "dataset": second, "teacher": str(teacher)}, tmp_path / "student")
    save_network(load_network(teacher)[0], tmp_path / "official.safetensors", {})
    of_unknown = distill({**SID_STUDENT, **step, "teacher": str(tmp_path / "official.safetensors")}, tmp_path / "other")
    sketches = [read_sketch(read_metadata(path).get("images")) for path in (teacher, student, of_unknown)]
    seen = [load_dataset(data).sketch for data in (first, second)]
    assert [[sketch and sketch.shared(one)[0] == 200 for one in seen] for sketch in sketches] == [
        [True, False],
        [True, True],
        [None, None],
    ]


OWN = dataclasses.replace(FD_LOSS, name="own")


@pytest.mark.parametrize("method", ["fd-loss", f"{__name__}:OWN"])
def test_digest_holds_the_judges_networks(monkeypatch, method):
    monkeypatch.setenv(ALLOW, __name__)
    spec = {"name": "x", "method": method, "dataset": DATASET, "teacher": "t", "init": "t", "total_kimg": 1}
    spec |= {"batch_size": 16, "lr": 1e-3, "options": {"judges": ["digits"]}}
    digest = lambda: student_digest(DistillConfig(**spec), "data", {"teacher": "t"})
    before = digest()
    monkeypatch.setattr("eval.features.digits.weights_digest", lambda state: "another network")
    assert digest() != before
