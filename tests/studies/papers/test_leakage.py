"""FID and FD-DINOv2 of the same images: rows of the presets `paper` and `leakage` (C-41, C-76)."""

import pytest

from eval.claims.model import load_claims
from sida.config.resources import ROOT
from workflow.planning.costs import Costs
from workflow.preset import Preset
from workflow.preset.rehearsal import check_preset, unshown_rows
from workflow.preset.targets import Targets


@pytest.fixture(scope="module")
def released():
    return Preset.load(ROOT / "studies/papers/leakage.yaml")


def test_the_preset_passes_its_check_and_shares_the_papers_rows(paper, released):
    check_preset(released)
    rows = [{name for name in preset.runs if name.endswith("-leakage")} for preset in (paper, released)]
    assert len(rows[0]) == 34
    # The released generators of other methods, and finetuned teachers, are not trained in the other preset.
    assert {name.partition(".")[0] for name in rows[1] ^ rows[0]} == {
        "imagenet64-dmd2", "imagenet64-dmd2-longer", "imagenet64-dmd2-no-gan", "cifar10-uncond-ect",
        "teacher-edm-cifar10-uncond-ddo", "teacher-edm-cifar10-cond-ddo",
    }  # fmt: skip
    assert unshown_rows(Targets(released, False)) == []


def test_the_claims_of_leakage_name_rows_with_the_second_feature_space(paper):
    decided = [claim for claim in load_claims(ROOT / "studies/papers/claims.yaml") if claim.id in ("C-41", "C-76")]
    parts = [part for claim in decided for part in claim.parts]
    assert len(decided) == 2
    assert len(parts) == 14
    for part in parts:
        for operand in (part.a, part.b):
            protocol = paper.protocol(paper.runs[operand.run])
            assert {metric.key: metric.extractor for metric in protocol.metrics}[part.metric] == "dinov2"


def test_a_row_waits_for_its_student_its_set_and_both_feature_networks(paper, released):
    inputs = Targets(paper, False).generator("imagenet64-gdd-i.imagenet64-leakage")
    assert "results/paper/students/imagenet64-gdd-i/network.safetensors" in inputs
    assert "datasets/imagenet-64x64.zip" in inputs
    wanted = ["dinov2-code", "dinov2-vitl14", "fid-ref-imagenet64", "inception", "labels-imagenet"]
    assert Targets(paper, False).assets_of("imagenet64-gdd-i.imagenet64-leakage") == wanted
    assert Targets(released, False).assets_of("imagenet64-sida-a1.imagenet64-leakage") == wanted


def test_a_plan_counts_the_images_of_a_reference_that_is_made_here(paper):
    costs = Costs(paper, "H200")
    row = "imagenet64-sida-a1"
    more = costs.measurement(f"{row}.imagenet64-leakage").gpu_hours - costs.measurement(row).gpu_hours
    images = 500_000 + 1_281_167
    assert more == pytest.approx(images * costs.assumptions.gflop.dinov2 * 1e9 / costs._rate(False) / 3600)
