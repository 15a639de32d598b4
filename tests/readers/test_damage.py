"""Files that are damaged or hostile: one line, or the same value.

The damage matrix: a file of each kind, with flipped bits, cut, or edited anywhere. Files with a hash of their own never
give another value. Files of other programs may (a pixel is a pixel), and then end in no other way than one line.

A hostile file of every format (huge, endless, deep, of wrong sizes, with code) is one line: soon, in little memory.
Pickles: tests/files/test_pickles.py.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import pickle
import random
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sida.config.settings import load_yaml
from sida.data import load_dataset
from sida.data.prepare import PrepareConfig, prepare
from sida.errors import UserError
from sida.eval.features.pixels import PixelExtractor
from sida.eval.measuring.reference_files import OwnReference, read_batch, read_moments, read_own, write_own
from sida.eval.measuring.stores import open_images
from sida.eval.metrics.statistics import FeatureStatistics
from sida.eval.results.csv_files import read_csv
from sida.eval.results.logs import read_evaluations, read_log
from sida.eval.results.sheet import read_runs
from sida.eval.results.trial_files import collect, write_measurement
from sida.files import convert
from sida.files.atomic import append_jsonl
from sida.networks.file import load_network, save_network
from sida.networks.official import import_network
from sida.sampling.store import Samples, SampleStore, open_sample_store
from sida.training.run_folder import RunFolder
from tests.data.test_archive import members, npy, pictures, png, tar_of, write_folder, write_zip, zip_of
from tests.disks import DAMAGES
from tests.eval.synthetic_output import trial_record
from tests.files.made_pickles import add_hooks, write_genuine, write_torch
from tests.near import is_copy
from tests.networks.made import SMALL, random_network
from tests.readers.test_text import read_spec_file
from tests.refused import command, refusal, refused
from tests.slow import quick_but
from tests.training.toy import EDM2, NETWORK

pytestmark = pytest.mark.usefixtures("forked_readers")


def data(path: Path) -> torch.Tensor:
    """As a data set."""
    dataset = load_dataset({"name": "x", "kind": "folder" if path.is_dir() else "zip", "path": str(path)})
    return dataset.images(range(len(dataset)))


def score(path: Path) -> list[np.ndarray | None]:
    """As samples."""
    store = open_images(path)
    return [store.read(0, store.count), store.classes]


def prepared(path: Path) -> bytes:
    """As pictures to prepare."""
    out = path.parent / "o.zip"
    prepare(PrepareConfig(str(path), str(out), labels="none"))
    return out.read_bytes()


# Damage

#: A file, the function that writes it, and the one that reads it.
Kind = tuple[str, Callable[[Path], object], Callable[[Path], Any]]
RECORDS = [{"nimg": nimg, "fd": 5.5 / nimg, "img_per_s": 0.1 * nimg} for nimg in (10, 20, 30)]
EXTRACTORS = {"pixels": PixelExtractor().sha256}


def read_logs(path: Path) -> list[Any]:
    return [read_evaluations(path, "fd"), read_log(path)]


def write_network(path: Path) -> None:
    save_network(random_network(NETWORK["class"], NETWORK["kwargs"]), path, {"method": "sid", "nimg": 400})


def read_network(path: Path) -> list[Any]:
    net, record = load_network(path)
    return [net.state_dict(), record]


def write_reference(path: Path) -> None:
    sums = {"pixels": FeatureStatistics().update(torch.arange(160.0).reshape(40, 4).sin())}
    write_own(path, OwnReference("digits", "ab" * 32, sums, {"pixels": torch.ones(3, 4)}, EXTRACTORS, 1, False))


def read_reference(path: Path) -> list[Any]:
    own = read_own(path, EXTRACTORS)
    return [own.name, own.sha256, own.statistics["pixels"].cov, own.statistics["pixels"].count, own.features]


def write_states(path: Path) -> None:
    for nimg in (100, 200):
        with RunFolder(Path("run"), "d" * 64) as files:
            files.save({"nimg": nimg, "finished": True, "best": 1 / nimg}, {"x": torch.full((9,), float(nimg))}, {})


def read_state(path: Path) -> list[Any]:
    """The older of two states is gone back to."""
    with RunFolder(Path("run"), "d" * 64) as files:
        kept = files.state
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
    store = opened(path)
    if not store.is_done(0):
        raise UserError(path, "is not whole")
    return next(store.shards()).tensors


#: Kinds with a hash; and the least share of flipped bits that must be found: others lie where nothing is read.
HASHED: dict[str, Kind] = {
    "trial": ("measurements/a/trial-0.json", lambda path: write_measurement(path, trial_record()),
              lambda path: collect(path.parents[1], ["a"])),
    "network": ("network.safetensors", write_network, read_network),
    "reference": ("r.safetensors", write_reference, read_reference),
    "state": ("run/state/000000000200.safetensors", write_states, read_state),
    "shard of samples": ("out.npz.parts/000000000000.safetensors", write_samples, read_samples),
}  # fmt: skip
FOUND = dict.fromkeys(HASHED, 0.7)


def write_hooked(path: Path) -> None:
    net = random_network("EDM2Precond", EDM2["kwargs"])
    add_hooks(net, True)
    kwargs = {key: value for key, value in net.init_config["kwargs"].items() if key != "weight_norm"}
    write_genuine(path, net, kwargs, renamed={"EDM2Precond": "Precond", "EDM2UNet": "UNet"}, protocol=4)


def converted(path: Path) -> dict[str, Any]:
    return import_network(path, path.with_suffix(".out"))


MOMENTS = pickle.dumps({"mu": np.arange(4.0), "sigma": np.eye(4)})
PNGS = {f"{index}.png": png(image) for index, image in enumerate(pictures(6))}
TAR = tar_of(PNGS)
#: Kinds without: files of other programs, and a log, whose last line may be cut off by a killed process.
FOREIGN: dict[str, Kind] = {
    "log": ("evaluations.jsonl", lambda path: [append_jsonl(path, record) for record in RECORDS], read_logs),
    "picture": ("pictures/x.jpg", lambda path: write_folder(path.parent, {path.name: png(pictures(1)[0], "JPEG")}),
                lambda path: prepared(path.parent)),
    "published network": ("n.pickle", write_hooked, converted),
    "torch network": ("n.pickle", lambda path: write_torch(path, random_network("EDMPrecond", SMALL), True), converted),
    "data set": ("x.zip", lambda path: write_zip(path, members(pictures(3), [0, 1, 2])), data),
    "tar": ("x.tar", lambda path: path.write_bytes(TAR), score),
    "packed tar": ("x.tar.gz", lambda path: path.write_bytes(tar_of(PNGS, "w:gz")), score),
    "npy": ("x.npy", lambda path: path.write_bytes(npy(pictures(3))), score),
    "npz": ("x.npz", lambda path: np.savez_compressed(path, pictures(3), np.arange(3)), score),
    "statistics": ("s.npz", lambda path: np.savez(path, mu=np.arange(4.0), sigma=np.eye(4)), read_moments),
    "pickled statistics": ("v.pkl", lambda path: path.write_bytes(MOMENTS), read_moments),
    "tensors": ("x.pt", lambda path: torch.save([*torch.from_numpy(pictures(3))], path), score),
    "safetensors": ("x.safetensors", lambda path: save_file({"images": torch.from_numpy(pictures(3))}, path), score),
    "yaml": ("x.yaml", lambda path: path.write_text("a: [1, 2.5, {b: text}]\nc: null\n"), load_yaml),
    "json": ("x.json", lambda path: path.write_text('{"a": [1, 2.5, {"b": "text"}]}'), read_spec_file),
    "sheet": ("x.tsv", lambda path: path.write_text("run\tlabel\tmethod\na\tone\tsid\nb\ttwo\tsida\n"), read_runs),
}  # fmt: skip


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


#: Kinds that share their reader with another one.
AS_OTHERS = {"packed tar", "tar", "safetensors", "statistics"}


@pytest.mark.parametrize("name", quick_but(AS_OTHERS, HASHED | FOREIGN))
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
        value, told = outcome(path, read, bytes(flipped))
        assert told or name in FOREIGN or value == right
        found += told
    assert found >= FOUND.get(name, 0) * len(places), f"{found} of {len(places)}"
    for _ in range(others):
        value, told = outcome(path, read, content[: dice.randrange(len(content))])
        assert told or name in FOREIGN or value == right
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
def test_damaged_samples_are_made_again_as_they_were(tmp_path, damage):
    path, out = tmp_path / "network.safetensors", tmp_path / "x.npz"
    write_network(path)
    draw = ["sample", "--network", path, "--seeds", "0-7", "--out", out]
    command(*draw)
    right = out.read_bytes()
    damage(out, 0.3)
    command(*draw)
    assert out.read_bytes() == right


# Hostile files


def claimed(shape: str, dtype: str = "'|u1'", content: bytes = b"") -> bytes:
    """An array with a header as numpy writes it, whatever follows."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def jpeg(side: int, scans: int) -> bytes:
    """A progressive JPEG of a black square whose last scan comes again and again: some hundred bytes."""
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    frame = data.index(b"\xff\xc2")
    data = data[: frame + 5] + struct.pack(">HH", side, side) + data[frame + 9 :]
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def flat_png(side: int) -> bytes:
    """A black PNG of one bit a pixel."""
    head, body = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), zlib.compress(bytes((1 + side // 8) * side), 9)
    made = (struct.pack(">I", len(v)) + k + v + struct.pack(">I", zlib.crc32(k + v)) for k, v in
            ((b"IHDR", head), (b"IDAT", body), (b"IEND", b"")))  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def overlapping_zip(size: int, times: int) -> bytes:
    """A zip archive that lists its one member, of zeros, again and again under other names."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(times):
            archive.writestr(f"{index:06d}.npy", bytes(size) if not index else b"")
        first = archive.filelist[0]
        for info in archive.filelist[1:]:
            for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(info, name, getattr(first, name))
    return stream.getvalue()


def packed_tar(size: int) -> bytes:
    """A packed tar of a member of nothing but zeros."""
    pack = gzip.compress
    info = tarfile.TarInfo("0.png")
    info.size = size
    return pack(info.tobuf()) + pack(bytes(1 << 20)) * (size >> 20) + pack(bytes(1024))


def endless_tars(levels: int) -> bytes:
    """Tars within each other."""
    return functools.reduce(lambda inner, _: tar_of({"x.tar": inner}), range(levels), b"")


CODE = "__import__('os').system('touch executed')"
PIXELS, PNG = members(pictures(3), [0, 1, 2]), png(pictures(1)[0])
IDX = "train-images-idx3-ubyte.gz"
#: Name of a file, its content, and its readers.
HOSTILE: dict[str, tuple[str, Callable[[], bytes], tuple[Callable[[Path], object], ...]]] = {
    # pictures
    "jpeg, many scans": ("x.zip", lambda: zip_of({"a.jpg": jpeg(8192, 3000)}), (score,)),
    "png, huge": ("x.zip", lambda: zip_of({"a.png": flat_png(40_000)}), (data, score, prepared)),
    "many flat pictures": ("x.zip", lambda: zip_of(dict.fromkeys(map("{}.png".format, range(60)), flat_png(8192)),
                                                   zipfile.ZIP_DEFLATED), (prepared,)),
    # archives
    "zip, shared bytes": ("x.zip", lambda: overlapping_zip(64 << 20, 20_000), (data,)),
    "zip, encrypted": ("x.zip", lambda: zip_of(PIXELS).replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"),
                       (data,)),
    "zip, double names": ("x.zip", lambda: zip_of(PIXELS).replace(b"0001.png", b"0000.png"), (data, score, prepared)),
    "tar, packed zeros": ("x.tar.gz", lambda: packed_tar(1 << 28), (score,)),
    "tar, endless": ("x.tar", lambda: endless_tars(500), (prepared,)),
    # labels
    "labels, many": ("x.zip", lambda: zip_of({**PIXELS, "dataset.json": b"[" + b"{}," * 16_000_000 + b"0]"},
                                             zipfile.ZIP_DEFLATED), (data,)),
    "labels, no numbers": ("x.zip", lambda: zip_of(members(pictures(3), [[float("nan")], [1], [2]])), (data, score)),
    # arrays
    "npy, 10^12 images": ("x.npy", lambda: claimed("(1000000000000, 8, 8, 3)"), (score,)),
    "npy, packed, digits": (IDX, lambda: gzip.compress(claimed(f"({('9' * 900 + ', ') * 9})")), (score,)),
    "npy, packed, many axes": (IDX, lambda: gzip.compress(claimed(f"({'1, ' * 3000})")), (score,)),
    "idx, packed, 255 axes": (IDX, lambda: gzip.compress(b"\0\0\x08\xff" + b"\xff" * 1020), (score,)),
    "npy, code": ("x.npy", lambda: claimed("(1,)", CODE), (score,)),
    "npy, objects": ("x.npy", lambda: claimed("(3, 8, 8)", "'|O'"), (score,)),
    "npy, bytes after it": ("x.npy", lambda: npy(pictures(3)) + b"\0", (score,)),
    "npz, zeros": ("x.npz", lambda: zip_of({"arr_0.npy": claimed("(6000, 256, 256, 3)", content=bytes(6000 * 196608))},
                                           zipfile.ZIP_DEFLATED, 1), (read_batch,)),
    "npz, no numbers": ("x.npz", lambda: zip_of({"mu.npy": npy(np.full(3, np.nan)), "sigma.npy": npy(np.eye(3))}),
                        (read_moments,)),
    "npz, double names": ("x.npz", lambda: zip_of({"mv.npy": npy(np.ones(3)), "mu.npy": npy(np.zeros(3)),
                          "sigma.npy": npy(np.eye(3))}).replace(b"mv.npy", b"mu.npy"), (read_moments,)),
    # text
    "yaml, code": ("x.yaml", lambda: b"a: !!python/object/apply:os.system ['touch executed']", (load_yaml,)),
    "yaml, many": ("x.yaml", lambda: b"a: [" + b"x," * 1_000_000 + b"]", (load_yaml,)),
    "json, many": ("x.json", lambda: b"[" + b"{}," * 3_000_000 + b"0]", (read_spec_file,)),
    "csv, many": ("x.csv", lambda: b"a,b\n" + b",\n" * 2_000_000, (read_csv,)),
}  # fmt: skip


#: Seconds each; shorter ones of their kind stay.
LONG = {"many flat pictures", "npz, zeros", "labels, many", "jpeg, many scans"}


@pytest.mark.parametrize("name", quick_but(LONG, HOSTILE))
def test_a_hostile_file_is_one_line(name, tmp_path, monkeypatch):
    if not os.environ.get("FULL_LIMITS"):
        monkeypatch.setattr(convert, "SECONDS", 2)
    monkeypatch.chdir(tmp_path)
    file, content, readers = HOSTILE[name]
    (tmp_path / file).write_bytes(content())
    for read in readers:
        assert file in refusal(read, tmp_path / file)
    assert os.listdir(tmp_path) == [file]


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda name: socket.socket(socket.AF_UNIX).bind(name)]
    + [functools.partial(os.symlink, to) for to in ("/dev/zero", "nowhere", "a.png")],
    ids=["pipe", "socket", "device", "dangling", "itself"],
)
def test_no_pipe_and_no_device_is_waited_for(tmp_path, make, monkeypatch):
    write_folder(tmp_path / "x", {"b.png": PNG})
    monkeypatch.chdir(tmp_path / "x")  # a socket's name is short
    make("a.png")
    for read in (data, score, prepared):
        assert "a.png: " in refusal(read, tmp_path / "x")
    for read in (load_yaml, read_runs, read_spec_file, load_network, read_moments):
        refusal(read, tmp_path / "x/a.png")
    assert not (tmp_path / "o.zip").exists()


@pytest.mark.slow
def test_a_hole_of_a_terabyte_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "SECONDS", 1)
    (tmp_path / "x.tar").write_bytes(TAR)
    os.truncate(tmp_path / "x.tar", 1 << 40)
    refused("x.tar: takes more than .* processor time", score, tmp_path / "x.tar")


# Wrong data that libraries read in silence


HEADERS = [place for place in range(0, len(TAR), 512) if TAR[place + 257 : place + 262] == b"ustar"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (TAR[: HEADERS[3]] + b"X" + TAR[HEADERS[3] + 1 :], "damaged header"),
        (TAR[: HEADERS[4] + 100], "no mark of its end|unexpected end"),
        (TAR[: HEADERS[4]], "no mark of its end"),
        (TAR + TAR, "more after its end"),
        (tar_of({"a.png": b"x"})[:1024] + tar_of({"a.png": b"x"}), "occurs twice"),
        (TAR[:124] + b"\xff" * 12 + TAR[136:], "bad checksum"),
    ],
)
def test_a_tar_is_read_whole_or_not_at_all(tmp_path, content, told):
    (tmp_path / "x.tar").write_bytes(content)
    refused(told, score, tmp_path / "x.tar")


def test_tars_in_a_packed_tar_are_read_in_the_order_of_names(tmp_path):
    path, (*images, last) = tmp_path / "x.tar", pictures(4)
    content = {f"{name}.png": png(image) for name, image in zip("cab", images)}
    path.write_bytes(tar_of({**content, "./d.tar": tar_of({"e.png": png(last)})}, "w:xz"))
    store = open_images(path)
    assert is_copy(store.read(0, 4).transpose(0, 2, 3, 1), pictures(4)[[1, 2, 0, 3]])
    assert store.name(3) == f"{path}: d/e.png"


def test_latents_that_are_no_numbers(tmp_path):
    latents = np.zeros((2, 8, 4, 4), np.float32)
    latents[1, 2, 3, 3] = np.inf
    path = write_zip(tmp_path / "x.zip", {f"{i}.npy": npy(latent) for i, latent in enumerate(latents)})
    refused("1.npy: holds NaN or infinities", data, Path(path))


def test_links_in_a_folder_of_pictures_are_refused(tmp_path):
    """They may lead anywhere, or back, so that pictures would count twice."""
    write_folder(tmp_path / "x", members(pictures(2)))
    os.symlink("..", tmp_path / "x" / "00000" / "back")
    for read in (data, score):
        refused("00000/back: is a link.*replace it", read, tmp_path / "x")
    (tmp_path / "x" / "00000" / "back").rename(tmp_path / "x" / "00000" / ".back")
    assert open_images(tmp_path / "x").count == 2


def test_an_array_in_the_order_of_fortran_is_read_as_numpy_reads_it(tmp_path):
    latents = np.arange(8 * 4 * 4, dtype=np.float32).reshape(8, 4, 4)
    path = write_zip(tmp_path / "x.zip", {"a.npy": npy(np.asfortranarray(latents))})
    assert is_copy(data(Path(path))[0], latents)
