"""One flipped bit in a file of each kind is found before it is used: an error that names it, or the same value."""

import contextlib
import json
import random

import numpy as np
import pytest
import torch

from eval.features.pixels import PixelExtractor
from eval.measuring.protocol import load_protocol
from eval.measuring.reference_files import OwnReference, read_own, write_own
from eval.measuring.trial import TrialSums
from eval.metrics.statistics import FeatureStatistics
from eval.results.logs import read_evaluations, read_ticks
from eval.results.measurements import collect, write_csv, write_measurement
from eval.results.summary import load_measurements
from sida.errors import UserError
from sida.files.atomic import append_jsonl, read_jsonl
from sida.files.content_hash import HASH_KEY
from sida.networks import build_network
from sida.networks.file import load_network, read_metadata, save_network
from sida.sampling.store import Samples, intact_png, intact_shard, open_sample_store
from sida.training.logs import Logs
from sida.training.run import StateStore
from tests.training.toy import NETWORK

PROTOCOL = {
    "name": "flips",
    "num_samples": 40,
    "trials": 1,
    "resolution": 8,
    "channels": 1,
    "references": {"own": {"kind": "dataset"}},
    "metrics": [
        {"key": "fd", "kind": "frechet", "extractor": "pixels", "reference": "own"},
        {"key": "precision", "kind": "precision", "extractor": "pixels", "reference": "own"},
    ],
}


def trial(value=7.4321):
    return {
        **{"run": "a", "method": "sid", "trial": 0, "n": 40, "seeds": [0, 39], "nfe": 1, "spec_sha256": "5e" * 32},
        "metrics": {"fd": value, "is": 2.25},
        "protocol": {"name": "flips", "sha256": "4f" * 32},
        "reference": {"name": "own", "sha256": "ae" * 32},
        "extractors": {"pixels": "e7" * 32},
        "environment": {"device": "cpu", "code_version": "0", "date": "2035-01-01T00:00:00Z"},
    }


def statistics():
    return FeatureStatistics().update(torch.arange(160.0).reshape(40, 4).sin())


def plain(value):
    """Something that can be compared."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


# A file of each kind: its path, and what uses it.


def trial_file(folder):
    path = folder / "measurements/a/trial-0.json"
    write_measurement(path, trial())

    def use():
        for aside in path.parent.glob("*.damaged"):
            aside.unlink()
        return collect(folder / "measurements", ["a"])

    return path, use


def csv(folder):
    path = folder / "measurements.csv"
    write_csv(path, [trial(), {**trial(6.5), "trial": 1, "seeds": [40, 79]}])
    return path, lambda: load_measurements(path).rows


RECORDS = [{"nimg": nimg, "fd": 5.5 / nimg, "img_per_s": 0.1 * nimg} for nimg in (10, 20, 30)]


def log(folder):
    path = folder / "evaluations.jsonl"
    for record in RECORDS:
        append_jsonl(path, record)
    return path, lambda: [read_evaluations(path, "fd"), read_ticks(path, "img_per_s")]


def final_log(folder):
    """Of a finished run: no line can be lost."""
    path, use = log(folder)
    path.unlink()
    Logs(folder).restart([], RECORDS, final=True)
    return path, use


def network(folder):
    torch.manual_seed(0)
    path = folder / "network.safetensors"
    save_network(build_network(NETWORK), path, {"method": "sid", "nimg": 400})

    def use():
        net, metadata = load_network(path)
        return [net.state_dict(), metadata]

    return path, use


def network_header(folder):
    """What is read without the tensors; only flips in the header can matter."""
    path, _ = network(folder)
    return path, lambda: read_metadata(path)


def reference(folder):
    path, digests = folder / "r.safetensors", {"pixels": PixelExtractor().sha256}
    sums, rows = {"pixels": statistics()}, {"pixels": torch.ones(3, 4)}
    write_own(path, OwnReference("digits", "ab" * 32, sums, rows, digests, 1, False))

    def use():
        own = read_own(path, digests)
        sums = own.statistics["pixels"]
        return [own.name, own.sha256, sums.mean, sums.cov, sums.count, own.features]

    return path, use


def statistics_file(folder):
    path = folder / "s.safetensors"
    statistics().save(path)

    def use():
        found = FeatureStatistics.load(path)
        return [found.count, found.mean, found.cov]

    return path, use


def shard(folder):
    path, protocol = folder / "shard-0-40.safetensors", load_protocol(PROTOCOL)
    sums = TrialSums(protocol)
    sums.statistics["pixels"].update(torch.arange(160.0).reshape(40, 4).sin())
    sums.rows["pixels"].append((0, torch.arange(160.0).reshape(40, 4)))
    sums.ranges.append((0, 40))
    sums.save(path, {"trial": 0, "spec_sha256": "5e" * 32})

    def use():
        sums, header = TrialSums.load(path, protocol)
        return [header, sums.statistics["pixels"].tensors(), sums.features("pixels"), sums.ranges]

    return path, use


def state_record(folder, suffix=".json"):
    """The older of two states is gone back to."""
    path = folder / f"state-000002{suffix}"
    with StateStore(folder, "d" * 64) as store:
        for nimg in (100, 200):
            store.save({"nimg": nimg, "finished": True, "best": 1 / nimg}, {"x": torch.full((9,), float(nimg))})

    def use():
        with StateStore(folder, "d" * 64) as store:
            kept = store.load()
        if kept.record == {"nimg": 100, "finished": True, "best": 0.01} and kept.tensors["x"].tolist() == [100.0] * 9:
            raise UserError("", f"{path}: went back")
        return [kept.record, kept.tensors]

    return path, use


def state_tensors(folder):
    return state_record(folder, ".safetensors")


def sample_store(folder, name):
    """Six stored samples."""
    images = torch.arange(6 * 64, dtype=torch.uint8).reshape(6, 1, 8, 8)
    store = open_sample_store(str(folder / name), range(6), 6, {"kind": "x"})
    store.write(0, [store.encode(Samples(list(range(6)), images, torch.arange(6) % 3))])
    return store


def intact(whole, path):
    if not whole:
        raise UserError("", f"{path}: not intact")


def npz_shard(folder):
    path = sample_store(folder, "out.npz").shard_path(0)

    def use():
        intact(intact_shard(path, range(6)), path)
        with np.load(path) as shard:
            return {key: shard[key] for key in shard.files}

    return path, use


def png_list(folder):
    store = sample_store(folder, "out")
    path = store.shard_path(0)

    def use():
        intact(store.is_intact(0), path)
        return json.loads(path.read_text())["images"]

    return path, use


def png(folder):
    sample_store(folder, "out")
    path = folder / "out/00000/img00000002.png"

    def use():
        intact(intact_png(path), path)
        return path.read_bytes()

    return path, use


KINDS = [
    trial_file, csv, log, final_log, network, network_header, reference, statistics_file, shard, state_record,
    state_tensors, npz_shard, png_list, png,
]  # fmt: skip


def outcome(use):
    """What using a file gives, or the line that refuses it."""
    try:
        return plain(use()), None
    except UserError as error:
        return None, str(error)


def check(path, use, content, right):
    """Whether a changed file is refused, by its name and in one line; it never gives another value."""
    path.write_bytes(content)
    value, complaint = outcome(use)
    assert complaint is not None or value == right
    assert complaint is None or (path.name in complaint and "\n" not in complaint)
    return complaint is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_never_another_value(kind, tmp_path):
    path, use = kind(tmp_path)
    content, right = path.read_bytes(), plain(use())
    dice = random.Random(kind.__name__)
    places = sorted({*range(0, len(content), max(1, len(content) // 60)), len(content) - 1})
    found = 0
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << dice.randrange(8)
        found += check(path, use, flipped, right)
    needed = {network_header: 0.1, npz_shard: 0.3}.get(kind, 0.7)
    assert found > needed * len(places), f"{found} of {len(places)}"


# The log of a run that is not finished may end with a line that a killed process had not.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not log])
def test_a_file_that_was_cut_off_is_never_another_value(kind, tmp_path):
    path, use = kind(tmp_path)
    content, right = path.read_bytes(), plain(use())
    for length in random.Random(kind.__name__).sample(range(len(content)), min(20, len(content))):
        check(path, use, content[:length], right)


def test_an_edited_digit_is_found_and_a_file_without_hash_is_read(tmp_path):
    path, _ = trial_file(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("7.4321", "7.4322"))
    with pytest.raises(UserError, match=r"trial-0\.json: damaged: .*measure this trial again \(set aside as trial-0"):
        collect(tmp_path / "measurements", ["a"])
    assert path.with_name("trial-0.json.damaged").is_file()
    assert not path.exists()
    record = json.loads(text)
    assert len(record.pop(HASH_KEY)) == 64
    path.write_text(json.dumps(record))
    assert collect(tmp_path / "measurements", ["a"])[0]["metrics"]["fd"] == 7.4321


@pytest.mark.parametrize("fields", [{}, {"metrics": {"fd": {}, "is": {}}}])
def test_a_trial_without_values_does_not_count_as_measured(tmp_path, fields):
    record = trial() | {"metrics": {}, "protocol": {"name": "flips", "sha256": "4f" * 32, "fields": fields}}
    unmeasured = pytest.raises(UserError, match=r"metrics\.(\*|fd): was not measured; measure this trial again")
    write_measurement(tmp_path / "a/trial-0.json", record)
    with unmeasured:
        collect(tmp_path, ["a"])
    # Of named metrics the trial says why it has none.
    write_measurement(tmp_path / "a/trial-0.json", record | {"details": {"fd": "none", "is": "no classes"}})
    with contextlib.nullcontext() if fields else unmeasured:
        collect(tmp_path, ["a"])


def test_a_log_that_ends_in_the_middle_of_a_line_and_one_whose_last_line_is_damaged(tmp_path):
    path, _ = log(tmp_path)
    text = path.read_text()
    path.write_text(text[:-30])
    assert [record["nimg"] for record in read_jsonl(path)] == [10, 20]
    path.write_text(text[:-3] + "x" + text[-2:])
    with pytest.raises(UserError, match=r"evaluations\.jsonl:3: damaged"):
        read_jsonl(path)


@pytest.mark.parametrize("kind", [csv, final_log])
def test_lost_lines_are_found(kind, tmp_path):
    path, use = kind(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    for kept in (lines[:-1], [*lines[:1], *lines[2:]], lines[:2]):
        path.write_text("".join(kept))
        with pytest.raises(UserError, match="damaged"):
            use()


def test_two_values_that_look_alike_have_equal_hashes_after_reading(tmp_path):
    record = {"by": {10: 0.1, 9: (1, 2)}, "text": "ünï", "big": 2**80, "small": 1e-300, "zero": -0.0}
    append_jsonl(tmp_path / "a.jsonl", record)
    assert read_jsonl(tmp_path / "a.jsonl") == [json.loads(json.dumps(record))]
