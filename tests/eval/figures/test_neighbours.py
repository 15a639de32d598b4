"""Nearest real images below generated ones."""

from __future__ import annotations

import json

import pytest

from eval.figures.build import build_figure
from sida.config.datasets import dataset_spec
from sida.data import load_dataset
from sida.errors import UserError
from tests.eval.synthetic_output import csv_rows

TRAIN = dataset_spec("digits-train", "test")
HELD_OUT = dataset_spec("digits-heldout", "test")


def build(tmp_path, **neighbours):
    generators = [
        {"run": name, "method": "data", "sampler": {"kind": "data"}, "protocol": "digits", "dataset": dataset}
        for name, dataset in (("train", TRAIN), ("fresh", HELD_OUT))
    ]
    (tmp_path / "spec.json").write_text(json.dumps({"generators": generators}))
    (tmp_path / "runs.tsv").write_text(
        "run\tlabel\tmethod\tsampler\ntrain\tTrain\tdata\tdata\nfresh\tFresh\tdata\tdata\n"
    )
    layout = {
        "kind": "samples",
        "rows": 10,
        "columns": 2,
        "panels": [{"where": {"run": "train"}}, {"where": {"run": "fresh"}}],
        "neighbours": {"training": "digits-train", "held_out": "digits-heldout", **neighbours},
    }
    (tmp_path / "layout.yaml").write_text(json.dumps(layout))
    paths, _ = build_figure(
        tmp_path / "layout.yaml",
        tmp_path / "runs.tsv",
        tmp_path,
        tmp_path / "figure.pdf",
        spec=str(tmp_path / "spec.json"),
    )
    assert [path.suffix for path in paths] == [".pdf", ".png", ".csv"]
    return csv_rows(tmp_path / "figure.csv")


def test_each_image_lies_over_its_nearest_ones(tmp_path):
    found = build(tmp_path)
    assert len(found) == 40
    train, held_out = (
        data.images(range(len(data))).flatten(1).float() / 127.5 for data in map(load_dataset, (TRAIN, HELD_OUT))
    )
    for row in found:
        own = (train if row["run"] == "train" else held_out)[int(row["data_index"])]
        for key, data in (("training", train), ("held_out", held_out)):
            distances = (data - own).norm(dim=1)
            assert float(row[f"{key}_distance"]) == pytest.approx(float(distances.min()), abs=1e-4)
            assert int(row[f"{key}_index"]) == int(distances.argmin())
    # A training image is its own nearest training image; a held-out one has none so near.
    for run, key, other in (("train", "training", "held_out"), ("fresh", "held_out", "training")):
        lines = [row for row in found if row["run"] == run]
        assert all(float(row[f"{key}_distance"]) == 0 < float(row[f"{other}_distance"]) for row in lines)
        assert [row["class"] for row in lines] == [str(i // 2) for i in range(20)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": "digits-held-out"}, r"neighbours.held_out: no data set 'digits-held-out'.*did you mean"),
        ({"extractor": "pixel"}, "no extractor 'pixel' .did you mean 'pixels'"),
        ({"held": "digits"}, "held: unknown key .did you mean 'held_out'"),
    ],
)
def test_faults_are_one_line(tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path, **change)
    assert "\n" not in str(caught.value)
