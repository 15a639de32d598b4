"""Switches of a distillation: forced weight normalisation, guidance, checkpointing."""

from __future__ import annotations

import pytest
import torch

from sida.methods import distill
from sida.networks.file import load_network, save_network
from sida.sampling.samplers import GuidedDenoiser
from tests.networks.made import random_network
from tests.training.toy import EDM2, NETWORK, STUDENT, results, student_trainer

SHORT = {
    **STUDENT, "total_kimg": 0.032, "warmup_kimg": 0.0, "adversarial_kimg": 0.0, "evaluation": None, "augment": None,
}  # fmt: skip
X, LABELS = torch.randn(4, 1, 8, 8), torch.eye(10)[:4]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A teacher, a guide without its classes, and a teacher of EDM2."""
    folder, without = tmp_path_factory.mktemp("networks"), {**NETWORK["kwargs"], "label_dim": 0}
    specs = {"teacher": NETWORK, "guide": {**NETWORK, "kwargs": without}, "edm2": EDM2}
    for seed, (name, spec) in enumerate(specs.items()):
        save_network(random_network(spec["class"], spec["kwargs"], seed), folder / f"{name}.safetensors", {})
    return {name: str(folder / f"{name}.safetensors") for name in specs}


def joined(net):
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


@pytest.mark.parametrize("mode", ["in_forward", "off"])
def test_forced_weight_normalisation_rewrites_what_is_trained(networks, mode):
    network = student_trainer({**SHORT, "teacher": networks["edm2"], "weight_norm": mode}).generator
    network.train()(X, torch.tensor(2.5), LABELS)
    weight = network.net.unet.enc["8x8_block0"].conv_res0.weight.detach().flatten(1)
    norms = weight.norm(dim=1) / weight.shape[1] ** 0.5
    assert torch.allclose(norms, torch.ones(()), atol=0.01) == (mode == "in_forward")
    assert torch.equal(joined(network.net), network.flat.vector)


def test_guidance_changes_the_true_score_alone(networks):
    teacher, guide = networks["teacher"], networks["guide"]
    trainer = student_trainer({**SHORT, "teacher": teacher, "guide": guide, "guidance": 2})
    phi, other = (load_network(path)[0].eval() for path in (teacher, guide))
    assert torch.equal(trainer.generator.flat.vector, joined(phi))
    assert torch.equal(trainer.fake_score.flat.vector, joined(phi))
    guided = trainer.true_score
    assert torch.equal(
        guided(X, torch.tensor(1.0), LABELS), GuidedDenoiser(phi, other, 2)(X, torch.tensor(1.0), LABELS)
    )
    assert not any(parameter.requires_grad for parameter in guided.parameters())
    assert not any(module.training for module in guided.modules())


def test_guides_of_other_families_and_checkpointing(tmp_path, networks):
    spec = {**SHORT, "teacher": networks["edm2"], "guide": networks["guide"], "guidance": 1.5}
    for name, checkpointing in (("plain", False), ("checkpointing", True)):
        distill({**spec, "checkpointing": checkpointing}, tmp_path / name)
    assert results(tmp_path / "checkpointing") == results(tmp_path / "plain")
