"""Presets of ImageNet 256: checks, plans, recipes, and the rehearsal of the released teachers."""

from pathlib import Path

import pytest
import yaml

from sida.assets.registry import load_registry
from sida.config.lookup import ROOT, find_file
from sida.networks import build_network
from sida.plugins.planner import rehearsal, small
from tests.plugins import needs
from tests.refused import refused
from workflow.planning.costs import Costs
from workflow.preset import load_preset
from workflow.preset.checks import check_preset
from workflow.preset.files import find_preset
from workflow.preset.measuring import measurement
from workflow.preset.remarks import unshown_remark
from workflow.preset.trainings import teacher_training, training

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


def test_a_rehearsal_has_stand_ins_of_all_files_and_few_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(rehearsal, "maker", counted(rehearsal.maker, made))
    path, environment = rehearsal.write_rehearsal([find_preset("imagenet256")])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    preset = load_preset(find_preset("imagenet256"), path)
    check_preset(preset)
    assert {"teacher-sit-xl-2", "sd-vae-ft-ema", "judge-mae-vitl16", "ref-batch-imagenet256"} <= {*made}
    assert max(row.sampler["num_steps"] for row in preset.rows.values()) == 2
    second = preset.rows["repa-xl-guided.balanced"].protocol
    specs = [second.sources[key].spec for key in ("train", "heldout")]
    assert {spec["num_images"] for spec in specs} == {rehearsal.REFERENCES}
    # FDr divides by the distance of held-out images.
    assert len({(tmp_path / spec["path"]).read_bytes() for spec in specs}) == 2


@pytest.mark.parametrize("name", ["imagenet256-train", "imagenet256-b2"])
def test_trainings_are_rehearsed_by_small_networks_in_a_few_steps(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(rehearsal, "maker", counted(rehearsal.maker, made))
    path, environment = rehearsal.write_rehearsal([find_preset(name)])
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    preset = load_preset(find_preset(name), path)
    check_preset(preset)
    specs = [training(preset, row.run).spec for row in preset.students]
    specs += [teacher_training(preset, teacher).spec for teacher in preset.trained_teachers]
    assert len(specs) == (9 if name == "imagenet256-train" else 10)
    for spec in specs:
        steps = spec["total_kimg"] * 1000 / spec["batch_size"]
        assert (steps, spec["device"], spec.get("fp16", False)) == (small.STEPS, "cpu", False)
        if spec.get("method") == "sida":  # Each phase of the trainer is met.
            assert 0 < spec["warmup_kimg"] < spec["adversarial_kimg"] < spec["total_kimg"]
        assert spec["dataset"]["num_images"] == rehearsal.REFERENCES
        assert spec["dataset"]["latents"] == "sd"
    # The latents are encoded by the workflow, from pictures that are there.
    (archive,) = preset.archives.made
    assert [*tmp_path.glob("**/imagenet256.zip")] == [Path(preset.archives.needs(archive)["files"][0])]
    for teacher in preset.settings.teachers.values():
        assert teacher.network["kwargs"].items() >= {**small.SIZES, "img_resolution": 32, "label_dim": 1000}.items()
    assert {"inception", "sd-vae-ft-ema"} <= {*made}
    # Files are made of what the rehearsal reads alone, of the same architecture as in the preset.
    assert not [*tmp_path.glob("**/cache/**/*mae*")]
    balanced = preset.rows["dmd.balanced"].protocol
    assert [metric.of for metric in balanced.metrics if metric.key == "fdr6"] == [("fdr_inception",)]
    registered = load_registry(environment["SIDA_ASSETS"])["teacher-repa-sit-xl-2"]
    if name == "imagenet256-train":
        stored = yaml.safe_load(registered.architecture.read_text())
        assert stored["kwargs"].items() >= preset.settings.teachers["teacher-repa-sit-xl-2"].network["kwargs"].items()


def test_options_that_name_blocks_fit_a_small_transformer():
    network = {"class": "SiTPrecond", "kwargs": {"img_resolution": 8, "img_channels": 4, "encoder_depth": 20}}
    assert build_network(small.small_network(network, "teacher")).encoder_blocks == 1
    refused("small transformers", small.small_network, {"class": "EDMPrecond", "kwargs": {}}, "teacher 'digits'")


def counted(maker, made):
    """The function that finds a file's stand-in, which then is empty."""

    def find(asset, preset):
        assert callable(maker(asset, preset))
        made.append(asset.id)
        return lambda path: path.write_bytes(b"")

    return find
