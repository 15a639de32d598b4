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
from eval.measuring.stores import open_images
from eval.metrics.statistics import FeatureStatistics
from eval.results.logs import read_evaluations, read_log
from eval.results.measurements import collect, write_csv, write_measurement
from eval.results.sheet import read_runs
from eval.results.summary import load_measurements
from sida.config.settings import load_spec, load_yaml
from sida.data import load_dataset
from sida.data.prepare import PrepareConfig, prepare
from sida.errors import UserError
from sida.files.atomic import append_jsonl
from sida.files.pickles import read_pickle, read_state_dict
from sida.networks import build_network
from sida.networks.file import load_network, save_network
from sida.networks.official import import_network
from sida.sampling.store import Samples, intact_png, intact_shard, open_sample_store
from sida.training.logs import Logs
from sida.training.run import StateStore
from tests.data.test_archive import members, npy, pictures, png, tar_of, write_zip
from tests.disks import DAMAGES
from tests.eval.measuring.test_measure import DIGITS, small_protocol
from tests.files.made_pickles import add_hooks, write_genuine, write_torch
from tests.networks.made import SMALL, random_network
from tests.refused import command, refusal
from tests.training.toy import EDM2, NETWORK

Made = tuple[Path, Callable[[], Any]]
KINDS: dict[str, Callable[[Path], Made]] = {}
#: Kinds with a hash, and the least share of flipped bits that must be found: others lie where nothing is read.
HASHED: dict[str, float] = {}
PROTOCOL = {
    "name": "flips", "num_samples": 40, "trials": 1, "resolution": 8, "channels": 1,
    "references": {"own": {"kind": "dataset"}},
    "metrics": [{"key": "fd", "kind": "frechet", "extractor": "pixels", "reference": "own"},
                {"key": "precision", "kind": "precision", "extractor": "pixels", "reference": "own"}],
}  # fmt: skip
RECORDS = [{"nimg": nimg, "fd": 5.5 / nimg, "img_per_s": 0.1 * nimg} for nimg in (10, 20, 30)]


def kind(found: float | None = None) -> Callable[[Callable[[Path], Made]], Callable[[Path], Made]]:
    """Registers a kind: a function that writes a file and returns its path with what uses it."""

    def register(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
        KINDS[make.__name__] = make
        if found is not None:
            HASHED[make.__name__] = found
        return make

    return register


def trial(value: float = 7.4321) -> dict[str, Any]:
    """A measurement."""
    return {
        **{"run": "a", "method": "sid", "trial": 0, "n": 40, "seeds": [0, 39], "nfe": 1, "spec_sha256": "5e" * 32},
        "metrics": {"fd": value, "is": 2.25},
        "protocol": {"name": "flips", "sha256": "4f" * 32},
        "reference": {"name": "own", "sha256": "ae" * 32},
        "extractors": {"pixels": "e7" * 32},
        "environment": {"device": "cpu", "code_version": "0", "date": "2035-01-01T00:00:00Z"},
    }


@kind(0.7)
def trial_file(folder):
    path = folder / "measurements/a/trial-0.json"
    write_measurement(path, trial())

    def use():
        for aside in path.parent.glob("*.damaged"):
            aside.unlink()
        return collect(folder / "measurements", ["a"])

    return path, use


@kind(0.7)
def csv(folder):
    path = folder / "measurements.csv"
    write_csv(path, [trial(), {**trial(6.5), "trial": 1, "seeds": [40, 79]}])
    return path, lambda: load_measurements(path).rows


@kind()
def log(folder):
    """Its last line may be cut off by a killed process."""
    path = folder / "evaluations.jsonl"
    for record in RECORDS:
        append_jsonl(path, record)
    return path, lambda: [read_evaluations(path, "fd"), read_log(path)]


@kind(0.7)
def log_of_a_finished_run(folder):
    path = folder / "evaluations.jsonl"
    Logs(folder).restart([], RECORDS, final=True)
    return path, lambda: [read_evaluations(path, "fd"), read_log(path)]


@kind(0.7)
def network(folder):
    torch.manual_seed(0)
    path = folder / "network.safetensors"
    save_network(build_network(NETWORK), path, {"method": "sid", "nimg": 400})
    return path, lambda: [load_network(path)[0].state_dict(), load_network(path)[1]]


@kind(0.7)
def reference(folder):
    path, digests = folder / "r.safetensors", {"pixels": PixelExtractor().sha256}
    sums = {"pixels": FeatureStatistics().update(torch.arange(160.0).reshape(40, 4).sin())}
    write_own(path, OwnReference("digits", "ab" * 32, sums, {"pixels": torch.ones(3, 4)}, digests, 1, False))

    def use():
        own = read_own(path, digests)
        return [own.name, own.sha256, own.statistics["pixels"].cov, own.statistics["pixels"].count, own.features]

    return path, use


@kind(0.7)
def state(folder, suffix=".json"):
    """The older of two states is gone back to."""
    path = folder / f"state-000002{suffix}"
    store = StateStore(folder, "d" * 64)
    for nimg in (100, 200):
        store.save({"nimg": nimg, "finished": True, "best": 1 / nimg}, {"x": torch.full((9,), float(nimg))})

    def use():
        kept = StateStore(folder, "d" * 64).load()
        if kept.record["nimg"] == 100 and kept.tensors["x"].tolist() == [100.0] * 9:
            raise UserError(path, "went back")
        return [kept.record, kept.tensors]

    return path, use


@kind(0.7)
def state_tensors(folder):
    return state(folder, ".safetensors")


def samples(folder, name):
    images = torch.arange(6 * 64, dtype=torch.uint8).reshape(6, 1, 8, 8)
    store = open_sample_store(str(folder / name), range(6), 6, {"kind": "x"})
    store.write(0, [store.encode(Samples(list(range(6)), images, torch.arange(6) % 3))])
    return store


def intact(whole, path):
    if not whole:
        raise UserError(path, "is not intact")
    return path.read_bytes()


@kind(0.3)
def npz_shard(folder):
    path = samples(folder, "out.npz").shard_path(0)
    return path, lambda: intact(intact_shard(path, range(6)), path) and [np.load(path)[key] for key in ("images",)]


@kind(0.7)
def png_list(folder):
    store = samples(folder, "out")
    path = store.shard_path(0)
    return path, lambda: intact(store.is_intact(0), path) and json.loads(path.read_text())["images"]


@kind(0.7)
def png_sample(folder):
    samples(folder, "out")
    path = folder / "out/00000/img00000002.png"
    return path, lambda: intact(intact_png(path), path)


# Files of other programs


def foreign(name: str, file: str, write: Callable[[Path], object], read: Callable[[Path], object]) -> None:
    """Registers a kind without a hash."""

    def make(folder: Path) -> Made:
        write(folder / file)
        return folder / file, lambda: read(folder / file)

    KINDS[name] = make


def data(path):
    kind = "folder" if path.is_dir() else "zip"
    dataset = load_dataset({"name": "x", "kind": kind, "path": str(path)})
    return dataset.images(range(len(dataset)))


def prepared(path):
    out = path.parent / "o.zip"
    prepare(PrepareConfig(str(path), str(out)))
    return out.read_bytes()


def score(path):
    store = open_images(path)
    return [store.read(0, store.count), store.classes]


def converted(path):
    return import_network(path, path.with_suffix(".out"))


def _hooked(path):
    net = random_network("EDM2Precond", EDM2["kwargs"])
    add_hooks(net, True)
    kwargs = {key: value for key, value in net.init_config["kwargs"].items() if key != "weight_norm"}
    write_genuine(path, net, kwargs, renamed={"EDM2Precond": "Precond", "EDM2UNet": "UNet"}, protocol=4)


def _picture(path):
    path.parent.mkdir()
    Image.fromarray(pictures(1, channels=1)[0]).save(path)


PICTURES = {f"{i}.png": png(image) for i, image in enumerate(pictures(3))}
for _form in ("png", "jpg"):
    foreign(f"picture {_form}", f"pictures/x.{_form}", _picture, lambda path: prepared(path.parent))
foreign("published network", "n.pickle", _hooked, converted)
foreign(
    "torch network", "n.pickle", lambda path: write_torch(path, random_network("EDMPrecond", SMALL), True), converted
)
foreign("data set", "x.zip", lambda path: write_zip(path, members(pictures(3), [0, 1, 2])), data)
foreign("tar", "x.tar", lambda path: path.write_bytes(tar_of(PICTURES)), score)
foreign("packed tar", "x.tar.gz", lambda path: path.write_bytes(tar_of(PICTURES, "w:gz")), score)
foreign("npy", "x.npy", lambda path: path.write_bytes(npy(pictures(3))), score)
foreign("npz", "x.npz", lambda path: np.savez_compressed(path, pictures(3), np.arange(3)), score)
foreign("statistics", "s.npz", lambda path: np.savez(path, mu=np.arange(4.0), sigma=np.eye(4)), read_moments)
foreign("weights", "w.pth", lambda path: torch.save({"a": torch.ones(3, 2).T}, path), read_state_dict)
foreign("values", "v.pkl", lambda path: path.write_bytes(pickle.dumps({"mu": np.arange(6.0)})), read_pickle)
foreign("yaml", "x.yaml", lambda path: path.write_text("a: [1, 2.5, {b: text}]\nc: null\n"), load_yaml)
foreign("json", "x.json", lambda path: path.write_text('{"a": [1, 2.5, {"b": "text"}]}'), lambda p: load_spec(str(p)))
foreign("sheet", "x.tsv", lambda path: path.write_text("run\tlabel\tmethod\na\tone\tsid\nb\ttwo\tsida\n"), read_runs)


def plain(value: Any) -> Any:
    """Something that can be compared."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def outcome(path: Path, use: Callable[[], Any], content: bytes) -> tuple[Any, str | None]:
    """What a file with this content gives, or the one line that refuses it; nothing is left beside it."""
    path.write_bytes(content)
    values: list[Any] = []
    before = sorted(path.parent.iterdir())
    try:
        said: str | None = refusal(lambda: values.append(plain(use())))
    except pytest.fail.Exception:  # taken
        assert values
        said = None
    assert said is None or path.name in said
    left = [found for found in path.parent.iterdir() if found not in before and found.suffix in (".out", ".tmp")]
    assert said is None or not left
    return (values or [None])[0], said


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_a_cut_and_an_edit_are_one_line_or_the_same_value(name, tmp_path):
    path, use = KINDS[name](tmp_path)
    content, right = path.read_bytes(), plain(use())
    dice = random.Random(name)
    # A foreign file starts a process for each case.
    flips, others = (30, 8) if name in HASHED else (3, 2)
    places = sorted({*range(0, len(content), max(1, len(content) // flips)), len(content) - 1})
    found = 0
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << dice.randrange(8)
        value, said = outcome(path, use, bytes(flipped))
        assert said is not None or name not in HASHED or value == right
        found += said is not None
    assert found >= HASHED.get(name, 0) * len(places), f"{found} of {len(places)}"
    for _ in range(others):
        cut = content[: dice.randrange(len(content))]
        value, said = outcome(path, use, cut)
        assert said is not None or name not in HASHED or value == right
        place, long = dice.randrange(len(content)), dice.choice((1, 4, 60))
        edits = (b"", b"\0" * long, b"\xff" * long, content[:long] * 3, b"9" * 30, b"-1", b"\x1b[2J", b"NaN")
        outcome(path, use, content[:place] + dice.choice(edits) + content[place + dice.choice((0, long)) :])


def test_an_edited_digit_is_found_and_a_file_without_hash_is_read(tmp_path):
    path, _ = trial_file(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("7.4321", "7.4322"))
    with pytest.raises(UserError, match=r"trial-0\.json: damaged: .*measure this trial again \(set aside as trial-0"):
        collect(tmp_path / "measurements", ["a"])
    assert path.with_name("trial-0.json.damaged").is_file()
    record = json.loads(text)
    assert len(record.pop("content_sha256")) == 64
    path.write_text(json.dumps(record))
    assert collect(tmp_path / "measurements", ["a"])[0]["metrics"]["fd"] == 7.4321


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_output_is_made_again_as_it_was(tmp_path, damage):
    """Of ``sida sample``, whose archive is one file, and of ``measure``, whose trial is one."""
    path, _ = network(tmp_path)
    spec = {"run": "a", "method": "sid", "network": str(path), "nfe": 1, "threads": 1, "dataset": DIGITS}
    spec |= {"sampler": {"kind": "one_step"}, "protocol": small_protocol(num_samples=20, trials=1)}
    zipped, trial = tmp_path / "x.npz", tmp_path / "m/trial-0.json"
    calls = {
        zipped: ["sample", "--network", path, "--seeds", "0-7", "--out", zipped],
        trial: ["measure", "--spec", json.dumps(spec), "--trials", "0", "--out", trial.parent],
    }
    for made, call in calls.items():
        command(*call)
        right = made.read_bytes() if made.suffix == ".npz" else json.loads(made.read_text())["metrics"]
        damage(made, 0.3)
        command(*call)
        assert right == (made.read_bytes() if made.suffix == ".npz" else json.loads(made.read_text())["metrics"])
