"""Switches of a distillation: restarts, EDM2 students, guidance."""

from __future__ import annotations

import shutil

import pytest
import torch

from sida.files.atomic import sha256_file
from sida.methods import distill
from sida.networks.file import load_network, read_metadata, save_network
from tests.networks.made import random_network
from tests.training.toy import EDM2, NETWORK, STUDENT, results, student_trainer

SHORT = {**STUDENT, "total_kimg": 0.064, "warmup_kimg": 0.0, "adversarial_kimg": 0.0, "evaluation": None}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A teacher, guides without and with its classes, and a teacher of EDM2."""
    folder, found = tmp_path_factory.mktemp("networks"), {}
    without = {**NETWORK, "kwargs": {**NETWORK["kwargs"], "label_dim": 0}}
    specs = {"teacher": NETWORK, "uncond": without, "worse": NETWORK, "edm2": EDM2}
    for seed, (name, spec) in enumerate(specs.items()):
        found[name] = str(folder / f"{name}.safetensors")
        save_network(random_network(spec["class"], spec["kwargs"], seed), found[name], {})
    return found


def weights(path) -> torch.Tensor:
    net, _ = load_network(path)
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def test_forced_weight_normalisation_of_edm2_students(tmp_path, networks):
    def norms(mode):
        folder = tmp_path / mode
        spec = {**SHORT, "teacher": networks["edm2"], "augment": None, "weight_norm": mode}
        distill({**spec, "ema_half_life_kimg": 1e-6}, folder)
        net, metadata = load_network(folder / "network.safetensors")
        assert metadata["network"]["kwargs"]["weight_norm"] == mode
        weight = net.unet.enc["8x8_block0"].conv_res0.weight
        return weight.detach().flatten(1).norm(dim=1) / weight[0].numel() ** 0.5

    # One Adam step after the last normalisation is all that moves them away from 1.
    forced, free = norms("in_forward"), norms("off")
    assert float((forced - 1).abs().max()) < 0.01
    assert float((free - forced).abs().max()) > 1e-5


@pytest.mark.parametrize("guide", ["uncond", "worse"])
def test_guidance_changes_the_true_score_alone(networks, guide):
    teacher, guide = networks["teacher"], networks[guide]
    trainer = student_trainer({**SHORT, "teacher": teacher, "guide": guide, "guidance": 2})
    assert torch.equal(trainer.generator.flat.vector, weights(teacher))
    assert torch.equal(trainer.fake_score.flat.vector, weights(teacher))
    x, labels = torch.randn(4, 1, 8, 8), torch.eye(10)[:4]
    (phi, _), (other, _) = load_network(teacher), load_network(guide)
    other_labels = labels if other.label_dim else None
    plain, guiding = phi.eval()(x, 1.0, labels), other.eval()(x, 1.0, other_labels)
    torch.testing.assert_close(trainer.true_score(x, 1.0, labels), guiding + 2 * (plain - guiding))
    assert not any(parameter.requires_grad for parameter in trainer.true_score.parameters())
    assert not any(module.training for module in trainer.true_score.modules())


def test_strength_and_guide_make_another_run_and_paths_do_not(tmp_path, networks):
    shutil.copy(networks["uncond"], tmp_path / "moved.safetensors")
    spec = {**SHORT, "total_kimg": 0.016, "teacher": networks["teacher"], "guidance": 1.5}
    changes = [{"guide": networks["uncond"]}, {"guide": str(tmp_path / "moved.safetensors")}, {"guidance": 1}]
    changes += [{"guide": networks["worse"]}, {"guide": networks["uncond"], "guidance": 3}]
    headers = [read_metadata(distill({**spec, **more}, tmp_path / str(n))) for n, more in enumerate(changes)]
    digests = [header["config_sha256"] for header in headers]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
    assert [header.get("guidance") for header in headers] == [1.5, 1.5, None, 1.5, 3]
    guides = [more.get("guide") and sha256_file(more["guide"]) for more in changes]
    assert [header["parents"].get("guide") for header in headers] == guides


def test_guides_of_other_families_and_checkpointing(tmp_path, networks):
    spec = {**SHORT, "total_kimg": 0.032, "augment": None, "teacher": networks["edm2"], "guide": networks["uncond"]}
    for name, checkpointing in (("plain", False), ("checkpointing", True)):
        distill({**spec, "guidance": 1.5, "checkpointing": checkpointing}, tmp_path / name)
    assert results(tmp_path / "checkpointing") == results(tmp_path / "plain")
