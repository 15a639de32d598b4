"""SiDA with one part replaced: the whole without a replacement, and each part."""

import pytest
import torch

from sida.methods.sid import SiDALoss
from sida.noise import complete_draws
from sida.plugins.ablations.ablation import AblationLoss, AblationOptions
from sida.training.batches import MicroBatch
from tests.near import assert_near, is_copy, same_bits
from tests.networks.made import random_network
from tests.training.toy import (
    COMMON,
    NETWORK,
    assert_same_training,
    iterate,
    of_method,
    resumes,
    student_trainer,
    vector,
)

LABELS = torch.eye(10)[torch.arange(16) % 10]
REAL = torch.linspace(-1, 1, 16 * 64).view(16, 1, 8, 8)
PARTS = [
    {"discriminator": "own"},
    {"steps": "separate"},
    {"real": "generated"},
    {"discriminator": "own", "real": "generated"},
]


def spec_of(teacher, method="ablation", options=None, **more):
    spec = {**of_method(method, COMMON), "teacher": teacher, "batch_gpu": None, **more}
    return {**spec, "options": options} if options else spec


def trained(spec, iterations=2):
    trainer = student_trainer(spec)
    for nimg in range(0, 16 * iterations, 16):
        iterate(trainer, nimg, [(REAL, LABELS)])
    return trainer


def changed(trainer, name, teacher):
    """By layer of a network: whether training has changed it."""
    start = dict(student_trainer(spec_of(teacher)).generator.net.named_parameters())
    return {key: not is_copy(value, start[key]) for key, value in trainer.networks[name].net.named_parameters()}


def test_without_a_replaced_part_a_training_is_sidas(teacher):
    ours, sida = (trained(spec_of(teacher, method)) for method in ("ablation", "sida"))
    for name, network in sida.networks.items():
        assert_same_training(ours.networks[name].net, network.net, steps=2)


def test_the_separate_term_is_that_of_the_joint_loss():
    net = random_network(NETWORK["class"], NETWORK["kwargs"])
    loss = AblationLoss()
    images = torch.randn(16, 1, 8, 8)
    batch = MicroBatch(images, LABELS, REAL, complete_draws(loss.fake_score_draws(), None, images))
    joint = SiDALoss().fake_score_terms(net, batch)["discriminator"]
    assert_near(loss.discriminator_terms(net, batch)["discriminator"], joint)


def test_a_discriminator_of_its_own_learns_the_encoder_and_the_fake_score_is_sids(teacher):
    own = trained(spec_of(teacher, options={"discriminator": "own"}), iterations=1)
    sid = trained({**spec_of(teacher, "sid"), "alpha": 1.0, "grad_clip_value": 0}, iterations=1)
    assert_same_training(own.networks["fake_score"].net, sid.networks["fake_score"].net, steps=1)
    layers = changed(own, "discriminator", teacher)
    assert not any(value for name, value in layers.items() if ".dec." in name)
    assert all(value for name, value in layers.items() if ".enc." in name and "affine" not in name)


def test_the_generator_learns_from_the_discriminator_of_its_own(teacher):
    generators = []
    for factor in (1, -1):
        trainer = student_trainer(spec_of(teacher, options={"discriminator": "own"}, lambda_sid=0))
        network = trainer.networks["discriminator"].net
        network.register_forward_hook(lambda _, inputs, logits, factor=factor: factor * logits)
        iterate(trainer, 0, [(REAL, LABELS)])
        generators.append(vector(trainer.generator.net))
    assert not same_bits(*generators)


@pytest.mark.parametrize(("options", "steps"), [({}, 1), ({"steps": "separate"}, 2), ({"discriminator": "own"}, 1)])
def test_steps_of_the_fake_score(teacher, options, steps):
    trainer = trained(spec_of(teacher, options=options))
    assert int(trainer.networks["fake_score"].adam.steps) == 2 * steps
    assert int(trainer.generator.adam.steps) == 2


@pytest.mark.parametrize("options", PARTS)
def test_real_images_change_a_training_that_sees_them(teacher, options):
    vectors = []
    for real in (REAL, REAL.flip(0)):
        trainer = student_trainer(spec_of(teacher, options=options))
        for nimg in (0, 16):
            iterate(trainer, nimg, [(real, LABELS)])
        vectors.append(vector(trainer.generator.net))
    assert same_bits(*vectors) == (options.get("real") == "generated")


def test_generated_images_are_the_generators_of_other_noise(teacher):
    trainer = student_trainer(spec_of(teacher, options={"real": "generated"}))
    fed = []
    trainer.networks["fake_score"].net.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0].detach()))
    z = torch.randn(2, 16, 1, 8, 8)
    noise = torch.zeros(16, 1, 8, 8)
    draws = {"psi": [{"z": z[0], "z of real images": z[1], "noise": noise}]}
    net = trainer.generator.net.eval()
    with torch.no_grad():
        expected = [net(2.5 * part, torch.tensor(2.5), LABELS) for part in z]
    iterate(trainer, 0, [(REAL, LABELS)], draws=draws)
    assert_near(fed[0], torch.cat(expected))


@pytest.mark.parametrize("options", [PARTS[0], *(pytest.param(part, marks=pytest.mark.slow) for part in PARTS[1:3])])
def test_an_interrupted_training_resumes_exactly(teacher, tmp_path, monkeypatch, options):
    resumes(
        spec_of(teacher, options=options), {"denoising", "discriminator", "sid", "adversarial"}, tmp_path, monkeypatch
    )


@pytest.mark.parametrize("options", [{}, *PARTS])
def test_work_is_that_of_the_networks(teacher, options):
    """Images that pass the encoders and the decoders of all networks forward in an iteration."""
    trainer, images = student_trainer(spec_of(teacher, options=options)), {"enc": 0, "dec": 0}
    for net in [network.net for network in trainer.networks.values()]:
        for part in images:
            count = lambda _, inputs, part=part: images.update({part: images[part] + len(inputs[0])})
            next(iter(getattr(net.model, part).values())).register_forward_pre_hook(count)
    iterate(trainer, 0, [(REAL, LABELS)])
    work = AblationOptions(**options).passes
    # A network that learns has two passes more, for its gradient, and one that only passes a gradient on has one more;
    # the teacher is not counted here.
    decoded = (work.fake_score - 2) + (work.generator - 5)
    assert images["dec"] == 16 * decoded
    assert images["enc"] == 16 * (decoded + work.fake_score_encoder / 3 + work.generator_encoder / 2)
