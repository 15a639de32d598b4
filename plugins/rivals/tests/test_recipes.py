"""Recipes at the papers' size: each value is a paper's or its code's."""

import math

import pytest

from sida.config.registries import FOLDER
from sida.eval.results.published import load_published
from sida.eval.tables.layout import load_layout
from sida.methods import METHODS
from sida.workflow.planning.assumptions import load_assumptions
from sida.workflow.planning.steps import student_cost
from tests.studies.papers.test_recipes import resolved
from tests.work import assert_work_of
from tests.workflow.workspace import shipped


@pytest.fixture(scope="module")
def rivals():
    return shipped("rivals")


#: Method, steps of the generator, batch, rate, β₁, σ of the input, dropout, weight of each iteration in the average.
STATED = {
    "cifar10-uncond-diff-instruct": ("diff-instruct", None, 128, 1e-5, 0.0, 1.0, 0.13, None),
    "cifar10-uncond-ect": ("ect", 200_000, 128, 1e-4, 0.9, 80.0, 0.2, 0.9999),
    "cifar10-uncond-cd": ("cd", 800_000, 512, 4e-4, 0.9, 80.0, 0.0, 0.9999),
    "cifar10-cond-dmd": ("dmd", 300_000, 392, 1e-5, 0.9, 80.0, 0.0, None),
    "cifar10-cond-dmd2": ("dmd2", 20_000, 2048, 1e-4, 0.9, 80.0, 0.0, 0.9999**5),
    "cifar10-cond-f-distill": ("f-distill", 20_000, 2048, 1e-4, 0.9, 80.0, 0.0, 0.9999**5),
    "imagenet64-dmd": ("dmd", 350_000, 336, 2e-6, 0.9, 80.0, 0.0, None),
    "imagenet64-dmd2": ("dmd2", 40_000, 280, 2e-6, 0.9, 80.0, 0.0, None),
    "imagenet64-f-distill": ("f-distill", 120_000, 512, 2e-6, 0.9, 80.0, 0.0, 0.9999**5),
    "cifar10-uncond-realuid": ("realuid", 133_333, 256, 3e-5, 0.0, 2.5, 0.0, 0.999),
    "cifar10-cond-realuid": ("realuid", 133_333, 256, 3e-5, 0.0, 2.5, 0.0, 0.9999),
    "cifar10-uncond-realuid-finetune": ("realuid", 133_333, 256, 1e-5, 0.0, 2.5, 0.0, 0.9999),
    "cifar10-cond-realuid-finetune": ("realuid", 133_333, 256, 1e-5, 0.0, 2.5, 0.0, 0.9999),
}

#: Uni-Instruct: entry of its script by thousands of images, images of a micro-batch, rate, divergence and ratio, λ_adv.
UNI_INSTRUCT = {
    "cifar10-uncond-uni-instruct": (300_000, 256, 128, 1e-5, "forward-kl", "released", 0.0),
    "cifar10-cond-uni-instruct": (300_000, 256, 32, 1e-5, "jensen-shannon", "logits", 0.01),
    "imagenet64-uni-instruct": (300_000, 8192, 8, 4e-6, "chi-square", "logits", 0.01),
    "cifar10-uncond-uni-instruct-sid": (100_000, 256, 128, 1e-5, "forward-kl", "released", 0.01),
    "cifar10-cond-uni-instruct-sid": (300_000, 256, 64, 1e-5, "forward-kl", "released", 0.01),
    "imagenet64-uni-instruct-sid": (300_000, 8192, 8, 4e-6, "forward-kl", "released", 0.01),
}


@pytest.mark.parametrize("run", STATED)
def test_every_value_is_stated(rivals, run):
    method, steps, batch, lr, beta1, init_sigma, dropout, beta = STATED[run]
    config, network = resolved(rivals, run)
    assert (config.method, config.batch_size, config.lr) == (method, batch, lr)
    assert (config.betas, config.init_sigma, config.dropout) == ((beta1, 0.999), init_sigma, dropout)
    assert batch % (config.batch_gpu or batch) == 0
    if steps is not None:
        assert config.total_kimg * 1000 == pytest.approx(steps * batch)
    if beta is not None:
        assert config.ema_rampup_ratio is None
        assert config.ema_half_life_kimg * 1000 == pytest.approx(batch * math.log(0.5) / math.log(beta), rel=2e-3)
    assert student_cost(config, network).operations > 0
    assert rivals.settings.samplers[rivals.runs[run].sampler]["init_sigma"] == init_sigma


#: Images of a GPU in the source, where the loss depends on them: f-distill averages ratios over them.
MICRO_BATCHES = {"cifar10-cond-f-distill": 256, "imagenet64-f-distill": 32}


def test_micro_batches_are_those_of_the_source_where_the_loss_depends_on_them(rivals):
    averaged = {run for run, stated in STATED.items() if stated[0] == "f-distill"}
    assert averaged == set(MICRO_BATCHES)
    assert {run: resolved(rivals, run)[0].batch_gpu for run in averaged} == MICRO_BATCHES
    # Such a micro-batch cannot be cut for memory, so it has to fit the card of the plan.
    card = load_assumptions().gpu("H200").memory_gb
    assert all(student_cost(*resolved(rivals, run)).memory / 1e9 < card for run in averaged)


def test_the_warm_up_of_dmd2_is_that_of_seven_gpus(rivals):
    config, _ = resolved(rivals, "imagenet64-dmd2")
    iterations, per_step = 500 / 7, config.batch_size
    steps = iterations / METHODS["dmd2"].options().fake_score_steps
    assert config.options["lr_rampup_kimg"] * 1000 == pytest.approx(steps * per_step, rel=0.01)


@pytest.mark.parametrize("run", UNI_INSTRUCT)
def test_uni_instruct_has_the_values_of_its_script_and_the_defaults_of_sida(rivals, run):
    kimg, batch, micro, lr, divergence, ratio, weight = UNI_INSTRUCT[run]
    config, _ = resolved(rivals, run)
    assert (config.total_kimg, config.batch_size, config.batch_gpu, config.lr) == (kimg, batch, micro, lr)
    assert (config.options["divergence"], config.options.get("ratio", "released")) == (divergence, ratio)
    assert (config.lambda_adv, config.lambda_sid, config.lambda_d) == (weight, 100, 1)
    assert (config.warmup_kimg, config.adversarial_kimg, config.grad_clip_value, config.t_max) == (100, 200, 1, 800)
    assert (config.init is not None) == run.endswith("-sid")


def test_the_work_of_a_method_is_that_of_the_page():
    assert_work_of(FOLDER / "rivals/README.md")


def test_costs_are_those_of_the_methods_passes(rivals):
    """In forward passes of the teacher's network for an image of the generator: README.md."""
    cost = {run: student_cost(*resolved(rivals, run)).operations for run in STATED}
    one = student_cost(*resolved(rivals, "cifar10-uncond-sid-a1.2")).operations / 11
    assert cost["cifar10-uncond-diff-instruct"] == pytest.approx(9 * one)
    assert cost["cifar10-uncond-ect"] == pytest.approx(4 * one)
    assert cost["cifar10-uncond-cd"] == pytest.approx(6 * one)


#: FIDs that papers print of rows.
QUOTED = {
    "cifar10-uncond-diff-instruct": 4.53,
    "cifar10-cond-dmd": 5.58,
    "imagenet64-dmd2": 1.51,
    "cifar10-uncond-uni-instruct-sid": 1.48,
    "cifar10-cond-uni-instruct-sid": 1.38,
    "imagenet64-uni-instruct-sid": 1.02,
}


def test_quoted_numbers_stand_beside_the_runs():
    rows, numbers = load_layout(FOLDER / "rivals/tables/rivals.yaml").rows, load_published()
    quoted = {row.run: numbers[row.published.replace("{metric}", "fid")].value for row in rows if row.published}
    assert {run: value for run, value in quoted.items() if "sida" not in run} == QUOTED
    assert {row.run for row in rows} >= {*STATED, *UNI_INSTRUCT}
