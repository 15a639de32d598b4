"""Distances of feature sets and memorisation against golden vectors of public code, brute force and properties."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sida.eval.metrics.precision_recall
from sida.config.datasets import dataset_spec
from sida.eval.measuring.measure import measure
from sida.eval.measuring.references import Reference
from sida.eval.metrics.kinds import METRIC_KINDS
from sida.eval.metrics.metric import Sides
from sida.eval.metrics.statistics import FeatureStatistics
from sida.eval.results.trial_files import long_rows, record_identity
from sida.files.atomic import json_text
from sida.plugins.judges.memorisation import memorisation, nearest
from sida.plugins.judges.sliced import sliced_distance
from tests.eval.measuring.specs import data_spec, metric, protocol
from tests.golden.vectors import load
from tests.near import assert_near, same_integers
from tests.refused import refused


def draw(count: int, seed: int, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def softmaxes(count, seed):
    return torch.softmax(2 * draw(count, seed, 5).double(), 1)


def test_faults_of_memorisation():
    refused(r"both must be \(N, C\) of one extractor", memorisation, draw(5, 0), draw(5, 1, 4), draw(5, 2))
    good = draw(200, 0)
    bad = good.clone()
    bad[3, 2] = np.inf
    for sets in ((bad, good, good), (good, bad, good), (good, good, bad)):
        refused("not finite", memorisation, *sets)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(2, 40), st.integers(3, 30), st.integers(0, 99))
def test_agrees_with_brute_force_and_scipy_also_where_distances_tie(count, training, held, seed):
    from scipy.stats import mannwhitneyu

    # Few integers: many distances tie, some are 0.
    rows, data, fresh = (
        torch.randint(0, 3, (n, 3), generator=torch.Generator().manual_seed(seed + k)).float()
        for k, n in enumerate((count, training, held))
    )
    found = memorisation(rows, data, fresh)
    near = [(part[:, None] - data[None]).square().sum(2).sqrt().amin(1) for part in (rows, fresh)]
    assert nearest(rows, data)[0].tolist() == pytest.approx(near[0].tolist(), abs=1e-6)
    wins = sum((a < b) + 0.5 * (a == b) for a in near[0].tolist() for b in near[1].tolist())
    assert found.share == pytest.approx(wins / (count * held))
    assert found.share == pytest.approx(mannwhitneyu(near[1], near[0]).statistic / (count * held))
    assert found.median_generated == pytest.approx(np.median(near[0]), abs=1e-6)
    assert found.tail == pytest.approx(np.mean(near[0].numpy() < np.quantile(near[1], 0.05)), abs=1e-9)


def test_blocks_do_not_matter_and_neighbours_are_named(monkeypatch):
    rows, data = draw(200, 0), draw(300, 1)
    expected = nearest(rows, data)
    assert same_integers(expected[1], torch.cdist(rows, data).argmin(1))
    monkeypatch.setattr(sida.eval.metrics.precision_recall, "_BLOCK_ELEMENTS", 700)
    distances, neighbours = nearest(rows, data)
    assert_near(distances, expected[0])
    assert same_integers(neighbours, expected[1])


def test_copies_fresh_draws_and_noisy_copies_are_told_apart():
    data, fresh = draw(400, 0) + 1e3, draw(200, 1) + 1e3  # far from the origin, where ‖a − b‖² cancels
    found = memorisation(data[:100], data, fresh)
    assert (found.share, found.ratio, found.median_generated, found.tail) == (1, 0, 0, 1)
    assert found.z > 10
    # Fresh draws are no copies and noisy copies lie between.
    data, fresh = draw(500, 0), draw(1000, 1)
    new = memorisation(draw(1000, 2), data, fresh)
    assert new.share == pytest.approx(0.5, abs=0.04)
    assert abs(new.z) < 3
    assert new.ratio == pytest.approx(1, abs=0.1)
    assert new.tail == pytest.approx(0.05, abs=0.03)
    noisy = memorisation(data + 0.3 * draw(500, 3), data, fresh)
    assert 0.7 < noisy.share < 1
    assert noisy.z > 5
    far = memorisation(3 * draw(1000, 4), data, fresh)
    assert far.share < 0.3
    assert far.z < -5


@pytest.mark.parametrize("name", ["generated", "mixed"])
def test_z_is_dgm_evals_with_the_other_sign_and_without_its_continuity_correction(name):
    arrays, _ = load("measures/memorisation")
    rows, data, fresh = (torch.from_numpy(arrays[f"in/{part}"]) for part in (name, "train", "test"))
    correction = 0.5 / (len(rows) * len(fresh) * (len(rows) + len(fresh) + 1) / 12) ** 0.5
    found = memorisation(rows, data, fresh)
    # Its distances are float32.
    assert correction - found.z == pytest.approx(float(arrays[f"out/zu_{name}"]), abs=1e-3)
    assert (found.z > 3) == (name == "mixed")
    # Of its cells, too: those of two clusters, which it weighs to C_T.
    kinds = [arrays[f"in/cells_{name}_{part}"] for part in ("rows", "train", "test")]
    for cell, expected in enumerate(arrays[f"out/zu_cells_{name}"]):
        parts = [part[kind == cell] for part, kind in zip((rows, data, fresh), kinds)]
        n, m = len(parts[0]), len(parts[2])
        found = 0.5 / (n * m * (n + m + 1) / 12) ** 0.5 - memorisation(*parts).z
        assert found == pytest.approx(float(expected), abs=1e-3)


def cmmd(real, features, unit_length):
    """Value of the metric kind for two sets of features."""
    about = {"key": "cmmd", "kind": "mmd", "extractor": "clip", "reference": "train"}
    metric = METRIC_KINDS["mmd"](**about, unit_length=unit_length)
    return metric.compute(SimpleNamespace(real_features=real, features=features))[0]


def test_cmmd_of_the_public_codes():
    found, _ = load("measures/cmmd")
    value = cmmd(*(torch.from_numpy(found[f"in/embeddings_{side}"]) for side in ("real", "generated")), False)
    assert value == pytest.approx(float(found["out/cmmd_pytorch_float64"]), rel=1e-9)
    for other in ("cmmd_pytorch", "cmmd_jax", "fdloss_sigma10_scale1000"):  # in float32
        assert value == pytest.approx(float(found[f"out/{other}"]), abs=2e-4)


def test_cmmd_divides_both_sets_of_features_by_their_lengths():
    real, features = (softmaxes(20, seed) for seed in (0, 1))
    value = {}
    for lengths in ((1, 1), (3, 1), (1, 3)):
        value[lengths] = [cmmd(lengths[0] * real, lengths[1] * features, unit) for unit in (True, False)]
    assert value[3, 1][0] == pytest.approx(value[1, 1][0]) == pytest.approx(value[1, 3][0])
    assert len({round(plain, 6) for _, plain in value.values()}) == 3


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


class Sums:
    """Moments of one space of features."""

    def __init__(self, rows):
        self.statistics = {"x": FeatureStatistics().update(torch.from_numpy(rows))}


def test_held_out_images_that_are_training_images_give_no_memorisation():
    rows, fresh = draw(20, 0), draw(20, 1)
    kind = METRIC_KINDS["memorisation"](key="c", kind="memorisation", extractor="x", reference="r", held_out="h")
    for held_out, known in ((rows, False), (fresh, True)):
        found = dict(memorisation(draw(20, 2), rows, held_out)._asdict())
        assert math.isfinite(found["ratio"]) == known
        value, detail = kind.compute(Sides(kind, None, {}, "cpu", {("memorisation", "x", ("r", "h")): found}))
        assert (value is not None, "note" not in detail) == (known, known)
        assert json_text(detail)
    assert memorisation(rows, rows, rows).ratio == 1


def test_fdr6_of_fd_loss():
    found, info = load("measures/fdr")
    values = {}
    for space, (name, printed) in enumerate(zip(info["order"], found["out/normalisers"])):
        rows, real = found[f"in/{space}_generated"], FeatureStatistics().update(found[f"in/{space}_real"])
        settings = {"key": name, "kind": "ratio", "extractor": "x", "reference": "r", "normaliser": float(printed)}
        ratio = METRIC_KINDS["ratio"](**settings)
        references = {"r": Reference("r", "", {"x": real.moments})}
        values[name], detail = ratio.compute(Sides(ratio, Sums(rows), references, "cpu", {}))
        assert detail["distance"] == pytest.approx(found["out/fd"][space], rel=1e-9)
        assert values[name] == pytest.approx(found["out/fdr"][space], rel=1e-9)
        # The other form measures the normaliser: here the generated rows are the held-out ones.
        measured = METRIC_KINDS["ratio"](**settings | {"normaliser": None, "held_out": "h"})
        both = references | {"h": Reference("h", "", {"x": Sums(rows).statistics["x"].moments})}
        assert measured.compute(Sides(measured, Sums(rows), both, "cpu", {}))[0] == pytest.approx(1)
        # The reference itself is no held-out set, although its distance to itself may be a rounding error.
        value, detail = measured.compute(Sides(measured, Sums(rows), references | {"h": references["r"]}, "cpu", {}))
        assert (value, list(detail)) == (None, ["note"])
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
    ],
}  # fmt: skip


def test_kinds_are_measured_on_one_trial(tmp_path):
    data = dataset_spec("digits-train", "here")
    spec = {"run": "x", "method": "data", "label": "x", "sampler": {"kind": "data"}, "dataset": data}
    (record,) = measure(spec | {"protocol": PANEL}, tmp_path, [0])
    values = record["metrics"]
    assert values["mean"] == pytest.approx((values["digits"] + values["glyphs"]) / 2)
    assert min(values.values()) > 0
    assert record_identity(record, "mean").networks == {"digits", "glyphs"}


def test_copies_of_training_images_and_held_out_images_are_told_apart(tmp_path):
    """Shares and statistics of pixels, the references and the held-out images that the generator saw."""
    copies = metric("copies", "memorisation", "pixels", "train", held_out="heldout")
    metrics = [copies, *({**copies, "key": key, "statistic": key} for key in ("ratio", "tail"))]
    panel = protocol(*metrics, num_samples=400, references=PANEL["references"])
    records = [
        measure(data_spec(dataset=dataset_spec(name, "test"), protocol=panel), tmp_path / name, [0])[0]
        for name in ("digits-train", "digits-heldout")
    ]
    train, held_out = (record["metrics"] for record in records)
    assert (train["copies"], train["ratio"], train["tail"]) == (1, 0, 1)
    assert held_out["copies"] == pytest.approx(0.5, abs=0.05)
    assert held_out["ratio"] == pytest.approx(1, abs=0.1)
    assert held_out["tail"] == pytest.approx(0.05, abs=0.04)
    assert records[0]["details"]["copies"]["z"] > 10
    assert records[0]["metric_references"]["copies"]["name"] == "digits-train, digits-heldout"
    assert [long_rows([record])[0].get("held_out") for record in records] == ["0/201", "300/300"]
