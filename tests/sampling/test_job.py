"""`sida sample`: files that other programs read, resumed and shared without a changed byte; networks by name."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import sida.networks.official
import sida.sampling.job
import sida.sampling.store
from sida.data import load_dataset
from sida.files import parts
from sida.files.parts import PartFolder
from sida.machine import tf32
from sida.networks.file import read_metadata, save_network
from sida.sampling import Drawer
from sida.sampling.job import SampleConfig, network_file, run_job
from sida.sampling.store import SampleStore, save_grid, tile
from sida.workflow.cli import main
from tests.data.test_archive import write_counts
from tests.files.made_pickles import write_genuine
from tests.near import same_bits, same_integers
from tests.networks.made import SMALL, random_network
from tests.refused import command, refused
from tests.sampling.images import collect
from tests.training.toy import raising


def make(**kwargs):
    return random_network("EDMPrecond", {**SMALL, "label_dim": 10, **kwargs})


def job(network, out, **settings):
    settings = {"seeds": "0-99", "batch_size": 16, "shard_size": 32, "device": "cpu"} | settings
    return list(run_job(SampleConfig(network=str(network), out=str(out), **settings)))


def read(path):
    with np.load(path) as file:
        return {"images": file["arr_0"].transpose(0, 3, 1, 2), "classes": file["arr_1"], "seeds": file["seeds"]}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "network.safetensors"
    save_network(make(), path, {})
    return path


@pytest.fixture(scope="module")
def expected():
    """Images and classes of seeds 0..99."""
    return [found.numpy() for found in collect(make(), range(100), batch_size=16)]


@pytest.fixture(scope="module")
def whole(network, tmp_path_factory):
    """A folder with the samples of seeds 0..99 in both forms."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("samples.npz", "png"):
        assert job(network, folder / name) == [f"{folder / name}: 100 images, 1 network evaluation each"]
    return folder


def test_an_npz_has_the_layout_of_sample_batches_and_a_record(whole, expected):
    assert sorted(path.name for path in whole.iterdir()) == ["png", "samples.npz", "samples.npz.json"]
    found = read(whole / "samples.npz")
    assert same_bits(expected[0], found["images"])
    assert same_integers(found["classes"], expected[1])
    assert found["seeds"].tolist() == list(range(100))
    record = json.loads((whole / "samples.npz.json").read_text())
    assert record["nfe"] == 1
    assert len(record["network_sha256"]) == 64
    assert "kernels" not in record["sampler"]


def test_png_files_are_a_data_set(whole, expected):
    assert not (whole / "png/.parts").exists()
    data = load_dataset({"name": "s", "kind": "folder", "path": str(whole / "png")})
    assert same_bits(expected[0], data.images(range(100)))
    assert same_integers(data.class_indices, expected[1])


def test_images_are_drawn_without_tf32_which_torch_allows(network, tmp_path, monkeypatch):
    """A GPU would use it in convolutions: other images than those that are measured."""
    allowed = lambda: (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    seen, fill = [], sida.sampling.job._fill
    monkeypatch.setattr(sida.sampling.job, "_fill", lambda *given: seen.append(allowed()) or fill(*given))
    with tf32(True):
        job(network, tmp_path / "out", seeds="0-3")
        assert allowed() == (True, True)
    assert seen == [(False, False)]


@pytest.mark.parametrize("form", ["samples.npz", "png"])
def test_an_interrupted_job_goes_on_and_ends_with_the_same_bytes(network, whole, tmp_path, form, monkeypatch):
    drawn, left, draw = [], [KeyboardInterrupt], Drawer.draw

    def watched(*args, **kwargs):
        for batch in draw(*args, **kwargs):
            if len(drawn) == 80 and left:
                raise left.pop()
            drawn.extend(batch.seeds)
            yield batch

    monkeypatch.setattr(Drawer, "draw", watched)
    with pytest.raises(KeyboardInterrupt):
        job(network, tmp_path / form)
    drawn.clear()
    job(network, tmp_path / form)
    assert drawn == list(range(64, 100)), "finished shards are kept"
    for path in [whole / form, *(whole / form).rglob("*")]:
        if path.is_file() and path.name != "samples.json":
            assert (tmp_path / path.relative_to(whole)).read_bytes() == path.read_bytes(), path
    drawn.clear()
    job(network, tmp_path / form)
    assert drawn == [], "a finished job draws nothing"


def test_shares_together_make_the_same_samples(network, expected, tmp_path, monkeypatch):
    """By the variables of ``torchrun``."""
    monkeypatch.setenv("WORLD_SIZE", "3")
    lines = []
    for rank in ("1", "0", "2"):
        monkeypatch.setenv("RANK", rank)
        lines += job(network, tmp_path / "samples.npz")
    assert "this share (2/3) is finished, others are not yet" in lines[0]
    assert "100 images" in lines[2]
    assert same_bits(expected[0], read(tmp_path / "samples.npz")["images"])
    # A rank without a world is no share.
    monkeypatch.delenv("WORLD_SIZE")
    assert "100 images" in job(network, tmp_path / "alone.npz")[0]


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


def test_a_share_that_ends_while_another_puts_all_together_is_finished_too(network, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")

    def share(rank):
        monkeypatch.setenv("RANK", rank)
        return job(network, tmp_path / "samples.npz", seeds="0-3", batch_size=2, shard_size=2)[0]

    def slowly(*given):
        if rival:
            share(rival.pop())
        return intact(*given)

    share("0")
    intact, rival = PartFolder.is_whole, ["0"]
    monkeypatch.setattr(PartFolder, "is_whole", slowly)
    assert "4 images" in share("1")
    assert "damaged" not in capsys.readouterr().err


def test_class_rules_of_the_command_and_samples_that_are_not_mixed(network, tmp_path):
    """Their classes: test_generate.py."""
    counts, digits = tmp_path / "counts.json", {"name": "digits", "kind": "digits"}

    def classes(name, **settings):
        job(network, tmp_path / f"{name}.npz", **settings)
        return set(read(tmp_path / f"{name}.npz")["classes"].tolist())

    write_counts(counts, "mine", (0, 0, 2, 0, 3, 0, 0, 0, 0, 0))
    assert classes("three", class_labels=3) == {3}
    assert classes("empirical", class_labels="empirical", dataset=digits) == set(range(10))
    assert classes("counted", class_labels=str(counts)) == {2, 4}
    assert classes("content", class_labels=json.loads(counts.read_text())) == {2, 4}
    write_counts(counts, "mine", (0, 0, 2, 0, 4, 0, 0, 0, 0, 0))
    for name, told, settings in (
        ("three", "class_labels", {"class_labels": 4}),
        ("counted", "data_sha256", {"class_labels": str(counts)}),
        ("empirical", "data_sha256, dataset", {"class_labels": "empirical", "dataset": {**digits, "max_size": 500}}),
    ):
        refused(rf"holds samples with other {told} .*choose another --out", classes, name, **settings)


def test_latent_networks_are_decoded_by_the_registered_decoder(tmp_path, monkeypatch):
    module, taken = sys.modules[Drawer.__module__], []
    enlarged = lambda x: SimpleNamespace(sample=x[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3))
    load_vae = lambda path, device: taken.append(path) or SimpleNamespace(decode=enlarged)
    monkeypatch.setattr(module, "load_vae", load_vae)
    monkeypatch.setattr(module, "fetch_many", lambda ids: {"weights": tmp_path / "vae" / "weights"})
    save_network(make(img_channels=4), tmp_path / "net.safetensors", {})
    job(tmp_path / "net.safetensors", tmp_path / "out.npz", seeds="0-3")
    assert taken == [str(tmp_path / "vae")]
    assert read(tmp_path / "out.npz")["images"].shape == (4, 3, 64, 64)


def test_the_command_line_writes_samples_and_a_grid(network, tmp_path, capsys):
    spec = {"network": str(network), "seeds": "0-9", "sampler": "heun:3", "device": "cpu", "batch_size": 4}
    flags = ["--seeds", "3, 8-10", "--out", str(tmp_path / "s.npz")]
    flags += ["--grid", str(tmp_path / "grid.png"), "--grid-size", "10x3"]
    assert main(["sample", "--spec", json.dumps(spec), *flags]) == 0
    printed = capsys.readouterr()
    assert "4 images, 5 network evaluations each" in printed.out
    assert "10 × 3 images, seeds 3–32" in printed.out
    assert "[sample s.npz]" in printed.err
    assert read(tmp_path / "s.npz")["seeds"].tolist() == [3, 8, 9, 10]
    rows = [label for label in range(10) for _ in range(3)]
    images, _ = collect(make(), range(3, 33), "heun:3", 4, class_labels=rows)
    assert same_bits(tile(images, 3)[0], Image.open(tmp_path / "grid.png"))


def test_one_step_takes_the_noise_level_that_the_network_learned(network, tmp_path):
    """GDD's generators start at σ 80; at SiD's 2.5 their images are noise."""
    own = tmp_path / "own.safetensors"
    save_network(make(), own, {"sampler": {"kind": "one_step", "init_sigma": 80.0}})
    images = sida.load(own).sample(2)
    assert same_bits(images, sida.load(network, "one_step,init_sigma=80").sample(2))
    assert not same_bits(images, sida.load(network).sample(2))
    assert same_bits(sida.load(network).sample(2), sida.load(own, "one_step,init_sigma=2.5").sample(2))
    job(own, tmp_path / "two.npz", seeds="0-1", batch_size=64)
    assert same_bits(images, read(tmp_path / "two.npz")["images"])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--out", "x", "--seeds", "5-1"], "^seeds: "),
        (["--out", "x", "--grid", "g.png", "--grid-size", "0x3"], "^grid_size: "),
        (["--grid", "g.jpg"], "^grid: must end in .png"),
        (["--grid", "g.png", "--seeds", "4294967290"], "^grid: .*2.32 - 1"),
        (["--out", "x", "--dataset", "digitz"], "^dataset: "),
        ([], "^sida sample: out: "),
        (["--spec", '{"netwrk": "x"}', "--out", "x"], "^--spec.netwrk: "),
        (["--out", "a.zip"], "name a folder"),
        (["--out", "mine.npz"], "^mine.npz: exists and was not written by sida sample"),
    ],
)
def test_bad_input_is_one_line(network, flags, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.npz").write_bytes(b"precious")
    refused(told, command, "sample", "--network", network, *flags)
    assert Path("mine.npz").read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 1, "a corrected command must find its target free"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"seed": 1.5}, "seed"), ({"seed": "1"}, "seed"), ({"seed": None}, "seed"), ({"seed": [1, 2]}, "seed"),
        ({"seed": 1 << 70}, "seed"), ({"seed": 1 << 32}, "2.32 - 1"), ({"count": [-1, 2]}, "seeds from 0"),
        ({"count": [[0, 1], [2, 3]]}, "count"), ({"count": [[0], [1, 2]]}, "count"), ({"count": "3"}, "count"),
        ({"count": 0}, "at least one image"), ({"count": True}, "count"), ({"batch_size": 1.5}, "batch_size"),
        ({"batch_size": None}, "batch_size"), ({"batch_size": 0}, "batch size"), ({"classes": [[0, 1]]}, "classes"),
        ({"classes": [0, [1]]}, "classes"), ({"classes": 1 << 63}, "classes"), ({"classes": 0.5}, "classes"),
    ],
)  # fmt: skip
def test_wrong_numbers_of_a_drawing_are_one_line_of_python_too(network, arguments, name):
    refused(name, sida.load(network).sample, **{"count": 2, **arguments})


@pytest.mark.parametrize("sampler", [None, 3, ["heun"]])
def test_a_sampler_of_another_type_is_one_line(network, sampler):
    assert refused("mapping", sida.load, network, sampler).where == "sampler"


def test_pictures_have_tiles_in_reading_order_and_colours(tmp_path):
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 2, 2)
    picture = tile(images, 3, gap=1)
    assert picture.shape == (3, 5, 8)
    assert picture[0, ::3, ::3].tolist() == [[0, 1, 2], [3, 4, 255]]
    assert (picture[:, 2] == 255).all()
    save_grid(tmp_path / "g.png", images, 3, scale=3)
    assert Image.open(tmp_path / "g.png").size == (18, 12)
    refused("1 or 3 channels, got 4", save_grid, tmp_path / "g.png", torch.zeros(1, 4, 2, 2, dtype=torch.uint8), 1)
    save_network(make(img_channels=2), tmp_path / "two.safetensors", {})
    refused("PNG files need 1 or 3 channels", job, tmp_path / "two.safetensors", tmp_path / "out")


def test_a_published_pickle_is_converted_once_for_each_network_class(expected, tmp_path, monkeypatch):
    """Equal bytes may be a network of EDM's or of GDD's class."""
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    pickle_file, fetched = write_genuine(tmp_path / "published.pkl", make()), []
    monkeypatch.setattr(sida.networks.official, "fetch", lambda asset_id: fetched.append(asset_id) or pickle_file)
    files = [network_file(name) for name in (str(pickle_file), "cifar10-uncond-gdd-i", "cifar10-uncond-sida-a1")]
    assert [read_metadata(file)["network"]["class"] for file in files] == ["EDMPrecond", "GDDPrecond", "EDMPrecond"]
    assert fetched == ["cifar10-uncond-gdd-i", "cifar10-uncond-sida-a1"]
    moment = files[0].stat().st_mtime_ns
    job(pickle_file, tmp_path / "samples.npz")
    assert same_bits(expected[0], read(tmp_path / "samples.npz")["images"])
    assert files[0].stat().st_mtime_ns == moment


@pytest.mark.parametrize("form", ["samples.npz", "png"])
def test_shards_that_cannot_be_read_are_not_damaged(network, whole, tmp_path, monkeypatch, form):
    """They stay, and the command ends with the reason; when they can be read again, its bytes are the same."""
    monkeypatch.setattr(SampleStore, "finish", lambda store: False)
    refused("not all there", job, network, tmp_path / form)
    monkeypatch.undo()
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(parts, "verify_tensors", raising(OSError(116, "Stale file handle")))
    refused("cannot be read .Stale file handle", job, network, tmp_path / form)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept
    job(network, tmp_path / form)
    target = "samples.npz" if form == "samples.npz" else "png/00000/img00000099.png"
    assert (tmp_path / target).read_bytes() == (whole / target).read_bytes()
    assert not list(tmp_path.glob("*parts*"))


def test_a_shard_of_other_bytes_is_made_again_and_a_stranger_beside_it_stays(network, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(SampleStore, "finish", lambda store: False)
    refused("not all there", job, network, tmp_path / "s.npz", seeds="0-3")
    monkeypatch.undo()
    (shard,) = (tmp_path / "s.npz.parts").iterdir()
    shard.write_bytes(shard.read_bytes()[:-9])
    shard.with_name("mine.txt").write_text("x")
    assert "4 images" in job(network, tmp_path / "s.npz", seeds="0-3")[0]
    assert [path.name for path in shard.parent.iterdir()] == ["mine.txt"]
    assert same_bits(expected[0][:4], read(tmp_path / "s.npz")["images"])
