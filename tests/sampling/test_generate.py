import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.config.samplers import SAMPLER_KINDS, SamplerKind
from sida.data import load_dataset
from sida.errors import UserError
from sida.sampling import NO_CLASS, SeedStreams, generate, one_step, read_sampler, to_uint8
from tests.networks.made import random_network

UNET = {"model_type": "SongUNet", "img_resolution": 8, "img_channels": 1, "augment_dim": 9, "model_channels": 16}
UNET |= {"channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.5}


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


@settings(max_examples=12, deadline=None)
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


EDM2 = {"img_resolution": 8, "img_channels": 4, "label_dim": 5, "model_channels": 8, "channel_mult": [1, 2]}
EDM2 |= {"num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 8}
FAMILIES = [("EDM2Precond", {**EDM2, "weight_norm": mode}) for mode in ("off", "in_forward", "pre_hook", "always")]
FAMILIES += [(cls, {**UNET, "label_dim": 5}) for cls in ("EDMPrecond", "GDDPrecond", "VPPrecond", "VEPrecond")]


@pytest.mark.parametrize(("cls", "kwargs"), FAMILIES, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("sampler", ["one_step:2", "heun:3,S_churn=2,guidance=1.5"])
@pytest.mark.parametrize("training", [True, False])
def test_an_image_does_not_depend_on_what_was_drawn_before(cls, kwargs, sampler, training):
    """To the last bit of the floats, for each family and mode of weight normalisation, and for guiding networks."""
    net, guide = (random_network(cls, kwargs, seed).train(training) for seed in range(2))
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def draw(seeds):
        floats = list(generate(net, seeds, sampler, 4, gnet=guide, decode=torch.clone))
        return torch.cat([batch.images for batch in floats])[-4:]

    first = draw(range(4))
    assert torch.equal(draw(range(4)), first)
    assert torch.equal(draw([*range(50, 58), *range(4)]), first)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training == training


@pytest.mark.parametrize("sampler", ["one_step", "heun:4"])
def test_other_batch_sizes_differ_by_one_level_at_most(net, sampler):
    _, reference, classes = collect(net, range(50), sampler, batch_size=64)
    for size in (1, 7, 50):
        seeds, images, again = collect(net, range(50), sampler, batch_size=size)
        assert seeds == list(range(50))
        assert torch.equal(classes, again)
        difference = (images.int() - reference.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 0.001


def test_images_are_the_quantised_generator_outputs(net):
    batch = next(iter(generate(net, [3, 4], batch_size=2)))
    streams = SeedStreams([3, 4])
    latents, classes = streams.randn((1, 8, 8)), streams.randint(10)
    assert torch.equal(batch.classes, classes)
    with torch.no_grad():
        expected = one_step(net.eval(), latents, torch.nn.functional.one_hot(classes, 10).float())
    assert torch.equal(batch.images, to_uint8(expected))
    assert batch.seeds == (3, 4)
    assert batch.images.dtype == torch.uint8


def test_the_mode_of_the_network_is_restored_and_dropout_is_off(net):
    net.train()
    first = collect(net, range(4), batch_size=4)[1]
    assert net.training
    net.eval()
    assert torch.equal(first, collect(net, range(4), batch_size=4)[1])
    assert not net.training
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


def test_fresh_noise_does_not_depend_on_the_class_rule(net):
    _, images, classes = collect(net, range(8), "heun:3,S_churn=5", batch_size=8)
    given_classes = collect(net, range(8), "heun:3,S_churn=5", batch_size=8, class_labels=classes.tolist())[1]
    assert torch.equal(images, given_classes)


def test_networks_without_classes():
    unconditional = make(label_dim=0)
    _, images, classes = collect(unconditional, range(3), class_labels="empirical", batch_size=4)
    assert (classes == NO_CLASS).all()
    assert images.shape == (3, 1, 8, 8)


def test_resampled_data_are_real_images_with_their_classes(digits):
    seeds, images, classes = collect(None, range(300), "data", dataset=digits, batch_size=64)
    real = {(row.numpy().tobytes(), int(label)) for row, label in zip(digits.images(range(1797)), digits.class_indices)}
    assert {(row.numpy().tobytes(), int(label)) for row, label in zip(images, classes)} <= real
    assert len(seeds) == 300
    shifted = collect(None, range(100, 300), "data", dataset=digits, batch_size=7)[1]
    assert torch.equal(images[100:], shifted)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one_step", {"kind": "one_step", "steps": 1, "nfe": 1, "init_sigma": 2.5}),
        ("one-step:4", {"kind": "one_step", "steps": 4, "nfe": 4}),
        ("heun", {"steps": 18, "nfe": 35}),
        ("heun:40", {"steps": 40, "nfe": 79}),
        ("heun:256,S_churn=40,S_min=0.05,S_max=50,S_noise=1.003", {"nfe": 511, "S_churn": 40, "S_min": 0.05}),
        ("heun:32,dtype=float32,guidance=1.4", {"nfe": 63, "dtype": "float32", "guidance": 1.4}),
        ("data", {"nfe": 0}),
        ({"kind": "heun", "num_steps": 10}, {"nfe": 19}),
    ],
)
def test_samplers_are_read_from_text_and_mappings(text, expected):
    sampler = read_sampler(text)
    assert {key: getattr(sampler, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("huen:18", "sampler"),
        ("heun:1", "sampler.num_steps"),
        ("heun:x", "sampler.num_steps"),
        ("heun:18,S_chrun=1", "sampler.S_chrun"),
        ("heun:18,sigma_min=100", "sampler.sigma_min"),
        ("heun:18,init_sigma=2", "sampler.init_sigma"),
        ("one_step,init_sigma=0", "sampler.init_sigma"),
        ("one_step:kernels=fast", "sampler.kernels"),
        ({"kind": "data", "kernels": "fused"}, "sampler.kernels"),
        ({"kind": "heun", "num_steps": -3}, "sampler.num_steps"),
    ],
)
def test_bad_samplers_are_errors_at_the_setting(value, place):
    with pytest.raises(UserError) as error:
        read_sampler(value)
    assert error.value.place == place


def test_a_new_kind_of_sampler_needs_its_function_and_a_line_of_the_registry(net, monkeypatch):
    kind = SamplerKind(made_by=f"{__name__}:draw_zeros", reads=frozenset({"num_steps"}), nfe=lambda steps: 3 * steps)
    monkeypatch.setitem(SAMPLER_KINDS, "zeros", kind)
    sampler = read_sampler("zeros:2")
    assert (sampler.nfe, sampler.given()) == (6, {"kind": "zeros", "num_steps": 2})
    _, images, _ = collect(net, range(3), sampler, batch_size=4)
    assert (images == 128).all()
    with pytest.raises(UserError, match="needs a network"):
        generate(None, range(3), sampler)


def draw_zeros(given):
    return torch.zeros_like(given.latents)


@pytest.mark.parametrize(
    ("kwargs", "place", "word"),
    [
        ({"batch_size": 0}, "batch size", "at least 1"),
        ({"sampler": "heun:3,guidance=2"}, "sampler", "guiding network"),
        ({"sampler": "data"}, "sampler", "data set"),
        ({"net": None}, "sampler", "needs a network"),
        ({"class_labels": "empirical"}, "class labels", "data set"),
        ({"class_labels": 10}, "class labels", "between 0 and 9"),
        ({"class_labels": [1]}, "class labels", "4 seeds"),
        ({"class_labels": "unform"}, "class labels", "uniform, balanced, empirical"),
        ({"net": make(label_dim=4), "class_labels": "empirical", "dataset": "digits"}, "class labels", "the network 4"),
        ({"net": make(label_dim=0), "class_labels": 2}, "class labels", "leave the class out"),
        ({"net": make(label_dim=0), "class_labels": "unifrom"}, "class labels", "uniform, balanced, empirical"),
    ],
)
def test_contradicting_arguments_are_errors_at_their_place(net, digits, kwargs, place, word):
    dataset = digits if kwargs.get("dataset") else None
    with pytest.raises(UserError) as error:
        generate(**{"net": net, "seeds": range(4), **kwargs, "dataset": dataset})
    assert error.value.place == place
    assert word in str(error.value)


def test_a_broken_network_is_named_by_the_seed_that_shows_it():
    broken = make()
    next(iter(broken.parameters())).data.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN or infinity for seed 5"):
        list(generate(broken, [5, 6], batch_size=2))
