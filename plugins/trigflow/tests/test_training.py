"""TrigFlow's networks as teachers and students of the other methods."""

import pytest

from sida.files.atomic import read_jsonl
from sida.methods import distill
from sida.networks.file import load_network
from sida.training import train_teacher
from tests.training.toy import STUDENT, TEACHER, of_method

KWARGS = {
    "img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_channels": 8, "channel_mult": [1], "num_blocks": 1,
    "attn_resolutions": [], "logvar_channels": 8,
}  # fmt: skip
SHORT = {**STUDENT, "augment": None, "evaluation": None, "total_kimg": 0.04, "warmup_kimg": 0.0}


@pytest.mark.parametrize("cls", ["TrigFlowPrecond", "TrigFlowDDPMPPPrecond"])
def test_a_teacher_is_trained_and_distilled(tmp_path, cls):
    spec = {**TEACHER, "network": {"class": cls, "kwargs": KWARGS}, "total_kimg": 0.04, "augment": None}
    teacher = str(train_teacher(spec, tmp_path / "teacher"))
    student = distill({**of_method("sida", SHORT), "teacher": teacher}, tmp_path / "student")
    assert type(load_network(student)[0]).__name__ == cls
    assert all(line["nan_count"] == 0 for line in read_jsonl(tmp_path / "student/train.jsonl") if "nan_count" in line)
