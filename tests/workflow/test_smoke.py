"""Every recipe of the paper at its settings: three iterations of a tiny network by the command line.

Only width, resolution, images and batches are cut; phases are moved into the three iterations, so that each is seen.
Rows that differ in nothing else but seeds are one training.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch

from sida.config.recipe import METHOD_SETTINGS
from sida.config.settings import from_mapping
from sida.data.archive import dataset_json, image_name
from sida.files.atomic import read_jsonl
from sida.methods import METHODS
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.networks import build_network
from sida.networks.file import read_metadata, save_network
from sida.workflow.cli import main
from sida.workflow.preset.jobs import training
from tests.data.test_archive import npy, png, write_zip
from tests.workflow.workspace import shipped

#: Tiny networks of each family, in place of the recipes' own.
LEVELS = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
SMALL = {"EDMPrecond": LEVELS, "EDM2Precond": {**LEVELS, "channels_per_head": 16}}
SIZE, BATCH, ROUND, STEPS = 8, 8, 2, 3
#: One of each family; the others are slow.
QUICK = {"imagenet64-sid2a-a1.2", "edm2-s-sida"}


PAPER = shipped("paper")


def archive(path, latents, classes):
    """Twelve images, or moments of latents, with so many classes."""
    source, content = np.random.default_rng(0), {}
    for index in range(12):
        if latents:
            content[image_name(index, ".npy", "img-mean-std-")] = npy(
                source.normal(1, 0.1, (8, SIZE, SIZE)).astype("f4")
            )
        else:
            content[image_name(index)] = png(source.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    labels = [index % classes for index in range(11)] + [classes - 1] if classes else None
    return write_zip(path, content | {"dataset.json": dataset_json(zip(content, labels) if labels else None)})


def small_training(run):
    """A tiny network, and a row's spec with each setting as it is at true size, on the CPU, without files."""
    network = PAPER.settings.teachers[run.teacher].network
    config = resolve_recipe(from_mapping(DistillConfig, training(PAPER, run.run).spec, run.run), network)
    shape = {"img_resolution": SIZE, **SMALL[network["class"]]}
    step = BATCH / 1000
    spec = {
        **dataclasses.asdict(config),
        "name": "small",
        "seed": 0,
        "init": bool(config.init),
        "device": "cpu",
        "threads": 1,
        "fp16": False,
        "evaluation": None,
        "batch_size": BATCH,
        "batch_gpu": ROUND,
        "total_kimg": STEPS * step,
        # The fake score alone, then SiD, then all terms; SiD has no warm-up.
        "warmup_kimg": step * (config.warmup_kimg > 0),
        "adversarial_kimg": 2 * step,
        "tick_kimg": step,
    }
    unread = {"teacher", "dataset"} | (METHOD_SETTINGS - METHODS[run.method].settings)
    spec = {key: value for key, value in spec.items() if key not in unread}
    return {"class": network["class"], "kwargs": {**network["kwargs"], **shape}}, spec


def with_files(network, spec, folder):
    """The spec with a teacher and a data set in a folder."""
    torch.manual_seed(0)
    teacher = str(folder / "teacher.safetensors")
    save_network(build_network(network), teacher, {"method": "teacher"})
    classes, latents = network["kwargs"]["label_dim"], network["kwargs"]["img_channels"] == 4
    path = archive(folder / "small.zip", latents, classes)
    dataset = {"name": "small", "kind": "zip", "path": path, "label_dim": classes}
    return {**spec, "dataset": dataset, "teacher": teacher, "init": teacher if spec["init"] else None}


def different(rows):
    """One row of each training; the quick ones where they stand for others."""
    found = {}
    for run in sorted(rows, key=lambda run: run.run not in QUICK):
        found.setdefault(json.dumps([run.method, *small_training(run)], sort_keys=True), run)
    return found.values()


ROWS = different(run for run in PAPER.students if run.method in ("sid", "sida", "sid2a"))


@pytest.mark.parametrize(
    "run", [pytest.param(r, id=r.run, marks=[] if r.run in QUICK else pytest.mark.slow) for r in ROWS]
)
def test_a_recipe_takes_three_iterations(run, tmp_path):
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(with_files(*small_training(run), tmp_path)))
    command = ["distill", "--spec", str(spec), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    ticks = read_jsonl(tmp_path / "out/train.jsonl")
    assert [tick["nimg"] for tick in ticks] == [BATCH * (step + 1) for step in range(STEPS)]
    assert sum(tick["nan_count"] for tick in ticks) == 0
    terms = {name for name, value in ticks[-1]["losses"].items() if value is not None}
    assert {"denoising", "sid"} <= terms
    assert ({"adversarial", "discriminator"} <= terms) == (run.method != "sid")
    assert read_metadata(tmp_path / "out/network.safetensors")["nimg"] == BATCH * STEPS


def test_teachers_have_the_published_numbers_of_parameters():
    """EDM: Karras et al. 2022, table 7; GDD's NCSN++ and EDM2's sizes stand in tests of their own."""
    published = {"cifar10-cond": 55.7, "imagenet64": 295.9, "ffhq64": 61.8}
    for name, millions in published.items():
        with torch.device("meta"):
            net = build_network(PAPER.settings.teachers[f"teacher-edm-{name}"].network)
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
