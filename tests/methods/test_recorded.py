"""Losses of SiD, SiDA and GDD, and EDM2's denoising loss, on recorded networks and draws of the official code."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sida.data import AugmentPipe
from sida.methods.gdd import GDDLoss, lazy_regularisation
from sida.methods.sid import EDM2SiDALoss, SiDALoss, SiDLoss
from sida.sampling import one_step
from sida.training.teacher import EDMLoss
from tests.golden.vectors import GOLDEN, agree, below, draw, draws, load_tensors
from tests.near import GRADIENT, assert_near
from tests.networks.made import recorded_network


def cases(role, number):
    """Recorded cases of a role, as ``family/name``, and how many there are."""
    files = sorted(GOLDEN.glob(f"losses_*/*_{role}*.npz"))
    assert len(files) == number
    return [f"{path.parent.name.removeprefix('losses_')}/{path.stem}" for path in files]


def networks(family):
    """φ, ψ and G."""
    arrays, info = load_tensors(f"losses_{family}/networks")
    cls, more = ("EDM2Precond", {"weight_norm": "off"}) if family == "edm2" else ("EDMPrecond", {})
    kwargs = info["constructor_kwargs"] | more
    # EDM2's generators have no logvar head; the others carry one whether it is used or not.
    head = {"logvar_channels": info["logvar_channels"]} if family == "edm2" else {}
    phi, psi = (recorded_network(arrays, cls, kwargs | head, f"{role}/") for role in ("phi", "psi"))
    return phi.requires_grad_(False), psi, recorded_network(arrays, cls, kwargs | dict.fromkeys(head), "G/")


def make_loss(name, info):
    """The loss of a case, with the settings that were recorded."""
    names = {"alpha": "alpha", "tmax": "t_max", "P_mean": "P_mean", "P_std": "P_std", "return_logvar": "return_logvar"}
    given = {ours: info[theirs] for theirs, ours in names.items() if theirs in info}
    if name.startswith("edm2/"):
        return EDM2SiDALoss(**given)
    return (SiDALoss if name.startswith("edm/sida") else SiDLoss)(**given)


def sums(case, info, *rows):
    """Checks terms, and the sums of all their elements times a weight divided by the batch; returns these sums."""
    found = []
    for term, name, factor, weight, total in rows:
        found.append(term.sum() * (factor * info[weight] / info["batch"]))
        agree(case, **{f"out/{name}": term, f"out/{total}": found[-1]})
    return found


def compare_gradients(net, arrays, prefix):
    """All parameter gradients within tolerance; a parameter that is not reached has none or zero."""
    expected = below(arrays, prefix)
    assert expected
    for name, parameter in net.named_parameters():
        gradient = parameter.grad
        if name not in expected:
            assert gradient is None or not gradient.any(), name
        elif gradient is None:
            # Zero augment labels, which the official loop passes, give zero (after the guard also for NaN).
            assert name.endswith("map_augment.weight"), name
            assert not expected[name].nan_to_num().any(), name
        else:
            assert_near(gradient, expected[name], GRADIENT, name=name)


@pytest.mark.parametrize("name", cases("generator", 13))
def test_generator(name):
    case, info = load_tensors(f"losses_{name}")
    phi, psi, generator = networks(name.split("/")[0])
    psi.requires_grad_(False)
    generator.train()
    if info.get("psi_modification"):
        weight, factor = info["psi_modification"].split(" multiplied by ")
        psi.state_dict()[weight].mul_(float(factor))
    if info.get("G_forced_weight_norm"):
        generator.weight_norm = "pre_hook"
    labels, loss, given = case["in/labels"], make_loss(name, info), draws(case, t=1, noise=2)
    agree(case, out__sigma=loss.generator_sigma(given))
    images = one_step(generator, draw(case, 0), labels)
    agree(case, out__images=images)
    if info["nan_in_sample"] is not None:
        given["noise"] = given["noise"].clone()
        given["noise"][info["nan_in_sample"]] = float("nan")
    images.retain_grad()
    terms = loss.generator_loss(phi, psi, images, labels, given)
    assert terms.nan_count == (info["nan_in_sample"] is not None)
    assert (terms.adversarial is None) == (not loss.uses_real_images)
    rows = [(terms.sid, "loss", 1, "lsg", "scalar_sid")]
    if "out/loss_gan" in case:
        rows.append((terms.adversarial, "loss_gan", images[0].numel(), "lsg_gan", "scalar_gan"))
    found = sums(case, info, *rows)
    total = sum(found) / 2 if info["backward"] == "0.5*sid + 0.5*gan" else found[0]
    agree(case, out__scalar_backward=total)
    total.backward()
    agree(case, GRADIENT, grad_images=images.grad)
    compare_gradients(generator, case, "grad_G/")
    assert all(p.grad is None for p in (*phi.parameters(), *psi.parameters()))


def recorded_augment(case, info):
    """The recorded pipe, first for the fakes and then for the reals, each with its own draws."""
    if info.get("augment") is None:
        return None
    pipe = AugmentPipe(**info["augment"])
    numbers = sorted(int(key.split("/")[1][:2]) for key in case if key.startswith("draw/"))
    calls = iter([numbers[2:16], numbers[17:]])
    return lambda images: pipe(images, draws=[draw(case, n) for n in next(calls)])


@pytest.mark.parametrize("name", [*cases("fakescore", 11), "edm2/edm2_plain_loss"])
def test_fake_score(name):
    """Also EDM2's denoising loss, that of a teacher."""
    case, info = load_tensors(f"losses_{name}")
    _, psi, generator = networks(name.split("/")[0])
    labels, real = case["in/labels"], case.get("in/real_images")
    with torch.no_grad():
        images = one_step(generator, draw(case, 0), labels)
    if info.get("nan_in_sample") is not None:
        images[info["nan_in_sample"]] = float("nan")
    else:
        agree(case, out__images=images)
    given = draws(case, sigma_normal=1, noise=16 if info.get("augment") else 2)
    if name.endswith("plain_loss"):
        loss = EDMLoss(info["P_mean"], info["P_std"], return_logvar=info["return_logvar"])
        rows = [(loss(psi.train(), images, labels, None, given), "loss", 1, "ls", "scalar_fake")]
    else:
        loss = make_loss(name, info)
        agree(case, out__sigma=loss.fake_score_sigma(given))
        terms = loss.fake_score_loss(psi.train(), images, labels, real, recorded_augment(case, info), given)
        assert terms.nan_count == (info["nan_in_sample"] is not None)
        assert (terms.discriminator is None) == ("out/loss_D" not in case)
        rows = [(terms.denoising, "loss", 1, "ls", "scalar_fake")]
        rows += [] if terms.discriminator is None else [(terms.discriminator, "loss_D", 1, "lsd", "scalar_D")]
    sum(sums(case, info, *rows)).backward()
    compare_gradients(psi, case, "grad_psi/")


# GDD: its losses on the recorded generator and a two-headed discriminator


class TwoHeads(nn.Module):
    """The discriminator described in the golden file."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.h1, self.h2 = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 1, 1)

    def forward(self, images, class_labels=None):
        first = F.leaky_relu(self.c1(images), 0.2)
        second = F.leaky_relu(self.c2(first), 0.2)
        return [self.h1(first).reshape(-1, 1), self.h2(second).reshape(-1, 1)]


@pytest.mark.parametrize("name", load_tensors("gdd/losses")[1]["cases"])
def test_stage_of_gdd(name):
    arrays, info = load_tensors("gdd/losses")
    case = info["cases"][name]
    form, stage = name.split("/")
    loss = GDDLoss(form.split("_")[0], r1_gamma=float(form.split("gamma")[1]))
    learner = discriminator = TwoHeads()
    discriminator.load_state_dict(below(arrays, "D/"))
    labels, real = arrays["in/labels"], arrays["in/real"]
    if stage == "G":
        weights, precond = load_tensors("gdd/generator_precond")
        learner = recorded_network(weights, "GDDPrecond", precond["constructor_kwargs"])
        images = learner(80 * arrays[f"{name}/z"], torch.tensor(80.0), labels)
        agree(arrays, **{f"{name}/fake": images})
        value = loss.generator_loss(discriminator, images, labels)
    elif stage == "D":
        value = loss.discriminator_loss(discriminator, arrays[f"{name}/fake"], real, labels)
    else:
        penalty = loss.r1_penalty(discriminator, real, labels)
        agree(arrays, **{f"{name}/penalty": penalty / (loss.r1_gamma / 2)})
        value = penalty.mean() * case["gain"]
    agree(arrays, **{f"{name}/loss_times_gain": value})
    value.backward()
    # In R1 that is no gradient of the last biases, or zero: a constant does not change the gradient at the image.
    compare_gradients(learner, arrays, f"{name}/grad/")


def test_lazy_regularisation():
    table = json.loads((GOLDEN / "gdd" / "optimizer.json").read_text())["discriminator_adam"]
    for interval, row in table.items():
        expected = (row["lr_factor"], row["beta2"])
        assert lazy_regularisation(int(interval), 0.99) == pytest.approx(expected, rel=1e-12)
