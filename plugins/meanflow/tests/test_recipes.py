"""Rows of MeanFlow at its authors' scale: their settings, printed numbers, and the plan's count of a real step."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plugins.meanflow.tests.test_training import RUNS, spec_of
from sida.config.registries import FOLDER
from sida.config.settings import from_mapping
from sida.data import load_dataset
from sida.eval.results.published import load_published
from sida.eval.tables.layout import load_layout
from sida.methods.distillation import make_trainer
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.networks import build_network
from sida.plugins.meanflow.method import MeanFlowOptions
from sida.workflow.planning.costs import Costs
from sida.workflow.planning.steps import student_cost
from sida.workflow.preset import preset_from
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.jobs import measurement, training
from tests.refused import refused
from tests.workflow.workspace import settings_of, shipped

#: Steps, images of a step, rate, weight of a step in the evaluated average, β₂, options that differ from v1's.
STATED = {
    "cifar10": (768_000, 1024, 6e-4, 0.9999, 0.999, {"times": "sorted", "t_normal": (-2, 2), "r_normal": (-2, 2)}),
    "cifar10-v1": (768_000, 1024, 6e-4, 0.99995, 0.999, {}),
    "imagenet256-b4": (240 * 5004, 256, 1e-4, 0.9999, 0.95, {"kappa": 0.5}),
    "imagenet256": (
        240 * 5004, 256, 1e-4, 0.9999, 0.95, {"omega": 0.2, "kappa": 0.92, "guided_times": (0, 0.75)},
    ),
}  # fmt: skip
LATENTS = {
    "times": "sorted",
    "t_normal": (-0.4, 1),
    "r_normal": (-0.4, 1),
    "apart": 0.25,
    "norm_p": 1,
    "norm_eps": 0.01,
}
#: Millions of parameters: of the authors' network for CIFAR-10 and of DiT's sizes with the second embedding.
MILLIONS = {"cifar10": 55.9, "cifar10-v1": 55.9, "imagenet256-b4": 131, "imagenet256": 676}


@pytest.fixture(scope="module")
def preset():
    return shipped("meanflow")


def resolved(preset, run):
    network = preset.rows[run].architecture
    return resolve_recipe(from_mapping(DistillConfig, training(preset, run).spec, run), network), network


@pytest.mark.parametrize("run", STATED)
def test_every_value_is_stated(preset, run):
    steps, batch, lr, beta, beta2, changed = STATED[run]
    config, network = resolved(preset, run)
    assert config.total_kimg * 1000 == pytest.approx(steps * batch)
    assert (config.batch_size, config.lr, config.betas) == (batch, lr, (0.9, beta2))
    assert (config.teacher, config.init_sigma, config.ema_rampup_ratio) == (None, "infinite", None)
    assert 0.5 ** (batch / (config.ema_half_life_kimg * 1000)) == pytest.approx(beta, abs=2e-8)
    further = [0.5 ** (batch / (kimg * 1000)) for kimg in config.options.get("further_half_lives_kimg", ())]
    cifar10 = run.startswith("cifar10")
    assert {beta, *(round(value, 5) for value in further)} == ({0.9999, 0.99995, 0.9996} if cifar10 else {beta})
    options = from_mapping(MeanFlowOptions, config.options, "options")
    shared = {"lr_rampup_kimg": 9830.4} if cifar10 else LATENTS
    expected = MeanFlowOptions(**{**shared, **changed, "further_half_lives_kimg": options.further_half_lives_kimg})
    assert options == expected
    assert config.augment == ({"p": 0.12} if cifar10 else None)
    with torch.device("meta"):
        net = build_network(network)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(MILLIONS[run], rel=0.002)


def test_the_preset_fits_together_and_rows_draw_in_one_evaluation(preset):
    check_preset(preset)
    assert {row.nfe for row in preset.rows.values()} == {1}
    assert {measurement(preset, run).spec["nfe"] for run in preset.runs} == {1}
    for run in preset.runs:
        job = training(preset, run)
        assert job.needs["teachers"] == job.needs["imports"] == job.needs["students"] == []
        assert job.spec["teacher"] is None


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [("teacher", "one", "run 'mine': column 'teacher'.*leave it empty"), ("init", "mine", "init.*circle")],
)
def test_a_row_that_names_a_start_is_refused(column, value, told, tmp_path):
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text(f"run\tlabel\tmethod\trecipe\tsampler\t{column}\n")
    with sheet.open("a") as file:
        file.write(f"mine\tMine\tmeanflow\tmeanflow/cifar10-v1\tone-step\t{value}\n")
    refused(told, preset_from, settings_of("meanflow") | {"runs": str(sheet)}, folders=[FOLDER / "meanflow"])


def test_the_recipe_of_imf_has_its_authors_settings(tmp_path):
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text(
        "run\tfamily\tlabel\tmethod\trecipe\tsampler\tdataset\tprotocol\n"
        "imf\tImageNet 256×256\tiMF-B/2\tmeanflow\tmeanflow/imf-imagenet256-b2\tone-step-mse\timagenet256-latents\t"
        "config/protocols/imagenet256-rounded.yaml\n"
    )
    own = settings_of("meanflow") | {"runs": str(sheet), "tables": []}
    config, network = resolved(preset_from(own, folders=[FOLDER / "meanflow"]), "imf")
    assert config.total_kimg * 1000 == pytest.approx(640 * 1251 * 1024)
    assert (config.batch_size, config.lr, config.betas) == (1024, 1e-4, (0.9, 0.95))
    assert 0.5 ** (1024 / (config.ema_half_life_kimg * 1000)) == pytest.approx(0.9999, abs=2e-8)
    options = from_mapping(MeanFlowOptions, config.options, "options")
    assert (1 / (1 - options.kappa), options.lr_rampup_kimg) == pytest.approx((7.5, 10 * 1251 * 1.024))
    imf = {"apart": 0.5, "loss": "v", "guided_times": (0.4, 0.65)}
    free = {name: getattr(options, name) for name in ("kappa", "lr_rampup_kimg")}
    assert options == MeanFlowOptions(**{**LATENTS, **imf, **free})
    assert {name: network["kwargs"][name] for name in ("patch_size", "hidden_size", "depth", "num_heads")} == {
        "patch_size": 2, "hidden_size": 768, "depth": 12, "num_heads": 12,
    }  # fmt: skip


def test_printed_numbers_stand_beside_the_rows():
    rows, numbers = load_layout(FOLDER / "meanflow/tables/meanflow.yaml").rows, load_published()
    found = {row.run: numbers[row.published.replace("{metric}", "fid")].value for row in rows}
    assert found == {"cifar10": 2.92, "cifar10-v1": 2.80, "imagenet256": 3.43, "imagenet256-b4": 11.35}


def test_the_plan_counts_the_passes_of_a_row(preset):
    cost = Costs(preset, "H200", 8).student("imagenet256-b4")
    assert cost.gpus == 8
    assert 100 < cost.gpu_hours < 1000
    guided, plain = MeanFlowOptions(kappa=0.5).passes, MeanFlowOptions().passes
    assert (guided.generator, plain.generator) == (8, 6)
    assert MeanFlowOptions(loss="v").passes.generator == MeanFlowOptions(omega=2.0).passes.generator == 7


@pytest.mark.parametrize("name", ["unet", "dit"])
@pytest.mark.parametrize("options", [{}, {"loss": "v"}, {"omega": 2.0}, {"kappa": 0.5}])
def test_a_real_step_takes_the_counted_operations(name, options):
    network = {**RUNS[name][0], "kwargs": {**RUNS[name][0]["kwargs"], "dropout": 0}}
    network["kwargs"] = {key: value for key, value in network["kwargs"].items() if key != "dropout" or name == "unet"}
    spec = spec_of(name, network=network, options=options, augment=None, evaluation=None, batch_gpu=None)
    config = resolve_recipe(DistillConfig(**spec), network)
    trainer = make_trainer(config, load_dataset(config.dataset), torch.device("cpu"))
    images = torch.zeros(16, 1, 8, 8)
    trainer.batches = lambda stream, nimg, with_images: [(images, torch.eye(10)[torch.arange(16) % 10])]
    # Transformers take a little less: a matrix product has one product fewer than a convolution.
    with FlopCounterMode(display=False) as counter:
        trainer.iteration(0)
    assert counter.get_total_flops() / 16 == pytest.approx(student_cost(config, network).operations, rel=0.08)
    assert math.isfinite(float(trainer.generator.flat.vector.sum()))
