"""The preset `sid2a`: SiD2A from the authors' SiD files, as their scripts train it."""

from __future__ import annotations

import dataclasses

import pytest

from sida.assets.registry import load_registry
from sida.config.resources import ROOT
from workflow.planning.costs import Costs
from workflow.planning.jobs import Jobs
from workflow.preset import Preset
from workflow.preset.targets import Targets

#: Ends of `--sid_model` in mingyuanzhou/SiD@sida:run_sid_sida.sh and run_sid_sida_edm2.sh, by the beginning of a run.
STARTS = {
    "cifar10-uncond": "SiD/resolve/main/cifar10-uncond/alpha1.2/network-snapshot-1.200000-403968.pkl",
    "cifar10-cond": "SiD/resolve/main/cifar10-cond/alpha1.2/network-snapshot-1.200000-713312.pkl",
    "imagenet64": "SiD/resolve/main/imagenet64/alpha1.2/network-snapshot-1.200000-939176.pkl",
    "ffhq64": "SiD/resolve/main/ffhq64/alpha1.2/network-snapshot-1.200000-498176.pkl",
    "afhq64": "SiD/resolve/main/afhq64/alpha1/network-snapshot-1.000000-371712.pkl",
    "edm2-xs": "SiDA/resolve/main/EDM2_distillation/edm2_img512_xs_sid_alpha1-249360.pkl",
    "edm2-s": "SiDA/resolve/main/EDM2_distillation/edm2_img512_s_sid_alpha1-192010.pkl",
    "edm2-m": "SiDA/resolve/main/EDM2_distillation/edm2_img512_m_sid_alpha1-226830.pkl",
    "edm2-l": "SiDA/resolve/main/EDM2_distillation/edm2_img512_l_sid_alpha1-203788.pkl",
    "edm2-xl": "SiDA/resolve/main/EDM2_distillation/edm2_img512_xl_sid_alpha1-234004.pkl",
    "edm2-xxl": "SiDA/resolve/main/EDM2_distillation/edm2_img512_xxl_sida_alpha1-077932.pkl",
}


@pytest.fixture(scope="module")
def preset():
    return Preset.load(ROOT / "studies/papers/sid2a.yaml")


def test_every_row_is_trained_as_in_the_paper_preset_and_starts_from_the_scripts_file(paper, preset):
    registry = load_registry()
    rows = {run.run for run in paper.students() if run.method == "sid2a" and run.family != "Ablation"}
    assert {run.run for run in preset.students()} == rows
    for run in preset.students():
        assert run == dataclasses.replace(paper.runs[run.run], second_protocol=None)
        ours, theirs = preset.specs.student(run.run), paper.specs.student(run.run)
        assert {key for key in ours if ours[key] != theirs[key]} == {"init", "teacher"}
        start = preset.runs[run.init].checkpoint
        assert registry[start].urls[0].endswith(STARTS[run.run.split("-sid2a")[0]])
        assert Targets(preset, False).training(run.run)["generators"] == [preset.imported(start)]


def test_a_plan_counts_the_published_networks_that_the_preset_does_not_describe(preset):
    jobs = Jobs(Costs(preset, "H200", fresh=True))
    found = jobs.behind(["cifar10-uncond-sid2a-a1.2"]).values()
    (student,) = [job for job in found if job.kind == "student"]
    assert student.name == "cifar10-uncond-sid2a-a1.2"
    assert 70 < student.gpu_hours < 90
