"""Measures beyond two moments: golden values of the public implementations, and a panel of judges in one trial."""

import pytest
import torch

from eval.measuring.measure import measure
from eval.measuring.protocol import load_protocol
from eval.metrics.kernel_distance import gaussian_distance, kernel_distance
from eval.metrics.kinds import METRIC_KINDS
from eval.metrics.metric import Sides
from eval.metrics.precision_recall import neighbour_shares
from eval.metrics.sliced import sliced_distance
from eval.metrics.statistics import FeatureStatistics
from eval.results.measurements import record_identity
from sida.config.datasets import dataset_spec
from tests.golden.vectors import load
from tests.refused import refused


def test_cmmd_of_the_public_codes():
    found, _ = load("measures/cmmd")
    value = 1000 * gaussian_distance(found["in/embeddings_real"], found["in/embeddings_generated"], 10.0)
    assert value == pytest.approx(float(found["out/cmmd_pytorch_float64"]), rel=1e-9)
    for other in ("cmmd_pytorch", "cmmd_jax", "fdloss_sigma10_scale1000"):  # in float32
        assert value == pytest.approx(float(found[f"out/{other}"]), abs=2e-4)


def test_mind_of_torch_fidelity():
    found, _ = load("measures/sliced")
    real, generated = found["in/real"], found["in/generated"]
    for directions in (16, 1000):
        value = sliced_distance(real, generated, directions)
        assert value == pytest.approx(float(found[f"out/mind_{directions}"]), rel=2e-5)
    assert sliced_distance(real[:180], generated, 16, 5) == pytest.approx(
        float(found["out/mind_16_equal_seed5"]), rel=2e-5
    )
    refused("sliced", sliced_distance, real, generated[:, :3])


@pytest.mark.parametrize("k", [1, 3, 5, 10])
def test_density_and_coverage_of_prdc(k):
    found, _ = load("measures/density_coverage")
    assert neighbour_shares(found["in/real"], found["in/generated"], k) == pytest.approx(tuple(found[f"out/k{k}"]))


def test_kernel_distance_of_clean_fid_on_any_features():
    found, _ = load("measures/kernel")
    rows, size = found["draw/clean_fid"].shape
    value = kernel_distance(found["in/real"], found["in/generated"], rows // 2, size, 11)
    assert value == pytest.approx(float(found["out/clean_fid"]), rel=1e-4)


class Sums:
    """Moments of one space of features."""

    def __init__(self, rows):
        self.statistics = {"x": FeatureStatistics().update(torch.from_numpy(rows))}


class Real:
    def __init__(self, cov, mean):
        self.cov, self.mean = cov, mean

    def moments(self, extractor):
        return self.mean, self.cov, None


def test_fdr6_of_fd_loss():
    found, info = load("measures/fdr")
    values = {}
    for space, (name, printed) in enumerate(zip(info["order"], found["out/normalisers"])):
        rows, real = found[f"in/{space}_generated"], FeatureStatistics().update(found[f"in/{space}_real"])
        settings = {"key": name, "kind": "ratio", "extractor": "x", "reference": "r", "normaliser": float(printed)}
        ratio = METRIC_KINDS["ratio"](**settings)
        references = {"r": Real(real.cov, real.mean)}
        values[name], detail = ratio.compute(Sides(ratio, Sums(rows), references, "cpu", {}))
        assert detail["distance"] == pytest.approx(found["out/fd"][space], rel=1e-9)
        assert values[name] == pytest.approx(found["out/fdr"][space], rel=1e-9)
        # The other form measures the normaliser: here the generated rows are the held-out ones.
        measured = METRIC_KINDS["ratio"](**settings | {"normaliser": None, "held_out": "h"})
        moments = Sums(rows).statistics["x"]
        both = references | {"h": Real(moments.cov, moments.mean)}
        assert measured.compute(Sides(measured, Sums(rows), both, "cpu", {}))[0] == pytest.approx(1)
    mean = METRIC_KINDS["mean"](key="fdr6", kind="mean", of=tuple(values))
    assert mean.compute(Sides(mean, None, {}, "cpu", {("values",): values}))[0] == pytest.approx(
        float(found["out/fdr6"]), rel=1e-9
    )
    del values["mae_cls"]
    assert mean.compute(Sides(mean, None, {}, "cpu", {("values",): values}))[0] is None


PANEL = {
    "name": "panel", "resolution": 8, "channels": 1, "num_samples": 200, "trials": 1, "cov_ddof": 1,
    "references": {
        "train": {"kind": "dataset", "dataset": "digits-train", "fixed": True},
        "heldout": {"kind": "dataset", "dataset": "digits-heldout", "fixed": True},
    },
    "metrics": [
        {"key": "digits", "kind": "ratio", "extractor": "digits", "reference": "train", "held_out": "heldout"},
        {"key": "glyphs", "kind": "ratio", "extractor": "glyphs", "reference": "train", "held_out": "heldout"},
        {"key": "mean", "kind": "mean", "of": ["digits", "glyphs"]},
        {"key": "mmd", "kind": "mmd", "extractor": "glyphs", "reference": "heldout"},
        {"key": "sliced", "kind": "sliced", "extractor": "glyphs", "reference": "heldout", "directions": 32},
        {"key": "density", "kind": "density", "extractor": "glyphs", "reference": "heldout"},
        {"key": "coverage", "kind": "coverage", "extractor": "glyphs", "reference": "heldout"},
    ],
}  # fmt: skip


def test_a_panel_is_one_trial_with_the_identities_of_its_parts(tmp_path):
    spec = {
        "run": "x",
        "method": "data",
        "label": "x",
        "sampler": {"kind": "data"},
        "dataset": dataset_spec("digits-train", "here"),
    }
    (record,) = measure(spec | {"protocol": PANEL}, tmp_path, [0])
    values = record["metrics"]
    assert values["mean"] == pytest.approx((values["digits"] + values["glyphs"]) / 2)
    assert 0 < values["coverage"] <= 1
    whole = record_identity(record, "mean")
    assert whole.networks == {"digits", "glyphs"}
    assert "" not in (whole.reference, whole.extractor)
    other = [PANEL["metrics"][0], PANEL["metrics"][2] | {"of": ["digits"]}]
    (alone,) = measure(spec | {"protocol": PANEL | {"metrics": other}}, tmp_path / "b", [0])
    assert record_identity(alone, "mean") != whole
    # A mean is measured again with its parts if it joins a protocol.
    assert [metric.key for metric in load_protocol(PANEL).part(["mean"]).metrics] == ["digits", "glyphs", "mean"]


RATIO = {"key": "r", "kind": "ratio", "extractor": "digits", "reference": "train"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "m", "kind": "mean", "of": ["nothing"]}, "'m' is of no metric 'nothing'"),
        ({"key": "m", "kind": "mean", "of": []}, "of no metric"),
        ({"key": "m", "kind": "mean", "of": ["mean"]}, "of no metric 'mean'"),
        ({"key": "r", "kind": "ratio", "extractor": "digits", "reference": "train"}, "held_out"),
        (
            {"key": "r", "kind": "ratio", "extractor": "digits", "reference": "train", "held_out": "x"},
            "no reference 'x'",
        ),
        ({"key": "r", "kind": "ratio", "extractor": "digits", "reference": "train", "normaliser": 0.0}, "normaliser"),
    ],
)
def test_faulty_panels_are_refused(change, words):
    refused(words, load_protocol, PANEL | {"metrics": [*PANEL["metrics"], change]})
