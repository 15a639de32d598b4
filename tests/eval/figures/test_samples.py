"""Grids of samples: the one sampler of the package behind every panel, and captions."""

import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sida.config.lookup import ROOT
from sida.data import LatentDecoder
from sida.data.archive import dataset_json
from sida.eval.figures.layout import load_figure_layout
from sida.eval.figures.samples import Grid, draw_grid, draw_grids, picture
from sida.files.atomic import sha256_file
from sida.networks.file import load_network
from sida.sampling import Drawer
from sida.workflow.cli import main
from tests.data.test_archive import npy, write_zip
from tests.eval.metric_networks import StandInVae, write_network
from tests.eval.synthetic_output import CURVES, csv_rows
from tests.near import assert_levels, is_copy
from tests.sampling.images import generate

DIGITS = {"name": "digits", "kind": "digits", "resolution": 8, "channels": 1, "label_dim": 10}
UNET = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}


def made(path, seed=0, **kwargs):
    """A small network of EDM, or with four channels of EDM2."""
    edm2 = kwargs.get("img_channels") == 4
    extra = {"channels_per_head": 8, "use_fp16": False} if edm2 else {"model_type": "SongUNet"}
    kwargs = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, **UNET, **extra, **kwargs}
    return write_network(path, {"class": "EDM2Precond" if edm2 else "EDMPrecond", "kwargs": kwargs}, seed, std=0.1)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    classes = {"teacher": 10, "student": 10, "guide": 0}
    return {name: made(folder / name, seed, label_dim=n) for seed, (name, n) in enumerate(classes.items())}


def measured(run, network=None, **more):
    """A spec of ``sida measure``."""
    sampler = {"kind": "one_step", "init_sigma": 2.5} if network else {"kind": "data"}
    method = "data" if network is None else "sida"
    common = {"protocol": "digits", "dataset": DIGITS, "device": "cpu", "threads": 1, "nfe": None}
    return {"run": run, "method": method, "network": network, "sampler": sampler} | common | more


@pytest.fixture(scope="module")
def spec(networks, tmp_path_factory):
    heun = {"kind": "heun", "num_steps": 3}
    generators = [measured("data"), measured("teacher-nfe35", networks["teacher"], sampler=heun)]
    generators += [measured(run, networks["student"]) for run in CURVES]
    path = tmp_path_factory.mktemp("spec") / "spec.json"
    path.write_text(json.dumps({"generators": generators}))
    return path


def command(preset, out, *more):
    layout = str(ROOT / "config/figures/samples.yaml")
    options = ["--runs", str(preset / "runs.tsv"), "--results", str(preset)]
    return ["figure", "--layout", layout, "--out", str(out), *options, *more]


def layout_of(tmp_path, **keys):
    keys = {"rows": 3, "columns": 4, "panels": [{"where": {"run": "x"}}], **keys}
    (tmp_path / "layout.yaml").write_text(json.dumps({"kind": "samples", **keys}))
    return load_figure_layout(tmp_path / "layout.yaml")


@pytest.mark.slow
def test_sample_grids_use_the_same_seeds_and_classes_in_every_panel(preset, spec, networks, tmp_path):
    assert main(command(preset, tmp_path / "s.pdf", "--spec", str(spec))) == 0
    found = csv_rows(tmp_path / "s.csv")
    panels = list(dict.fromkeys(row["panel"] for row in found))
    assert panels == ["real images", "EDM teacher", "SiD, α = 1.2", "SiD, α = 1.0", "SiDA, α = 1.0", "SiD2A, α = 1.0"]
    by_panel = {name: [row for row in found if row["panel"] == name] for name in panels}
    keys = [[(r["row"], r["column"], r["class"], r["seed"]) for r in by_panel[name]] for name in panels[1:]]
    assert all(key == keys[0] for key in keys)
    assert [r["class"] for r in by_panel["real images"]] == [str(i // 6) for i in range(60)]
    assert [int(r["seed"]) for r in by_panel[panels[1]]] == list(range(60))
    assert by_panel[panels[2]][0]["sha256"] == sha256_file(networks["student"])
    assert all(r["seed"] == "" and r["data_index"] for r in by_panel["real images"])


@pytest.mark.parametrize(
    ("sampler", "by_class"),
    [
        ({"kind": "one_step", "num_steps": 2}, False),
        ({"kind": "heun", "num_steps": 3, "S_churn": 20, "dtype": "float32"}, True),
        ({"kind": "heun", "num_steps": 3, "guidance": 1.5}, True),
    ],
    ids=str,
)
def test_every_sampler_draws_the_images_that_sampling_gives_elsewhere(networks, tmp_path, sampler, by_class):
    """More images than a batch, fresh noise, guidance, float32: as sida.sampling draws them, class by class."""
    layout = layout_of(tmp_path, rows=10, columns=8, by_class=by_class, first_seed=7)
    guide = networks["guide"] if "guidance" in sampler else None
    grid = draw_grid(layout, measured("x", networks["teacher"], sampler=sampler, guide=guide), "x")
    net, gnet = (None if path is None else load_network(path)[0] for path in (networks["teacher"], guide))
    expected = list(generate(net, range(7, 87), sampler, 80, grid.classes, gnet=gnet))
    difference = expected[0].images.int() - grid.images.int()
    assert difference.abs().max() <= 1  # another batch size may change a level
    assert grid.origins == tuple(range(7, 87))
    drawn = next(generate(net, range(7, 87), "one_step", 80)).classes.tolist()
    assert grid.classes == ([place // 8 for place in range(80)] if by_class else drawn)


def test_each_grid_says_what_was_drawn(networks, tmp_path):
    by_row, random = layout_of(tmp_path), layout_of(tmp_path, by_class=False, first_seed=5)
    digest = sha256_file(networks["student"])[:8]
    generator = measured("x", networks["student"])
    assert draw_grid(by_row, generator, "t").caption() == ["seeds 0–11, class by row", f"NFE 1, network {digest}"]
    assert draw_grid(random, generator, "t").caption()[0] == "seeds 5–16, random classes"
    teacher = measured("x", networks["guide"], sampler={"kind": "heun", "num_steps": 9})
    guide = sha256_file(networks["guide"])[:8]
    assert draw_grid(random, teacher, "t").caption() == ["seeds 5–16", f"NFE 17, network {guide}"]
    assert draw_grid(by_row, measured("d"), "t").caption()[0] == "12 real images"
    (axes,) = draw_grids(random, [draw_grid(random, generator, "t")]).axes
    assert axes.get_xlabel() == f"seeds 5–16, random classes, NFE 1, network {digest}"


def test_the_row_of_a_class_without_images_is_empty(tmp_path):
    pictures = {f"{i}.npy": npy(np.zeros((1, 8, 8), np.uint8)) for i in range(4)}
    labels = dataset_json((name, 2 * (i % 2)) for i, name in enumerate(pictures))
    path = write_zip(tmp_path / "gap.zip", pictures | {"dataset.json": labels})
    data = {"name": "gap", "kind": "zip", "path": path, "resolution": 8, "channels": 1, "label_dim": 3}
    grid = draw_grid(layout_of(tmp_path), measured("d", dataset=data), "t")
    empty = [origin is None for origin in grid.origins]
    assert empty == [label == 1 for label in grid.classes]
    assert grid.caption()[0] == f"{empty.count(False)} real images"


def test_latent_networks_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[Drawer.__module__], "load_vae", lambda path, device: StandInVae())
    network = made(tmp_path / "latent.safetensors", img_channels=4)
    layout = layout_of(tmp_path, by_class=False)
    grid = draw_grid(layout, measured("x", network, protocol="imagenet512", vae="here"), "x")
    assert grid.images.shape == (12, 3, 32, 32)
    net, _ = load_network(network)
    decode = LatentDecoder(StandInVae())
    assert_levels(grid.images, next(generate(net, range(12), "one_step", 12, decode=decode)).images)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 6), st.sampled_from([1, 3]))
def test_tiles_keep_every_pixel(count, columns, upscale, channels):
    images = np.random.default_rng(0).integers(0, 256, (count, channels, 4, 4), dtype=np.uint8)
    grid = Grid("t", "x", torch.from_numpy(images), tuple(range(count)), True, [], "", 1, "")
    tiles = picture(grid, columns, upscale)
    gap = 2 * max(1, upscale // 4)
    for i, image in enumerate(images):
        top, left = (i // columns) * (4 * upscale + gap), (i % columns) * (4 * upscale + gap)
        block = tiles[top : top + 4 * upscale : upscale, left : left + 4 * upscale : upscale]
        assert is_copy(block, np.broadcast_to(image.transpose(1, 2, 0), (4, 4, 3)))


def test_missing_networks_and_specs(preset, spec, tmp_path, refusal):
    broken = json.loads(spec.read_text())
    broken["generators"][1]["network"] = str(tmp_path / "absent.safetensors")
    for options, told in (
        ([], "--spec: sample grids need the generators' specs"),
        (["--spec", json.dumps(broken)], "absent.safetensors"),
        (["--spec", '{"generators": ["a"]}'], "--spec: key 'generators' is missing or no list of specs"),
    ):
        assert told in refusal(*command(preset, tmp_path / "f.pdf", *options))
