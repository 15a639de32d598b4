"""References: published formats, own files, mix-ups."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sida.data import load_dataset
from sida.eval.features.registry import make_extractors
from sida.eval.measuring.protocol import load_protocol
from sida.eval.measuring.reference_files import (
    OwnReference,
    read_batch,
    read_moments,
    read_own,
    write_own,
)
from sida.eval.measuring.references import Reference, load_references, write_reference
from sida.eval.metrics.statistics import FeatureStatistics
from sida.workflow.cli import main
from tests.eval.measuring.specs import DIGITS, metric, protocol
from tests.eval.metric_networks import images, pictures, write_inception
from tests.near import assert_near, is_copy, same_bits
from tests.refused import refused


def moments(width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(seed).standard_normal((200, width))
    return rows.mean(0), np.cov(rows, rowvar=False)


def image_protocol(**references) -> dict:
    metrics = [metric("fid", "frechet", "inception", "stats")]
    metrics += [metric(key, key, "inception", "batch") for key in ("precision", "recall")]
    return protocol(*metrics, resolution=16, channels=3, references=references)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    return make_extractors(
        ["inception"],
        options={"inception": {"path": write_inception(tmp_path_factory.mktemp("net") / "inception.pt")}},
    )


def test_published_statistics_of_every_form_are_read(tmp_path):
    mean, cov = moments()
    np.savez(tmp_path / "edm.npz", mu=mean, sigma=cov)
    np.savez(tmp_path / "clean.npz", mu=mean.astype(np.float32), sigma=cov.astype(np.float32), extra=1)
    for name, tolerance in (("edm.npz", 0), ("clean.npz", 1e-6)):
        read = read_moments(tmp_path / name)
        assert_near(read[0], mean, tolerance)
        assert_near(read[1], cov, tolerance)
        assert read[1].dtype == np.float64
    # Pkl of edm2.
    fid, dino = moments(12, 1), moments(9, 2)
    path = tmp_path / "img512.pkl"
    content = {"fid": dict(zip(("mu", "sigma"), fid)), "fd_dinov2": dict(zip(("mu", "sigma"), dino))}
    path.write_bytes(pickle.dumps(content))
    assert is_copy(read_moments(path, "fid")[0], fid[0])
    assert is_copy(read_moments(path, "fd_dinov2")[1], dino[1])
    refused("holds the statistics fid, fd_dinov2, not 'fd'; .*'entry'", read_moments, path, "fd")
    refused("holds the statistics fid, fd_dinov2; .*'entry'", read_moments, path)
    for read, arrays, fault in (
        (read_moments, {"mu": np.zeros(3)}, "has no 'sigma'"),
        (read_moments, {"mu": np.zeros(3), "sigma": np.eye(4)}, "sigma has shape"),
        (read_batch, {"arr_0": np.zeros((2, 4, 4, 3), np.float32)}, "must be uint8"),
    ):
        np.savez(tmp_path / "wrong.npz", **arrays)
        refused(fault, read, tmp_path / "wrong.npz")


def test_statistics_of_torch_are_read(tmp_path):
    mean, cov = moments(6, 3)
    tensors = {"mu": torch.from_numpy(mean), "sigma": torch.from_numpy(cov)}
    torch.save({**tensors, "number": 5}, tmp_path / "tensors.pt")
    torch.save({"fid": {"mu": mean, "sigma": cov}}, tmp_path / "entry.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "tensors.pkl").write_bytes(pickle.dumps(tensors))
    np.save(tmp_path / "dictionary.npy", {"mu": mean, "sigma": cov, "made by": Path("a")})
    named = ("tensors.pt", None), ("entry.pth", "fid"), ("tensors.pkl", None)
    for name, entry in (*named, ("dictionary.npy", None)):
        for ours, theirs in zip(read_moments(tmp_path / name, entry), (mean, cov)):
            assert_near(ours, theirs)
    half = {"mu": tensors["mu"].bfloat16(), "sigma": tensors["sigma"].bfloat16()}
    torch.save(half, tmp_path / "half.pt")
    assert is_copy(read_moments(tmp_path / "half.pt")[1], half["sigma"].double())


def test_arrays_beside_statistics_are_not_read_and_other_files_are_named(tmp_path):
    mean, cov = moments(6, 3)
    beside = {
        "dataset": np.array("cifar10"),
        "made": np.array({"by": Path("a")}, object),
        "names": np.array(["a", "b"]),
    }
    np.savez(tmp_path / "beside.npz", mu=mean, sigma=cov, **beside)
    assert is_copy(read_moments(tmp_path / "beside.npz")[1], cov)
    np.savez(tmp_path / "text.npz", mu=np.array(["a"]), sigma=cov)
    refused("array 'mu': its array does not hold plain numbers", read_moments, tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", cov)
    refused("is one array, not statistics.*numpy.savez", read_moments, tmp_path / "one.npy")
    (tmp_path / "text.pkl").write_bytes(pickle.dumps({"mu": "a", "sigma": cov}))
    refused("'mu': it is not an array of numbers", read_moments, tmp_path / "text.pkl")


def test_the_two_references_of_imagenet_cannot_be_mixed_up(tmp_path, inception):
    mean, cov = moments()
    # The evaluator's batch also holds statistics, of another network.
    np.savez(tmp_path / "batch.npz", arr_0=images(), mu=mean, sigma=cov)
    np.savez(tmp_path / "stats.npz", mu=mean, sigma=cov)
    sources = {"stats": {"kind": "statistics", "file": "stats.npz"}, "batch": {"kind": "images", "file": "batch.npz"}}
    asked = load_protocol(image_protocol(**sources))
    right = {"stats": str(tmp_path / "stats.npz"), "batch": str(tmp_path / "batch.npz")}
    references = load_references(asked, inception, right)
    assert is_copy(references["stats"].moments("inception").mean, mean)
    expected = inception["inception"](pictures(30))
    assert_near(references["batch"].features("inception").numpy(), expected.numpy())
    refused("batch of reference images", load_references, asked, inception, right | {"stats": right["batch"]})
    refused("no 'arr_0'", load_references, asked, inception, right | {"batch": right["stats"]})
    # A wrong digest or size is refused.
    pinned = load_protocol(image_protocol(**sources | {"stats": sources["stats"] | {"sha256": "0" * 64}}))
    refused("sha256 is", load_references, pinned, inception, right)
    sized = load_protocol(image_protocol(**sources | {"batch": sources["batch"] | {"num_images": 10_000}}))
    refused(r"holds 30 images, .* says 10000", load_references, sized, inception, right)
    refused("give it with --reference stats=FILE", load_references, asked, inception, {})
    refused("no such reference file", load_references, asked, inception, right | {"stats": "missing.npz"})


@pytest.mark.parametrize(
    ("metrics", "name", "told"),
    [
        ([metric("fid", "frechet", "inception", "r")], "wide.npz", r"wide\.npz.* 9 .*inception.* 12 .*\.r\)"),
        ([metric("fid", "frechet", "inception", "r")], "bad.npz", r"bad\.npz: .*eigenvalue"),
        ([metric("recall", "recall", "inception", "r", k=3)], "few.npz", r"few\.npz.*recall: k: 3 .*\.r\)"),
        ([metric("recall", "recall", "inception", "r")], "own.safetensors", "--keep-features"),
    ],
)
def test_an_unfit_reference_is_refused_when_it_is_loaded(tmp_path, inception, metrics, name, told):
    mean, cov = moments(9)
    np.savez(tmp_path / "wide.npz", mu=mean, sigma=cov)
    bad = np.eye(12)
    bad[0, 1] = bad[1, 0] = 2
    np.savez(tmp_path / "bad.npz", mu=np.zeros(12), sigma=bad)
    np.savez(tmp_path / "few.npz", arr_0=images(3))
    sums = {"inception": FeatureStatistics().update(inception["inception"](pictures(30)))}
    digests = {"inception": inception["inception"].sha256}
    write_own(tmp_path / "own.safetensors", OwnReference("own", "d", sums, {}, digests, 1, False))
    source = {"kind": "statistics" if name in ("wide.npz", "bad.npz") else "images", "file": name}
    asked = load_protocol(protocol(*metrics, resolution=16, channels=3, references={"r": source}))
    refused(told, load_references, asked, inception, {"r": str(tmp_path / name)})


def test_registered_assets_come_from_the_cache(tmp_path, monkeypatch, inception):
    from sida.assets.registry import load_registry

    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    monkeypatch.setenv("SIDA_OFFLINE", "1")
    asked = load_protocol("cifar10")
    refused(r"cifar10-32x32\.npz", load_references, asked, inception)
    target = tmp_path / load_registry()["fid-ref-cifar10"].target
    target.parent.mkdir(parents=True)
    mean, cov = moments()
    np.savez(target, mu=mean, sigma=cov)
    assert is_copy(load_references(asked, inception)["edm"].moments("inception").cov, cov)


def test_a_reference_of_ones_own_equals_the_data_set(tmp_path, capsys, refusal):
    out = tmp_path / "digits.safetensors"
    command = ["reference", "--dataset", json.dumps(DIGITS), "--extractor", "digits", "--keep-features"]
    assert main([*command, "--out", str(out)]) == 0
    assert "1,797 images" in capsys.readouterr().out
    assert "must end in .safetensors" in refusal(*command, "--out", str(tmp_path / "digits.npz"))
    asked = load_protocol(protocol(metric("fd"), metric("recall", "recall")))
    extractors = make_extractors(["digits"])
    made = load_references(asked, extractors, {}, lambda: load_dataset(DIGITS))["data"]
    read = load_references(asked, extractors, {"data": str(out)})["data"]
    assert read.name == made.name == "digits"
    one, two = (reference.moments("digits") for reference in (made, read))
    assert one.count == two.count
    for values, again in ((one.mean, two.mean), (one.cov, two.cov)):
        assert_near(values, again)
    assert_near(made.features("digits"), read.features("digits"))
    pixels = load_protocol(protocol(metric("fd", extractor="pixels")))
    refused("not of 'pixels'", load_references, pixels, make_extractors(["pixels"]), {"data": str(out)})
    write_own(out, dataclasses.replace(read_own(out, []), extractors={"digits": "0" * 64}))
    refused("digits.safetensors: .*other weights", load_references, asked, extractors, {"data": str(out)})


def test_a_reference_of_ones_own_must_be_made_as_the_protocol_says(tmp_path):
    out = tmp_path / "digits.safetensors"
    own = write_reference(out, "digits", dataset=json.dumps(DIGITS), keep_features=True)
    extractors = make_extractors(["digits"])

    def load(kind: str = "frechet", **changes) -> Reference:
        source = {"kind": "dataset", "cov_ddof": changes.pop("cov_ddof", 1)}
        asked = load_protocol(protocol(metric("m", kind), references={"data": source}, **changes))
        return load_references(asked, extractors, {"data": str(out)})["data"]

    write_own(out, dataclasses.replace(own, allow_tf32=True))
    refused(r"digits.safetensors: was made with TF32, .*data asks .* without it", load)
    load(allow_tf32=True)
    write_own(out, dataclasses.replace(own, ddof=0))
    refused(r"was made without TF32, .*; leave the file out", load, allow_tf32=True)
    refused(r"has a covariance of ddof 0, .*; leave the file out", load)
    load("recall")  # needs no covariance
    load(cov_ddof=0)


def test_features_of_a_data_set_that_took_long_serve_later_measurements(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    asked, extractors = load_protocol(protocol(metric("fd"), metric("recall", "recall"))), make_extractors(["digits"])
    run, images = type(extractors["digits"]).__call__, []

    def counted(self, batch):
        images.append(len(batch))
        return run(self, batch)

    monkeypatch.setattr(type(extractors["digits"]), "__call__", counted)

    def load(asked=asked) -> tuple[Reference, int]:
        images.clear()
        reference = load_references(asked, extractors, {}, lambda: load_dataset(DIGITS))["data"]
        return reference, sum(images)

    computed, count = load()
    assert count == 1797
    assert not (tmp_path / "cache" / "references").exists()  # a second of work is no file
    monkeypatch.setattr("sida.eval.measuring.references._SHORTEST", 0)
    assert load()[1] == 1797
    (kept,) = (tmp_path / "cache" / "references").iterdir()
    read, count = load()
    assert count == 0
    assert (read.name, read.record(), read.sketch.record()) == ("digits", computed.record(), computed.sketch.record())
    one, two = (reference.moments("digits") for reference in (computed, read))
    assert one.count == two.count
    assert same_bits(one.mean, two.mean)
    assert same_bits(one.cov, two.cov)
    assert same_bits(computed.features("digits"), read.features("digits"))
    # Other needs, code or a damaged file compute again.
    for change in ({"references": {"data": {"kind": "dataset", "cov_ddof": 0}}}, {"allow_tf32": True}):
        assert load(load_protocol(protocol(metric("fd"), metric("recall", "recall"), **change)))[1] == 1797
    before = len([*kept.parent.iterdir()])
    with monkeypatch.context() as patch:
        patch.setattr("sida.eval.measuring.references.source_digest", lambda: "other")
        assert [load()[1], load()[1]] == [1797, 0]
    # Another device has files of its own, and large features none.
    with monkeypatch.context() as patch:
        patch.setattr("sida.eval.measuring.references.device_name", lambda device: "other")
        patch.setattr("sida.eval.measuring.reference_files._LARGEST", 1000)
        assert [load()[1], load()[1]] == [1797, 1797]
    kept.write_bytes(kept.read_bytes()[:-100])
    capsys.readouterr()
    assert [load()[1], load()[1]] == [1797, 0]
    assert str(kept) in capsys.readouterr().err
    assert len([*kept.parent.iterdir()]) == before
    # Without a cache that can be written a measurement takes its time.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "file" / "cache"))
    assert load()[1] == 1797
