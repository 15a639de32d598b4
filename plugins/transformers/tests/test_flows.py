"""Samplers on a flow's time against SiT's own, guidance by the null label, of channels and in an interval of levels."""

import pytest
import torch

import sida
from plugins.transformers.tests.test_networks import SMALL, one_hot, recorded
from sida.config.samplers import read_sampler
from sida.methods import distill
from sida.networks import build_network
from sida.networks.file import read_metadata, save_network
from sida.plugins.transformers.flows import flow
from sida.plugins.transformers.networks import SiTPrecond
from sida.sampling import SeedStreams, heun
from sida.sampling.generate import draw_batch
from sida.sampling.guidance import Guide, Unlabelled
from sida.training.iteration import Distiller
from sida.workflow.planning.costs import Costs
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.jobs import measurement, training
from tests.golden.vectors import load_tensors
from tests.near import assert_near, relative_error
from tests.networks.made import random_network
from tests.refused import command, refusal, refused
from tests.training.toy import NETWORK, SID_STUDENT, student_trainer
from tests.workflow.test_guidance import GUIDED, HEUN, SIDA
from tests.workflow.workspace import study

FLOAT32 = {"dtype": torch.float32}


@pytest.fixture(scope="module")
def sit():
    return recorded("sit_train_net")[0], load_tensors("sit/sit_train")[0]


@torch.no_grad()
@pytest.mark.parametrize(("method", "name"), [("euler", "ode_euler_10"), ("heun", "ode_heun2_10")])
def test_ordinary_samples_equal_sits(sit, method, name):
    net, arrays = sit
    images = flow(net, arrays["in/z"], one_hot(net, arrays["in/z_y"]), 9, method, **FLOAT32)
    assert_near(images, arrays[f"out/{name}"])


@pytest.mark.slow
@torch.no_grad()
def test_many_steps_of_heun_are_sits_adaptive_solver(sit):
    net, arrays = sit
    images = flow(net, arrays["in/z"], one_hot(net, arrays["in/z_y"]), 400, "heun", **FLOAT32)
    assert_near(images, arrays["out/ode_dopri5_50"])


@torch.no_grad()
def test_stochastic_samples_equal_sits(sit):
    net, arrays = sit
    fresh = iter(arrays["draw/sde"])
    labels = one_hot(net, arrays["in/z_y"])
    images = flow(net, arrays["in/z"], labels, 8, "euler_maruyama", noise=lambda x: next(fresh), **FLOAT32)
    assert_near(images, arrays["out/sde_sigma_8"])
    assert next(fresh, None) is None


class Weaker(SiTPrecond):
    """Limits of a flow, and between them other velocities."""

    def coefficients(self, sigma):
        c_skip, c_out, c_in, c_noise = super().coefficients(sigma)
        return c_skip, c_out * (1 - 0.1 / (1 + sigma)), c_in, c_noise


@torch.no_grad()
def test_velocities_run_from_noise_to_images_on_either_axis():
    for name, sign in (("sit_sigma", -1), ("sit_plain", -1), ("repa", 1)):
        net, arrays = recorded(name)
        assert net.is_flow
        for row, share in enumerate(arrays["in/t"].tolist()):
            time = share if name == "repa" else 1 - share
            labels = one_hot(net, arrays["in/y"])[row : row + 1]
            found = net.velocity(arrays["in/x"][row : row + 1], time, labels)
            assert_near(found, sign * arrays["out/velocity"][row : row + 1])
        # The same as by the denoiser, also at the end of pure noise.
        z = arrays["in/x"][:1]
        by_denoiser = (z - net(2 * z, 1.0)) / 0.5
        assert_near(net.velocity(z, 0.5), by_denoiser)
        assert_near(z - net.velocity(z, 1.0), net.from_noise(z))
    assert not recorded("dit_sigma")[0].is_flow
    assert not Weaker(**SMALL).is_flow
    assert not random_network(NETWORK["class"], NETWORK["kwargs"]).is_flow


@torch.no_grad()
def test_guidance_of_three_channels_equals_the_official_one():
    net, arrays = recorded("sit_sigma")
    half = len(arrays["in/guided_x"]) // 2
    labels = one_hot(net, arrays["in/guided_y"])
    for row in range(half):
        x, time = arrays["in/guided_x"][row : row + 1], 1 - float(arrays["in/guided_t"][row])
        own, weaker = net.velocity(x, time, labels[row : row + 1]), Unlabelled(net).velocity(x, time)
        three, every = (Guide(net, None, 1.5, n)(own, 1.0, lambda *_, out=weaker: out) for n in (3, None))
        official = -arrays["out/guided_1.5"][row : row + 1]
        assert_near(three, official)
        assert relative_error(every, official) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["heun", "flow"])
def test_guidance_acts_in_its_interval_and_channels(kind):
    net = recorded("sit_plain")[0]
    labels = one_hot(net, torch.tensor([1, 2]))

    def drawn(**given):
        sampler = read_sampler({"kind": kind, "num_steps": 4, **given})
        latents = SeedStreams([0, 1]).randn((4, 8, 8))
        return draw_batch(sampler, net, latents, labels, SeedStreams([0, 1]), Unlabelled(net))

    plain, full = drawn(), drawn(guidance=2.0)
    assert relative_error(plain, full) > 1e-3
    assert_near(drawn(guidance=2.0, guidance_min=1e6, guidance_max=2e6), plain, 1e-5)
    assert_near(drawn(guidance=2.0, guidance_min=0.0), full, 1e-5)
    assert_near(drawn(guidance=2.0, guidance_channels=4), full, 1e-5)
    assert relative_error(drawn(guidance=2.0, guidance_channels=3), full) > 1e-3
    assert len({tuple(drawn(guidance=2.0, guidance_max=most).flatten().tolist()) for most in (0.1, 1.0, 100.0)}) == 3


def test_the_null_label_is_a_guide_for_heun_as_another_network(tmp_path):
    net = recorded("sit_plain")[0]
    labels, z = one_hot(net, torch.tensor([1, 2])), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        denoised = net(z, 1.0), net(z, 1.0, labels)
        assert_near(Unlabelled(net)(z, 1.0, labels), denoised[0])
        ways = {"num_steps": 3, "guide": Guide(Unlabelled(net), strength=1.5)}
        assert torch.isfinite(heun(net, z, labels, **ways)).all()
    save_network(net, tmp_path / "sit.safetensors", {})
    given = read_sampler("flow:3,guidance=1.5")
    assert (given.nfe, given.method) == (6, "heun")
    images = sida.load(tmp_path / "sit.safetensors", given, guide="null")
    assert images.guide == "null"


def test_a_student_learns_from_a_teacher_guided_by_its_null_label(tmp_path):
    kwargs = {**SMALL, "img_channels": 1, "label_dim": 10}
    net = build_network({"class": "SiTPrecond", "kwargs": kwargs})
    save_network(net, tmp_path / "sit.safetensors", {})
    settings = {"total_kimg": 0.032, "evaluation": None, "snapshot_kimg": None, "augment": None, "dropout": None}
    spec = {**SID_STUDENT, **settings, "teacher": str(tmp_path / "sit.safetensors"), "guidance": 2.0, "guide": "null"}
    trainer = student_trainer(spec)
    assert isinstance(trainer, Distiller)
    x, labels = torch.randn(4, 1, 8, 8), torch.eye(10)[:4]
    phi = trainer.true_score.net
    with torch.no_grad():
        expected = phi(x, 1.0).lerp(phi(x, 1.0, labels), 2.0)
        assert_near(trainer.true_score(x, 1.0, labels), expected)
    header = read_metadata(distill(spec, tmp_path / "run"))
    assert (header["guidance"], header["guide"], header["parents"].get("guide")) == (2.0, "null", None)
    plain = read_metadata(distill({**spec, "guidance": 1.0, "guide": None}, tmp_path / "plain"))
    assert header["config_sha256"] != plain["config_sha256"]


FAULTS = [
    ("one", "flow:4", None, "sampler.kind: 'flow' needs networks of velocities, not EDMPrecond; use heun"),
    ("one", "heun:4,guidance=2", "null", "guide: the network was trained without dropped labels"),
    ("flow", "flow:4,guidance=2", None, "guidance: 2 needs a guiding network; name one as guide, or 'null'"),
    ("flow", "flow:1,method=euler_maruyama", None, "sampler.num_steps: must be at least 2"),
    ("flow", "flow:4,rho=7", None, "sampler.rho: a sampler of kind 'flow' does not read it"),
    ("flow", "flow:4,guidance_min=2,guidance_max=1", None, "sampler.guidance_min: 2.0 is above"),
]


@pytest.mark.parametrize(("name", "sampler", "guide", "message"), FAULTS)
def test_a_fault_is_one_line(tmp_path, name, sampler, guide, message):
    kwargs = {**SMALL, "img_channels": 1}
    made = {"one": random_network(NETWORK["class"], NETWORK["kwargs"])}
    made["flow"] = build_network({"class": "SiTPrecond", "kwargs": kwargs})
    save_network(made[name], tmp_path / "net.safetensors", {})
    flags = ["--gnet", guide] if guide else []
    out = tmp_path / "out"
    line = refusal(
        command, "sample", "--network", tmp_path / "net.safetensors", "--sampler", sampler, "--out", out, *flags
    )
    assert message.removeprefix("guide: ") in line
    assert not out.exists()


def test_a_sheet_names_the_null_label(tmp_path):
    dropped = {"teachers/digits-short/network/kwargs/label_dropout": 0.1}
    rows = {
        "plain": HEUN,
        "guided": HEUN | {"sampler": "heun-guided", "guide": "null"},
        "sida": SIDA,
        "sida-guided": SIDA | {"recipe": "sida-guided", "guide": "null"},
    }
    changes = {key: value for key, value in GUIDED.items() if key != "teachers/uncond"}
    made = study(tmp_path, {**changes, **dropped}, rows)
    check_preset(made)
    assert training(made, "sida-guided").spec["guide"] == measurement(made, "guided").spec["guide"] == "null"
    assert measurement(made, "guided").needs["teachers"] == ["digits-short"]
    assert "null" not in [name for names in measurement(made, "guided").needs.values() for name in names]
    costs = Costs(made)
    assert costs.student("sida-guided").gpu_hours > costs.student("sida").gpu_hours
    assert costs.measurement("guided").gpu_hours > 1.5 * costs.measurement("plain").gpu_hours
    told = r"run 'guided': guide: the network was trained without dropped labels"
    refused(told, lambda: check_preset(study(tmp_path / "other", changes, rows)))
