"""GDD, GDD-I and instance-based distillation by the same loop: a discriminator or a distance in place of scores."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from sida.files.tensors import torch_dtypes
from sida.methods import distill
from sida.methods.gdd import INNATE
from sida.networks.file import load_network, read_metadata
from sida.sampling import heun, latents_for_seeds
from sida.training.batches import MicroBatch
from tests.training.toy import GIVEN, STUDENT, of_method, student_trainer

GDD = {
    **of_method("gdd", STUDENT), "total_kimg": 0.096, "warmup_kimg": None, "evaluation": None, "augment": None,
    "options": {"backbones": ["digits"], "r1_interval": 4},
}  # fmt: skip


def test_generator_is_the_teacher_in_gdds_preconditioning(teacher):
    trainer = student_trainer({**GDD, "teacher": teacher})
    start, _ = load_network(teacher)
    for one, other in zip(trainer.generator.net.parameters(), start.parameters(), strict=True):
        assert torch.equal(one, other)
    z = torch.randn(2, 1, 8, 8)
    assert not torch.equal(trainer.generator.net(80 * z, torch.tensor(80.0)), start(80 * z, torch.tensor(80.0)))


def test_defaults_are_the_official_ones(teacher):
    trainer = student_trainer(
        {**GDD, "teacher": teacher, "ema_half_life_kimg": None, "options": {"backbones": ["digits"]}}
    )
    judge, penalty, generator = trainer.steps
    assert (penalty.network, penalty.stream, penalty.every) == (judge.network, judge.stream, 16)
    # Golden: lr × 16/17 and β₂ = 0.99^(16/17) of the discriminator; the generator's are plain.
    assert judge.network.lr == pytest.approx(1e-3 * 16 / 17)
    assert judge.network.adam.betas == pytest.approx((0, 0.99 ** (16 / 17)))
    assert (generator.network.lr, generator.network.adam.betas) == (1e-3, (0.0, 0.99))
    assert (trainer.recipe.init_sigma, trainer.recipe.ema_half_life_kimg) == (80.0, 500)
    assert judge.weights(64) == {"real_or_fake": 64, "r1": 16, "fooling": 64}
    assert generator.network.net.init_config["kwargs"]["dropout"] == 0


def test_patience_counts_from_the_first_image_where_no_term_joins_later(tmp_path, teacher):
    GIVEN.clear()
    watched = {"monitor": "tests.training.toy:make_curve", "kwargs": {"values": [2.0, 1.0, *[3.0] * 9]}}
    evaluation = {"every_kimg": 0.016, "patience": 3, **watched}
    path = distill({**GDD, "teacher": teacher, "adversarial_kimg": 200.0, "evaluation": evaluation}, tmp_path)
    assert read_metadata(path)["last_nimg"] == 64


def test_innate_training_changes_only_what_is_not_frozen(tmp_path, teacher, capsys):
    path = distill({**GDD, "teacher": teacher, "method": "gdd-i", "total_kimg": 0.032}, tmp_path)
    start, _ = load_network(teacher)
    net, _ = load_network(path)
    changed = {
        name
        for (name, before), after in zip(start.named_parameters(), net.parameters(), strict=True)
        if not torch.equal(before, after)
    }
    frozen = {name for name, _ in net.named_parameters() if INNATE.match(name)}
    assert frozen
    assert not frozen & changed
    assert {"model.enc.8x8_conv.weight", "model.enc.8x8_block0.norm0.weight"} <= changed
    share = sum(v.numel() for n, v in net.named_parameters() if n in frozen) / sum(v.numel() for v in net.parameters())
    assert f"gdd-i: {100 * share:.1f} % of the generator's parameters stay as the teacher's" in capsys.readouterr().err


INSTANCE = {
    **of_method("instance", STUDENT), "total_kimg": 0.16, "lr": 2e-3, "warmup_kimg": None,
    "evaluation": None, "options": {"num_steps": 3},
}  # fmt: skip


def test_loss_is_the_distance_to_what_the_teachers_sampler_draws(teacher):
    net, _ = load_network(teacher)
    z, labels = latents_for_seeds(range(4), (1, 8, 8)), torch.eye(10)[[3, 1, 4, 1]]
    (step,) = student_trainer({**INSTANCE, "teacher": teacher, "options": {"num_steps": 5}}).steps
    with torch.no_grad():
        drawn = heun(net, z, labels, num_steps=5).to(torch.float32)
    terms = step.loss(MicroBatch(torch.zeros_like(z), labels, draws={"z": z}))
    assert torch.equal(terms["instance"], drawn.square())


def test_defaults_are_gdds_with_which_it_is_compared(teacher):
    trainer = student_trainer({**INSTANCE, "teacher": teacher, "options": {}})
    (step,) = trainer.steps
    assert (trainer.recipe.init_sigma, step.network.adam.betas, step.network.clip_value) == (80.0, (0.0, 0.99), None)
    assert step.network.net.init_config["class"] == "EDMPrecond"
    assert step.network.net.init_config["kwargs"]["dropout"] == 0


# GDD's loop against a plain rewriting of the official one, in float64: heads, losses, penalty, optimizers, average.
# It follows Zyriix/GDD (training/loss.py, training_loop.py, pg_modules/discriminator.py) in the order of steps of this
# suite (docs/differences.md), and shares the generator's network and the frozen features.


IMAGES, INTERVAL, GAMMA, RATE, SIGMA = 16, 2, 0.3, 1e-3, 80.0


@pytest.fixture
def float64(monkeypatch):
    """Computes in float64 wherever the suite says float32."""
    default, stored = torch.get_default_dtype(), torch_dtypes()
    monkeypatch.setattr("sida.files.tensors.torch_dtypes", lambda: stored)
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


class PlainHeads:
    """Heads of one backbone: the tensors of a discriminator's state, and what the official modules do with them."""

    def __init__(self, discriminator, frozen):
        self.frozen, state = frozen, discriminator.state_dict()
        learns = {name for name, _ in discriminator.named_parameters()}
        self.tensors = {
            name: value.clone().requires_grad_(name in learns)
            for name, value in state.items()
            if name.startswith("heads.")
        }
        self.parameters = [self.tensors[name] for name, _ in discriminator.named_parameters()]

    def normalised(self, name):
        """A weight divided by its largest singular value, after half a step for each of the two vectors."""
        weight = self.tensors[f"{name}.parametrizations.weight.original"]
        u, v = (self.tensors[f"{name}.parametrizations.weight.0._{side}"] for side in "uv")
        matrix = weight.flatten(1)
        with torch.no_grad():
            u.copy_(F.normalize(matrix @ v, dim=0, eps=1e-12))
            v.copy_(F.normalize(matrix.T @ u, dim=0, eps=1e-12))
        return weight / (u.clone() @ (matrix @ v.clone()))

    def __call__(self, images, labels):
        """Logits ``(N, patches)`` of all heads."""
        logits = []
        for number, x in enumerate(self.frozen(images)):
            prefix, layer = f"heads.0.{number}", 0
            while f"{prefix}.down.{layer}.bias" in self.tensors:
                x = F.conv2d(
                    x, self.normalised(f"{prefix}.down.{layer}"), self.tensors[f"{prefix}.down.{layer}.bias"], 2, 1
                )
                scale, shift = (self.tensors[f"{prefix}.down.{layer + 1}.{n}"] for n in ("weight", "bias"))
                x = F.batch_norm(x, None, None, scale, shift, True)
                x, layer = F.leaky_relu(x, 0.2), layer + 3
            x = F.conv2d(x, self.normalised(f"{prefix}.logits"))
            embedded = self.tensors[f"{prefix}.embedding.weight"].T[labels.argmax(1)]
            weight, bias = (self.tensors[f"{prefix}.projection.{n}"] for n in ("weight", "bias"))
            y = embedded @ (weight / math.sqrt(320)).T + bias
            y = math.sqrt(2) * F.leaky_relu(y, 0.2)
            logits.append((torch.einsum("nchw,nc->nhw", x, y) / 8).flatten(1))
        return torch.cat(logits, 1)


def adam(parameters, rate, beta):
    parameters = [*parameters]
    for value in parameters:
        value.grad = torch.zeros_like(value)  # also of those that a loss does not reach
    return torch.optim.Adam(parameters, rate, betas=(0.0, beta))


def take(optimizer, loss):
    """A step against the gradient of a loss, whose value it returns."""
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
    return loss.item()


class PlainGDD:
    """Networks, optimizers and average of the official loop."""

    def __init__(self, trainer):
        self.heads = PlainHeads(trainer.networks["discriminator"].net, trainer.networks["discriminator"].net._frozen[0])
        self.generator = copy.deepcopy(trainer.generator.net).train().requires_grad_(True)
        self.average = copy.deepcopy(self.generator)
        lazy = INTERVAL / (INTERVAL + 1)
        self.judge = adam(self.heads.parameters, RATE * lazy, 0.99**lazy)
        self.maker = adam(self.generator.parameters(), RATE, 0.99)

    def images(self, z, labels):
        return self.generator(SIGMA * z, torch.full((len(z), 1, 1, 1), SIGMA), labels)

    def iteration(self, nimg, batches, draws):
        """The official steps; a list of losses has an entry for each image, because of how heads are listed there."""
        (real, labels), z = batches["discriminator"], draws["discriminator"]["z"]
        with torch.no_grad():
            fake = self.images(z, labels)
        loss = sum(F.softplus(row).mean() for row in self.heads(fake, labels))
        loss = loss + sum(F.softplus(-row).mean() for row in self.heads(real, labels))
        losses = {"real_or_fake": take(self.judge, loss)}
        if nimg // IMAGES % INTERVAL == 0:
            given = real.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.heads(given, labels).sum(), given, create_graph=True)
            losses["r1"] = take(self.judge, INTERVAL * (slope.square().sum((1, 2, 3)) * GAMMA / 2).mean())
        (_, labels), z = batches["generator"], draws["generator"]["z"]
        loss = sum(F.softplus(-row).mean() for row in self.heads(self.images(z, labels), labels))
        losses["fooling"] = take(self.maker, loss)
        keep = 0.5 ** (IMAGES / max(min(500_000, 0.05 * nimg), 1e-8))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                mean.copy_(keep * mean + (1 - keep) * now)
        return losses


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def test_four_iterations_equal_the_official_loop(teacher, float64):
    options = {"backbones": ["digits"], "r1_interval": INTERVAL, "r1_gamma": GAMMA, "loss_images": IMAGES}
    spec = {
        **of_method("gdd", STUDENT), "teacher": teacher, "lr": RATE, "lr_decay_start": 1.0, "batch_size": IMAGES,
        "batch_gpu": None, "warmup_kimg": None, "evaluation": None, "augment": None, "ema_half_life_kimg": 500.0,
        "ema_rampup_ratio": 0.05, "options": options,
    }  # fmt: skip
    trainer = student_trainer(spec)
    plain, source = PlainGDD(trainer), torch.Generator().manual_seed(0)
    normal = lambda: torch.randn(IMAGES, 1, 8, 8, generator=source)
    for nimg in range(0, 4 * IMAGES, IMAGES):
        streams = [step.stream for step in trainer.steps]
        batches = {
            name: (normal().clamp(-1, 1), torch.eye(10)[torch.randint(10, (IMAGES,), generator=source)])
            for name in streams
        }
        draws = {name: {"z": normal(), "noise": normal(), "t": torch.zeros(IMAGES, 1, 1, 1)} for name in streams}
        trainer.batches = lambda stream, nimg, with_images, batches=batches: [batches[stream]]
        record = trainer.iteration(nimg, {name: [given] for name, given in draws.items()})
        expected = plain.iteration(nimg, batches, draws)
        assert {name: float(value) for name, value in record.losses.items()} == pytest.approx(expected, rel=1e-12)
    pairs = {
        "discriminator": (trainer.networks["discriminator"].net.parameters(), plain.heads.parameters),
        "generator": (trainer.generator.net.parameters(), plain.generator.parameters()),
        "average": (trainer.ema.net.parameters(), plain.average.parameters()),
    }
    for name, (ours, theirs) in pairs.items():
        ours, theirs = flat(ours), flat(theirs)
        assert ours.dtype == torch.float64
        # Adam's steps have the size of the rate even where a gradient is nothing but rounding.
        assert ((ours - theirs).abs() > 1e-12).double().mean() < 1e-3, name
