"""Losses of RealUID on recorded networks and batches of its official code."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from sida.methods.sid import SiDLoss
from sida.plugins.rivals.realuid import RealSiDLoss, RealSiDOptions, RealUIDLoss, RealUIDOptions
from sida.training.optimizer import Average, OptimizedNetwork
from sida.training.schedule import Schedule
from tests.golden.vectors import agree, below, load_tensors
from tests.near import FLOAT32, assert_near

#: Relative to the largest magnitude of an array.
ROLES = ("teacher", "fake")
SPACES = ("velocity", "image", "noise")


def denoiser(weights):
    """The recorded tiny network; EDM's coefficients with σ_data 0.5."""

    def forward(x, sigma, class_labels=None, **_):
        sigma = sigma.reshape(-1, 1, 1, 1)
        total = (sigma**2 + 0.25).sqrt()
        hidden = conv2d(x / total, weights["w1"], weights["b1"], padding=1)
        hidden = hidden + weights["a"].view(1, -1, 1, 1) * sigma.log() / 4
        if class_labels is not None:
            hidden = hidden + (class_labels @ weights["e"])[:, :, None, None]
        raw = conv2d(hidden.tanh(), weights["w2"], weights["b2"], padding=1)
        return 0.25 / total**2 * x + sigma * 0.5 / total * raw

    return forward


def recorded(file, case, dtype=torch.float64):
    """Weights, draws and images of a precision, labels, and the recorded results of a case."""
    arrays, _ = load_tensors("rivals/realuid_networks")
    results, info = load_tensors(f"rivals/{file}")
    given = {name: value.to(dtype) for name, value in below(arrays, "in/").items()}
    labels = given.pop("labels")
    weights = [{n: v.to(dtype).requires_grad_() for n, v in below(arrays, f"{role}/").items()} for role in ROLES]
    expected = below(results, ("f32/" if dtype == torch.float32 else "") + case + "/")
    return weights, given, labels if info["labels"] else None, expected


def summed(loss, terms, images):
    weights = loss.weights(images[0].numel())
    return sum(term.sum() * weights[name] for name, term in terms.items()) / len(images)


def steps(loss, given):
    """Results of both steps by the names of the recorded ones."""
    (teacher, weights), one, labels, _ = given
    teacher, fake = denoiser(teacher), denoiser(weights)
    draws = {"t": one["t"], "noise": one["noise"], "sigma_normal": one["t"]}
    terms = loss.fake_score_loss(fake, one["generated"], labels, one["real"], draws=draws)
    # The official code maximises.
    value = -summed(loss, terms, one["generated"])
    value.backward()
    images = one["generated"].clone().requires_grad_()
    generator = summed(loss, loss.generator_loss(teacher, fake, images, labels, draws), images)
    found = {"fake/maximised": value, "generator/loss": generator}
    found["generator/grad_generated"] = torch.autograd.grad(generator, images)[0]
    return found | {f"fake/grad/{name}": w.grad for name, w in weights.items() if w.grad is not None}


@pytest.mark.parametrize("file", ["realuid_cond", "realuid_uncond"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.92, 0.94), (0.94, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses_and_gradients_of_both_steps(file, alpha, beta, dtype):
    given = recorded(file, f"a{alpha:g}_b{beta:g}", dtype)
    agree(given[-1], **steps(RealUIDLoss(options=_options(alpha, beta)), given))


def test_levels_end_where_edms_do():
    """A time of 0 or 1 would be a level without end, or a division by 0."""
    levels = RealUIDLoss().generator_sigma({"t": torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)})
    assert_near(levels, torch.tensor([80.0, 1.0, 0.002], dtype=torch.float64), each=True)


def _options(alpha, beta, space="velocity", cls=RealUIDOptions):
    return cls(uid_alpha=alpha, uid_beta=beta, space=space)


class Velocity(nn.Module):
    """The network of the recorded loop: a velocity, also as a denoiser; it computes in float64."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.ParameterDict({name: value.clone() for name, value in weights.items()})

    def velocity(self, t, x, labels):
        weights = {name: value.double() for name, value in self.weights.items()}
        t = torch.as_tensor(t).view(-1, 1, 1, 1)
        hidden = conv2d(x, weights["w1"], weights["b1"], padding=1) + weights["a"].view(1, -1, 1, 1) * t
        return conv2d(
            (hidden + (labels @ weights["e"])[..., None, None]).tanh(), weights["w2"], weights["b2"], padding=1
        )

    def forward(self, y, sigma, labels=None, **_):
        t, x = 1 / (1 + sigma), y / (1 + sigma)
        return x + (1 - t) * self.velocity(t, x, labels)


class OfAllLevels(RealUIDLoss):
    """Also of levels below EDM's lowest, of which the script draws one."""

    def generator_sigma(self, draws):
        return (1 - draws["t"]) / draws["t"]

    fake_score_sigma = generator_sigma


def test_the_released_script_step_by_step():
    """Losses, clipped gradients, Adam, averages, and rates that rise by own steps; each first step has rate 0."""
    arrays, info = load_tensors("rivals/realuid_loop")
    start = {"teacher": below(arrays, "teacher/"), "fake": below(arrays, "initial_fake/")}
    nets = {name: Velocity(start.get(name, start["teacher"])) for name in ("teacher", "fake", "generator")}
    ways = {"betas": tuple(info["betas"]), "eps": info["eps"], "clip_norm": info["clip_norm"]}
    learns = {name: OptimizedNetwork(nets[name], info["lr"], **ways) for name in ("fake", "generator")}
    averages = {beta: Average(learns["generator"]) for beta in info["averages"]}
    loss, taken = OfAllLevels(options=_options(info["alpha"], info["beta"])), dict.fromkeys(learns, 0)
    schedule = Schedule(0, None, lr_rampup_kimg=info["warmup"] / 1000)
    for number, turn in enumerate(info["turns"]):
        given, name = below(arrays, f"{number}/"), ("fake", "generator")[turn]
        labels, after = nn.functional.one_hot(given["labels"], 4).double(), below(given, "after/")
        given |= {key: given[key].double() for key in ("t", "noise", "z", "real")}
        draws = {"t": given["t"].view(-1, 1, 1, 1), "noise": given["noise"]}
        for other, network in learns.items():
            network.set_training(other == name)
        images = given["z"] + nets["generator"].velocity(0.0, given["z"], labels)
        agree(given, FLOAT32, generated=images)
        if turn:
            value = summed(loss, loss.generator_loss(nets["teacher"], nets["fake"], images, labels, draws), images)
        else:
            terms = loss.fake_score_loss(nets["fake"], images.detach(), labels, given["real"], draws=draws)
            value = -summed(loss, terms, images)
        assert float(value.detach()) == pytest.approx(float(given["loss"]), rel=FLOAT32, abs=FLOAT32)
        (value if turn else -value).backward()
        learns[name].step(schedule.at(taken[name]).lr_factor)
        taken[name] += 1
        agree(below(after, f"{name}/"), FLOAT32, **dict(nets[name].weights))
        for beta, average in averages.items() if turn else ():
            average.update(beta)
            agree(below(after, f"average{beta}/"), FLOAT32, **dict(average.net.weights))


@pytest.mark.parametrize("cls", [RealUIDLoss, RealSiDLoss])
def test_spaces_are_three_methods_unless_alpha_is_beta(cls):
    # Spaces weigh levels differently in RealUID's own loss.
    unweighted = type("Unweighted", (cls,), {"weight": lambda self, sigma: torch.ones_like(sigma)})

    def values(alpha, beta, space):
        found = steps(unweighted(options=_options(alpha, beta, space)), recorded("realuid_cond", "a0.92_b0.94"))
        return tuple(float(found[name].detach()) for name in ("fake/maximised", "generator/loss"))

    assert len({values(0.9, 0.9, space) for space in SPACES}) == 1
    fakes, generators = zip(*(values(0.92, 0.94, space) for space in SPACES))
    assert len(set(fakes)) == len(set(generators)) == 3


def test_realsid_without_a_share_of_real_images_is_sid():
    losses = RealSiDLoss(options=_options(1.0, 1.0, cls=RealSiDOptions)), SiDLoss()
    found, expected = (steps(loss, recorded("realuid_cond", "a1_b1")) for loss in losses)
    agree({name: value.detach() for name, value in expected.items()}, **found)


@pytest.mark.parametrize("cls", [RealUIDLoss, RealSiDLoss])
def test_the_term_of_real_images_needs_both_a_share_and_images(cls):
    (_, weights), one, labels, _ = recorded("realuid_cond", "a1_b1")
    fake, draws = denoiser(weights), {"t": one["t"], "noise": one["noise"], "sigma_normal": one["t"]}

    def terms(alpha, real):
        loss = cls(options=_options(alpha, alpha))
        return {*loss.fake_score_loss(fake, one["generated"], labels, real, draws=draws)}

    assert terms(1.0, one["real"]) == terms(1.0, None) == terms(0.92, None) == {"denoising"}
    assert terms(0.92, one["real"]) == {"denoising", "real"}


@pytest.mark.parametrize("space", SPACES)
def test_generator_follows_the_best_value_of_the_fake_score(space):
    """At α_SiD = ½ the gradient at the best ψ is that of the best value: two points, one pixel, exact scores.

    Both images are 0 or m; ψ has one free value for each noisy image, so its best value is a weighted mean.
    """
    options, sigma = _options(0.9, 0.8, space), torch.tensor(0.7, dtype=torch.float64)
    loss = RealUIDLoss(options=options)
    noisy = torch.linspace(-3, 3, 2001, dtype=torch.float64).view(-1, 1, 1, 1)
    real = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    teacher = torch.tanh(noisy)

    def parts(points):
        """Densities of noisy images and mean targets of both sides."""
        sides = []
        for images, scale in ((points, options.scales[0]), (real, options.scales[1])):
            each = torch.stack([torch.exp(-((noisy - x) ** 2) / (2 * sigma**2)) for x in images])
            wanted = torch.stack([loss.target(x.expand_as(noisy), noisy, sigma, scale) for x in images])
            sides.append((each, wanted))
        return sides

    def gap(points):
        (fake, wanted), (true, wanted_true) = parts(points)
        alpha = options.uid_alpha
        mixture = alpha * fake.sum(0) + (1 - alpha) * true.sum(0)
        best = (alpha * (fake * wanted).sum(0) + (1 - alpha) * (true * wanted_true).sum(0)) / mixture
        return (mixture * (teacher - best).square()).sum(), best.detach()

    points = torch.tensor([-0.4, 0.9], dtype=torch.float64, requires_grad=True)
    value, best = gap(points)
    (exact,) = torch.autograd.grad(value, points)
    (fake, wanted), _ = parts(points)
    product = loss.identity(wanted, teacher.expand_as(wanted), best.expand_as(wanted))
    # The scores are functions of the noisy image, whose density moves with the points.
    (found,) = torch.autograd.grad(2 * options.uid_alpha * (fake * product).sum(), points)
    assert_near(found, exact)
