"""Samplers and random streams against golden vectors; samplers in words."""

import dataclasses

import pytest
import torch

from sida.config.samplers import SAMPLER_KINDS, Sampler
from sida.sampling import SeedStreams, heun, one_step, read_sampler, sigma_steps, to_uint8
from sida.sampling.generate import DRAWINGS
from sida.sampling.guidance import Guide
from tests.near import FLOAT32, assert_levels, assert_near, same_bits, same_integers
from tests.networks.made import SMALL, random_network, recorded_network
from tests.refused import refused
from tests.slow import quick_but


def calls_of(net):
    """Inputs, levels and outputs of a network's calls, as a list that grows."""
    calls = []
    net.register_forward_hook(lambda module, given, denoised: calls.append((given[0], float(given[1]), denoised)))
    return calls


def load(kwargs, arrays, prefix, cls="EDMPrecond"):
    return recorded_network(arrays, cls, kwargs, prefix).requires_grad_(False)


#: Normal draws have the last digits of the processor's vector unit (logarithm and cosine).
DRAWN = 1e-5
CASES = {
    "edm": ["heun18", "heun40", "heun5_sigma", "churn18", "churn6_big"],
    "edm2": ["heun32", "heun64", "guided32", "f64_8", "churn8"],
}


def assert_same_levels(images, recorded):
    assert_levels(to_uint8(images).permute(0, 2, 3, 1), recorded)


@pytest.mark.parametrize(
    ("name", "family"),
    quick_but({"heun40", "heun64"}, [(name, family) for family, names in CASES.items() for name in names]),
)
def test_trajectories_match_the_golden_ones(golden, family, name):
    arrays, info = golden(f"sampler/heun_{family}")
    assert set(info["cases"]) == set(CASES[family])
    settings, given = dict(info["cases"][name]), "in/latents" if family == "edm" else "in/noise"
    settings.pop("randn_like_calls", None)
    if family == "edm":
        net = load(info["constructor_kwargs"], arrays, "param/")
    else:
        net = load(info["net_kwargs"], arrays, "net/", "EDM2Precond")
        gnet = load(info["gnet_kwargs"], arrays, "gnet/", "EDM2Precond")
        dtype = torch.float64 if "dtype" in settings else torch.float32
        labels_g = torch.from_numpy(arrays["in/labels"]) if gnet.label_dim else None
        settings |= {
            "dtype": dtype,
            "guide": Guide(gnet, labels_g, settings.pop("guidance", 1.0)),
            "noise_every_step": False,
        }
    recorded = iter(torch.from_numpy(arrays[f"{name}/noise"]) if f"{name}/noise" in arrays else ())
    latents, labels, calls = torch.from_numpy(arrays[given]), torch.from_numpy(arrays["in/labels"]), calls_of(net)
    final = heun(net, latents, labels, noise=lambda x: next(recorded), **settings)
    assert next(recorded, None) is None, "not all recorded noise was used"
    assert final.dtype == settings.get("dtype", torch.float64)
    assert len(calls) == 2 * settings["num_steps"] - 1
    assert_near([sigma for _, sigma, _ in calls], arrays[f"{name}/call_sigma"], 1e-6, each=True)
    inputs, _, outputs = zip(*(calls[index] for index in arrays[f"{name}/call_index"]))
    assert_near(torch.stack(inputs), arrays[f"{name}/call_x"])
    assert_near(torch.stack(outputs), arrays[f"{name}/call_D"])
    assert_near(final, arrays[f"{name}/final"], FLOAT32)
    if family == "edm":
        assert_same_levels(final, arrays[f"{name}/final_uint8"])


def test_sigma_steps_match_the_golden_tables(golden):
    tables = {**golden("schedules/edm_sigma_steps")[0], **golden("schedules/edm2_sigma_steps")[0]}
    for key, expected in tables.items():
        dtype, rtol = (torch.float32, 1e-6) if key.endswith("f32") else (torch.float64, 1e-12)
        assert_near(sigma_steps(len(expected) - 1, dtype=dtype), expected, rtol, each=True, name=key)


@pytest.mark.parametrize(
    ("cls", "limits", "wanted", "used"),
    [
        ("EDMPrecond", {"sigma_min": 0.02}, (0.002, 80), (0.02, 80)),
        ("EDMPrecond", {"sigma_min": 0.1, "sigma_max": 10}, (0.002, 80), (0.1, 10)),
    ],
)
@torch.no_grad()
def test_noise_levels_stay_within_those_of_the_network(cls, limits, wanted, used):
    net, latents = random_network(cls, {**SMALL, "label_dim": 0, **limits}), SeedStreams([0]).randn((1, 8, 8))
    calls = calls_of(net)
    images = heun(net, latents, None, 6, *wanted)
    sigmas = [sigma for _, sigma, _ in calls]
    assert (sigmas[0], max(sigmas), min(sigmas)) == pytest.approx((used[1], *used[::-1]))
    # Exactly the run that asks for the network's range itself.
    assert same_bits(images, heun(net, latents, None, 6, *used))


@pytest.mark.parametrize("name", ["onestep_uncond", "onestep_cond"])
def test_one_step_images_match_the_golden_ones(golden, name):
    arrays, info = golden(f"generation/{name}")
    net = load(info["constructor_kwargs"] | {"model_type": "SongUNet"}, arrays, "param/")
    latents = SeedStreams(info["seeds"]).randn(arrays["in/latents"].shape[1:])
    assert_near(latents, arrays["in/latents"], DRAWN)
    labels = torch.from_numpy(arrays["in/class_labels"]) if "in/class_labels" in arrays else None
    images = one_step(net, latents, labels)
    assert_near(images, arrays["out/images"])
    assert_same_levels(images, arrays["out/uint8_nhwc"])
    if labels is not None:
        fifth = torch.nn.functional.one_hot(torch.full((8,), 5), 10).float()
        assert_near(one_step(net, latents, fifth), arrays["out/images_class5"])


def test_streams_match_the_official_ones(golden):
    arrays, info = golden("generation/stacked_random_generator")
    streams = SeedStreams(info["seeds"])
    assert_near(streams.randn((3, 8, 8)), arrays["latents"], DRAWN)
    assert same_integers(streams.randint(10), arrays["class_idx_10"])
    assert_near(streams.randn((3, 8, 8)), arrays["second_randn"], DRAWN)
    wrapped = SeedStreams(arrays["wrap_seeds"]).randn(arrays["wrap_latents"].shape[1:])
    assert_near(wrapped, arrays["wrap_latents"], DRAWN)


def test_quantisation_follows_the_official_table(golden):
    arrays, _ = golden("generation/uint8_quantisation")
    for name in ("q", "ramp"):
        values = torch.from_numpy(arrays[name])
        assert same_integers(to_uint8(values), arrays[f"{name}/uint8_f32"])
        assert same_integers(to_uint8(values.double()), arrays[f"{name}/uint8_f64"])
    assert same_integers(to_uint8(torch.from_numpy(arrays["roundtrip_float"])), arrays["roundtrip_uint8_f32"])
    assert same_integers(arrays["roundtrip_uint8_f32"], arrays["roundtrip_in"])
    # NaN becomes black.
    assert to_uint8(torch.tensor([float("nan"), float("inf"), -float("inf")])).tolist() == [0, 255, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one_step", {"kind": "one_step", "steps": 1, "nfe": 1, "init_sigma": 2.5}),
        ("one-step:4", {"kind": "one_step", "steps": 4, "nfe": 4}),
        ("heun", {"steps": 18, "nfe": 35}),
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
        ("huen:18", "sampler"), ("heun:1", "sampler.num_steps"), ("heun:18,sigma_min=100", "sampler.sigma_min"),
        ("heun:18,init_sigma=2", "sampler.init_sigma"), ("one_step,init_sigma=nan", "sampler.init_sigma"),
        ("one_step:" + "9" * 30, "sampler.num_steps"), ("one_step:kernels=fast", "sampler.kernels"),
        ("heun:18,S_churn=40,S_min=5,S_max=1", "sampler.S_min"),
        ({"kind": "data", "kernels": "fused"}, "sampler.kernels"),
    ],
)  # fmt: skip
def test_bad_samplers_are_errors_at_the_setting(value, place):
    assert refused("", read_sampler, value).where == place


def test_each_kind_of_sampler_has_its_facts_and_its_computation():
    assert [*DRAWINGS] == [name for name, kind in SAMPLER_KINDS.items() if kind.network]
    read = {name for kind in SAMPLER_KINDS.values() for name in kind.settings}
    assert read | {"method", "last_step"} == {field.name for field in dataclasses.fields(Sampler)} - {"kind"}
    for name, kind in SAMPLER_KINDS.items():
        sampler = Sampler(kind=name)
        assert (sampler.steps, sampler.needs_network) == (kind.steps, kind.network)
        assert sampler.nfe == {"heun": 35, "flow": 500, "data": 0}.get(name, kind.steps)
        explicit = sampler.explicit_settings()
        assert read_sampler(explicit) == Sampler(kind=name, num_steps=explicit.get("num_steps"))
        for setting in read - {*kind.settings}:
            unread = {"kind": name, setting: getattr(sampler, setting)}
            refused(f"sampler.{setting}: .*'{name}' does not read", read_sampler, unread)


@pytest.mark.parametrize(("level", "is_guided"), [(0.9, False), (1.0, True), (2.0, True), (3.0, True), (3.1, False)])
def test_guidance_holds_from_its_lowest_to_its_highest_level(level, is_guided):
    guide = Guide(None, strength=2.0, lowest=1.0, highest=3.0)
    own, other = torch.full((1, 1, 1, 1), 5.0), torch.full((1, 1, 1, 1), 3.0)
    assert float(guide(own, level, lambda net, labels: other)) == (7.0 if is_guided else 5.0)
