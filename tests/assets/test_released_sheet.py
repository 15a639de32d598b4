"""The sheet of the authors' checkpoints fits the registry; tests/workflow/test_studies.py checks its preset."""

import pytest

from eval.results.sheet import read_runs
from sida.assets import load_registry
from sida.config.resources import ROOT


@pytest.fixture(scope="module")
def runs():
    return {run.run: run for run in read_runs(ROOT / "studies/papers/runs/released.tsv")}


@pytest.fixture(scope="module")
def registry():
    return load_registry(ROOT / "config/assets.tsv")


def test_every_released_network_is_measured(runs, registry):
    networks = {asset.id for asset in registry.values() if asset.kind in ("network", "gdd-network", "state-dict")}
    assert networks == {run.checkpoint for run in runs.values() if run.method != "teacher"}


def test_alpha_agrees_with_the_id_and_the_label(runs):
    for run in runs.values():
        if run.method in ("teacher", "dmd2", "ect") or run.method.startswith("gdd"):
            assert run.alpha is None
        elif run.run.startswith("edm2"):
            assert run.alpha == 1.0
        else:
            assert run.run.endswith({1.0: "-a1", 1.2: "-a1.2"}[run.alpha])
            assert run.label.endswith(f"α={run.alpha:.1f}")


def test_guided_teachers_use_the_guide_of_their_own_ema_length(runs, registry):
    for run in runs.values():
        if run.guide and not registry[run.guide].note.startswith("guide, less trained"):
            length = registry[run.checkpoint].url.rsplit("-", 1)[1]
            assert registry[run.guide].url.endswith(f"-uncond-2147483-{length}")


def test_autoguided_teachers_have_a_less_trained_guide_and_the_strength_of_edm2(runs, registry):
    """Network, guide and strength of NVlabs/edm2:generate_images.py."""
    stated = {
        "teacher-edm2-img64-s-autog": ("img64-s-1073741-0.045", "img64-xs-0134217-0.110", 1.7),
        "teacher-edm2-img64-s-autog-dino": ("img64-s-1073741-0.105", "img64-xs-0134217-0.175", 2.2),
        "teacher-edm2-s-autog": ("img512-s-2147483-0.070", "img512-xs-0134217-0.125", 2.1),
        "teacher-edm2-s-autog-dino": ("img512-s-2147483-0.120", "img512-xs-0134217-0.165", 2.45),
        "teacher-edm2-xxl-autog": ("img512-xxl-0939524-0.075", "img512-m-0268435-0.155", 2.05),
        "teacher-edm2-xxl-autog-dino": ("img512-xxl-0939524-0.130", "img512-m-0268435-0.205", 2.3),
        "teacher-edm2-s-uncond-autog": ("img512-s-uncond-2147483-0.070", "img512-xs-uncond-0134217-0.110", 2.85),
        "teacher-edm2-s-uncond-autog-dino": ("img512-s-uncond-2147483-0.090", "img512-xs-uncond-0134217-0.125", 2.9),
    }
    for run, (network, guide, strength) in stated.items():
        row = runs[run]
        assert registry[row.checkpoint].url.endswith(f"/edm2-{network}.pkl")
        assert registry[row.guide].url.endswith(f"/edm2-{guide}.pkl")
        assert row.sampler == f"heun-32-guidance-{strength:g}"
