"""Presets of ImageNet 256: checks, plans and recipes."""

import pytest
import yaml

from sida.config.lookup import ROOT
from sida.config.named_files import find_file
from sida.workflow.planning.costs import Costs
from sida.workflow.preset import load_preset
from sida.workflow.preset.checks import check_preset, unshown_remark
from sida.workflow.preset.files import find_preset
from sida.workflow.preset.jobs import measurement
from tests.plugins import needs
from tests.refused import refused

pytestmark = needs("judges")

NAMES = ("imagenet256", "imagenet256-train", "imagenet256-b2")


def loaded(name, **changed):
    return load_preset(find_preset(name), changed=changed)


@pytest.mark.parametrize("name", NAMES)
def test_the_presets_are_whole_and_their_rows_are_measured_twice(name):
    preset = loaded(name)
    check_preset(preset)
    # Seeds beside the first are shown in its row.
    assert unshown_remark(preset) is None
    rows = [row for row in preset.rows.values() if not row.cells.second]
    assert all({"fid", "precision", "recall"} <= {m.key for m in row.protocol.metrics} for row in rows)
    for row in rows:
        second = preset.rows[f"{row.run}.balanced"].protocol
        assert (row.protocol.label_dist, second.label_dist) == ("uniform", "balanced")
        assert "fdr6" in [metric.key for metric in second.metrics]
        assert "sd-vae-ft-ema" in measurement(preset, row.run).needs["downloads"]
        assert "sd-vae-ft-mse" not in measurement(preset, row.run).needs["downloads"]


def test_recipes_have_the_losses_of_their_sources():
    ours = yaml.safe_load(find_preset("imagenet256-train").read_text())["recipes"]
    theirs = yaml.safe_load(find_file("recipes", "flows").read_text())
    machine = {"batch_gpu", "fp16", "half", "evaluation"}
    for name, source in (("dmd", "dmdr"), ("sid-flow", "sid-dit"), ("sida-flow", "sida-dit")):
        kept = {key: value for key, value in ours[name].items() if key not in machine}
        assert kept.pop("network_options", None) == ({"logits": "tokens"} if name == "sida-flow" else None)
        assert kept == theirs[source]


def test_published_architectures_are_those_of_the_plans():
    preset = loaded("imagenet256")
    for name, teacher in preset.settings.teachers.items():
        stored = yaml.safe_load((ROOT / f"config/networks/{name.removeprefix('teacher-')}.yaml").read_text())
        assert stored == teacher.network


def test_the_small_form_fits_a_card_of_24_gb():
    preset = loaded("imagenet256-b2")
    costs = Costs(preset, "RTX4090", fresh=True)
    named = [("teachers", name) for name in preset.trained_teachers] + [("students", "dmd"), ("students", "sida-s1")]
    assert 8 < max(costs.of(*job).memory_gb for job in named) < 22


def test_faults_of_latents_and_decoders_end_before_the_first_job():
    archive = {**yaml.safe_load((ROOT / "config/datasets.yaml").read_text())["imagenet256-latents"], "latents": "edm2"}
    error = refused(r"has 'edm2'.*sida data encode", lambda: check_preset(changed_data(archive)))
    assert error.where.endswith("latents")
    samplers = {"sde-250": {"kind": "flow", "num_steps": 250, "decoder": "sd-vae"}}
    refused(r"samplers\.sde-250\.decoder", loaded, "imagenet256", samplers=samplers)
    samplers = {"one-step": {"kind": "one_step", "init_sigma": 2.5, "decoder": "sd-vae-ft-mse"}}
    refused(r"decoder.*draws pixels", lambda: check_preset(loaded("gpu", samplers=samplers)))


def changed_data(archive):
    return loaded("imagenet256-train", datasets={"imagenet256-latents": archive})


def test_the_decoder_of_a_sampler_is_fetched():
    samplers = {"sde-250": {"kind": "flow", "num_steps": 250, "method": "euler_maruyama", "decoder": "sd-vae-ft-mse"}}
    preset = loaded("imagenet256", samplers=samplers)
    assert {"sd-vae-ft-mse", "sd-vae-ft-mse-config"} <= {*measurement(preset, "sit-xl").needs["downloads"]}
    assert "sd-vae-ft-ema" not in measurement(preset, "sit-xl").needs["downloads"]
    assert "sd-vae-ft-ema" in measurement(preset, "sit-xl-guided").needs["downloads"]
