"""Metric kinds in a measurement: distances to images that training never saw, and kinds of one's own."""

import json
from dataclasses import dataclass

import pytest
import torch

from sida.config.datasets import dataset_spec
from sida.data import load_dataset
from sida.eval.features import get_extractor
from sida.eval.measuring.measure import measure
from sida.eval.measuring.monitor import make_monitor, monitor_facts
from sida.eval.measuring.protocol import load_protocol
from sida.eval.metrics.metric import Metric
from sida.eval.results.trial_files import long_rows
from sida.networks import build_network
from sida.networks.file import save_network
from tests.eval.measuring.specs import DIGITS, data_spec, metric, protocol
from tests.training.toy import NETWORK

TRAIN, HELD_OUT = (dataset_spec(name, "test") for name in ("digits-train", "digits-heldout"))
FIXED = {name: {"kind": "dataset", "dataset": f"digits-{name}", "fixed": True} for name in ("train", "heldout")}


def halves(**changes):
    """Two halves of the digits as fixed references, and the generator's own data set."""
    references = {"fd": "train", "fd_heldout": "heldout", "fd_own": "own"}
    metrics = [metric(key, "frechet", "pixels", name) for key, name in references.items()]
    return protocol(*metrics, num_samples=400, references=FIXED | {"own": {"kind": "dataset"}}) | changes


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    specs = {data["name"]: data_spec(dataset=data, protocol=halves()) for data in (TRAIN, HELD_OUT)}
    return {name: measure(spec, folder / name, [0])[0] for name, spec in specs.items()}


def test_a_fixed_reference_is_its_data_set_whatever_the_generator_was_trained_on(records):
    train, held_out = (records[name]["metrics"] for name in ("digits-train", "digits-heldout"))
    assert train["fd"] == train["fd_own"] < train["fd_heldout"]
    assert held_out["fd_heldout"] == held_out["fd_own"] < held_out["fd"]
    references = [record["metric_references"] for record in records.values()]
    assert references[0]["fd"] == references[1]["fd"]
    assert references[0]["fd_own"] != references[1]["fd_own"]
    digests = {row["metric"]: row["reference_sha256"] for row in long_rows([records["digits-train"]])}
    assert digests["fd"] != digests["fd_heldout"]


def held_out(record):
    return {row["metric"]: row.get("held_out") for row in long_rows([record])}


def test_a_record_says_how_many_held_out_images_the_generator_has_seen(records, tmp_path):
    train, seen = (held_out(records[name]) for name in ("digits-train", "digits-heldout"))
    assert (train["fd"], train["fd_own"]) == (None, None)
    assert (train["fd_heldout"], seen["fd_heldout"]) == ("0/201", "300/300")
    # The archive of all digits has another hash, and so has a network that was trained on it.
    whole = measure(data_spec(dataset=dataset_spec("digits", "test"), protocol=halves()), tmp_path / "all", [0])[0]
    found, looked = map(int, held_out(whole)["fd_heldout"].split("/"))
    assert 100 < found == looked


@pytest.mark.parametrize(
    ("split", "known", "found"), [("train", True, "0/"), ("all", True, "all"), ("train", False, "unknown")]
)
def test_a_network_is_known_by_its_header(tmp_path, split, known, found):
    data = load_dataset({"name": "d", "kind": "digits", "split": split})
    header = {"images": data.sketch.record()} if known else {}
    save_network(build_network(NETWORK), tmp_path / "n.safetensors", header)
    spec = {"network": str(tmp_path / "n.safetensors"), "sampler": {"kind": "one_step"}, "method": "sid"}
    limited = halves(num_samples=20, metrics=[metric("fd_heldout", "frechet", "pixels", "heldout")])
    said = held_out(measure(data_spec(dataset=TRAIN, protocol=limited, **spec), tmp_path, [0])[0])["fd_heldout"]
    count, _, looked = said.partition("/")
    assert said.startswith(found) or (found == "all" and count == looked and int(count) > 100)


def test_which_data_set_is_fixed_is_part_of_the_digest():
    def changed(**reference):
        return halves(references=halves()["references"] | {"heldout": {"kind": "dataset", **reference}})

    protocols = [halves(), changed(dataset="digits-heldout"), changed(dataset="digits", fixed=True)]
    protocols.append(changed(dataset="digits"))
    digests = [json.dumps(load_protocol(one).recorded_facts(), sort_keys=True) for one in protocols]
    # Without `fixed` the name is what is taken where the generator names no data set: as before.
    assert len(set(digests)) == 3
    assert digests[1] == digests[3]


def test_a_training_watches_what_the_protocol_says():
    def resampled(seeds):
        data = load_dataset(TRAIN)
        return data.images([seed % len(data) for seed in seeds]), None

    found = {
        watch: make_monitor(TRAIN, protocol=halves(watch=watch), num_samples=300)(resampled)
        for watch in (None, ("fd", "fd_heldout", "fd_own"))
    }
    assert {"fd", "fd_heldout", "fd_own"} <= set(found["fd", "fd_heldout", "fd_own"])
    # A protocol that says nothing watches the metric that chooses the network.
    assert set(found[None]) == {"selection", "num_samples", "fd", "fd_std", "fd_trials"}
    assert found["fd", "fd_heldout", "fd_own"]["fd"] == found[None]["fd"]
    facts = [monitor_facts(halves(watch=watch)) for watch in (None, ["fd"], ["fd", "fd_own"])]
    assert facts[0] == facts[1] != facts[2]
    assert set(facts[1]["references"]) == {"train"}  # what is not watched is no reason to train again
    assert load_protocol(halves()).facts() == load_protocol(halves(watch=["fd"])).facts()


COVERAGE, DENSITY = "docs.examples.coverage:Coverage", "docs.examples.coverage:Density"
SPECTRUM = "docs.examples.spectrum:Spectrum"
INK = f"{__name__}:Ink"


@dataclass(kw_only=True)
class Ink(Metric):
    """Largest mean feature of any image: a kind that streams and chooses a network."""

    scale: float = 1.0
    selects = True

    def __post_init__(self):
        super().__post_init__()
        self.most = torch.zeros(1)

    def update(self, output, classes, first, num_samples):
        self.most = torch.maximum(self.most, output.features.mean(1).max()[None])

    def merge(self, other):
        self.most = torch.maximum(self.most, other.most)

    def compute(self, sides):
        return self.scale * float(self.most), {}


@dataclass(kw_only=True)
class Allowed(Metric):
    """1 if TF32 is allowed while the metric is computed."""

    def compute(self, sides):
        return float(torch.backends.cuda.matmul.allow_tf32), {}


@pytest.mark.parametrize("allowed", [False, True])
def test_metrics_are_computed_with_the_tf32_of_the_protocol(tmp_path, allowed):
    asked = protocol(metric("a", f"{__name__}:Allowed", reference=None), allow_tf32=allowed, trials=2)
    records = measure(data_spec(protocol=asked, threads=2), tmp_path, [0, 1])
    assert [record["metrics"]["a"] for record in records] == [allowed, allowed]


OWN = protocol(
    metric("coverage", COVERAGE),
    metric("density", DENSITY),
    metric("ink", INK, reference=None, scale=2.0),
    metric("fd_spectrum", extractor=SPECTRUM),
    num_samples=300,
    trials=2,
)


def test_coverage_and_density_of_known_sets():
    real = torch.arange(20.0)[:, None]  # every real point reaches as far as its second neighbour
    coverage, density = load_protocol(protocol(metric("a", COVERAGE, k=2), metric("b", DENSITY, k=2))).metrics
    for generated, covered, dense in ((real[:10] + 0.25, 11, 21), (real[:10] + 100, 0, 0)):
        sides = Known(real, generated)
        assert coverage.compute(sides)[0] == covered / 20
        assert density.compute(sides)[0] == dense / (2 * 10)


class Known:
    """Both sides given."""

    def __init__(self, real, generated):
        self.real_features, self.features, self.num_samples = real, generated, len(generated)

    def once(self, key, function):
        return function()


def test_own_sums_and_an_own_extractor_are_measured(tmp_path):
    spec = data_spec(protocol=OWN)
    (whole,) = measure(spec, tmp_path / "whole", [0])
    assert whole["extractors"][SPECTRUM] == get_extractor(SPECTRUM).sha256 != get_extractor(SPECTRUM, floor=1).sha256


def test_a_kind_that_streams_is_watched_and_is_in_the_digest():
    asked = protocol(metric("ink", INK, reference=None), metric("coverage", COVERAGE))
    monitor = make_monitor(DIGITS, protocol=asked, num_samples=100)
    images = load_dataset(DIGITS).images(range(100))
    record = monitor(lambda seeds: (images[: len(seeds)], None))
    assert record["selection"] == "ink"
    assert record["ink"] > 0
    assert "coverage" not in record

    # Settings and code of a kind are in the digest.
    def digest(**settings):
        return load_protocol(protocol(metric("coverage", COVERAGE, **settings))).identity("coverage")

    assert digest() == digest(k=5, label="Coverage", better="lower", decimals=1) != digest(k=6)
    facts = load_protocol(OWN).facts()["metrics"]
    assert facts["coverage"]["kind"] == COVERAGE
    assert len(facts["coverage"]["code"]) == 64
    assert "code" not in facts["fd_spectrum"]
