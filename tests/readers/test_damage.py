"""The damage matrix: a file of each kind, with flipped bits, cut, or edited anywhere, is one line or the same value.

Files with a hash of their own never give another value. Files of other programs may (a pixel is a pixel), and then end
in no other way than one line; what they may ask for is in test_hostile.py.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eval.features.pixels import PixelExtractor
from eval.measuring.reference_files import OwnReference, read_moments, read_own, write_own
from eval.metrics.statistics import FeatureStatistics
from eval.results.logs import read_evaluations, read_log
from eval.results.measurements import collect, write_csv, write_measurement
from eval.results.sheet import read_runs
from eval.results.summary import load_measurements
from sida.config.settings import load_spec, load_yaml
from sida.errors import UserError
from sida.files.atomic import append_jsonl
from sida.files.pickles import read_pickle, read_state_dict
from sida.networks.file import load_network, save_network
from sida.networks.official import import_network
from sida.sampling.store import Samples, SampleStore, open_sample_store
from sida.training.logs import Logs
from sida.training.run import StateStore
from tests.data.test_archive import members, npy, pictures, png, tar_of, write_zip
from tests.disks import DAMAGES
from tests.eval.measuring.test_measure import DIGITS, small_protocol
from tests.eval.synthetic_output import trial_record
from tests.files.made_pickles import add_hooks, write_genuine, write_torch
from tests.networks.made import SMALL, random_network
from tests.readers.test_hostile import data, prepared, score
from tests.refused import command, refusal, refused
from tests.training.toy import EDM2, NETWORK

#: A file, the function that writes it, and the one that reads it.
Kind = tuple[str, Callable[[Path], object], Callable[[Path], Any]]
RECORDS = [{"nimg": nimg, "fd": 5.5 / nimg, "img_per_s": 0.1 * nimg} for nimg in (10, 20, 30)]
PIXELS = {"pixels": PixelExtractor().sha256}


def read_logs(path: Path) -> list[Any]:
    return [read_evaluations(path, "fd"), read_log(path)]


def write_network(path: Path) -> None:
    save_network(random_network(NETWORK["class"], NETWORK["kwargs"]), path, {"method": "sid", "nimg": 400})


def read_network(path: Path) -> list[Any]:
    net, record = load_network(path)
    return [net.state_dict(), record]


def write_reference(path: Path) -> None:
    sums = {"pixels": FeatureStatistics().update(torch.arange(160.0).reshape(40, 4).sin())}
    write_own(path, OwnReference("digits", "ab" * 32, sums, {"pixels": torch.ones(3, 4)}, PIXELS, 1, False))


def read_reference(path: Path) -> list[Any]:
    own = read_own(path, PIXELS)
    return [own.name, own.sha256, own.statistics["pixels"].cov, own.statistics["pixels"].count, own.features]


def write_states(path: Path) -> None:
    store = StateStore(path.parent, "d" * 64)
    for nimg in (100, 200):
        store.save({"nimg": nimg, "finished": True, "best": 1 / nimg}, {"x": torch.full((9,), float(nimg))})


def read_state(path: Path) -> list[Any]:
    """The older of two states is gone back to."""
    kept = StateStore(path.parent, "d" * 64).load()
    if kept.record["nimg"] == 100 and kept.tensors["x"].tolist() == [100.0] * 9:
        raise UserError(path, "went back")
    return [kept.record, kept.tensors]


def opened(path: Path) -> SampleStore:
    """The store of samples of which a file is a part."""
    return open_sample_store(path.parts[0].removesuffix(".parts"), range(6), 6, {"kind": "x"})


def write_samples(path: Path) -> None:
    store, images = opened(path), torch.arange(6 * 64, dtype=torch.uint8).reshape(6, 1, 8, 8)
    store.write(0, [store.encode(Samples(list(range(6)), images, torch.arange(6) % 3))])


def read_samples(path: Path) -> Any:
    if not opened(path).is_intact(0):
        raise UserError(path, "is not intact")
    return np.load(path)["images"] if path.suffix == ".npz" else path.read_bytes()


#: Kinds with a hash; and the least share of flipped bits that must be found: others lie where nothing is read.
HASHED: dict[str, Kind] = {
    "trial": ("measurements/a/trial-0.json", lambda path: write_measurement(path, trial_record()),
              lambda path: collect(path.parents[1], ["a"])),
    "csv": ("measurements.csv", lambda path: write_csv(path, [trial_record(), trial_record(trial=1, value=1.25)]),
            lambda path: load_measurements(path).rows),
    "log of a finished run": ("evaluations.jsonl", lambda path: Logs(path.parent).restart([], RECORDS, final=True),
                              read_logs),
    "network": ("network.safetensors", write_network, read_network),
    "reference": ("r.safetensors", write_reference, read_reference),
    "state": ("state-000002.json", write_states, read_state),
    "tensors of a state": ("state-000002.safetensors", write_states, read_state),
    "npz shard": ("out.npz.parts/shard-000000-000005.npz", write_samples, read_samples),
    "list of samples": ("out/.parts/shard-000000-000005.json", write_samples, read_samples),
    "png sample": ("out/00000/img00000002.png", write_samples, read_samples),
}  # fmt: skip
FOUND = dict.fromkeys(HASHED, 0.7) | {"npz shard": 0.3}


def write_hooked(path: Path) -> None:
    net = random_network("EDM2Precond", EDM2["kwargs"])
    add_hooks(net, True)
    kwargs = {key: value for key, value in net.init_config["kwargs"].items() if key != "weight_norm"}
    write_genuine(path, net, kwargs, renamed={"EDM2Precond": "Precond", "EDM2UNet": "UNet"}, protocol=4)


def converted(path: Path) -> dict[str, Any]:
    return import_network(path, path.with_suffix(".out"))


def write_picture(path: Path) -> None:
    path.parent.mkdir()
    Image.fromarray(pictures(1, channels=1)[0]).save(path)


PNGS = {f"{i}.png": png(image) for i, image in enumerate(pictures(3))}
#: Kinds without: files of other programs, and a log, whose last line may be cut off by a killed process.
FOREIGN: dict[str, Kind] = {
    "log": ("evaluations.jsonl", lambda path: [append_jsonl(path, record) for record in RECORDS], read_logs),
    "picture png": ("pictures/x.png", write_picture, lambda path: prepared(path.parent)),
    "picture jpg": ("pictures/x.jpg", write_picture, lambda path: prepared(path.parent)),
    "published network": ("n.pickle", write_hooked, converted),
    "torch network": ("n.pickle", lambda path: write_torch(path, random_network("EDMPrecond", SMALL), True), converted),
    "data set": ("x.zip", lambda path: write_zip(path, members(pictures(3), [0, 1, 2])), data),
    "tar": ("x.tar", lambda path: path.write_bytes(tar_of(PNGS)), score),
    "packed tar": ("x.tar.gz", lambda path: path.write_bytes(tar_of(PNGS, "w:gz")), score),
    "npy": ("x.npy", lambda path: path.write_bytes(npy(pictures(3))), score),
    "npz": ("x.npz", lambda path: np.savez_compressed(path, pictures(3), np.arange(3)), score),
    "statistics": ("s.npz", lambda path: np.savez(path, mu=np.arange(4.0), sigma=np.eye(4)), read_moments),
    "weights": ("w.pth", lambda path: torch.save({"a": torch.ones(3, 2).T}, path), read_state_dict),
    "values": ("v.pkl", lambda path: path.write_bytes(pickle.dumps({"mu": np.arange(6.0)})), read_pickle),
    "yaml": ("x.yaml", lambda path: path.write_text("a: [1, 2.5, {b: text}]\nc: null\n"), load_yaml),
    "json": (
        "x.json",
        lambda path: path.write_text('{"a": [1, 2.5, {"b": "text"}]}'),
        lambda path: load_spec(str(path)),
    ),
    "sheet": ("x.tsv", lambda path: path.write_text("run\tlabel\tmethod\na\tone\tsid\nb\ttwo\tsida\n"), read_runs),
}


def plain(value: Any) -> Any:
    """Something that can be compared."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def outcome(path: Path, read: Callable[[Path], Any], content: bytes) -> tuple[Any, bool]:
    """What a file with this content gives, and whether one line refuses it; nothing is left beside it then."""
    path.write_bytes(content)
    values: list[Any] = []
    before = sorted(path.parent.iterdir())
    try:
        said = refusal(lambda: values.append(plain(read(path))))
    except pytest.fail.Exception:  # taken
        return values[0], False
    assert path.name in said
    left = [found for found in path.parent.iterdir() if found not in before and found.suffix in (".out", ".tmp")]
    assert not left
    return None, True


@pytest.mark.parametrize("name", HASHED | FOREIGN)
def test_a_flipped_bit_a_cut_and_an_edit_are_one_line_or_the_same_value(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, write, read = (HASHED | FOREIGN)[name]
    path = Path(file)
    write(path)
    content, right = path.read_bytes(), plain(read(path))
    dice = random.Random(name)
    # A foreign file starts a process for each case.
    flips, others = (30, 8) if name in HASHED else (3, 2)
    places = sorted({*range(0, len(content), max(1, len(content) // flips)), len(content) - 1})
    found = 0
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << dice.randrange(8)
        value, refused = outcome(path, read, bytes(flipped))
        assert refused or name in FOREIGN or value == right
        found += refused
    assert found >= FOUND.get(name, 0) * len(places), f"{found} of {len(places)}"
    for _ in range(others):
        value, refused = outcome(path, read, content[: dice.randrange(len(content))])
        assert refused or name in FOREIGN or value == right
        place, long = dice.randrange(len(content)), dice.choice((1, 4, 60))
        edits = (b"", b"\0" * long, b"\xff" * long, content[:long] * 3, b"9" * 30, b"-1", b"\x1b[2J", b"NaN")
        outcome(path, read, content[:place] + dice.choice(edits) + content[place + dice.choice((0, long)) :])


def test_an_edited_digit_is_found_and_a_file_without_hash_is_read(tmp_path):
    path = tmp_path / "a/trial-0.json"
    write_measurement(path, trial_record())
    text = path.read_text()
    path.write_text(text.replace("1.5", "1.4"))
    again = r"trial-0\.json: damaged: .*measure this trial again \(set aside as trial-0"
    refused(again, collect, tmp_path, ["a"])
    assert path.with_name("trial-0.json.damaged").is_file()
    record = json.loads(text)
    assert len(record.pop("content_sha256")) == 64
    path.write_text(json.dumps(record))
    assert collect(tmp_path, ["a"])[0]["metrics"]["fd"] == 1.5


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_output_is_made_again_as_it_was(tmp_path, damage):
    """Of ``sida sample``, whose archive is one file, and of ``measure``, whose trial is one."""
    path, zipped, trial = (tmp_path / name for name in ("network.safetensors", "x.npz", "m/trial-0.json"))
    write_network(path)
    spec = {"run": "a", "method": "sid", "network": str(path), "nfe": 1, "threads": 1, "dataset": DIGITS}
    spec |= {"sampler": {"kind": "one_step"}, "protocol": small_protocol(num_samples=20, trials=1)}
    for made, content, call in (
        (zipped, Path.read_bytes, ["sample", "--network", path, "--seeds", "0-7", "--out", zipped]),
        (trial, lambda made: json.loads(made.read_text())["metrics"],
         ["measure", "--spec", json.dumps(spec), "--trials", "0", "--out", trial.parent]),
    ):  # fmt: skip
        command(*call)
        right = content(made)
        damage(made, 0.3)
        command(*call)
        assert content(made) == right
