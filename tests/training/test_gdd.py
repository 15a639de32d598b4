"""GDD's loop against a plain rewriting of the official one, in float64: heads, losses, penalty, optimizers, average.

It follows Zyriix/GDD (training/loss.py, training_loop.py, pg_modules/discriminator.py) in the order of steps of this
suite (docs/differences.tsv), and shares the generator's network and the frozen features.
"""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from sida.files.tensors import torch_dtypes
from tests.training.toy import STUDENT, iterate, of_method, student_trainer

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

    def __init__(self, discriminator):
        self.frozen, learns = discriminator._frozen[0], {name for name, _ in discriminator.named_parameters()}
        state = discriminator.state_dict().items()
        self.tensors = {name: value.clone().requires_grad_(name in learns) for name, value in state}
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
            while (bias := self.tensors.get(f"{prefix}.down.{layer}.bias")) is not None:
                x = F.conv2d(x, self.normalised(f"{prefix}.down.{layer}"), bias, 2, 1)
                scale, shift = (self.tensors[f"{prefix}.down.{layer + 1}.{n}"] for n in ("weight", "bias"))
                x = F.leaky_relu(F.batch_norm(x, None, None, scale, shift, True), 0.2)
                layer += 3
            x = F.conv2d(x, self.normalised(f"{prefix}.logits"))
            embedded = self.tensors[f"{prefix}.embedding.weight"].T[labels.argmax(1)]
            weight, bias = (self.tensors[f"{prefix}.projection.{n}"] for n in ("weight", "bias"))
            y = math.sqrt(2) * F.leaky_relu(embedded @ (weight / math.sqrt(320)).T + bias, 0.2)
            logits.append((torch.einsum("nchw,nc->nhw", x, y) / 8).flatten(1))
        return torch.cat(logits, 1)


def adam(parameters, rate, beta):
    for value in parameters:
        value.grad = torch.zeros_like(value)  # also of those that a loss does not reach
    return torch.optim.Adam(parameters, rate, betas=(0.0, beta))


def take(optimizer, loss):
    """A step against the gradient of a loss, whose value it returns."""
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
    return loss.item()


def test_four_iterations_equal_the_official_loop(teacher, float64):
    spec = {
        **of_method("gdd", STUDENT), "teacher": teacher, "lr": RATE, "lr_decay_start": 1.0, "batch_size": IMAGES,
        "batch_gpu": None, "warmup_kimg": None, "evaluation": None, "augment": None, "ema_half_life_kimg": 500.0,
        "ema_rampup_ratio": 0.05,
        "options": {"backbones": ["digits"], "r1_interval": INTERVAL, "r1_gamma": GAMMA, "loss_images": IMAGES},
    }  # fmt: skip
    trainer, source = student_trainer(spec), torch.Generator().manual_seed(0)
    discriminator, generator = trainer.networks["discriminator"].net, copy.deepcopy(trainer.generator.net)
    heads, average, lazy = PlainHeads(discriminator), copy.deepcopy(generator), INTERVAL / (INTERVAL + 1)
    judge = adam(heads.parameters, RATE * lazy, 0.99**lazy)
    maker = adam([*generator.train().requires_grad_(True).parameters()], RATE, 0.99)
    normal = lambda: torch.randn(IMAGES, 1, 8, 8, generator=source)
    made = lambda z, labels: generator(SIGMA * z, torch.full((IMAGES, 1, 1, 1), SIGMA), labels)
    # A list of losses has an entry for each image, because of how heads are listed in the official code.
    fooled = lambda logits: sum(F.softplus(-row).mean() for row in logits)
    for nimg in range(0, 4 * IMAGES, IMAGES):
        z, labels, batches = {}, {}, {}
        for stream in ("discriminator", "generator"):
            labels[stream] = torch.eye(10)[torch.randint(10, (IMAGES,), generator=source)]
            batches[stream], z[stream] = [(normal().clamp(-1, 1), labels[stream])], normal()
        draws = {stream: [{"z": value}] for stream, value in z.items()}
        record = iterate(trainer, nimg, batches["discriminator"], batches["generator"], draws)
        real, classes = batches["discriminator"][0]
        fake = made(z["discriminator"], classes).detach()
        loss = fooled(-heads(fake, classes)) + fooled(heads(real, classes))
        expected = {"real_or_fake": take(judge, loss)}
        if nimg // IMAGES % INTERVAL == 0:
            given = real.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(heads(given, classes).sum(), given, create_graph=True)
            expected["r1"] = take(judge, INTERVAL * (slope.square().sum((1, 2, 3)) * GAMMA / 2).mean())
        images = made(z["generator"], labels["generator"])
        expected["fooling"] = take(maker, fooled(heads(images, labels["generator"])))
        keep = 0.5 ** (IMAGES / max(min(500_000, 0.05 * nimg), 1e-8))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), generator.parameters(), strict=True):
                mean.copy_(keep * mean + (1 - keep) * now)
        assert {name: float(value) for name, value in record.losses.items()} == pytest.approx(expected, rel=1e-12)
    pairs = {
        "discriminator": (discriminator.parameters(), heads.parameters),
        "generator": (trainer.generator.net.parameters(), generator.parameters()),
        "average": (trainer.ema.net.parameters(), average.parameters()),
    }
    for name, sides in pairs.items():
        ours, theirs = (torch.cat([tensor.detach().flatten() for tensor in side]) for side in sides)
        assert ours.dtype == torch.float64
        # Adam's steps have the size of the rate even where a gradient is nothing but rounding.
        assert ((ours - theirs).abs() > 1e-12).double().mean() < 1e-3, name
