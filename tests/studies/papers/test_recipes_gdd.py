"""GDD's recipes: each value is its code's, from an extract of the reference; its rows stand beside the paper's."""

from __future__ import annotations

import csv
import re

import pytest

from eval.results.published import load_published
from eval.tables.layout import load_layout
from sida.assets.registry import load_registry
from sida.config.families import official_backbones
from sida.config.resources import ROOT
from sida.config.settings import from_mapping
from sida.methods.gdd import GDDOptions
from sida.methods.resolve import DistillConfig, resolve_recipe
from workflow.preset import Preset
from workflow.preset.targets import Targets

DATASETS = {"afhqv2": "afhq64-v2", "cifar10": "cifar10-cond"}
BACKBONES = {
    "VGG16-BN": "vgg16_bn",
    "EfficientNet-lite0": "efficientnet_lite0",
    "DeiT-base distilled": "deit_base_distilled",
}
ABSTRACT = {"cifar10-uncond-gdd-i": 1.54, "afhq64-gdd": 1.23, "ffhq64-gdd-i": 0.85, "imagenet64-gdd-i": 1.16}


@pytest.fixture(scope="module")
def reference():
    found: dict[tuple, dict] = {}
    with open(ROOT / "tests/workflow/hyperparameters_gdd.csv", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            found.setdefault((line["method"], line["dataset"]), {})[line["hyperparameter"]] = line["code_value"]
    return found


def test_every_value_is_its_codes(paper, reference):
    registry = load_registry()
    rows = [run for run in paper.students() if run.method in ("gdd", "gdd-i")]
    seen = set()
    for run in rows:
        teacher = paper.settings.teachers[run.teacher]
        config = resolve_recipe(from_mapping(DistillConfig, paper.specs.student(run.run), run.run), teacher.network)
        options = from_mapping(GDDOptions, config.options, run.run)
        key = (run.method.upper(), DATASETS.get(run.dataset, run.dataset))
        values = reference[key]
        seen.add(key)
        assert registry[teacher.checkpoint].target.rsplit("/", 1)[-1] == values["teacher checkpoint"]
        assert config.batch_size == int(values["batch size"])
        # Four processes: a round is the batch of one, whose images the official losses add up.
        assert options.loss_images == config.batch_size / int(values["GPUs"][0])
        # On ImageNet half of it, so that a training fits a card: docs/differences.md.
        assert config.batch_gpu == 64 == options.loss_images / (1 + (run.dataset == "imagenet64"))
        assert (config.fp16, config.half) == ((True, "bfloat16") if run.dataset == "imagenet64" else (False, "float16"))
        assert (config.lr, config.fake_score_lr) == (float(values["learning rate G"]), float(values["learning rate D"]))
        assert "0, 0.99 (D beta2 0.99^(16/17))" in values["Adam betas"]
        assert (config.betas, config.eps) == ((0.0, 0.99), 1e-8)
        assert config.ema_half_life_kimg == 1000 * float(values["EMA half-life (Mimg)"])
        assert config.total_kimg == 1000 * float(values["duration (Mimg)"])
        assert config.dropout == float(values["dropout"])
        assert config.augment is options.ada_target is None
        assert config.init_sigma == 80
        assert (options.form, options.r1_gamma, options.r1_interval) == ("ns", 1e-4, 16)
        wanted = tuple(BACKBONES[name] for name in values["discriminator features"].split(" + "))
        assert options.backbones == official_backbones(teacher.network["kwargs"]["img_resolution"]) == wanted
        mult = re.findall(r"\d", values["architecture"].partition("cres ")[2])
        if mult:
            assert list(map(str, teacher.network["kwargs"]["channel_mult"])) == mult
    assert seen == reference.keys()
    assert len(rows) == 14
    assert {run.seed for run in rows} == {42, 43, 44}


def test_abstracts_numbers_stand_beside_the_runs():
    layout = load_layout(ROOT / "studies/papers/tables/gdd.yaml")
    published = {row.run: row.published for row in layout.rows if row.published}
    numbers = load_published()
    values = {run: numbers[name.replace("{metric}", "fid")].value for run, name in published.items()}
    assert values == ABSTRACT
    for number, dataset in (("1", "cifar10-uncond"), ("2", "cifar10-cond"), ("3", "imagenet64")):
        text = (ROOT / f"studies/papers/tables/table{number}.yaml").read_text()
        assert f'published: "table{number}-gdd-i-{{metric}}", run: "{{set}}-gdd-i"' in text
        assert f"vars: {{set: {dataset}}}" in text


def test_training_waits_for_the_downloads_of_its_discriminator(paper):
    targets = Targets(paper, False)
    fetched = lambda run: {path.rsplit("/", 1)[1] for path in targets.training(run)["method"]}
    lite = "backbone-efficientnet-lite0.json"
    assert fetched("cifar10-uncond-gdd-i") == {"backbone-vgg16-bn.json", lite}
    assert fetched("ffhq64-gdd") == {"backbone-deit-base-distilled.json", lite}
    assert fetched("cifar10-uncond-sida-a1") == set()
    assert GDDOptions().assets(64) == ["backbone-deit-base-distilled", "backbone-efficientnet-lite0"]
    assert GDDOptions(weights="random").assets(64) == GDDOptions(backbones=("digits",)).assets(8) == []


def test_miniature_has_three_seeds_of_each():
    preset = Preset.load(ROOT / "studies/miniature/preset.yaml")
    by_recipe: dict[tuple, set] = {}
    for run in preset.students():
        if run.method in ("gdd", "gdd-i") and run.teacher == "t30":
            by_recipe.setdefault((run.method, run.recipe), set()).add(run.seed)
    assert by_recipe == {
        (method, recipe): {0, 1, 2} for method in ("gdd", "gdd-i") for recipe in ("gdd", "gdd-rash", "line-gdd")
    }
