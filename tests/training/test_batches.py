"""Images of a step: read and decoded by a thread beside the step (shared by devices: test_processes.py)."""

import gc
import os
import threading
import weakref

import torch

from sida.data import load_dataset
from sida.data.dataset import ImageArchive
from sida.training import TeacherConfig
from sida.training.batches import StepBatches
from tests.data.test_archive import members, pictures, write_folder, write_zip
from tests.near import same_bits
from tests.refused import refused
from tests.training.toy import TEACHER


def folder_of_pictures(folder):
    """Spec of a data set that is read from its files."""
    write_folder(folder, members(pictures(48, channels=1), [number % 10 for number in range(48)]))
    return {"name": "mine", "kind": "folder", "path": str(folder), "resolution": 8, "channels": 1, "label_dim": 10}


def test_a_step_of_some_iterations_keeps_no_images_that_it_does_not_use(tmp_path, monkeypatch):
    dataset, kept = load_dataset(folder_of_pictures(tmp_path / "pictures")), []
    read = ImageArchive.network_input

    def watched(self, *arguments):
        images = read(self, *arguments)
        kept.append(weakref.ref(images))
        return images

    monkeypatch.setattr(ImageArchive, "network_input", watched)
    batches = StepBatches(TeacherConfig(**TEACHER), dataset, torch.device("cpu"))
    for step in range(0, 40, 4):
        batches("penalty", 16 * step)
    gc.collect()
    assert sum(images() is not None for images in kept) <= 2


def test_a_step_of_one_micro_batch_has_any_number_of_images():
    config = TeacherConfig(**TEACHER | {"batch_size": 15, "batch_gpu": None})
    (batch,) = StepBatches(config, load_dataset(TEACHER["dataset"]), torch.device("cpu"))("images", 0)
    assert len(batch[0]) == 15


def test_same_images_read_beside_the_step_also_after_they_were_gone(tmp_path, monkeypatch):
    path, readers, read = tmp_path / "pictures.zip", [], ImageArchive.raw_images
    write_zip(path, members(pictures(48, channels=1), [number % 10 for number in range(48)]))
    spec = {"name": "mine", "kind": "folder", "path": str(path), "resolution": 8, "channels": 1, "label_dim": 10}
    config = TeacherConfig(**{**TEACHER, "seed": 3, "batch_gpu": 8})
    made = lambda: StepBatches(config, load_dataset(spec), torch.device("cpu"))
    watched = lambda self, indices: readers.append(threading.current_thread().name) or read(self, indices)
    monkeypatch.setattr(ImageArchive, "raw_images", watched)
    ahead = made()
    steps = [ahead("teacher", 16 * step) for step in range(15)]
    assert {name.rstrip("_0") for name in readers} == {"data"}
    # Each step's once, and the one after the last.
    assert len(readers) in (15, 16)
    # As when a disk fails under an open file.
    content = path.read_bytes()
    os.truncate(path, 100)
    refused("data set mine: .*the last kept state is intact", ahead, "teacher", 16 * 20)
    path.write_bytes(content)
    steps.append(ahead("teacher", 16 * 20))
    for step, given in zip([*range(15), 20], steps, strict=True):
        for (images, labels), (others, other_labels) in zip(given, made()("teacher", 16 * step), strict=True):
            assert same_bits(images, others)
            assert same_bits(labels, other_labels)
