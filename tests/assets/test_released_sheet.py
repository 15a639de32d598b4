"""The sheet of the authors' checkpoints fits the registry, the data sets, the protocols and the tables' layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from eval.results.sheet import read_runs
from sida.assets import load_registry
from sida.config.datasets import DatasetEntry
from sida.config.mapping import from_mapping

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs():
    return {run.run: run for run in read_runs(ROOT / "studies/papers/runs/released.tsv")}


@pytest.fixture(scope="module")
def datasets():
    return yaml.safe_load((ROOT / "config/datasets.yaml").read_text())


def test_every_row_points_at_things_that_exist(runs, datasets):
    registry = load_registry(ROOT / "config/assets.tsv")
    for run in runs.values():
        kinds = ("gdd-network",) if run.method.startswith("gdd") else ("network", "teacher")
        kinds = ("state-dict",) if run.method == "dmd2" else kinds
        assert registry[run.checkpoint].kind in kinds, run.run
        assert run.guide is None or registry[run.guide].kind == "teacher", run.run
        assert run.dataset in datasets, run.run
        assert (ROOT / run.protocol).is_file(), run.run
        assert run.init is None or runs[run.init].method == "sid", run.run
        assert run.teacher is None or registry[run.teacher].kind == "teacher", run.run
        assert (run.guide is not None) == ("guidance" in run.sampler), run.run


def test_every_released_network_is_measured(runs):
    assets = load_registry(ROOT / "config/assets.tsv").values()
    networks = {asset.id for asset in assets if asset.kind in ("network", "gdd-network", "state-dict")}
    assert networks == {run.checkpoint for run in runs.values() if run.method != "teacher"}


def test_the_tables_find_all_their_rows(runs):
    wanted = set()
    for path in (ROOT / "studies/papers/tables").glob("table[1-7].yaml"):
        layout = yaml.safe_load(path.read_text())
        keys = [column["key"] for column in layout["columns"] if "key" in column] or [""]
        for row in layout["rows"]:
            if "run" in row:
                wanted |= {row["run"].format(column=key, metric="", **layout.get("vars", {})) for key in keys}
    assert len(wanted) > 70
    assert wanted <= set(runs)
    # GDD's abstract has two numbers that no table of the paper quotes, and other distillers have tables of their own.
    beside = [
        yaml.safe_load((ROOT / f"studies/papers/tables/{name}.yaml").read_text()) for name in ("gdd", "rivals-released")
    ]
    assert set(runs) - wanted <= {row["run"] for layout in beside for row in layout["rows"]}


def test_alpha_agrees_with_the_id_and_the_label(runs):
    for run in runs.values():
        if run.method in ("teacher", "dmd2") or run.method.startswith("gdd"):
            assert run.alpha is None
        elif run.run.startswith("edm2"):
            assert run.alpha == 1.0
        else:
            assert run.run.endswith({1.0: "-a1", 1.2: "-a1.2"}[run.alpha])
            assert run.label.endswith(f"α={run.alpha:.1f}")


def test_guided_teachers_use_the_guide_of_their_own_ema_length(runs):
    registry = load_registry(ROOT / "config/assets.tsv")
    for run in runs.values():
        if run.guide:
            length = registry[run.checkpoint].url.rsplit("-", 1)[1]
            assert registry[run.guide].url.endswith(f"-uncond-2147483-{length}")


def test_data_sets_are_valid_specs(datasets):
    for name, spec in datasets.items():
        assert from_mapping(DatasetEntry, spec, name).kind
    assert set(datasets) >= {
        "digits", "digits-uncond", "digits-train", "digits-heldout", "cifar10", "cifar10-uncond",
        "imagenet64", "ffhq64", "afhqv2",
        "imagenet512", "imagenet512-latents"
    }  # fmt: skip
