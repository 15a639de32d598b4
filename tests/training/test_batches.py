"""Images of a step: shared by devices, read and decoded by a thread beside the step."""

from __future__ import annotations

import threading
import types

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


@pytest.mark.parametrize("order", ["shuffled", "edm2"])
def test_devices_share_an_order(order):
    config = TeacherConfig(**TEACHER)
    ranks = [types.SimpleNamespace(rank=rank, world_size=count) for rank, count in ((0, 1), (0, 2), (1, 2))]
    together, *apart = (StepBatches(config, load_dataset(DATASET), CPU, one, order=order) for one in ranks)
    for nimg in (0, 16, 320):
        (whole,), parts = together("teacher", nimg), [batches("teacher", nimg)[0] for batches in apart]
        assert all(torch.equal(one, torch.cat(shares)) for one, shares in zip(whole, zip(*parts)))
