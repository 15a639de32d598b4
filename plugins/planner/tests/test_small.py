"""Rehearsals of presets that train: small transformers, a few steps, random pictures."""

from pathlib import Path

import pytest
import yaml

from sida.assets.registry import load_registry
from sida.networks import build_network
from sida.plugins.planner import rehearsal, small
from sida.workflow.preset import load_preset
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.files import find_preset
from sida.workflow.preset.jobs import teacher_training, training
from tests.refused import refused


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
