"""Metric kinds and extractors of one's own, named module:object in a protocol: measured, in the digest."""

from dataclasses import dataclass

import pytest
import torch

from eval.features import get_extractor
from eval.measuring.measure import measure
from eval.measuring.monitor import make_monitor
from eval.measuring.protocol import load_protocol
from eval.metrics.metric import Metric
from sida.data import load_dataset
from tests.eval.measuring.specs import DIGITS, data_spec, metric, protocol
from tests.refused import refused

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

    def tensors(self):
        return {"most": self.most}

    def restore(self, tensors, counts):
        self.most = tensors["most"]

    def compute(self, sides):
        return self.scale * float(self.most), {}


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
    monitor = make_monitor(
        DIGITS, protocol(metric("ink", INK, reference=None), metric("coverage", COVERAGE)), num_samples=100
    )
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


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("kind", {"kind": "docs.examples.coverage:radii"}),
        ("k", {"k": 0}),
        ("reference", {"reference": None}),
        ("k", {"kind": "frechet", "k": 3}),
    ],
)
def test_a_fault_names_the_metric(key, change):
    caught = refused("", load_protocol, protocol(metric("a", COVERAGE) | change))
    assert caught.place == f"protocol 'own'.metrics[0].{key}"
