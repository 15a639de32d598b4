"""Scores of anyone's images: the whole path, variants of a network, a second set, what is said and resumed."""

import dataclasses
import errno
import io
import json
import os
import re
import shlex
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import sida.eval
from sida.assets.registry import load_registry
from sida.data import load_dataset
from sida.errors import UserError
from sida.eval.commands.score_options import ScoreOptions
from sida.eval.features import get_extractor
from sida.eval.measuring.measure import Measurer, measure
from sida.eval.measuring.protocol import load_protocol
from sida.eval.measuring.score import Score, score_images
from sida.eval.measuring.score_plan import plan_score
from sida.eval.measuring.stores import open_images
from sida.eval.metrics.kernel_distance import kernel_distance
from sida.eval.results.identity import comparable
from sida.eval.tables.scores import latex_row, row_columns
from sida.files.atomic import write_text
from sida.workflow.cli import main
from tests.eval.measuring.specs import DIGITS, TINY, metric, noise, protocol
from tests.eval.metric_networks import images, tiny_dino, write_inception
from tests.plugins import needs
from tests.refused import command, refused


def words(options: dict[str, dict[str, str]]) -> list[str]:
    """Options of extractors as arguments."""
    pairs = [(name, *pair) for name, values in options.items() for pair in values.items()]
    return [f"--extractor-option={name}.{key}={value}" for name, key, value in pairs]


def saved(path: Path, array: np.ndarray, classes: np.ndarray | None = None) -> Path:
    """Writes images, and their classes, as an npz."""
    np.savez(path, arr_0=array, **({} if classes is None else {"arr_1": classes}))
    return path


#: Twenty grey pictures 8×8.
GREY = images(20, 8, 1)


def score_of_grey(folder: Path) -> list[str]:
    """The command that scores the grey pictures."""
    return ["score", str(saved(folder / "a.npz", GREY)), "--protocol", "digits", "--num-samples", "20"]


@pytest.fixture(scope="module")
def dinov2_of_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sida.eval.features.dinov2.load_hub_model", tiny_dino)
        yield


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory, dinov2_of_module):
    """A protocol with every kind of metric, stand-in networks, references, and 60 images."""
    folder = tmp_path_factory.mktemp("stand-ins")
    options = {"inception": {"path": str(write_inception(folder / "inception.pt"))}, "dinov2": {}}
    np.savez(folder / "batch.npz", arr_0=images(50, seed=5))
    for name in options:
        own = ["--extractor", name, *words({name: options[name]}), "--out", str(folder / f"{name}.safetensors")]
        assert main(["reference", "--images", str(folder / "batch.npz"), *own]) == 0
    metrics = [metric("fid", "frechet", "inception", "stats", label="FID"), *TINY["metrics"]]
    metrics += [metric("fd_dinov2", "frechet", "dinov2", "dino", label="FD-DINOv2")]
    kinds = {"precision": "precision", "recall": "recall", "kid": "kernel"}
    metrics += [metric(key, kind, "inception", "batch") for key, kind in kinds.items()]
    references = {
        "stats": {"kind": "statistics", "file": "inception.safetensors"},
        "dino": {"kind": "statistics", "file": "dinov2.safetensors"},
        "batch": {"kind": "images", "file": "batch.npz", "num_images": 50},
    }
    asked = TINY | {"metrics": metrics, "references": references}
    saved(folder / "samples.npz", images(60, seed=9))
    files = {key: str(folder / source["file"]) for key, source in references.items()}
    return folder, asked, {"references": files, "extractors": options}


@pytest.mark.slow
def test_whole_path_with_networks_of_the_published_call_signature(stand_ins, tmp_path):
    folder, asked, settings = stand_ins
    score = score_images(folder / "samples.npz", asked, batch_size=7, **settings)
    assert [len(record["metrics"]) for record in score.records] == [6, 6, 6]
    summary = score.summary()
    fid = summary["fid"]
    assert fid["min"] <= fid["mean"] <= fid["max"]
    assert fid["standard_error"] == pytest.approx(fid["std"] / 3**0.5)
    assert len(set(fid["values"])) == 3
    assert re.search(r"FID ↓ +\d+\.\d{3} ± \d+\.\d{3}", "\n".join(score.lines()))
    large = [record | {"metrics": record["metrics"] | {"fid": 1234.5678}} for record in score.records]
    assert "1,234.568 ± 0.000" in "\n".join(dataclasses.replace(score, records=large).lines())
    assert latex_row(score, row_columns(score.protocol)).splitlines()[1].count("&") == 6
    # Same images, read one by one and by a sheet's row: the same numbers.
    again = score_images(folder / "samples.npz", asked, batch_size=1, **settings)
    for key in summary:
        assert again.summary()[key]["values"] == pytest.approx(summary[key]["values"], rel=1e-4, abs=1e-6)
    sampler = {"kind": "images", "path": str(folder / "samples.npz")}
    spec = {"run": "theirs", "method": "theirs", "sampler": sampler, "protocol": asked, "batch_size": 7}
    records = measure(spec | settings, tmp_path, [0, 1, 2])
    assert [r["metrics"] for r in records] == [r["metrics"] for r in score.records]
    assert measure(spec | settings, tmp_path, [0, 1, 2]) == []


def test_score_command(stand_ins, tmp_path, capsys, refusal):
    folder, asked, settings = stand_ins
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(asked))
    command = ["score", str(folder / "samples.npz"), "--protocol", str(tmp_path / "tiny.yaml")]
    command += words(settings["extractors"])
    command += [f"--reference={key}={file}" for key, file in settings["references"].items()]
    files = ["--out", str(tmp_path / "score.json"), "--latex", str(tmp_path / "row.tex")]
    assert main([*command, "--trials", "2", "--name", "A & B", *files]) == 0
    record = json.loads((tmp_path / "score.json").read_text())
    assert record["trials"] == 2
    assert len(record["summary"]["fid"]["values"]) == 2
    assert (tmp_path / "row.tex").read_text().splitlines()[1].startswith(r"A \& B & ")
    assert main([*command, "--num-samples", "30"]) == 0
    assert "protocol 'tiny-n30'" in capsys.readouterr().out
    faults = {
        ("--device", "tpu"): "'tpu' is not a device",
        ("--reference", f"fide={folder / 'samples.npz'}"): "has no 'fide'",
        ("--latex", str(tmp_path / "tiny.yaml" / "row.tex")): "is a file, not a folder",
    }
    for wrong, message in faults.items():
        assert message in refusal(*command, *wrong)


def test_classes_that_the_network_does_not_have_are_no_accuracy_of_zero(tmp_path):
    labels = np.arange(20) % 10
    settings = {"num_samples": 20, "dataset": DIGITS}
    assert score_images(saved(tmp_path / "a.npz", GREY, labels), "digits", **settings).values("accuracy")
    labels[13] = 77
    told = "class 77, extractor 'digits' has the classes 0-9"
    refused(told, score_images, saved(tmp_path / "b.npz", GREY, labels), "digits", **settings)


def test_a_plan_has_the_protocol_trials_and_resumption_before_any_network_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("sida.eval.measuring.measure.make_extractors", lambda *_: pytest.fail("loaded"))
    path = saved(tmp_path / "a.npz", images(90, 8, 1))
    plan = plan_score(path, "digits", num_samples=30, extractors={"digits": {"size": 1}})
    assert (plan.protocol.name, plan.protocol.num_samples, plan.trials, plan.resumes) == ("digits-n30", 30, 3, True)
    assert plan.spec.extractors == {"digits": {"size": 1}}
    assert (plan.files.count, plan.second, plan.spec.label) == (90, None, "a.npz")
    pair = plan_score(path, "pair", against=path)
    assert (pair.protocol.num_samples, pair.trials, pair.resumes) == (90, 1, True)
    assert pair.spec.references == {"against": str(path)}
    # A Python object may change between two calls, so its trials are not kept.
    drawn = plan_score(noise, "digits", num_samples=30, trials=2)
    assert (drawn.trials, drawn.resumes, drawn.files) == (2, False, None)
    refused("--trials", plan_score, path, "digits", trials=0)
    refused("--groups", plan_score, noise, "digits", groups="trials")


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ("--like", {}),
        ("--origin", {"protocol": "digits", "origin": "Ada"}),
        ("--latent", {"protocol": "digits", "latent": "128"}),
        ("--sampler", {"protocol": "digits", "sampler": "heun:18"}),
        ("--against", {"against": "b.npz", "like": "main"}),
        ("--against", {"against": "b.npz", "latex": "row.tex"}),
    ],
)
def test_options_that_contradict_each_other_are_refused_together(tmp_path, option, options):
    refused(option, ScoreOptions, source=str(saved(tmp_path / "a.npz", GREY)), **options)


def test_files_are_written_before_anything_is_shown(tmp_path, monkeypatch):
    out = ["--out", str(tmp_path / "score.json"), "--latex", str(tmp_path / "row.tex")]

    def no_terminal(self):
        raise UserError("", "no terminal")

    monkeypatch.setattr(Score, "lines", no_terminal)
    assert main([*score_of_grey(tmp_path), "--name", "ω_a", *out]) == 1
    assert json.loads((tmp_path / "score.json").read_text())["name"] == "ω_a"
    assert r"$\omega_{\mathrm{a}}$ & " in (tmp_path / "row.tex").read_text().splitlines()[1]


def test_a_row_that_the_table_does_not_take_is_refused_before_the_first_image(tmp_path, monkeypatch, refusal):
    """Also if only the digest of the loaded reference shows it."""

    def require(mine, numbers, where):
        if mine.reference:
            raise UserError(where, "another reference")

    monkeypatch.setattr("sida.eval.tables.scores.require_in_column", require)
    monkeypatch.setattr(Measurer, "sums", lambda *_: pytest.fail("drawn"))
    assert "column 'fd'" in refusal(*score_of_grey(tmp_path), "--dataset", json.dumps(DIGITS))


def test_numbers_are_printed_also_if_their_row_cannot_be(tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise UserError("", "no row")

    monkeypatch.setattr("sida.eval.commands.scores.latex_row", fails)
    assert main(score_of_grey(tmp_path)) == 1
    assert "FD ↓" in capsys.readouterr().out


def test_a_score_prints_the_geometry_of_its_reference_as_the_page_does(tmp_path):
    output = command(*score_of_grey(tmp_path), "--trials", "1")
    pattern = r"reference: effective rank (\S+) \(digits\), (\S+) \(pixels\); nearest distance (\S+) \(digits\)"
    page = Path("docs/metrics.md").read_text()
    documented = re.search(
        r"effective rank of (\S+) of 256 features \(pixels: (\S+) of 64\) and a nearest distance of (\S+)\.\n", page
    )
    assert re.search(pattern, output).groups() == documented.groups()


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIDA_OFFLINE", "1")


def test_too_few_images_for_a_table_are_answered_with_a_command_that_works(tmp_path):
    path = saved(tmp_path / "my images.npz", GREY)
    own = "sida score '.*my images.npz' --protocol cifar10 --num-samples 20"
    refused(f"--like table1: .*leave --like out: .{own}", command, "score", path, *own.split()[-2:], "--like", "table1")
    line = str(refused("my images.npz: holds 20 images", command, "score", path, "--like", "main"))
    program, *words = shlex.split(re.search("`(.*)`", line)[1])
    assert program == "sida"
    assert "FD ↓" in command(*words, "--trials", "1")


@pytest.mark.usefixtures("offline")
def test_size_is_checked_before_networks_are_fetched_and_before_the_number_of_images(tmp_path):
    path = saved(tmp_path / "a.npz", images(20))
    for count in (20, None):
        refused(r"a.npz: .* 16×16, .* 32×32", score_images, path, "cifar10", num_samples=count)
    path = saved(tmp_path / "b.npz", images(20, size=32))
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
    asked = TINY | {"metrics": [metric("fd", extractor="pixels")], "references": {"data": {"kind": "given"}}}
    score = score_images(tmp_path, asked, against=tmp_path)
    assert remark in score.warnings() == score.record()["warnings"]
    # Both sets may have one remark, and both trials of a metric one warning.
    twice = [score.records[0] | {"details": {"fd": {"warnings": ["few images"] * 2}}}] * 2
    doubled = dataclasses.replace(score, records=twice, remarks=(remark, remark))
    assert [line for line in doubled.warnings() if line == remark or "few" in line] == [remark, "fd: few images"]


def chunked(picture, **chunks):
    """A PNG with further chunks before its pixels."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    content = stream.getvalue()
    more = b"".join(
        len(data).to_bytes(4, "big") + kind.encode() + data + zlib.crc32(kind.encode() + data).to_bytes(4, "big")
        for kind, data in chunks.items()
    )
    return content[:33] + more + content[33:]


def gamma(value):
    return {"gAMA": value.to_bytes(4, "big")}


@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        (gamma(100_000), "gAMA"),
        (gamma(45_455), None),
        (gamma(45_000) | {"sRGB": b"\0"}, None),
        (gamma(100_000) | {"sRGB": b"\0"}, None),
        ({"cICP": bytes((9, 16, 0, 1))}, "cICP"),
        ({"cICP": bytes((1, 13, 0, 1))} | gamma(100_000), None),
        ({"tEXt": b"a\0gAMA"}, None),
    ],
)
def test_colours_that_are_not_applied_are_counted(tmp_path, chunks, kind):
    picture = images(1, size=8)[0]
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(chunked(picture, **chunks))
    store = open_images(tmp_path)
    assert (store.read(0, 2) == picture.transpose(2, 0, 1)).all()
    assert [remark.startswith(f"2 pictures are PNG with {kind}, ") for remark in store.remarks] == [True] * bool(kind)
    prepared = command("data", "prepare", "--source", tmp_path, "--out", tmp_path / "out.zip", "--labels", "none")
    assert (f"with {kind}, which is not applied" in prepared) is bool(kind)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_a_reference_of_lossy_pictures_says_so_and_so_does_a_score_against_it(tmp_path, suffix):
    (tmp_path / "real").mkdir()
    for index, picture in enumerate(images(20, size=16)[..., 0]):
        kind = {"compression": "jpeg"} if suffix == "tif" else {}
        Image.fromarray(picture).save(tmp_path / f"real/{index}.{suffix}", quality=70, **kind)
    note = "20 pictures are TIFF with JPEG inside, " if suffix == "tif" else "20 pictures are JPEG, "
    reference = tmp_path / "reference.safetensors"
    assert note in command("reference", "--images", tmp_path / "real", "--extractor", "pixels", "--out", reference)
    asked = TINY | {"metrics": [metric("fd", extractor="pixels")], "references": {"data": {"kind": "dataset"}}}
    path = saved(tmp_path / "a.npz", images(20, seed=3)[..., :1])
    score = score_images(path, asked, trials=1, dataset=DIGITS, references={"data": str(reference)})
    assert any(warning.startswith(f"reference: {note}") for warning in score.warnings())


def test_a_second_set_with_statistics_of_other_images_is_refused_with_the_option_for_them(tmp_path):
    pixels = images(30, size=8)
    np.savez(tmp_path / "batch.npz", arr_0=pixels, mu=np.zeros(4), sigma=np.eye(4))
    path = saved(tmp_path / "a.npz", images(30, seed=1, size=8))
    words = "score", path, "--protocol", "pair-pixels", "--against"
    refused("--against .*batch.npz: has mu and sigma.*--reference.*adm.*arr_0", command, *words, tmp_path / "batch.npz")
    assert "FD" in command(*words, saved(tmp_path / "alone.npz", pixels))


def test_grey_pictures_lie_alike_in_memory_whatever_their_file(tmp_path):
    """Kernels are chosen by strides, and round differently."""
    np.save(tmp_path / "first.npy", GREY.transpose(0, 3, 1, 2))
    last = open_images(saved(tmp_path / "last.npz", GREY)).read(3, 11)
    first = open_images(tmp_path / "first.npy").read(3, 11)
    assert (last == first).all()
    assert last.strides == first.strides


def test_spread_is_the_one_the_protocol_names(tmp_path):
    path = saved(tmp_path / "a.npz", images(90, size=8, channels=1))
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
    monkeypatch.setattr("sida.eval.features.inception.fetch", lambda asset: Path(own["path"]))
    write_text(tmp_path / load_registry()["inception"].target, "downloaded")
    cases = {"default": {}, "own file": {"extractors": {"inception": own}}}
    scores = {case: score_images(folder / "samples.npz", TINY, trials=1, **given) for case, given in cases.items()}
    used = {case: [*score.records[0]["extractors"]] for case, score in scores.items()}
    assert used == {"default": ["inception_cpu"], "own file": ["inception"]}
    # Two devices differ by rounding as well, so both variants stand for one network.
    assert comparable(scores["default"].identity("is"), scores["own file"].identity("is")) is None


def test_an_interrupted_score_resumes_with_its_finished_trials(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    path = saved(tmp_path / "a.npz", images(90, 8, 1))
    whole = score_images(path, "digits", num_samples=30)
    whole.forget_trials()
    draw, drawn = Measurer.sums, []

    def interrupted(self, trial, *rest):
        drawn.append(trial)
        if drawn == [0, 1]:
            raise KeyboardInterrupt
        return draw(self, trial, *rest)

    monkeypatch.setattr(Measurer, "sums", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_images(path, "digits", num_samples=30)
    score = score_images(path, "digits", num_samples=30)
    assert score.summary() == whole.summary()
    assert drawn == [0, 1, 1, 2]
    assert "1 of 3 trials" in capsys.readouterr().err
    # They stay until the result is where it should be.
    assert score_images(path, "digits", num_samples=30).summary() == whole.summary()
    assert drawn == [0, 1, 1, 2]
    score.forget_trials()
    assert not any((tmp_path / "cache" / "scores").iterdir())


def test_two_scores_of_equal_images_at_once_do_not_disturb_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    path, draw, other = saved(tmp_path / "a.npz", images(90, 8, 1)), Measurer.sums, []

    def beside(self, trial, *rest):
        if trial == 2 and not other:
            other.append(None)  # the second score draws as usual
            other[0] = score_images(path, "digits", num_samples=30)
            other[0].forget_trials()
        return draw(self, trial, *rest)

    monkeypatch.setattr(Measurer, "sums", beside)
    first = score_images(path, "digits", num_samples=30)
    assert first.summary() == other[0].summary()
    # A third one is writing.
    (written := next((tmp_path / "cache" / "scores").iterdir()) / ".trial-0.json.x.tmp.json").touch()
    first.forget_trials()
    assert [*written.parent.iterdir()] == [written]


def test_trials_stay_while_the_output_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    path = saved(tmp_path / "a.npz", images(60, 8, 1))
    ask = ["score", path, "--protocol", "digits", "--num-samples", 30, "--out", tmp_path / "out.json"]
    with monkeypatch.context() as patch:
        patch.setattr("sida.eval.commands.scores.write_hashed_json", full_disk)
        refused("No space left", command, *ask)
    monkeypatch.setattr(Measurer, "sums", None)
    assert "2 trials" in command(*ask)
    assert not any((tmp_path / "cache" / "scores").iterdir())


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.json")


def test_several_trials_are_scored_where_the_cache_cannot_be_written(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.npz", images(60, 8, 1))
    monkeypatch.setenv("SIDA_CACHE", str(path / "cache"))
    assert len(score_images(path, "digits", num_samples=30).records) == 2


def test_a_copy_of_an_image_of_a_finished_trial_is_refused_by_every_call(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    pictures = images(60, 8, 1)
    pictures[50] = pictures[3]
    path = saved(tmp_path / "a.npz", pictures)
    for _ in range(2):
        refused("is the same image as", score_images, path, "digits", num_samples=30)


@pytest.mark.usefixtures("offline")
def test_all_missing_downloads_are_named_at_once(tmp_path, capsys):
    path = saved(tmp_path / "a.npz", images(30, 32))
    needed = [load_registry()[name] for name in ("fid-ref-cifar10", "inception", "cifar10-uncond-sida-a1")]
    line = refused("missing in", command, "score", needed[2].id, "--like", "table1")
    assert all(f"{asset.urls[0]} as {asset.target}" in str(line) for asset in needed)
    line = refused("fetch fid-ref-cifar10 inception`", score_images, path, "cifar10", num_samples=30)
    assert all(f"{asset.urls[0]} as {asset.target}" in str(line) for asset in needed[:2])
    named = [asset for name in ("imagenet64", "imagenet512") for asset in load_protocol(name).assets(["decoder"])]
    for asset in ("labels-imagenet", "decoder", "dinov2-code", "ref-batch-imagenet64"):
        assert asset in named
    latent = ["score", "teacher-sit-xl-2", "--protocol", "imagenet256-rounded", "--sampler"]
    for sampler, ours, other in (("flow:2", "ema", "mse"), ("flow:2,decoder=sd-vae-ft-mse", "mse", "ema")):
        line = str(refused("missing in", command, *latent, sampler))
        assert f"sd-vae-ft-{ours}" in line
        assert f"sd-vae-ft-{other}" not in line
    line = str(refused("missing in", command, "assets", "fetch", "--protocol", "imagenet256-rounded"))
    assert "sd-vae-ft-ema" in line
    assert "sd-vae-ft-mse" in line
    faults = {"cifar10": "cifar10-32x32.npz", "digit": "did you mean 'digits'"}
    for name, told in faults.items():
        assert main(["assets", "fetch", "--protocol", name]) == 1
        assert told in capsys.readouterr().err
    assert main(["assets", "fetch", "--protocol", "digits"]) == 0


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder, digits = tmp_path_factory.mktemp("halves"), load_dataset(DIGITS)
    for name, indices in (("a.npz", range(0, 600, 2)), ("b.npz", range(1, 500, 2))):
        np.savez(folder / name, arr_0=digits.images(indices).numpy())
    return folder


@pytest.mark.slow
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
    assert identity.reference == open_images(b).digest
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
        "--reference": [*command, "--reference", "data=real.npz"],
        "large.npy": [*command[:3], str(tmp_path / "large.npy"), "--protocol", "digits"],
        "--against": [*command[:2], "--protocol", "pair"],
    }
    for told, arguments in faults.items():
        assert told in refusal(*arguments)


class Generator(torch.nn.Module):
    def forward(self, z):
        return torch.tanh(z).reshape(-1, 1, 8, 8)


def exported(path, **settings):
    """Writes the generator as a program of torch.export, by default for any number of images."""
    shapes = settings or {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    torch.export.save(torch.export.export(Generator(), (torch.zeros(2, 64),), **shapes), path)


@pytest.mark.parametrize("name", [pytest.param("mine.pt", marks=pytest.mark.slow), "mine.pt2"])
def test_a_program_in_a_file_is_scored_with_permission(tmp_path, monkeypatch, capsys, refusal, name):
    path = tmp_path / name
    if name == "mine.pt2":
        exported(path)
    else:
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
    plain = path.with_stem("plain")
    torch.save(Generator().state_dict() | {"w": torch.zeros(2)}, plain)
    assert "torch.export" in refusal("score", str(plain), "--protocol", "digits", "--latent", "64")
    exported(tmp_path / "two.pt2", strict=False)
    monkeypatch.setenv("SIDA_ALLOW_CODE", str(tmp_path))
    line = refusal("score", str(tmp_path / "two.pt2"), *command[2:], "--latent", "64")
    assert "two.pt2: " in line
    assert "dynamic_shapes" in line


@pytest.mark.parametrize(
    ("count", "settings", "remark"),
    [
        (40, {"against": 40}, "the same images"),
        (40, {"against": 20, "num_samples": 40}, "20 images equal another"),
        (300, {"trials": 2, "num_samples": 100}, "100 images more than 2 × 100"),
    ],
)
def test_a_score_remarks_on_its_sets(digits, count, settings, remark):
    if size := settings.get("against"):
        settings = settings | {"against": np.repeat(digits[0][:size], count // size, 0)}
    found = sida.eval.score(digits[0][:count], "digits", **settings)
    assert any(remark in line for line in found.remarks)
    assert found.values("fd")[0] >= 0


def test_a_function_is_the_second_set(digits):
    found = sida.eval.score(digits[0][:300], "digits", against=noise)
    assert found.values("fd")[0] > 100
    assert not any("fewer" in remark for remark in found.remarks)
    refused("k: 3 neighbours", sida.eval.score, digits[0][:300], "digits", num_samples=3)
    for sets in ((digits[0][:2], digits[0]), (digits[0], digits[0][:2])):
        refused("k: 3 neighbours among 2", sida.eval.score, sets[0], "digits", against=sets[1])


@pytest.mark.parametrize(
    ("first", "remedy"), [(noise, "draw"), (images(40, 8, 1), "data prepare")], ids=["function", "images"]
)
def test_pixels_of_sets_that_differ_in_size_or_channels_are_refused_with_both(first, remedy):
    told = rf"(run 'noise'|images) and against: .*8×8 in 1 channels, 16×16 in 3 channels; .*{remedy}.*pair-quick"
    refused(told, sida.eval.score, first, "pair-pixels", num_samples=40, against=images(40, 16))


@needs("judges")
def test_a_functions_first_batch_is_checked_before_features_of_the_second_set(digits, monkeypatch, capsys):
    """They take half an hour for 50,000 pictures."""
    monkeypatch.setattr("sida.eval.measuring.references.features_of", Mock(side_effect=AssertionError("features")))

    def channels_last(seeds):
        return np.stack([np.full((12, 20, 3), seed % 256, np.uint8) for seed in seeds])

    def floats(seeds):
        return noise(seeds) / 127.5 - 1

    def of_a_number(n):
        return noise(range(int(n)))

    for function, told in ((channels_last, "N, H, W, C"), (floats, "uint8"), (of_a_number, "list of seeds")):
        refused(told, sida.eval.score, function, "pair-quick", against=images(30, 16))


@pytest.mark.parametrize("name", ["negative.npz", "images.npz", "digits.safetensors"])
def test_a_file_that_is_no_reference_is_named_before_the_first_image_is_drawn(tmp_path, name):
    sigma = np.eye(64)
    sigma[3, 3] = -1
    np.savez(tmp_path / "negative.npz", mu=np.zeros(64), sigma=sigma)
    saved(tmp_path / "images.npz", images(9, 8, 1))
    measured = ["reference", "--images", tmp_path / "images.npz", "--extractor", "digits", "--out"]
    command(*measured, tmp_path / "digits.safetensors")
    drawn: list[int] = []

    def counted(seeds):
        drawn.extend(seeds)
        return noise(seeds)

    references = {"data": {"kind": "statistics", "file": name}}
    asked = protocol(metric("fd", "frechet", "pixels", "data"), resolution=8, references=references)
    refused(name, sida.eval.score, counted, asked, references={"data": str(tmp_path / name)})
    assert drawn == []


def test_a_function_draws_as_many_images_as_the_second_set_has():
    drawn = set()

    def counted(seeds):
        drawn.update(seeds)
        return noise(seeds)

    score = sida.eval.score(counted, "pair-pixels", against=images(37, 8, 1))
    assert (score.records[0]["n"], drawn) == (37, set(range(37)))
    assert sida.eval.score(noise, "pair-pixels", num_samples=41, against=images(37, 8, 1)).records[0]["n"] == 41


def test_subsets_of_the_kernel_distance_follow_the_protocols_first_seed(digits):
    kid = metric("kid", "kernel", "pixels", subsets=3, subset_size=20)
    reals, rows = (get_extractor("pixels")(torch.from_numpy(images)) for images in (digits[0], digits[0][:60]))
    for seed in (0, 5):
        found = sida.eval.score(digits[0][:60], protocol(kid, num_samples=60, seed0=seed), against=digits[0])
        assert found.values("kid") == pytest.approx([kernel_distance(reals, rows, 3, 20, seed)], rel=1e-4)


def test_a_score_without_any_value_has_an_empty_frame(digits):
    found = sida.eval.score(digits[0][:20], protocol(metric("a", "accuracy", reference=None)))
    assert (len(found.frame()), [*found.frame()][-1]) == (0, "trials")
    assert "not measured" in str(found)


def test_classes_that_do_not_fit_are_left_out_as_the_message_says(tmp_path, digits):
    pixels, one_hot = digits[0][:60], np.eye(10, dtype=np.int64)[np.arange(60) % 10]
    source = saved(tmp_path / "hot.npz", pixels, one_hot)
    told = refused("classes of 60 images", command, "score", source, "--protocol", "digits", "--num-samples", "30")
    (option,) = re.findall(r"\((--labels \w+)", str(told))
    assert "FD" in command("score", source, "--protocol", "digits", "--num-samples", "30", *option.split())
    plain = saved(tmp_path / "plain.npz", digits[0][60:120])
    for first, second in ((plain, source), (source, plain), ("tests.eval.measuring.specs:noise", source)):
        words = ["score", first, "--against", second, "--protocol", "pair-pixels"]
        refused("classes of 60 images", command, *words)
        assert "FD" in command(*words, *option.split())
    refused("--labels", command, "score", "tests.eval.measuring.specs:noise", "--protocol", "digits", *option.split())


def test_a_folder_of_arrays_is_not_sent_in_a_circle(tmp_path):
    for number in range(3):
        saved(tmp_path / f"part{number}.npz", GREY)
    for arguments in (
        ["score", tmp_path, "--protocol", "digits"],
        ["data", "prepare", "--source", tmp_path, "--out", "o.zip"],
    ):
        told = refused("3 .npz", command, *arguments)
        assert "prepare" not in told.remedy + told.fault.partition("; ")[2]
