"""The presets `letters` and `adm`: the miniature's recipes, lengths and seeds on a second data set and architecture."""

import pytest

from eval.claims import load_claims
from sida.config.resources import ROOT
from sida.config.settings import from_mapping
from sida.methods import DistillConfig
from tests.studies.plans import seeds_of
from workflow.preset import Preset
from workflow.preset.files import find_preset, presets


@pytest.fixture(scope="module")
def miniature():
    return Preset.load(ROOT / "studies/miniature/preset.yaml")


@pytest.fixture(scope="module", params=[name for name in ("letters", "adm") if name in presets()])
def preset(request):
    return Preset.load(find_preset(request.param))


#: Settings that trials may change (studies/letters/questions.yaml); GDD's options name the official discriminator.
TUNED = {"lr", "fake_score_lr", "lambda_adv", "lambda_d", "batch_size", "options"}


def test_settings_are_the_miniatures_or_tuned(preset, miniature):
    def fixed(settings):
        return {key: value for key, value in settings.items() if key not in TUNED}

    for name, recipe in preset.settings.recipes.items():
        assert fixed(recipe) == fixed(miniature.settings.recipes[name]), name
    for name, teacher in preset.settings.teachers.items():
        there = miniature.settings.teachers[name]
        assert (fixed(teacher.training), teacher.seed) == (fixed(there.training), there.seed)
        ours, theirs = teacher.network["kwargs"], there.network["kwargs"]
        differing = {key for key in ours if ours[key] != theirs[key]}
        assert differing == ({"model_type"} if preset.name == "adm" else set())
    for run in preset.students():
        from_mapping(DistillConfig, preset.specs.student(run.run), run.run)
        assert run.run in miniature.runs or run.run.endswith("-s2") or run.run.startswith("t10"), run.run


def test_claims_have_the_miniatures_rules_and_three_seeds(preset, miniature):
    there = {claim.id: claim for claim in load_claims(ROOT / "studies/miniature/claims.yaml")}
    claims = load_claims(preset.settings.claims)
    assert [claim.id[2:] for claim in claims] == ["04", "26", "07", "55", "70", "G7"]
    for claim in claims:
        model = there["G-07" if claim.id.endswith("G7") else f"M-{claim.id[2:]}"].parts[0]
        for part in claim.parts:
            assert (part.metric, getattr(part, "factor", 1)) == (model.metric, getattr(model, "factor", 1))
            # Held-out images have three seeds here, and two in the miniature.
            assert part.rule == ("TRAIN" if claim.id.endswith("70") else model.rule)
            for operand in (part.a, part.b):
                found = seeds_of(preset, operand)
                assert operand.run in preset.runs or found
                assert all(seeds == {0, 1, 2} for seeds in found)
