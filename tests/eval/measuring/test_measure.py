"""Measuring end to end: trials, resuming, sources, versions of the code, collecting."""

import csv
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sida import machine
from sida.config.labels import load_labels
from sida.data import load_dataset
from sida.data.archive import dataset_json
from sida.eval.features import get_extractor
from sida.eval.measuring import trial as trials_of
from sida.eval.measuring.functions import CallableSource, as_batch
from sida.eval.measuring.generators import DataSource, NetworkSource
from sida.eval.measuring.measure import Measurer, measure
from sida.eval.measuring.protocol import load_protocol
from sida.eval.metrics.frechet import frechet_distance
from sida.eval.metrics.inception_score import inception_score
from sida.eval.metrics.precision_recall import neighbour_shares
from sida.eval.results.measurements import MEASUREMENT_COLUMNS
from sida.eval.results.trial_files import collect, read_measurement, trial_path
from sida.files import text_files
from sida.files.atomic import sha256_file
from sida.files.ordinary import UnreadableError
from sida.sampling import SeedStreams
from sida.workflow.cli import main
from tests.data.test_archive import npy, png, write_counts, write_zip
from tests.eval.measuring.specs import DIGITS, data_spec, metric, small_protocol
from tests.eval.metric_networks import write_network
from tests.eval.synthetic_output import trial_record
from tests.near import same_bits, same_integers
from tests.refused import refused
from tests.training.toy import NETWORK

HERE = "tests.eval.measuring.test_measure"


def noisy(seeds, std=0.3):
    """An external method: digits with noise; tests name it as module:function."""
    streams = SeedStreams(seeds)
    data = load_dataset(DIGITS)
    indices = streams.randint(len(data))
    images = data.images(indices).float() + 127.5 * std * streams.randn((1, 8, 8))
    return images.clamp(0, 255).to(torch.uint8), data.class_indices[indices]


def collapsed(seeds):
    """A generator that gives the same image for every seed."""
    data = load_dataset(DIGITS)
    return data.images([7]).expand(len(seeds), -1, -1, -1), data.class_indices[[7]].expand(len(seeds))


partly = functools.partial(noisy, std=0.3)
# What a generator may do wrong.
broken = lambda seeds: torch.zeros(len(seeds), 1, 8, 8)
classes_of_few = lambda seeds: (noisy(seeds)[0], [1, 2])


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return write_network(tmp_path_factory.mktemp("network") / "network.safetensors", NETWORK, nimg=0)


def network_spec(network, **changes) -> dict:
    spec = {"run": "student", "method": "sid", "network": str(network), "nfe": 1}
    return data_spec() | spec | {"sampler": {"kind": "one_step", "init_sigma": 2.5}} | changes


def test_every_metric_equals_its_function_on_the_same_images(tmp_path):
    measure(data_spec(), tmp_path / "data", [1])
    record = read_measurement(trial_path(tmp_path / "data", 1))
    data = load_dataset(DIGITS)
    indices = SeedStreams(range(600, 1200)).randint(len(data))
    images, everything = data.images(indices), data.images(range(len(data)))
    extractor = get_extractor("digits")
    features, logits = extractor.features_and_logits(images)
    real = extractor(everything)

    def moments(rows, ddof):
        rows = rows.double().numpy()
        return rows.mean(0), np.cov(rows, rowvar=False, ddof=ddof)

    values = record["metrics"]
    assert values["fd"] == pytest.approx(frechet_distance(*moments(features, 0), *moments(real, 1)), rel=1e-6)
    pixels = [x.flatten(1).double() / 127.5 - 1 for x in (images, everything)]
    expected = frechet_distance(*moments(pixels[0], 0), *moments(pixels[1], 1))
    assert values["fd_pixel"] == pytest.approx(expected, rel=1e-6)
    assert values["is"] == pytest.approx(inception_score(torch.softmax(logits, 1), 10).mean, rel=1e-5)
    shares = neighbour_shares(real, features, 3, "float32")
    assert (values["precision"], values["recall"]) == pytest.approx(shares[:2], abs=2e-3)
    hits = logits.argmax(1) == data.class_indices[indices]
    assert values["accuracy"] == pytest.approx(hits.double().mean().item(), abs=2e-3)
    assert (record["seeds"], record["n"]) == ([600, 1199], 600)
    assert record["details"]["is"]["split_std"] > 0
    # Unconditional images have no accuracy.
    sampler = {"kind": "data"}
    (record,) = measure(data_spec(sampler=sampler, dataset=DIGITS | {"labels": False}), tmp_path, [0])
    assert "accuracy" not in record["metrics"]
    assert "without requested classes" in record["details"]["accuracy"]["note"]


SKEWED = (30, 0, 10, 5, 5, 10, 10, 10, 10, 10)


def counted(network, folder, counts=SKEWED, **changes) -> dict:
    """A spec whose protocol draws classes by counts; it needs nothing else of the data set."""
    write_counts(folder / "mine.json", "mine", counts)
    metrics = [m for m in small_protocol()["metrics"] if m["key"] in ("is", "accuracy")]
    asked = small_protocol(labels=str(folder / "mine.json"), metrics=metrics, references={})
    archive = {"name": "mine", "kind": "zip", "path": str(folder / "mine.zip"), "label_dim": 10}
    return network_spec(network, protocol=asked, dataset=archive) | changes


def drawn(spec) -> torch.Tensor:
    return torch.cat([batch.classes for batch in Measurer(spec).source.stream(0, 600, 200)])


def test_classes_are_drawn_by_counts_without_the_archive(tmp_path, network):
    spec = counted(network, tmp_path)
    (record,) = measure(spec, tmp_path / "out", [0])
    classes = drawn(spec)
    everything = torch.repeat_interleave(torch.arange(10), torch.tensor(SKEWED))
    picked = SeedStreams(range(600))
    picked.randn((1, 8, 8))
    assert same_integers(classes, everything[picked.randint(100)])
    assert 130 < classes.bincount()[0] < 230
    assert record["protocol"]["fields"]["labels"] == load_labels(tmp_path / "mine.json").sha256
    changed = counted(network, tmp_path, (29, 1, *SKEWED[2:]))
    assert [r["trial"] for r in measure(changed, tmp_path / "out", [0])] == [0]


def test_an_archive_at_hand_is_compared_with_the_counts_which_must_be_there(network, tmp_path):
    pixels = png(np.zeros((8, 8), np.uint8))
    classes = [label for label, count in enumerate(SKEWED) for _ in range(count)]
    members = {f"{number}.png": pixels for number in range(len(classes))}
    write_zip(tmp_path / "mine.zip", members | {"dataset.json": dataset_json(zip(members, classes))})
    assert len(drawn(counted(network, tmp_path))) == 600
    refused(
        "mine.zip has other numbers of 2 classes .* first of class 0",
        drawn,
        counted(network, tmp_path, (29, 1, *SKEWED[2:])),
    )
    # Missing or foreign counts are one line.
    refused(r"labels: 'mine' .*\b3\b.*\b10\b", drawn, counted(network, tmp_path, (1, 2, 3)))
    spec = counted(network, tmp_path)
    (tmp_path / "mine.json").unlink()
    refused(r"mine.json'; write mine.json as config/labels", measure, spec, tmp_path / "out", [0])
    assert not (tmp_path / "out").exists()


def test_trials_are_kept_when_nothing_changed_and_measured_again_otherwise(tmp_path, network, capsys):
    out = tmp_path / "student"
    spec = network_spec(network, protocol=small_protocol(num_samples=100))
    assert [r["trial"] for r in measure(spec, out, [0, 1])] == [0, 1]
    before = trial_path(out, 1).read_bytes()
    trial_path(out, 0).unlink()
    # A trial that is gone comes back from its copy.
    assert [r["trial"] for r in measure(spec, out, [0, 1, 2])] == [2]
    assert trial_path(out, 1).read_bytes() == before
    trial_path(out, 2).write_text("{ cut off")
    assert [r["trial"] for r in measure(spec, out, [0, 1, 2])] == [2]
    assert measure(spec, out, [0, 1, 2]) == []
    # A new label is written without measuring, and so is a default left out; another sampler, protocol or network is
    # measured.
    assert measure(spec | {"sampler": {"kind": "one_step"}}, out, [0]) == []
    assert measure(spec | {"label": "New"}, out, [0]) == []
    record = read_measurement(trial_path(out, 0))
    assert (record["label"], record["kept_at"], record["source"]["sampler"]["init_sigma"]) == ("New", 0, 2.5)
    other = small_protocol(num_samples=100, trials=4, ddof=0, is_spread="splits")
    assert measure(spec | {"label": "New", "protocol": other}, out, [0]) == []
    assert read_measurement(trial_path(out, 0))["protocol"] == load_protocol(other).record()
    assert len(measure(spec | {"sampler": {"kind": "one_step", "init_sigma": 2.0}}, out, [0])) == 1
    assert len(measure(spec | {"protocol": small_protocol(num_samples=90)}, out, [0])) == 1
    assert "measure student" in capsys.readouterr().err


def test_a_trial_with_other_metrics_is_measured_again(tmp_path, network):
    first = small_protocol(num_samples=60)
    fewer = {**first, "metrics": [one for one in first["metrics"] if one["key"] in ("fd", "is")]}
    changed = {**fewer, "metrics": [{**one, "splits": 5} if one["key"] == "is" else one for one in fewer["metrics"]]}
    for asked in (fewer, first, fewer, changed):
        spec = network_spec(network, protocol=asked)
        (record,) = measure(spec, tmp_path, [0])
        assert record["metrics"].keys() | record["details"].keys() == {one["key"] for one in asked["metrics"]}
        assert measure(spec, tmp_path, [0]) == []


@pytest.mark.parametrize("change", ["nothing", "code", "settings"])
def test_finished_trials_outlive_the_removal_of_outputs_of_a_failed_job(tmp_path, network, monkeypatch, change):
    spec = network_spec(network, protocol=small_protocol(num_samples=60, trials=3))
    out, trials, original = tmp_path / "student", [0, 1, 2], Measurer.record

    def interrupted(self, trial, *args):
        if trial == 2:
            raise KeyboardInterrupt
        return original(self, trial, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Measurer, "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measure(spec, out, trials)
    before = [trial_path(out, trial).read_bytes() for trial in (0, 1)]
    for trial in (0, 1):
        trial_path(out, trial).unlink()
    if change == "code":
        monkeypatch.setattr(machine, "source_digest", lambda: "newer")
    if change == "settings":
        spec["sampler"] = {"kind": "one_step", "init_sigma": 2.0}
    measured = [record["trial"] for record in measure(spec, out, trials)]
    kept = [trial_path(out, trial).read_bytes() for trial in (0, 1)]
    assert (measured, kept == before) == (([2], True) if change == "nothing" else (trials, False))
    assert sorted(path.name for path in out.glob("*.json")) == [f"trial-{trial}.json" for trial in trials]


@pytest.mark.parametrize(
    ("change", "drawn_again"), [("nothing", 40), ("settings", 100), ("damage", 80), ("neighbour", 80)]
)
def test_an_interrupted_trial_resumes_at_its_last_part(tmp_path, network, monkeypatch, change, drawn_again):
    spec = network_spec(network, protocol=small_protocol(num_samples=100, trials=1), batch_size=10)
    (whole,) = measure(spec, tmp_path / "whole", [0])
    assert not [*(tmp_path / "whole/state").glob("parts-*")]  # a short trial has none
    monkeypatch.setattr(trials_of, "PART_SECONDS", 0.0)
    original, drawn = NetworkSource.stream, []

    def stream(self, *positions):
        for batch in original(self, *positions):
            if interrupting and len(drawn) == 6:
                raise KeyboardInterrupt
            drawn.append(len(batch.images))
            yield batch

    monkeypatch.setattr(NetworkSource, "stream", stream)
    interrupting, out = True, tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        measure(spec, out, [0])
    files = sorted((out / "state/parts-0").iterdir())
    assert len(files) == 6
    if change == "damage":
        files[2].write_bytes(files[2].read_bytes()[:-1])
    if change == "neighbour":
        files[2].write_bytes(files[3].read_bytes())
    if change == "settings":
        spec["sampler"] = {"kind": "one_step", "init_sigma": 2.0}
    interrupting = False
    drawn.clear()
    (resumed,) = measure(spec, out, [0])
    assert sum(drawn) == drawn_again
    assert (resumed["metrics"] == whole["metrics"]) == (change != "settings")
    assert not [*(out / "state").glob("parts-*")]


@pytest.mark.parametrize("name", ["trial-0.json", "state/trial-0.json"])
def test_a_record_that_cannot_be_read_is_not_measured_again(tmp_path, network, monkeypatch, name):
    spec, out = network_spec(network, protocol=small_protocol(num_samples=60, trials=1)), tmp_path / "student"
    measure(spec, out, [0])
    if name.startswith("state"):
        trial_path(out, 0).unlink()
    before, read = (out / name).read_bytes(), text_files.read_ordinary

    def stale(path, most):
        if Path(path).name == "trial-0.json":
            raise UnreadableError(path, "cannot be read (Stale file handle)")
        return read(path, most)

    monkeypatch.setattr(text_files, "read_ordinary", stale)
    refused("cannot be read", measure, spec, out, [0])
    assert (out / name).read_bytes() == before


@pytest.mark.slow
def test_a_collapsed_generator_is_measured_with_a_warning(tmp_path):
    """The distance to one point, in the measurement and where its rows are collected; no metric gives up."""
    asked = small_protocol(num_samples=2500)
    asked["metrics"] += [metric("kid", "kernel")]
    sampler = {"kind": "python", "callable": f"{HERE}:collapsed"}
    spec = data_spec(run="one", method="x", sampler=sampler, protocol=asked)
    told = "seed 1 of .*:collapsed: is the same image as seed 0 of .*; give each seed.* allow_duplicates: "
    refused(told, measure, spec, tmp_path, [0])
    (record,) = measure(spec | {"sampler": sampler | {"allow_duplicates": True}}, tmp_path, [0])
    data, extractor = load_dataset(DIGITS), get_extractor("digits", "cpu")
    features = extractor(data.images(range(len(data)))).double().numpy()
    mean, cov = features.mean(0), np.cov(features, rowvar=False)
    expected = np.square(features[7] - mean).sum() + np.trace(cov)
    values, details = record["metrics"], read_measurement(trial_path(tmp_path, 0))["details"]
    assert values["fd"] == pytest.approx(expected, rel=1e-4)
    assert values["is"] == pytest.approx(1)
    assert values["recall"] == pytest.approx(1 / len(data))  # the image itself
    for key in ("fd", "fd_pixel"):
        assert details[key]["warnings"] == ["first set: no feature varies; its images are all alike"]


def test_an_external_python_method(tmp_path):
    sampler = {"kind": "python", "callable": f"{HERE}:noisy"}
    spec = data_spec(run="noisy", method="noisy", sampler=sampler)
    (clean,) = measure(data_spec(), tmp_path / "data", [0])
    (noised,) = measure(spec, tmp_path / "noisy", [0])
    (worse,) = measure(spec | {"sampler": sampler | {"kwargs": {"std": 1.0}}}, tmp_path / "worse", [0])
    assert clean["metrics"]["fd"] < noised["metrics"]["fd"] < worse["metrics"]["fd"]
    for callable_, message in [
        (f"{HERE}:broken", "must return uint8 images of shape"),
        (f"{HERE}:classes_of_few", r"must return classes as whole numbers of shape \(250,\), got torch.int64 \(2,\)"),
        (f"{HERE}:DIGITS", r"is of type dict, not a function"),
        (f"{HERE}:nosy", "did you mean 'noisy'"),
    ]:
        refused(message, measure, spec | {"sampler": {"kind": "python", "callable": callable_}}, tmp_path / "x", [0])


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), np.zeros((2, 3, 4, 4))], ids=["torch", "numpy"])
def test_the_remedy_for_floats_runs_on_what_the_function_returned(images):
    error = refused("float", as_batch, images, 2, "mine:sample")
    expression = str(error).partition("from [-1, 1]: ")[2]
    converted = eval(expression, {"x": images, "torch": torch})
    assert as_batch(converted, 2, "mine:sample").images.unique().tolist() == [128]


def test_an_object_that_is_called_counts_by_the_module_that_names_it():
    sources = [CallableSource(f"{HERE}:{name}") for name in ("noisy", "partly")]
    digests = [source.identity()["source_sha256"] for source in sources]
    assert digests == [sha256_file(__file__)] * 2
    batches = [next(source.stream(0, 8, 8)) for source in sources]
    assert same_bits(*(batch.images for batch in batches))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "x.safetensors"}, "network: must be null for sampler 'data'"),
        ({"sampler": {"kind": "one_step"}}, "network: must be a file"),
        ({"dataset": None}, "dataset: is missing"),
        ({"sampler": {"kind": "images", "path": "x", "group": "trials"}}, "sampler.group: unknown key .*groups"),
        ({"sampler": {"kind": "images", "path": "x", "groups": "folders"}}, "sampler.groups: .*trials"),
        ({"sampler": {"kind": "python"}}, "sampler.callable: is missing"),
        ({"protocol": small_protocol(resolution=16)}, "8×8, protocol 'small' measures 1 channel of 16×16"),
        ({"references": {"dta": "x"}}, "references: protocol 'small' has no 'dta' .did you mean 'data'"),
        ({"extractors": {"digts": {}}}, "extractors: .* has no 'digts' .did you mean 'digits'"),
    ],
)
def test_faults(tmp_path, network, changes, message):
    refused(message, measure, data_spec(**changes), tmp_path, [0])
    latent = network_spec(network, protocol=small_protocol(quantisation="truncate_unit"))
    refused("protocol 'small' measures decoded latents", measure, latent, tmp_path, [0])
    assert not list(tmp_path.rglob("*.json"))


def test_commands_end_to_end(tmp_path, capsys, monkeypatch, refusal):
    (tmp_path / "spec.json").write_text(json.dumps(data_spec(protocol=small_protocol(trials=2))))
    folder, out = tmp_path / "measurements", tmp_path / "measurements.csv"
    command = ["measure", "--spec", str(tmp_path / "spec.json"), "--out", str(folder / "data")]
    collecting = ["collect", str(folder), "--runs", "data", "--out", str(out)]
    assert main([*command, "--trials", "0"]) == 0
    # Trials of two versions of the code are not collected.
    with monkeypatch.context() as patch:
        patch.setattr(machine, "source_digest", lambda: "other")
        assert main([*command, "--trials", "1"]) == 0
    line = refusal(*collecting)
    assert f"{folder}/data/trial-1.json: differs from trial 0 of the same run in the version of the code" in line
    assert "other); delete the older trials" in line
    assert not out.exists()
    (folder / "data/trial-1.json").unlink()
    assert main(command) == 0
    assert "1 trials measured, 1 kept" in capsys.readouterr().out
    assert main(collecting) == 0
    rows = list(csv.DictReader(out.open()))
    assert tuple(rows[0]) == MEASUREMENT_COLUMNS
    assert {row["metric"] for row in rows} == {"fd", "is", "precision", "recall", "fd_pixel", "accuracy"}
    record = read_measurement(folder / "data" / "trial-1.json")
    row = next(row for row in rows if (row["metric"], row["trial"]) == ("fd", "1"))
    assert (float(row["value"]), row["nfe"]) == (record["metrics"]["fd"], "")
    assert (row["seed_first"], row["seed_last"]) == ("600", "1199")
    assert row["extractor_sha256"] == get_extractor("digits").sha256
    assert row["reference_sha256"] == record["metric_references"]["fd"]["sha256"]
    assert "--trials: the protocol has the trials 0-1" in refusal(*command, "--trials", "5")


def write_trials(folder, trials=2, every=(), **changes):
    """Records of a run, every one and the last one with changes."""
    folder.mkdir(parents=True, exist_ok=True)
    for trial in range(trials):
        record = trial_record(folder.name, trial, **dict(every))
        trial_path(folder, trial).write_text(json.dumps(record | (changes if trial == trials - 1 else {})))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": {"name": "p", "fields": {"num_samples": 20}}}, "n: 40 images, and its protocol takes 20"),
        (
            {"metrics": {"fd": 1.5, "is": 2.0}, "protocol": {"name": "p", "fields": {"num_samples": 40}}},
            "differs from trial 0 of the same run in .*metric 'is'",
        ),
        (
            {"metric_references": {"fd": {"sha256": "ab"}}},
            "trial 0 of the same run in fd .reference: 4e4e4e.* != ab",
        ),
        ({"network_sha256": "other"}, "differs from trial 0 of the same run in network_sha256"),
        ({"spec_sha256": "t", "source": {"images": "b"}}, "of the same run in source.images: a != b; delete"),
        ({"run": "other"}, "was it copied"),
        ({"trial": 7}, "holds trial 7"),
    ],
)
def test_collect_refuses_what_does_not_belong_together(tmp_path, changes, message):
    refused("holds no measurements", collect, tmp_path)
    write_trials(tmp_path / "sid", **changes)
    assert "trial-1.json" in str(refused(message, collect, tmp_path))
    write_trials(tmp_path / "sid", trials=12)
    assert [record["trial"] for record in collect(tmp_path)] == list(range(12))
    refused("did you mean 'sid'", collect, tmp_path, ["sida"])


@pytest.mark.parametrize("unknown", ["extractors", "metric_references"])
def test_trials_of_an_unknown_digest_are_no_row(tmp_path, unknown):
    write_trials(tmp_path / "sid", every={unknown: {}})
    refused("trial-1.json.* fd .*no digest", collect, tmp_path)


def test_a_decoder_and_a_callables_files_count_by_content(tmp_path):
    """Edited under the same path they make another measurement; moved elsewhere they do not."""
    moments = npy(np.ones((8, 4, 4), np.float32))
    write_zip(tmp_path / "latents.zip", {"00000/img-mean-std-00000000.npy": moments})
    latents = load_dataset({"name": "latents", "kind": "zip", "path": str(tmp_path / "latents.zip")})

    def identities(folder, content):
        folder.mkdir(exist_ok=True)
        (folder / "weights.bin").write_bytes(content)
        options = {"file": str(folder / "weights.bin"), "device": "cpu"}
        return [DataSource(latents, str(folder)).identity(), CallableSource(f"{HERE}:grey", options).identity()]

    first = identities(tmp_path / "a", b"1")
    assert identities(tmp_path / "b", b"1") == first
    assert all(one != other for one, other in zip(identities(tmp_path / "a", b"2"), first))


def grey(seeds, file, device):
    return np.full((len(seeds), 8, 8, 1), 128, np.uint8)
