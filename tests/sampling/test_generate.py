"""Images by seed: independent of batch, order and earlier draws; class rules, data, decoders, replayed graphs."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.data import load_dataset
from sida.errors import UserError
from sida.kernels import require_fused, unavailable_reason
from sida.machine import RecordingError
from sida.networks.edm_unet import UNetBlock
from sida.networks.unet import UNet
from sida.sampling import NO_CLASS, Drawer, Sampler, SeedStreams, one_step, to_uint8
from sida.sampling.generate import Evaluations
from sida.sampling.samplers import GuidedDenoiser, check_guide_fits
from tests.networks.made import random_network
from tests.refused import refused
from tests.sampling.images import generate
from tests.training.test_rounds import StandIn

UNET = {"model_type": "SongUNet", "img_resolution": 8, "img_channels": 1, "augment_dim": 9, "model_channels": 16}
UNET |= {"channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.5}
EDM2 = {"img_resolution": 8, "img_channels": 4, "label_dim": 5, "model_channels": 8, "channel_mult": [1, 2]}
EDM2 |= {"num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 8}
ONE_STEP = Sampler(kind="one_step")


def make(label_dim=10, seed=0, **kwargs):
    return random_network("EDMPrecond", {**UNET, "label_dim": label_dim, **kwargs}, seed).train()


@pytest.fixture(scope="module")
def net():
    return make()


@pytest.fixture(scope="module")
def digits():
    return load_dataset({"name": "digits", "kind": "digits"})


def collect(*args, **kwargs):
    batches = list(generate(*args, **kwargs))
    seeds = [seed for batch in batches for seed in batch.seeds]
    return seeds, torch.cat([b.images for b in batches]), torch.cat([b.classes for b in batches])


def drawn(drawer, *arguments, **options):
    return torch.cat([batch.images for batch in drawer.draw(*arguments, **options)])


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
    _, images, classes = collect(net, seeds, sampler, batch_size=16)
    by_seed = dict(zip(seeds, zip(images, classes)))
    for shard in (shuffled[:cut], shuffled[cut:]):
        for batch in generate(net, shard, sampler, batch_size=16):
            for seed, image, label in zip(*batch):
                assert torch.equal(image, by_seed[seed][0])
                assert label == by_seed[seed][1]


FAMILIES = [("EDM2Precond", {**EDM2, "weight_norm": mode}) for mode in ("off", "in_forward", "pre_hook", "always")]
FAMILIES += [(cls, {**UNET, "label_dim": 5}) for cls in ("EDMPrecond", "GDDPrecond")] + [("EDMPrecond", UNET)]


@pytest.mark.parametrize(("cls", "kwargs"), FAMILIES, ids=lambda value: value if isinstance(value, str) else "")
def test_an_image_does_not_depend_on_what_was_drawn_before(cls, kwargs):
    """To the last bit of the floats, for each family and mode of weight normalisation, and for guiding networks."""
    net, guide = (random_network(cls, kwargs, seed).train() for seed in range(2))
    before, sampler = {name: value.clone() for name, value in net.state_dict().items()}, "heun:3,S_churn=2,guidance=1.5"

    def draw(seeds, **evaluations):
        floats = generate(net, seeds, sampler, 4, gnet=guide, decode=torch.clone, **evaluations)
        return torch.cat([batch.images for batch in list(floats)])[-4:]

    first = draw(range(4))
    assert torch.equal(draw(range(4)), first)
    recorder = Recorder()
    assert torch.equal(draw([*range(50, 58), *range(4)], evaluations=Evaluations(recorder)), first)
    assert [("labels" in made) for made in recorder.made] == [bool(kwargs.get("label_dim"))] * 2
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training


@pytest.mark.parametrize("sampler", ["one_step", "heun:4"])
def test_other_batch_sizes_differ_by_one_level_at_most(net, sampler):
    _, reference, classes = collect(net, range(20), sampler, batch_size=64)
    for size in (1, 7, 20):
        seeds, images, again = collect(net, range(20), sampler, batch_size=size)
        assert seeds == list(range(20))
        assert torch.equal(classes, again)
        difference = (images.int() - reference.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.001


def test_images_are_the_quantised_generator_outputs_without_dropout(net):
    net.train()
    batch = next(iter(generate(net, [3, 4], batch_size=2)))
    assert net.training
    streams = SeedStreams([3, 4])
    latents, classes = streams.randn((1, 8, 8)), streams.randint(10)
    assert torch.equal(batch.classes, classes)
    with torch.no_grad():
        expected = one_step(net.eval(), latents, torch.nn.functional.one_hot(classes, 10).float())
    assert torch.equal(batch.images, to_uint8(expected))
    net.train()
    iterator = generate(net, range(8), batch_size=4)
    next(iterator)
    iterator.close()
    assert net.training
    assert torch.is_grad_enabled()


def test_class_rules(net, digits):
    seeds = range(600)
    _, images, uniform = collect(net, seeds)
    assert uniform.bincount(minlength=10).min() > 30
    _, _, empirical = collect(net, seeds, class_labels="empirical", dataset=digits)
    pool = digits.class_indices
    picked = SeedStreams(seeds)
    picked.randn((1, 8, 8))
    assert torch.equal(empirical, pool[picked.randint(len(pool))])
    _, threes, classes = collect(net, seeds, class_labels=3)
    assert (classes == 3).all()
    assert torch.equal(threes[uniform == 3], images[uniform == 3])
    wanted = [int(seed) % 10 for seed in seeds]
    assert collect(net, seeds, class_labels=wanted, batch_size=50)[2].tolist() == wanted
    # The classes' draws leave fresh noise as it is.
    noisy = collect(net, range(8), "heun:3,S_churn=5", batch_size=8)[1]
    assert torch.equal(noisy, collect(net, range(8), "heun:3,S_churn=5", 8, uniform[:8].tolist())[1])
    _, images, none = collect(make(label_dim=0), range(3), class_labels="empirical", batch_size=4)
    assert (none == NO_CLASS).all()
    assert images.shape == (3, 1, 8, 8)


def test_resampled_data_are_real_images_with_their_classes(digits):
    seeds, images, classes = collect(None, range(300), "data", dataset=digits, batch_size=64)
    real = {(row.numpy().tobytes(), int(label)) for row, label in zip(digits.images(range(1797)), digits.class_indices)}
    assert {(row.numpy().tobytes(), int(label)) for row, label in zip(images, classes)} <= real
    assert len(seeds) == 300
    assert torch.equal(images[100:], collect(None, range(100, 300), "data", dataset=digits, batch_size=7)[1])
    assert torch.equal(Drawer(Sampler(kind="data"), dataset=lambda: digits).real([5, 2]), digits.images([5, 2]))
    with pytest.raises(UserError, match="there is no data set"):
        Drawer(Sampler(kind="data")).real([0])


@pytest.mark.parametrize(
    ("kwargs", "place", "word"),
    [
        ({"sampler": "heun:3,guidance=2"}, "sampler", "guiding network"),
        ({"sampler": "heun:3", "gnet": make()}, "guiding network", "guidance of 1"),
        ({"sampler": "data"}, "sampler", "data set"),
        ({"class_labels": "empirical"}, "class labels", "data set"),
        ({"class_labels": 10}, "class labels", "between 0 and 9"),
        ({"class_labels": [1]}, "class labels", "4 seeds"),
        ({"net": make(label_dim=4), "class_labels": "empirical", "dataset": "digits"}, "class labels", "the network 4"),
        ({"net": make(label_dim=0), "class_labels": 2}, "class labels", "leave the class out"),
        ({"sampler": "one_step:kernels=fused"}, "sampler.kernels", "on a GPU"),
    ],
)
def test_contradicting_arguments_are_errors_at_their_place(net, digits, kwargs, place, word):
    dataset = digits if kwargs.get("dataset") else None
    error = refused("", generate, **{"net": net, "seeds": range(4), **kwargs, "dataset": dataset})
    assert error.place == place
    assert word in str(error)


def test_a_broken_network_is_named_by_the_seed_that_shows_it():
    broken = make()
    next(iter(broken.parameters())).data.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN or infinity for seed 5"):
        list(generate(broken, [5, 6], batch_size=2))


def test_a_drawer_opens_data_and_decoder_once_and_only_where_a_draw_needs_them(digits, net, monkeypatch):
    opened = []
    drawer = Drawer(ONE_STEP, net, dataset=lambda: opened.append(1) or digits)
    assert torch.equal(drawn(drawer, range(5), 2), collect(net, range(5), ONE_STEP, 2)[1])
    assert (opened, drawer.label_dim) == ([], 10)
    assert torch.equal(
        drawn(drawer, range(5), 2, "empirical"), collect(net, range(5), ONE_STEP, 2, "empirical", digits)[1]
    )
    assert opened == [1]
    assert not drawer.draws_latents
    decoder = lambda latents: latents[:, :3].clamp(0, 1).mul(255).to(torch.uint8)
    monkeypatch.setattr(sys.modules[Drawer.__module__], "open_decoder", lambda *asked: opened.append(asked) or decoder)
    drawer = Drawer(ONE_STEP, make(img_channels=4), vae="folder")
    assert drawer.draws_latents
    assert opened == [1]
    assert drawn(drawer, range(3), 2).shape == drawn(drawer, range(3), 3).shape == (3, 3, 8, 8)
    assert opened == [1, ("folder", "cpu")]


class Recorder:
    """Runs functions on memory that stays the same, as CUDA graphs do; the shapes of their inputs."""

    def __init__(self):
        self.made = []

    def __call__(self, function, inputs):
        self.made.append({name: tuple(tensor.shape) for name, tensor in inputs.items()})
        return StandIn(function, inputs)


def test_a_network_is_recorded_where_that_pays_and_again_for_another_shape_or_network(monkeypatch):
    net, recorder = make(), Recorder()
    monkeypatch.setattr(Evaluations, "on", classmethod(lambda cls, device: cls(recorder)))
    drawer = Drawer(ONE_STEP, net)
    drawn(drawer, range(7), 4)
    assert not recorder.made
    for _ in range(5):
        before = drawn(drawer, range(8), 4)
    drawn(drawer, range(8), 8)
    assert [made["x"][0] for made in recorder.made] == [4, 8]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    after = drawn(drawer, range(8), 4)
    assert not torch.equal(after, before)
    assert torch.equal(after, collect(net, range(8), ONE_STEP, 4, evaluations=Evaluations())[1])
    assert len(recorder.made) == 2
    drawer.net = make(seed=3)
    drawn(drawer, range(40), 4)
    assert len(recorder.made) == 3


def test_a_network_that_cannot_be_recorded_is_drawn_kernel_by_kernel(net, capsys):
    def refuse(function, inputs):
        raise RecordingError("it looks at a value")

    refused = collect(net, range(40), "one_step", 4, evaluations=Evaluations(refuse))[1]
    assert torch.equal(refused, collect(net, range(40), "one_step", 4)[1])
    assert capsys.readouterr().err.startswith("CUDA graphs: it looks at a value; ")


def test_fused_kernels_for_a_while_leave_a_network_as_it_was():
    if unavailable_reason() is not None:
        pytest.skip(str(unavailable_reason()))
    net, fused_kernels = make(), require_fused().fused_kernels
    block = next(module for module in net.modules() if isinstance(module, UNetBlock))
    unet = next(module for module in net.modules() if isinstance(module, UNet))
    before = [dict(vars(module)) for module in net.modules()]
    with fused_kernels(net):
        replaced = block.compute
        assert "_edm_block" in str(replaced)
        assert "_join_edm" in str(unet.join)
        with fused_kernels(net):
            assert block.compute is replaced
        assert block.compute is replaced
    assert [dict(vars(module)) for module in net.modules()] == before


# Guidance: one formula for samplers and students, and which network can guide which

LABELS = torch.eye(4)
LEVELS = torch.linspace(0.1, 1.1, 4).view(4, 1, 1, 1)


@pytest.fixture(scope="module")
def networks():
    return [net.eval().requires_grad_(False) for net in (make(4), make(4, seed=1), make(0, seed=2))]


def test_one_is_the_network_and_zero_the_guide_to_the_last_bit(networks):
    net, guide, uncond = networks
    x, sigma = torch.randn(4, 1, 8, 8), LEVELS
    assert torch.equal(GuidedDenoiser(net, guide, 1)(x, sigma, LABELS), net(x, sigma, LABELS))
    assert torch.equal(GuidedDenoiser(net, guide, 0)(x, sigma, LABELS), guide(x, sigma, LABELS))
    # A guide without classes is not given any.
    assert torch.equal(GuidedDenoiser(net, uncond, 0)(x, sigma, LABELS), uncond(x, sigma))
    assert not torch.equal(GuidedDenoiser(net, guide, 2)(x, sigma, LABELS), net(x, sigma, LABELS))


def test_gradients_pass_both_networks(networks):
    net, guide, _ = networks
    x, sigma = torch.randn(4, 1, 8, 8), LEVELS
    along = lambda network: torch.autograd.grad(network(y := x.clone().requires_grad_(), sigma, LABELS).sum(), y)[0]
    expected = along(guide) + 1.7 * (along(net) - along(guide))
    torch.testing.assert_close(along(GuidedDenoiser(net, guide, 1.7)), expected, atol=1e-5, rtol=1e-5)


def test_a_guide_for_other_images_is_refused(networks):
    net, _, uncond = networks
    check_guide_fits(net, uncond, "guide")
    for place, call in (
        ("guide", lambda: check_guide_fits(net, make(3), "guide")),
        ("guiding network", lambda: generate(uncond, range(2), "heun:3,guidance=2", gnet=net)),
    ):
        assert refused("", call).place == f"{place}.label_dim"
