"""Images of a step: read and decoded by a thread beside the step (shared by devices: test_processes.py)."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from PIL import Image

from sida.data import load_dataset
from sida.data.dataset import ImageArchive
from sida.training import TeacherConfig
from sida.training.batches import StepBatches
from tests.refused import refused
from tests.training.toy import DATASET, TEACHER

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """The digits as PNG files."""
    digits, folder, labels = load_dataset(DATASET), tmp_path / "pictures", []
    folder.mkdir()
    for number, image in enumerate(digits.images(range(len(digits)))):
        Image.fromarray(image[0].numpy()).save(folder / f"{number:04d}.png")
        labels.append([f"{number:04d}.png", int(digits.class_indices[number])])
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def test_same_images_read_beside_the_step_also_after_they_were_gone(folder, monkeypatch):
    readers, read = [], ImageArchive.raw_images
    watched = lambda self, indices: readers.append(threading.current_thread().name) or read(self, indices)
    monkeypatch.setattr(ImageArchive, "raw_images", watched)
    config = TeacherConfig(**{**TEACHER, "seed": 3, "batch_gpu": 8})
    pictures = {"name": "mine", "kind": "folder", "path": str(folder), "resolution": 8, "channels": 1, "label_dim": 10}
    ahead, plain = (StepBatches(config, load_dataset(spec), CPU) for spec in (pictures, DATASET))

    def assert_same(step):
        for (images, labels), (others, other_labels) in zip(ahead("teacher", 16 * step), plain("teacher", 16 * step)):
            assert torch.equal(images, others)
            assert torch.equal(labels, other_labels)

    for step in range(15):
        assert_same(step)
    assert {name.rstrip("_0") for name in readers} == {"data"}
    # Each step's once, and the one after the last.
    assert len(readers) in (15, 16)
    # As when a disk is unmounted.
    folder.rename(folder.with_name("elsewhere"))
    refused("data set mine: .*the last kept state is intact", ahead, "teacher", 16 * 20)
    folder.with_name("elsewhere").rename(folder)
    assert_same(20)
