"""Images by seed: independent of batch, order and earlier draws; class rules, data, decoders, replayed graphs."""

import copy
import sys
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.config.families import EDM2_LATENTS
from sida.data import load_dataset
from sida.machine import RecordingError
from sida.sampling import NO_CLASS, Drawer, Sampler, SeedStreams, one_step, to_uint8
from sida.sampling.generate import Evaluations
from sida.sampling.guidance import GuidedDenoiser, Unlabelled, check_guide_fits
from tests.near import assert_levels, assert_near, is_copy, same_bits, same_integers
from tests.networks.made import CONFIGS, SMALL, random_network
from tests.plugins import needs
from tests.refused import refused
from tests.sampling.images import collect, generate
from tests.training.test_rounds import StandIn

UNET = {**SMALL, "label_dim": 0, "augment_dim": 9, "dropout": 0.5}
ONE_STEP = Sampler(kind="one_step")


def make(label_dim=10, seed=0, **kwargs):
    return random_network("EDMPrecond", {**UNET, "label_dim": label_dim, **kwargs}, seed).train()


@pytest.fixture(scope="module")
def net():
    return make()


@pytest.fixture(scope="module")
def digits():
    return load_dataset({"name": "digits", "kind": "digits"})


def drawn(drawer, *arguments, **options):
    return torch.cat([batch.images for batch in drawer.draw(*arguments, **options)])


def recording(made):
    """Records functions on memory that stays the same, as CUDA graphs do, and keeps their inputs."""
    return lambda function, inputs: made.append(inputs) or StandIn(function, inputs)


@settings(max_examples=12)
@given(
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40, unique=True),
    sampler=st.sampled_from(["one_step", "one_step:2", "heun:3", "heun:3,S_churn=2"]),
    data=st.data(),
)
def test_an_image_depends_on_its_seed_not_on_batch_shard_or_order(net, seeds, sampler, data):
    """Bit for bit at equal batch size."""
    shuffled = data.draw(st.permutations(seeds))
    cut = data.draw(st.integers(0, len(seeds)))
    images, classes = collect(net, seeds, sampler, batch_size=16)
    by_seed = dict(zip(seeds, zip(images, classes)))
    for shard in (shuffled[:cut], shuffled[cut:]):
        for batch in generate(net, shard, sampler, batch_size=16):
            for seed, image, label in zip(*batch):
                assert same_bits(by_seed[seed][0], image)
                assert label == by_seed[seed][1]


_, EDM2 = CONFIGS["edm2"]
FAMILIES = [("EDM2Precond", {**EDM2, "weight_norm": mode}) for mode in ("off", "in_forward", "pre_hook", "always")]
FAMILIES += [(cls, {**UNET, "label_dim": 5}) for cls in ("EDMPrecond", "GDDPrecond")] + [("EDMPrecond", UNET)]


@pytest.mark.parametrize(("cls", "kwargs"), FAMILIES, ids=lambda value: value if isinstance(value, str) else "")
def test_an_image_does_not_depend_on_what_was_drawn_before(cls, kwargs):
    """To the last bit of the floats, for each family and mode of weight normalisation, and for guiding networks."""
    net, guide = (random_network(cls, kwargs, seed).train() for seed in range(2))
    before, sampler = {name: value.clone() for name, value in net.state_dict().items()}, "heun:3,S_churn=2,guidance=1.5"

    def draw(seeds, **evaluations):
        return collect(net, seeds, sampler, 4, gnet=guide, decode=torch.clone, **evaluations)[0][-4:]

    first = draw(range(4))
    assert same_bits(first, draw(range(4)))
    made = []
    assert same_bits(first, draw([*range(50, 58), *range(4)], evaluations=Evaluations(recording(made))))
    assert [("labels" in inputs) for inputs in made] == [bool(kwargs.get("label_dim"))] * 2
    assert is_copy(net.state_dict(), before)
    assert net.training


@pytest.mark.parametrize("sampler", ["one_step", "heun:4"])
def test_other_batch_sizes_differ_by_one_level_at_most(net, sampler):
    reference, classes = collect(net, range(20), sampler, batch_size=64)
    for size in (1, 7, 20):
        images, again = collect(net, range(20), sampler, batch_size=size)
        assert same_integers(classes, again)
        difference = (images.int() - reference.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.001


def test_images_are_the_quantised_generator_outputs_without_dropout(net):
    (batch,) = generate(net, [3, 4], batch_size=2)
    streams = SeedStreams([3, 4])
    latents, classes = streams.randn((1, 8, 8)), streams.randint(10)
    assert same_integers(batch.classes, classes)
    with torch.no_grad():
        expected = one_step(copy.deepcopy(net).eval(), latents, torch.eye(10)[classes])
    assert_levels(batch.images, to_uint8(expected))
    # Also after a draw that ends early, nothing of the caller's has changed.
    iterator = generate(net, range(8), batch_size=4)
    next(iterator)
    iterator.close()
    assert net.training
    assert torch.is_grad_enabled()


def test_class_rules(net, digits):
    seeds, pool = range(600), digits.class_indices
    images, uniform = collect(net, seeds)
    assert uniform.bincount(minlength=10).min() > 30
    picked = SeedStreams(seeds)
    picked.randn((1, 8, 8))
    _, empirical = collect(net, seeds, class_labels="empirical", dataset=digits)
    assert same_integers(empirical, pool[picked.randint(len(pool))])
    threes, classes = collect(net, seeds, class_labels=3)
    assert (classes == 3).all()
    assert same_bits(images[uniform == 3], threes[uniform == 3])
    wanted = [seed % 10 for seed in seeds]
    assert collect(net, seeds, class_labels=wanted, batch_size=50)[1].tolist() == wanted
    assert collect(net, seeds, class_labels="balanced", batch_size=50)[1].tolist() == wanted
    # The classes' draws leave fresh noise as it is.
    noisy = lambda rule: collect(net, range(8), "heun:3,S_churn=5", 8, rule)[0]
    assert same_bits(noisy("uniform"), noisy(uniform[:8].tolist()))
    assert same_bits(noisy("balanced"), noisy([*range(8)]))
    images, none = collect(make(label_dim=0), range(3), class_labels="empirical", batch_size=4)
    assert (none == NO_CLASS).all()
    assert images.shape == (3, 1, 8, 8)


def test_resampled_data_are_real_images_with_their_classes(digits):
    images, classes = collect(None, range(300), "data", dataset=digits, batch_size=64)
    pairs = lambda images, classes: {(row.numpy().tobytes(), int(label)) for row, label in zip(images, classes)}
    assert pairs(images, classes) <= pairs(digits.images(range(1797)), digits.class_indices)
    assert is_copy(images[100:], collect(None, range(100, 300), "data", dataset=digits, batch_size=7)[0])


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"sampler": "heun:3,guidance=2"}, "^sampler.guidance: .*guiding network"),
        (
            {"sampler": "heun:3,guidance=2,guidance_channels=9", "gnet": make()},
            "^sampler.guidance_channels: 9.*draws 1",
        ),
        ({"sampler": "heun:3", "gnet": make()}, "^sampler.guide: .*guidance of 1"),
        ({"net": make(label_dim=0), "sampler": "heun:3,guidance=2", "gnet": make()}, "^guiding network.label_dim: "),
        ({"sampler": "data"}, "^sampler: .*data set"),
        ({"class_labels": "empirical"}, "^class labels: .*data set"),
        ({"class_labels": 10}, "^class labels: .*between 0 and 9"),
        ({"class_labels": [1]}, "^class labels: .*4 seeds"),
        ({"net": make(label_dim=4), "class_labels": "empirical", "dataset": "digits"}, "^class labels: .*network 4"),
        ({"net": make(label_dim=0), "class_labels": 2}, "^class labels: .*leave the class out"),
        pytest.param({"sampler": "one_step:kernels=fused"}, "^sampler.kernels: .*on a GPU", marks=needs("kernels")),
        (
            {"net": make(sigma_min=0.02, sigma_max=100.0), "sampler": "heun:6,sigma_min=0.001,sigma_max=0.01"},
            "0.02 to 100",
        ),
    ],
)
def test_contradicting_arguments_are_errors_at_their_place(net, digits, kwargs, told):
    dataset = digits if kwargs.get("dataset") else None
    refused(told, generate, **{"net": net, "seeds": range(4), **kwargs, "dataset": dataset})


def test_a_broken_network_is_named_by_the_seed_that_shows_it():
    broken = make()
    next(iter(broken.parameters())).data.fill_(float("nan"))
    refused("NaN or infinity for seed 5", lambda: list(generate(broken, [5, 6], batch_size=2)))


def test_a_drawer_opens_data_and_decoder_once_and_only_where_a_draw_needs_them(digits, net, monkeypatch):
    opened = []
    drawer = Drawer(ONE_STEP, net, dataset=lambda: opened.append("data") or digits)
    drawn(drawer, range(3), 2)
    assert opened == []
    drawn(drawer, range(3), 2, "empirical")
    assert opened == ["data"]
    decoder = lambda latents: latents[:, :3].clamp(0, 1).mul(255).to(torch.uint8)
    monkeypatch.setattr(sys.modules[Drawer.__module__], "open_decoder", lambda *asked: opened.append(asked) or decoder)
    drawer = Drawer(ONE_STEP, make(img_channels=4), vae="folder")
    assert opened == ["data"]
    assert drawn(drawer, range(3), 2).shape == drawn(drawer, range(3), 3).shape == (3, 3, 8, 8)
    assert opened == ["data", ("folder", "cpu", EDM2_LATENTS, False)]


def test_a_network_is_recorded_where_that_pays_and_again_for_another_shape_or_network(monkeypatch):
    net, made = make(), []
    monkeypatch.setattr(Evaluations, "on", classmethod(lambda cls, device: cls(recording(made))))
    drawer = Drawer(ONE_STEP, net)
    drawn(drawer, range(7), 4)
    assert not made
    for _ in range(5):
        before = drawn(drawer, range(8), 4)
    drawn(drawer, range(8), 8)
    assert [inputs["x"].shape[0] for inputs in made] == [4, 8]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    after = drawn(drawer, range(8), 4)
    assert not same_bits(before, after)
    assert same_bits(after, collect(net, range(8), ONE_STEP, 4, evaluations=Evaluations())[0])
    assert len(made) == 2
    drawer.net = make(seed=3)
    drawn(drawer, range(40), 4)
    assert len(made) == 3


def test_a_network_that_cannot_be_recorded_is_drawn_kernel_by_kernel(net, capsys):
    record = Mock(side_effect=RecordingError("it looks at a value"))
    images = collect(net, range(40), "one_step", 4, evaluations=Evaluations(record))[0]
    assert same_bits(images, collect(net, range(40), "one_step", 4)[0])
    assert capsys.readouterr().err.startswith("CUDA graphs: it looks at a value; ")


# Guidance: one formula for samplers and students, and which network can guide which


def test_one_is_the_network_and_zero_the_guide_to_the_last_bit():
    net, guide, uncond = (net.eval().requires_grad_(False) for net in (make(4), make(4, seed=1), make(0, seed=2)))
    x, sigma, labels = torch.randn(4, 1, 8, 8), torch.linspace(0.1, 1.1, 4).view(4, 1, 1, 1), torch.eye(4)
    assert same_bits(net(x, sigma, labels), GuidedDenoiser(net, guide, 1)(x, sigma, labels))
    assert same_bits(guide(x, sigma, labels), GuidedDenoiser(net, guide, 0)(x, sigma, labels))
    # A guide without classes is not given any.
    assert same_bits(uncond(x, sigma), GuidedDenoiser(net, uncond, 0)(x, sigma, labels))
    # Values and gradients of both in between and beyond.
    along = lambda network: torch.autograd.grad(network(y := x.clone().requires_grad_(), sigma, labels).sum(), y)[0]
    for value in (along, lambda network: network(x, sigma, labels)):
        expected = value(guide) + 1.7 * (value(net) - value(guide))
        assert_near(value(GuidedDenoiser(net, guide, 1.7)), expected)


@needs("transformers")
def test_a_guide_draws_the_same_kind_of_images():
    shape = {"img_resolution": 8, "img_channels": 4, "label_dim": 3}
    sd = random_network("SiTPrecond", shape | {"patch_size": 2, "hidden_size": 16, "depth": 1, "num_heads": 2})
    edm2 = random_network("EDM2Precond", EDM2 | shape)
    error = refused("EDM2", check_guide_fits, sd, edm2, "gnet")
    assert error.where == "gnet.latents"
    for guide in (sd, Unlabelled(sd)):
        check_guide_fits(sd, guide, "gnet")
