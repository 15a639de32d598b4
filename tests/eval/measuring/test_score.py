"""Anyone's images: every kind of store, every fault in one clear line, the whole path, variants of a network."""

import dataclasses
import io
import json
import os
import re
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from eval.features import get_extractor
from eval.measuring.measure import Measurer, measure
from eval.measuring.protocol import load_protocol
from eval.measuring.score import Score, score_images
from eval.measuring.sources import ImageFiles
from eval.measuring.stores import open_images
from eval.measuring.trial import ImageBatch
from eval.results.identity import comparable
from eval.tables.scores import latex_row, row_columns
from sida.assets import load_registry
from sida.data import load_dataset
from sida.errors import UserError
from sida.files.atomic import write_text
from tests.eval.measuring.specs import DIGITS, metric, protocol
from tests.eval.metric_networks import pictures, write_hub, write_inception
from tests.refused import refused
from workflow.cli import main


def encode(image: np.ndarray, mode: str | None = None, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    (picture.convert(mode) if mode else picture).save(stream, form)
    return stream.getvalue()


def images(count: int = 30, size: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    return pictures(count, size, channels, seed).permute(0, 2, 3, 1).numpy()


def write(path: Path, array: np.ndarray, labels: np.ndarray | None = None) -> Path:
    """Writes images in the form that the name of the path asks for."""
    members = {f"{i // 20:02d}/img{i:05d}.png": encode(image) for i, image in enumerate(array)}
    if labels is not None:
        members["dataset.json"] = json.dumps({"labels": [[n, int(c)] for n, c in zip(members, labels)]}).encode()
    name = path.name
    if name.endswith(".npz"):
        (np.savez_compressed if "compressed" in name else np.savez)(
            path, arr_0=array, **({} if labels is None else {"arr_1": labels})
        )
    elif name.endswith(".npy"):
        np.save(path, array)
    else:
        folder = path.parent / f"{name}-members" if "." in name else path
        for member, content in members.items():
            (folder / member).parent.mkdir(parents=True, exist_ok=True)
            (folder / member).write_bytes(content)
        if name.endswith(".zip"):
            shutil.make_archive(str(path)[:-4], "zip", folder)
        elif ".tar" in name:
            with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
                for member in members:
                    # As in `tar cf a.tar -C FOLDER .`
                    archive.add(folder / member, member if name.endswith("gz") else f"./{member}")
    return path


KINDS = ["folder", "a.zip", "a.tar", "a.tar.gz", "a.npz", "compressed.npz", "a.npy"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_store_gives_the_same_images(tmp_path, kind, channels):
    array, labels = images(30, channels=channels), np.arange(30) % 7
    store = open_images(write(tmp_path / kind, array, None if kind.endswith("npy") else labels))
    assert store.count == 30
    first = array.transpose(0, 3, 1, 2)
    assert np.array_equal(store.read(0, 30), first)
    assert np.array_equal(store.read(25, 30), first[25:])
    assert np.array_equal(store.read(3, 5), first[3:5])  # backwards
    if not kind.endswith("npy"):
        assert np.array_equal(store.classes, labels)
    assert len(store.digest()) == 64


def test_arrays_with_channels_first_and_grey_without_channels(tmp_path):
    array = images(8)
    np.save(tmp_path / "first.npy", array.transpose(0, 3, 1, 2))
    assert np.array_equal(open_images(tmp_path / "first.npy").read(0, 8), array.transpose(0, 3, 1, 2))
    np.save(tmp_path / "grey.npy", array[..., 0])
    assert np.array_equal(open_images(tmp_path / "grey.npy").read(2, 8)[:, 0], array[2:, ..., 0])


def test_what_systems_leave_behind_is_no_picture(tmp_path):
    folder = write(tmp_path / "folder", images(5))
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "._img.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    assert open_images(folder).count == 5


def test_a_folder_is_known_by_its_pictures_and_classes_and_not_by_their_times(tmp_path):
    def digest(seed: int, time: int, labels=None) -> str:
        folder = tmp_path / f"{seed}-{time}"
        folder.mkdir(exist_ok=True)
        for number, picture in enumerate(images(3, seed=seed)):
            (folder / f"{number}.bmp").write_bytes(encode(picture, form="BMP"))
            os.utime(folder / f"{number}.bmp", (time, time))
        (folder / "notes.txt").write_text(str(time))
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
        return open_images(folder).digest()

    classes = [[f"{number}.bmp", number] for number in range(3)]
    assert digest(0, 1) == digest(0, 2) != digest(1, 1)
    assert digest(0, 1) != digest(0, 1, classes)


def test_shards_of_samples_are_refused_with_what_to_do_instead(tmp_path):
    draw = ["sample", "--sampler", "data", "--dataset", "digits", "--seeds", "0-7", "--out"]
    folder = tmp_path / "drawn"
    folder.mkdir()
    (folder / "shard-000000-000007.npz").write_bytes(b"")
    refused(r"drawn: holds shards of an earlier `sida sample`, .*drawn.npz", open_images, folder)
    for out in (f"{folder}-as-png", f"{folder}.npz"):
        assert main([*draw, out]) == 0
        assert open_images(out).count == 8


SCORE = metric("is", "inception_score", "inception", None, splits=2)
TINY = {"name": "tiny", "num_samples": 20, "trials": 3, "resolution": 16, "channels": 3, "references": {}}
PROTOCOL = protocol(SCORE, **TINY)


def read_all(path: Path, count: int = 20) -> list[ImageBatch]:
    return list(ImageFiles(str(path), load_protocol(PROTOCOL)).batches(range(count), 8))


def fault(path: Path, pattern: str) -> None:
    assert path.name in str(refused(pattern, read_all, path))


def test_wrong_size_mode_or_corrupt_file_is_named(tmp_path):
    folder = write(tmp_path / "folder", images(25))
    victim = folder / "00" / "img00013.png"
    good = victim.read_bytes()
    victim.write_bytes(encode(images(1, size=12)[0]))
    fault(folder, r"img00013.png: is 12×12, the pictures before it 16×16")
    victim.write_bytes(encode(images(1, channels=1)[0]))
    fault(folder, r"img00013.png: is grey, the pictures before it RGB; convert")
    victim.write_bytes(encode(images(1)[0], "RGBA"))
    fault(folder, r"img00013.png: has mode RGBA; .*convert all pictures")
    victim.write_bytes(b"P6 16 16\n65535\n" + bytes(2 * 16 * 16 * 3))
    fault(folder, r"img00013.png: has more than 8 bits a value; convert all pictures to 8 bits first")
    stream = io.BytesIO()
    first, *others = map(Image.fromarray, images(3, seed=3))
    first.save(stream, "GIF", save_all=True, append_images=others)
    victim.write_bytes(stream.getvalue())
    fault(folder, r"img00013.png: holds several frames; save each")
    victim.write_bytes(good[: len(good) // 2])
    fault(folder, r"img00013.png: not a readable picture \([^<]*truncated\); replace or remove it")
    victim.write_bytes((folder / "00" / "img00007.png").read_bytes())
    fault(folder, r"img00013.png: is the same image as .*img00007.png; remove copies")


def test_duplicates_may_be_allowed(tmp_path):
    folder = write(tmp_path / "folder", np.repeat(images(1), 25, 0))
    source = ImageFiles(str(folder), load_protocol(PROTOCOL), allow_duplicates=True)
    assert sum(len(batch.images) for batch in source.batches(range(20), 8)) == 20


def test_arrays_that_are_no_images(tmp_path):
    path, pictures = tmp_path / "a.npz", images(20)
    for array, pattern in (
        (pictures / np.float32(255), r"holds float32 from .*probably \[0, 1\]; save \(x \* 255 \+ 0.5\)"),
        (pictures / 127.5 - 1, r"holds float64 from .*probably \[-1, 1\]; save \(x \* 127.5 \+ 128\)"),
        (pictures.astype(np.int32), "holds int32; save images as uint8"),
        (np.zeros((20, 16, 16, 5), np.uint8), "1 or 3 channels"),
        (np.zeros((20, 16), np.uint8), r"images must be \(N, H, W, C\)"),
    ):
        np.savez(path, arr_0=array)
        fault(path, pattern)


def test_a_store_without_the_images_that_are_asked_for_is_named(tmp_path):
    fault(write(tmp_path / "few", images(7)), "holds 7 images, this trial needs 20; generate more")
    fault(tmp_path / "missing", "no such folder or file")
    fault(Path("mine:sample"), r"a Python function, .* column 'checkpoint'")
    (tmp_path / "a.txt").write_text("x")
    fault(tmp_path / "a.txt", "a.txt: not a whole zip or tar archive")
    np.savez(tmp_path / "b.npz", mu=np.zeros(3), sigma=np.eye(3))
    fault(tmp_path / "b.npz", r"no array 'arr_0' of images \(arrays: mu, sigma\)")
    np.savez(tmp_path / "c.npz", arr_0=images(25), arr_1=np.arange(3))
    fault(tmp_path / "c.npz", r"arr_1.*\(3,\) as classes of 25 images")
    folder = write(tmp_path / "labels", images(25), np.arange(25))
    (folder / "dataset.json").write_text(json.dumps({"labels": [["00/img00000.png", 1]]}))
    fault(folder, "no label for 00/img00001.png")


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    peaks = []
    for count in (100, 400):
        path = tmp_path / f"{count}.npy"
        noise = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
        np.save(path, noise)
        del noise
        source = ImageFiles(str(path), load_protocol(PROTOCOL | {"num_samples": count, "resolution": 64}))
        tracemalloc.start()
        for batch in source.batches(range(count), 20):
            assert batch.images.shape[1:] == (3, 64, 64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A protocol with every kind of metric, stand-in networks, references, and 60 images."""
    folder = tmp_path_factory.mktemp("stand-ins")
    options = {
        "inception": {"path": str(write_inception(folder / "inception.pt"))},
        "dinov2": {"repository": str(write_hub(folder / "hub")), "weights": "hub"},
    }
    np.savez(folder / "batch.npz", arr_0=images(50, seed=5))
    write(folder / "real", images(50, seed=5))
    for name in options:
        pairs = [f"--extractor-option={name}.{key}={value}" for key, value in options[name].items()]
        command = ["reference", "--images", str(folder / "real"), "--extractor", name, *pairs]
        assert main([*command, "--out", str(folder / f"{name}.safetensors")]) == 0
    metrics = [metric("fid", "frechet", "inception", "stats", label="FID"), SCORE]
    metrics += [metric("fd_dinov2", "frechet", "dinov2", "dino", label="FD-DINOv2")]
    kinds = {"precision": "precision", "recall": "recall", "kid": "kernel"}
    metrics += [metric(key, kind, "inception", "batch") for key, kind in kinds.items()]
    references = {
        "stats": {"kind": "statistics", "file": "inception.safetensors"},
        "dino": {"kind": "statistics", "file": "dinov2.safetensors"},
        "batch": {"kind": "images", "file": "batch.npz", "num_images": 50},
    }
    asked = protocol(*metrics, **TINY | {"references": references})
    write(folder / "samples.zip", images(60, seed=9))
    return folder, asked, {"references": {"*": str(folder)}, "extractors": options}


def test_whole_path_with_networks_of_the_published_call_signature(stand_ins, tmp_path):
    folder, asked, settings = stand_ins
    score = score_images(folder / "samples.zip", asked, batch_size=7, **settings)
    assert [len(record["metrics"]) for record in score.records] == [6, 6, 6]
    summary = score.summary()
    fid = summary["fid"]
    assert fid["min"] <= fid["mean"] <= fid["max"]
    assert fid["standard_error"] == pytest.approx(fid["std"] / 3**0.5)
    assert len(set(fid["values"])) == 3
    assert re.search(r"FID ↓ +\d+\.\d{3} ± \d+\.\d{3}", "\n".join(score.lines()))
    assert latex_row(score, row_columns(score.protocol)).splitlines()[1].count("&") == 6
    # Same images, read one by one and by a sheet's row: the same numbers.
    again = score_images(folder / "samples.zip", asked, batch_size=1, **settings)
    for key in summary:
        assert again.summary()[key]["values"] == pytest.approx(summary[key]["values"], rel=1e-4, abs=1e-6)
    sampler = {"kind": "images", "path": str(folder / "samples.zip")}
    spec = {"run": "theirs", "method": "theirs", "sampler": sampler, "protocol": asked, "batch_size": 7}
    records = measure(spec | settings, tmp_path, [0, 1, 2])
    assert [r["metrics"] for r in records] == [r["metrics"] for r in score.records]
    assert measure(spec | settings, tmp_path, [0, 1, 2]) == []


def test_score_command(stand_ins, tmp_path, capsys, refusal):
    folder, asked, settings = stand_ins
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(asked))
    options = [
        f"--extractor-option={name}.{key}={value}"
        for name, values in settings["extractors"].items()
        for key, value in values.items()
    ]
    command = ["score", str(folder / "samples.zip"), "--protocol", str(tmp_path / "tiny.yaml"), *options]
    files = ["--out", str(tmp_path / "score.json"), "--latex", str(tmp_path / "row.tex")]
    assert main([*command, "--reference", f"*={folder}", "--trials", "2", "--name", "A & B", *files]) == 0
    record = json.loads((tmp_path / "score.json").read_text())
    assert record["trials"] == 2
    assert len(record["summary"]["fid"]["values"]) == 2
    assert (tmp_path / "row.tex").read_text().splitlines()[1].startswith(r"A \& B & ")
    assert main([*command, "--reference", f"*={folder}", "--num-samples", "30"]) == 0
    assert "protocol 'tiny-n30'" in capsys.readouterr().out
    faults = {
        ("--device", "tpu"): "'tpu' is no device",
        ("--reference", "fide=x"): "knows no 'fide'",
        ("--latex", str(tmp_path / "tiny.yaml" / "row.tex")): "is a file, not a folder",
    }
    for wrong, message in faults.items():
        assert message in refusal(*command, "--reference", f"*={folder}", *wrong)


def test_classes_that_the_network_does_not_have_are_no_accuracy_of_zero(tmp_path):
    labels = np.arange(20) % 10
    path = write(tmp_path / "a.npz", images(20, size=8, channels=1), labels)
    assert score_images(path, "digits", num_samples=20, dataset=DIGITS).values("accuracy")
    labels[13] = 77
    write(path, images(20, size=8, channels=1), labels)
    with pytest.raises(UserError, match="class 77, extractor 'digits' has the classes 0-9"):
        score_images(path, "digits", num_samples=20, dataset=DIGITS)


def test_files_are_written_before_anything_is_shown(tmp_path, monkeypatch):
    path = write(tmp_path / "a.npz", images(20, size=8, channels=1))
    command = ["score", str(path), "--protocol", "digits", "--num-samples", "20", "--name", "ω_a"]
    out = ["--out", str(tmp_path / "score.json"), "--latex", str(tmp_path / "row.tex")]

    def no_terminal(self):
        raise UserError("", "no terminal")

    monkeypatch.setattr(Score, "lines", no_terminal)
    assert main([*command, *out]) == 1
    assert json.loads((tmp_path / "score.json").read_text())["name"] == "ω_a"
    assert r"$\omega_{\mathrm{a}}$ & " in (tmp_path / "row.tex").read_text().splitlines()[1]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIDA_OFFLINE", "1")


@pytest.mark.usefixtures("offline")
def test_size_is_checked_before_networks_are_fetched_and_before_the_number_of_images(tmp_path):
    path = write(tmp_path / "a.npz", images(20))
    for count in (20, None):
        refused(r"a.npz: .* 16×16, .* 32×32", score_images, path, "cifar10", num_samples=count)
    path = write(tmp_path / "b.npz", images(20, size=32))
    for trials, message in (
        (None, r"takes 50,000; generate 49,980 more, or give --num-samples 20 "),
        (4, r"takes 50,000 for each of 4 trials; generate 199,980 more, or give --num-samples 5 "),
        (11, r"takes 50,000 for each of 11 trials; generate 549,980 more$"),
    ):
        refused(rf"b.npz: holds 20 images, protocol 'cifar10' {message}", score_images, path, "cifar10", trials=trials)


def test_lossy_pictures_and_fewer_trials_are_said(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0"
    options = {"a": {"quality": 80}, "b": {"quality": 80, "exif": exif}, "c": {"lossless": True}}
    for name, picture in zip(options, images(3)):
        Image.fromarray(picture).save(tmp_path / f"{name}.webp", **options[name])
    Image.fromarray(images(1, seed=5)[0]).save(tmp_path / "d.png", format="JPEG")  # whatever its name
    store = open_images(tmp_path)
    store.read(2, 3)
    assert store.remarks == ()
    store.read(0, 4)
    (remark,) = store.remarks
    assert remark.startswith("2 pictures are lossy WebP, 1 pictures are JPEG")
    protocol = PROTOCOL | {"metrics": [metric("fd", extractor="pixels")], "references": {"data": {"kind": "given"}}}
    score = score_images(tmp_path, protocol, against=tmp_path)
    assert remark in score.warnings() == score.record()["warnings"]


def test_spread_is_the_one_the_protocol_names(tmp_path):
    path = write(tmp_path / "a.npz", images(90, size=8, channels=1))
    chosen = dataclasses.replace(load_protocol("digits"), num_samples=30, trials=3)
    score = score_images(path, chosen, dataset=DIGITS)
    fd, of_splits = score.values("fd"), [record["details"]["is"]["split_std"] for record in score.records]

    def spreads(**changes) -> list[float]:
        other = dataclasses.replace(score, protocol=dataclasses.replace(chosen, **changes))
        return [other.spread(chosen.metric(key)) for key in ("fd", "is")]

    assert spreads() == pytest.approx([np.std(fd, ddof=1), np.std(score.values("is"), ddof=1)])
    assert spreads(ddof=0) == pytest.approx([np.std(fd), np.std(score.values("is"))])
    assert spreads(is_spread="splits") == pytest.approx([np.std(fd, ddof=1), np.mean(of_splits)])


def test_a_processor_takes_the_fast_network_unless_a_file_is_given(stand_ins, tmp_path, monkeypatch):
    folder, _, settings = stand_ins
    own = settings["extractors"]["inception"]
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    monkeypatch.setattr("eval.features.inception.fetch", lambda asset: Path(own["path"]))
    write_text(tmp_path / load_registry()["inception"].target, "downloaded")
    cases = {"default": {}, "asked for": {"fast": False}, "own file": {"extractors": {"inception": own}}}
    scores = {case: score_images(folder / "samples.zip", PROTOCOL, trials=1, **given) for case, given in cases.items()}
    used = {case: [*score.records[0]["extractors"]] for case, score in scores.items()}
    assert used == {"default": ["inception_cpu"], "asked for": ["inception"], "own file": ["inception"]}
    # Two devices differ by rounding as well, so both variants stand for one network.
    assert comparable(scores["default"].identity("is"), scores["asked for"].identity("is")) is None


def test_an_interrupted_score_resumes_with_its_finished_trials(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (90, 8, 8, 1), dtype=np.uint8))
    whole = score_images(path, "digits", num_samples=30)
    draw, drawn = Measurer.sums, []

    def interrupted(self, trial, *rest):
        drawn.append(trial)
        if drawn == [0, 1]:
            raise KeyboardInterrupt
        return draw(self, trial, *rest)

    monkeypatch.setattr(Measurer, "sums", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_images(path, "digits", num_samples=30)
    assert score_images(path, "digits", num_samples=30).summary() == whole.summary()
    assert drawn == [0, 1, 1, 2]
    assert "1 of 3 trials" in capsys.readouterr().err
    assert not any((tmp_path / "cache" / "scores").iterdir())


@pytest.mark.usefixtures("offline")
def test_all_missing_downloads_are_named_at_once(tmp_path, capsys):
    path = write(tmp_path / "a.npy", images(30, 32))
    refused("inception, fid-ref-cifar10.*--protocol cifar10$", score_images, path, "cifar10", num_samples=30)
    named = [asset for name in ("imagenet64", "imagenet512") for asset in load_protocol(name).assets(drawn=True)]
    for asset in ("labels-imagenet", "sd-vae-ft-mse", "dinov2-code", "ref-batch-imagenet64"):
        assert asset in named
    faults = {"cifar10": "cifar10-32x32.npz", "digit": "did you mean 'digits'"}
    for name, told in faults.items():
        assert main(["assets", "fetch", "--protocol", name]) == 1
        assert told in capsys.readouterr().err
    assert main(["assets", "fetch", "--protocol", "digits"]) == 0


def test_a_score_says_its_time_by_a_measured_rate_or_that_none_is_known(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (1200, 8, 8, 1), dtype=np.uint8))

    def plan(**settings) -> str:
        score_images(path, "digits", num_samples=300, **settings)
        return next(line for line in capsys.readouterr().err.splitlines() if "plan:" in line)

    assert "1,200 images" in (first := plan())
    assert "no rate" in first
    assert re.search(r"about \d+s and \d+\.\d GB, measured here: [\d.,e+]+ images/s", plan(trials=2))
    assert "no rate" in plan(batch_size=30)
    (tmp_path / "cache" / "score-rates.json").write_text("{")
    assert "no rate" in plan(trials=1)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder, digits = tmp_path_factory.mktemp("halves"), load_dataset(DIGITS)
    for name, indices in (("a.npz", range(0, 600, 2)), ("b.npz", range(1, 500, 2))):
        np.savez(folder / name, arr_0=digits.images(indices).numpy())
    return folder


def test_two_sets_are_compared_as_clean_fid_does(halves):
    from cleanfid.fid import fid_from_feats, kernel_distance

    metrics = [metric(kind, kind) for kind in ("frechet", "kernel")]
    asked = protocol(*metrics, cov_ddof=1, references={"data": {"kind": "given"}})
    score = score_images(halves / "a.npz", asked, against=halves / "b.npz")
    extractor = get_extractor("digits")
    a, b = (
        extractor(torch.from_numpy(np.load(halves / name)["arr_0"])).double().numpy() for name in ("a.npz", "b.npz")
    )
    assert score.protocol.num_samples == len(a) == 300
    assert score.values("frechet")[0] == pytest.approx(fid_from_feats(a, b), rel=1e-4)
    np.random.seed(0)
    assert score.values("kernel")[0] == pytest.approx(kernel_distance(b, a, 100, 1000), rel=1e-4, abs=1e-7)


def test_a_comparison_of_two_sets_has_an_identity_that_no_table_takes(halves, tmp_path, capsys, refusal):
    out, b = tmp_path / "pair.json", halves / "b.npz"
    command = ["score", str(halves / "a.npz"), "--against", str(b), "--protocol", "digits"]
    assert main([*command, "--out", str(out)]) == 0
    score, table = score_images(halves / "a.npz", "digits", against=b), load_protocol("digits")
    identity = score.identity("fd")
    assert identity.reference == open_images(b).digest()
    assert f"identity {identity.sha256[:12]}" in capsys.readouterr().out
    for key in ("fd", "precision"):
        one, other = score.identity(key), table.identity(key)
        alike = dataclasses.replace(one, n=other.n, reference=other.reference, extractor=other.extractor)
        assert comparable(alike, other)
    assert main(["table", "main", "--add", str(out)]) == 1
    assert capsys.readouterr().err.count("--against") == 1
    np.save(tmp_path / "large.npy", images(5, 16, 1))
    faults = {
        "--like": [*command, "--like", "main"],
        "--trials": [*command, "--trials", "2"],
        "large.npy": [*command[:3], str(tmp_path / "large.npy"), "--protocol", "digits"],
        "--against": [*command[:2], "--protocol", "pair", "--num-samples", "99"],
    }
    for told, arguments in faults.items():
        assert told in refusal(*arguments)


def test_a_torchscript_file_is_scored_with_permission(tmp_path, monkeypatch, capsys, refusal):
    class Generator(torch.nn.Module):
        def forward(self, z):
            return torch.tanh(z).reshape(-1, 1, 8, 8)

    path = tmp_path / "mine.pt"
    torch.jit.trace(Generator(), torch.zeros(1, 64)).save(path)
    command = ["score", str(path), "--protocol", "digits", "--num-samples", "20", "--trials", "1"]
    monkeypatch.setenv("SIDA_ALLOW_CODE", "")
    faults = {(): "--latent SHAPE", ("--latent", "64"): "SIDA_ALLOW_CODE", ("--latent", "x"): "--latent"}
    for options, fault in faults.items():
        assert fault in refusal(*command, *options)
    monkeypatch.setenv("SIDA_ALLOW_CODE", str(path))
    assert main([*command, "--latent", "64"]) == 0
    assert capsys.readouterr().out.startswith("mine: protocol 'digits-n20'")
    assert "(65,)" in refusal(*command, "--latent", "65")
    torch.save(Generator().state_dict() | {"w": torch.zeros(2)}, tmp_path / "plain.pt")
    assert "TorchScript" in refusal("score", str(tmp_path / "plain.pt"), "--protocol", "digits", "--latent", "64")
