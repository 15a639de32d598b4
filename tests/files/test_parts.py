"""Numbered parts of a job: what was written is read, and nothing else."""

import os

import pytest
import torch

from sida.files import tensors
from sida.files.ordinary import UnreadableError
from sida.files.parts import PartFolder
from tests import disks
from tests.refused import refused
from tests.training.toy import raising


@pytest.fixture
def parts(tmp_path):
    """Two parts of a job, of 8 and 4 images."""
    folder = PartFolder(tmp_path / "parts", "job")
    for place, size in ((0, 8), (8, 4)):
        folder.write(place, size, {"images": torch.full((size,), place)}, {"classes": [place]})
    return folder


def test_a_part_is_read_as_it_was_written(parts):
    place, size, values, record = parts.read(8)
    assert (place, size, values["images"].tolist(), record) == (8, 4, [8] * 4, {"classes": [8]})
    assert parts.places() == [0, 8]
    parts.write(8, 2, {}, None)
    assert parts.read(8) == (8, 2, {}, {})
    parts.remove(8)
    assert parts.read(8) is None
    assert PartFolder(parts.folder / "none", "job").places() == []


@pytest.mark.parametrize("damage", disks.DAMAGES.values(), ids=disks.DAMAGES)
def test_a_damaged_part_counts_as_missing(parts, damage):
    damage(parts.path(0), 0.9)
    assert parts.read(0) is None
    assert parts.read(8) is not None


def test_a_renamed_part_and_one_of_another_job_count_as_missing(parts):
    parts.path(0).rename(parts.path(12))
    assert parts.read(12) is None
    assert PartFolder(parts.folder, "other").read(8) is None


def test_a_part_that_cannot_be_read_now_is_not_missing(parts, monkeypatch):
    path, good = parts.path(8), parts.folder / "good"
    path.rename(good)
    path.symlink_to(path)  # a disk that does not answer; permissions do not stop root
    with pytest.raises(UnreadableError):
        parts.read(8)
    path.unlink()
    good.rename(path)
    with monkeypatch.context() as patch:
        patch.setattr(tensors.safetensors, "safe_open", raising(MemoryError()))
        refused(f"{path}: cannot be read", parts.read, 8)
    assert parts.read(8) is not None
    monkeypatch.setattr(os, "listdir", raising(PermissionError(13, "Permission denied")))
    refused(f"{parts.folder}: cannot be read", parts.places)


def test_a_full_disk_is_one_line_and_the_earlier_part_stays(tmp_path):
    with disks.small_disk(tmp_path / "disk") as disk:
        folder = PartFolder(disk, "job")
        folder.write(0, 1, {"x": torch.ones(9)})
        disks.fill(disk, 100_000)
        refused(r"cannot be written \(.*No space left.*make room", folder.write, 0, 2, {"x": torch.ones(200_000)})
        assert folder.read(0).size == 1
