"""`sida sample`: files that other programs read, resumed and shared without a changed byte; networks by name."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import sida.networks.official
import sida.sampling.job
from sida.cli.main import main
from sida.data import load_dataset
from sida.errors import UserError
from sida.machine import tf32
from sida.networks.file import read_metadata, save_network
from sida.sampling import Drawer
from sida.sampling.job import SampleConfig, network_file, parse_seeds, run_job
from sida.sampling.store import save_grid, tile
from tests.data.test_archive import write_counts
from tests.files.made_pickles import write_genuine
from tests.networks.made import SMALL, random_network
from tests.refused import command, refused
from tests.sampling.images import generate
from tests.training.toy import fork, wait


def make(**kwargs):
    return random_network("EDMPrecond", {**SMALL, "label_dim": 10, **kwargs})


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "network.safetensors"
    save_network(make(), path, {})
    return str(path)


@pytest.fixture(scope="module")
def expected():
    """Images and classes of seeds 0..99."""
    batches = list(generate(make(), range(100), batch_size=16))
    return torch.cat([b.images for b in batches]).numpy(), torch.cat([b.classes for b in batches]).numpy()


def job(network, out, **settings):
    settings = {"seeds": "0-99", "batch_size": 16, "shard_size": 32, "device": "cpu"} | settings
    return list(run_job(SampleConfig(network=network, out=str(out), **settings)))


def read(path):
    with np.load(path) as file:
        return {"images": file["arr_0"].transpose(0, 3, 1, 2), "classes": file["arr_1"], "seeds": file["seeds"]}


def test_an_npz_has_the_layout_of_sample_batches_and_a_record(network, expected, tmp_path):
    out = tmp_path / "samples.npz"
    assert job(network, out) == [f"{out}: 100 images, 1 network evaluations each"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.npz", "samples.npz.json"]
    with np.load(out) as file:
        np.testing.assert_array_equal(file["arr_0"], expected[0].transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(file["arr_1"], expected[1])
        assert file["seeds"].tolist() == list(range(100))
    record = json.loads((tmp_path / "samples.npz.json").read_text())
    assert record["nfe"] == 1
    assert len(record["network_sha256"]) == 64
    assert "kernels" not in record["sampler"]


def test_images_are_drawn_without_tf32_which_torch_allows(network, tmp_path, monkeypatch):
    """A GPU would use it in convolutions: other images than those that are measured."""
    seen, fill = [], sida.sampling.job._fill

    def allowed():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    def watched(*arguments):
        seen.append(allowed())
        fill(*arguments)

    monkeypatch.setattr(sida.sampling.job, "_fill", watched)
    with tf32(True):
        job(network, tmp_path / "out", seeds="0-3")
        assert allowed() == (True, True)
    assert seen == [(False, False)]


def test_png_files_are_a_data_set(network, expected, tmp_path):
    out = tmp_path / "samples"
    job(network, out)
    assert not (out / ".parts").exists()
    data = load_dataset({"name": "s", "kind": "folder", "path": str(out)})
    np.testing.assert_array_equal(data.images(range(100)), expected[0])
    np.testing.assert_array_equal(data.class_indices, expected[1])


@pytest.mark.parametrize(
    ("out", "planted"),
    [
        ("s.npz", "s.npz.parts"), ("s.npz", "s.npz.parts/shard-000000-000003.npz"), ("s.npz", ".s.npz.lock"),
        ("s", "s/.parts"), ("s", "s/00000"), ("s", "s/00000/img00000000.png"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_links_and_pipes_among_the_parts_are_refused(network, tmp_path, out, planted, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    place = tmp_path / planted
    if "/" in planted:  # as an interrupted job leaves it, with its record
        job(network, tmp_path / out, seeds="0-3")
        for path in [*(tmp_path / out).rglob("*")] if (tmp_path / out).is_dir() else [tmp_path / out]:
            if path.is_file() and path.name != "samples.json":
                path.unlink()
        if place.is_dir():
            place.rmdir()
        place.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(place) if kind == "pipe" else place.symlink_to(outside)
    refused("remove it", job, network, tmp_path / out, seeds="0-3")
    assert not list(outside.iterdir())


@pytest.mark.parametrize("form", ["samples.npz", "png"])
def test_an_interrupted_job_goes_on_and_ends_with_the_same_bytes(network, tmp_path, form, monkeypatch):
    job(network, tmp_path / "whole" / form)

    drawn, left, draw = [], [KeyboardInterrupt], Drawer.draw

    def watched(*args, **kwargs):
        for batch in draw(*args, **kwargs):
            if len(drawn) == 80 and left:
                raise left.pop()
            drawn.extend(batch.seeds)
            yield batch

    monkeypatch.setattr(Drawer, "draw", watched)
    with pytest.raises(KeyboardInterrupt):
        job(network, tmp_path / "broken" / form)
    drawn.clear()
    job(network, tmp_path / "broken" / form)
    assert drawn == list(range(64, 100)), "finished shards are kept"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(broken) for path in broken.rglob("*") if path.is_file())
    for name in names:
        if name.suffix != ".json" or name.name == "dataset.json":
            assert (whole / name).read_bytes() == (broken / name).read_bytes(), name
    drawn.clear()
    job(network, broken / form)
    assert drawn == [], "a finished job draws nothing"


def test_shares_together_make_the_same_samples(network, expected, tmp_path, monkeypatch):
    out = tmp_path / "samples.npz"
    monkeypatch.setenv("WORLD_SIZE", "3")
    lines = []
    for rank in ("1", "0", "2"):
        monkeypatch.setenv("RANK", rank)
        lines += job(network, out)
    assert "this share (2/3) is finished, others are not yet" in lines[0]
    assert "100 images" in lines[2]
    np.testing.assert_array_equal(read(out)["images"], expected[0])
    # A rank without a world is no share.
    monkeypatch.delenv("WORLD_SIZE")
    assert "100 images" in job(network, tmp_path / "alone.npz")[0]


def test_processes_of_torchrun_share_the_work(network, expected, tmp_path):
    out = tmp_path / "samples.npz"
    spec = {"network": network, "seeds": "0-9", "batch_size": 16, "sampler": {"kind": "one_step"}, "device": "cpu"}
    command = ["sample", "--spec", json.dumps(spec), "--seeds", "0-99", "--shard-size", "16", "--out", str(out)]
    command += ["--threads", "1"]

    def run(rank):
        os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"})
        return main(command)

    processes = [fork(lambda rank=rank: run(rank), tmp_path / f"{rank}.log") for rank in range(2)]
    assert [wait(process) for process in processes] == [0, 0]
    np.testing.assert_array_equal(read(out)["images"], expected[0])


def test_other_samples_are_not_mixed_in(network, tmp_path):
    job(network, tmp_path / "samples.npz")
    with pytest.raises(UserError, match=r"holds samples with other class_labels .*choose another --out"):
        job(network, tmp_path / "samples.npz", class_labels=3)
    (tmp_path / "mine.npz").write_bytes(b"precious")
    refused("was not written by sida sample", job, network, tmp_path / "mine.npz")
    assert (tmp_path / "mine.npz").read_bytes() == b"precious"


def test_forms_that_are_not_written_say_their_replacement(network, tmp_path):
    refused("name a folder", job, network, tmp_path / "a.zip")
    save_network(make(img_channels=2), tmp_path / "two.safetensors", {})
    refused("PNG files need 1 or 3 channels", job, str(tmp_path / "two.safetensors"), tmp_path / "out")


@pytest.mark.parametrize("asked", ["samples.npz", "samples.npz.json"])
def test_a_process_that_starts_at_the_same_time_is_no_stranger(network, tmp_path, monkeypatch, asked):
    """Another one of the same job makes folder and record between two looks of this one, whichever comes first."""
    looked, rival = Path.exists, [lambda: job(network, tmp_path / "samples.npz", seeds="0-3")]

    def slowly(path):
        found = looked(path)
        if path.name == asked and rival:
            rival.pop()()
        return found

    monkeypatch.setattr(Path, "exists", slowly)
    job(network, tmp_path / "samples.npz", seeds="0-3")
    assert not rival
    assert read(tmp_path / "samples.npz")["seeds"].tolist() == [0, 1, 2, 3]


def test_class_rules_of_the_command(network, tmp_path):
    job(network, tmp_path / "three.npz", class_labels=3)
    assert (read(tmp_path / "three.npz")["classes"] == 3).all()
    digits = {"name": "digits", "kind": "digits"}
    job(network, tmp_path / "empirical.npz", class_labels="empirical", dataset=digits)
    assert len(set(read(tmp_path / "empirical.npz")["classes"].tolist())) == 10
    write_counts(tmp_path / "counts.json", "mine", (0, 0, 2, 0, 3, 0, 0, 0, 0, 0))
    job(network, tmp_path / "counted.npz", class_labels=str(tmp_path / "counts.json"))
    job(network, tmp_path / "content.npz", class_labels=json.loads((tmp_path / "counts.json").read_text()))
    counted = read(tmp_path / "counted.npz")["classes"].tolist()
    assert set(counted) == {2, 4}
    assert counted == read(tmp_path / "content.npz")["classes"].tolist()
    write_counts(tmp_path / "counts.json", "mine", (0, 0, 2, 0, 4, 0, 0, 0, 0, 0))
    with pytest.raises(UserError, match="holds samples with other data_sha256"):
        job(network, tmp_path / "counted.npz", class_labels=str(tmp_path / "counts.json"))
    job(None, tmp_path / "real.npz", sampler="data", dataset="digits")
    assert read(tmp_path / "real.npz")["images"].shape == (100, 1, 8, 8)
    with pytest.raises(UserError, match="holds samples with other data_sha256, dataset"):
        job(network, tmp_path / "empirical.npz", class_labels="empirical", dataset={**digits, "max_size": 500})


def test_latent_networks_are_decoded_by_the_registered_decoder(tmp_path, monkeypatch):
    taken = []

    def load_vae(path, device):
        taken.append(path)
        enlarged = lambda x: x[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)
        return SimpleNamespace(decode=lambda x: SimpleNamespace(sample=enlarged(x)))

    monkeypatch.setattr(sys.modules[Drawer.__module__], "load_vae", load_vae)
    fetched = {"weights": tmp_path / "vae" / "weights"}
    monkeypatch.setattr(sys.modules[Drawer.__module__], "fetch_many", lambda ids: fetched)
    save_network(make(img_channels=4), tmp_path / "net.safetensors", {})
    job(str(tmp_path / "net.safetensors"), tmp_path / "out.npz")
    assert taken == [str(tmp_path / "vae")]
    assert read(tmp_path / "out.npz")["images"].shape == (100, 3, 64, 64)


def test_the_command_line_writes_samples_and_a_grid(network, tmp_path, capsys):
    out, grid = tmp_path / "s.npz", tmp_path / "grid.png"
    flags = ["--seeds", "3,8-10", "--out", str(out), "--sampler", "heun:3", "--batch", "4", "--device", "cpu"]
    flags += ["--grid", str(grid), "--grid-size", "10x3"]
    assert main(["sample", "--network", network, *flags]) == 0
    printed = capsys.readouterr()
    assert "4 images, 5 network evaluations each" in printed.out
    assert "10 × 3 images, seeds 3–32" in printed.out
    assert "[sample s.npz]" in printed.err
    assert read(out)["seeds"].tolist() == [3, 8, 9, 10]
    picture = np.asarray(Image.open(grid))
    assert picture.shape == (80, 24)
    rows = [label for label in range(10) for _ in range(3)]
    images = torch.cat([b.images for b in generate(make(), range(3, 33), "heun:3", 4, class_labels=rows)])
    np.testing.assert_array_equal(picture, tile(images, 3)[0])


def test_one_step_takes_the_noise_level_that_the_network_learned(network, tmp_path):
    """GDD's generators start at σ 80; at SiD's 2.5 their images are noise."""
    own = tmp_path / "own.safetensors"
    save_network(make(), own, {"sampler": {"kind": "one_step", "init_sigma": 80.0}})
    images = sida.load(own).sample(2)
    assert (images == sida.load(network, "one_step,init_sigma=80").sample(2)).all()
    assert (images != sida.load(network).sample(2)).any()
    assert (sida.load(own, "one_step,init_sigma=2.5").sample(2) == sida.load(network).sample(2)).all()
    list(run_job(SampleConfig(network=str(own), seeds="0-1", out=str(tmp_path / "two.npz"))))
    assert (np.load(tmp_path / "two.npz")["arr_0"].transpose(0, 3, 1, 2) == images).all()


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        (["--out", "x", "--seeds", "5-1"], "seeds"),
        (["--out", "x", "--grid", "g.png", "--grid-size", "0x3"], "grid_size"),
        (["--out", "x", "--dataset", "digitz"], "dataset"),
        ([], "sida sample: out"),
        (["--spec", '{"netwrk": "x"}', "--out", "x"], "--spec.netwrk"),
    ],
)
def test_bad_input_is_one_line(network, flags, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(f"^{place}: ", command, "sample", "--network", network, *flags)
    assert not list(tmp_path.iterdir()), "a corrected command must find its target free"


def test_seed_lists():
    assert parse_seeds("0-49999") == range(50000)
    assert list(parse_seeds("3, 8,10-12")) == [3, 8, 10, 11, 12]


def test_tiles_are_in_reading_order(tmp_path):
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 2, 2)
    picture = tile(images, 3, gap=1)
    assert picture.shape == (3, 5, 8)
    assert picture[0, ::3, ::3].tolist() == [[0, 1, 2], [3, 4, 255]]
    assert (picture[:, 2] == 255).all()
    save_grid(tmp_path / "g.png", images, 3, scale=3)
    assert Image.open(tmp_path / "g.png").size == (18, 12)
    refused("1 or 3 channels, got 4", save_grid, tmp_path / "g.png", torch.zeros(1, 4, 2, 2, dtype=torch.uint8), 1)


def test_published_pickles_are_converted_once(tmp_path, monkeypatch, expected):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    pickle_file = write_genuine(tmp_path / "published.pkl", make())
    job(str(pickle_file), tmp_path / "samples.npz")
    np.testing.assert_array_equal(read(tmp_path / "samples.npz")["images"], expected[0])
    (converted,) = (tmp_path / "cache" / "converted").glob("*.safetensors")
    moment = converted.stat().st_mtime_ns
    assert network_file(str(pickle_file)) == converted
    assert converted.stat().st_mtime_ns == moment


def test_equal_bytes_are_converted_for_each_network_class(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    pickle_file, fetched = write_genuine(tmp_path / "published.pkl", make()), []
    monkeypatch.setattr(sida.networks.official, "fetch", lambda asset_id: fetched.append(asset_id) or pickle_file)
    classes = [
        read_metadata(network_file(source))["network"]["class"]
        for source in (str(pickle_file), "cifar10-uncond-gdd-i", "cifar10-uncond-sida-a1")
    ]
    assert classes == ["EDMPrecond", "GDDPrecond", "EDMPrecond"]
    assert fetched == ["cifar10-uncond-gdd-i", "cifar10-uncond-sida-a1"]
