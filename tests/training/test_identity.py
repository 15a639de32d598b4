"""What makes a run another run: content, wherever it lies."""

from __future__ import annotations

import pytest
import yaml

from sida.config.settings import from_mapping
from sida.files.atomic import by_content
from sida.methods import distill
from sida.methods.distillation import student_digest
from sida.methods.registry import DistillConfig
from sida.networks.file import read_metadata
from tests.training.toy import DATASET, STUDENT

PROTOCOL = {
    "name": "p",
    "num_samples": 100,
    "trials": 2,
    "references": {"data": {"kind": "dataset"}},
    "metrics": [
        {"key": "fd", "kind": "frechet", "extractor": "pixels", "reference": "data"},
        {"key": "recall", "kind": "recall", "extractor": "pixels", "reference": "data"},
    ],
}


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


def test_the_monitors_own_data_count_by_content(spec, tmp_path):
    path = write(tmp_path / "p.yaml")
    watched = lambda size: with_monitor(spec, path, dataset={**DATASET, "max_size": size})
    digest = lambda size: student_digest(from_mapping(DistillConfig, watched(size), "spec"), "data", {})
    assert digest(100) == digest(100) != digest(120)


def test_a_monitor_without_facts_has_its_files_counted_by_content(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"1")
    before = by_content({"weights": str(file), "n": [1, "cpu"]})
    copy = tmp_path / "copy.bin"
    copy.write_bytes(b"1")
    assert by_content({"weights": str(copy), "n": (1, "cpu")}) == before
    file.write_bytes(b"2")
    assert by_content({"weights": str(file), "n": [1, "cpu"]}) != before
    assert before["n"] == [1, "cpu"]
