"""Images of a step: read and decoded by a thread beside the step (shared by devices: test_processes.py)."""

from __future__ import annotations

import threading

import pytest
import torch

from sida.data import load_dataset
from sida.data.dataset import ImageArchive
from sida.training import TeacherConfig
from sida.training.batches import StepBatches
from tests.training.toy import DATASET, TEACHER

CPU = torch.device("cpu")


@pytest.fixture
def readers(monkeypatch):
    """Names of the threads that read images, in order."""
    names, read = [], ImageArchive.raw_images

    def watched(self, indices):
        names.append(threading.current_thread().name)
        return read(self, indices)

    monkeypatch.setattr(ImageArchive, "raw_images", watched)
    return names


def test_same_images_read_beside_the_step(pictures, readers):
    config = TeacherConfig(**{**TEACHER, "seed": 3, "batch_gpu": 8})
    ahead, plain = (StepBatches(config, load_dataset(spec), CPU) for spec in (pictures, DATASET))
    for step in range(15):
        for (images, labels), (others, other_labels) in zip(ahead("teacher", 16 * step), plain("teacher", 16 * step)):
            assert torch.equal(images, others)
            assert torch.equal(labels, other_labels)
    assert {name.rstrip("_0") for name in readers} == {"data"}
    # Each step's once, and the one after the last.
    assert len(readers) in (15, 16)
