"""The preset `questions`: its controls change one thing, its claims compare three seeds, and γ(t) fits its budget."""

import pytest

from eval.claims import load_claims
from sida.config.resources import ROOT
from sida.config.settings import from_mapping
from sida.methods import DistillConfig
from tests.studies.plans import seeds_of
from workflow.planning.costs import Costs
from workflow.planning.jobs import Jobs
from workflow.preset import Preset
from workflow.preset.targets import Targets


@pytest.fixture(scope="module")
def preset():
    return Preset.load(ROOT / "studies/questions/preset.yaml")


def changed(preset, run, base):
    one, other = (from_mapping(DistillConfig, preset.specs.student(name), name) for name in (run, base))
    return {key for key in vars(one) if getattr(one, key) != getattr(other, key)} - {"name"}


@pytest.mark.parametrize("teacher", ["t30", "t100"])
def test_each_control_changes_what_it_asks_about(preset, teacher):
    found = [run for run in preset.students() if run.teacher == teacher and run.seed == 0]
    rows = [run for run in found if not run.recipe.startswith("seconds-")]
    for run in rows:
        base = f"{teacher}-{run.method}"
        # The rate of the two other discriminators is tuned; the question of the rate takes it back.
        asked = {"sida-separate": {"options", "fake_score_lr"}, "sida-separate-5e-4": {"options"}}.get(
            run.recipe.replace("teacher", "separate"), {"gamma"}
        )
        if run.recipe.startswith("spread"):
            asked = {"alpha"} if run.alpha != 1 else set()
        assert changed(preset, run.run, base) == (set() if run.run == base else asked)
    assert len(rows) == (16 if teacher == "t30" else 8)
    assert {preset.specs.student(run.run)["total_kimg"] for run in rows} == {24}
    # Timed rows are trained as rows of the questions before them.
    rate = "-5e-4" if teacher == "t100" else ""
    for name, there in (("joint", ""), ("separate", f"-separate{rate}"), ("head", f"-teacher{rate}")):
        assert changed(preset, f"seconds-{teacher}-{name}", f"{teacher}-sida{there}") == set()


def test_claims_compare_three_seeds(preset):
    for claim in load_claims(preset.settings.claims):
        # The facts of layers are of one network.
        for operand in (one for part in claim.parts if "layers" not in part.facts for one in part.operands.values()):
            found = seeds_of(preset, operand)
            assert found
            assert all(seeds == {0, 1, 2} for seeds in found), claim.id


def test_the_question_of_gamma_takes_less_than_three_core_hours_by_plan(preset):
    jobs = Jobs(Costs(preset, "CPU", fresh=True))
    hours = {
        name: sum(job.gpu_hours for job in jobs.behind([f"{preset.results}/experiments/{name}.json"]).values())
        for name in preset.experiments
    }
    assert 2 < hours["gamma"] < 3
    # A fifth of it are the second rate's rows of the good teacher, by which the better rate decides.
    assert 2 < hours["discriminator"] < 2.6


def test_the_question_of_layers_has_its_networks_and_no_other_question_needs_profiles(preset):
    targets = Targets(preset, False)
    files = [
        f"results/questions/analyses/layers/{run}.json"
        for run in ("teacher-t30", "teacher-t100", "t30-sid", "t30-sida")
    ]
    assert targets.answered("layers")["analyses"] == targets.shown("figures", "questions-layers")["analyses"] == files
    assert targets.answered("gamma")["analyses"] == targets.answered("discriminator")["analyses"] == []
    assert (
        preset.specs.analysis("layers", "teacher-t100")["network"]
        == "results/questions/teachers/t100/network.safetensors"
    )
    assert preset.specs.analysis("layers", "t30-sida")["network"].endswith("/students/t30-sida/network.safetensors")
