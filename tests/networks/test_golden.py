"""Parity of the networks of EDM and EDM2, and of EDM2's rewriting of weights, with the recorded official ones."""

from __future__ import annotations

import copy

import pytest
import torch

from sida.networks.official import weight_norm
from tests.golden.vectors import relative_error
from tests.networks.made import inputs, recorded_network

CASES = ["song_ddpmpp_uncond", "song_ncsnpp_uncond", "song_ddpmpp_cond", "adm_uncond_tiny"]
OUTPUT, GRADIENT = 1e-5, 1e-4


@pytest.fixture(scope="module", params=CASES)
def case(request, golden):
    arrays, info = golden(f"nets_edm/{request.param}")
    kwargs = {**info["constructor_kwargs"], "model_type": info["unet_class"]}
    net = recorded_network(arrays, info["precond_class"], kwargs)
    return net, {k: torch.tensor(v) for k, v in arrays.items()}, info


def assert_gradients(net, x, arrays, info, prefix=""):
    """Of the images, the norms of those of all parameters, and some of these."""
    gradients = {name: p.grad for name, p in net.named_parameters()}
    assert gradients.keys() == set(info["grad_norm_names"])
    norms = torch.stack([gradients[name].double().norm() for name in info["grad_norm_names"]])
    assert relative_error(norms, arrays[f"{prefix}grad_norm"]) < GRADIENT
    stored = [key for key in arrays if key.startswith(f"{prefix}grad/")]
    assert stored
    for key in stored:
        assert relative_error(gradients[key.removeprefix(f"{prefix}grad/")], arrays[key]) < GRADIENT, key
    assert relative_error(x.grad, arrays[f"{prefix}grad_x"]) < GRADIENT


@torch.no_grad()
def test_state_dict_and_outputs_without_classes_and_at_one_level(case):
    net, arrays, info = case
    assert [f"param/{name}" for name in net.state_dict()] == [key for key in arrays if key.startswith("param/")]
    assert sum(p.numel() for p in net.parameters()) == info["num_params"]
    x, sigma, labels = inputs(arrays)
    assert relative_error(net(x, 2.5, labels), arrays["out/D_x_sigma_scalar_2p5"]) < OUTPUT
    # Missing labels are a row of zeros.
    if "out/D_x_labels_none" in arrays:
        assert relative_error(net(x, sigma), arrays["out/D_x_labels_none"]) < OUTPUT


@pytest.mark.parametrize("suffix", ["", "_aug"])
@torch.no_grad()
def test_outputs_of_every_flag(case, suffix):
    net, arrays, info = case
    if f"out/D_x{suffix}" not in arrays:
        assert "augment_dim" not in info["constructor_kwargs"]
        return
    augment = arrays["in/augment_labels"] if suffix else None
    x, sigma, labels = inputs(arrays)
    image = net(x, sigma, labels, augment_labels=augment)
    both = net(x, sigma, labels, augment_labels=augment, return_flag="encoder_decoder")
    logits = net(x, sigma, labels, augment_labels=augment, return_flag="encoder")
    assert relative_error(image, arrays[f"out/D_x{suffix}"]) < OUTPUT
    assert relative_error(both[0], arrays[f"out/encoder_decoder_D_x{suffix}"]) < OUTPUT
    assert relative_error(both[1], arrays[f"out/encoder_decoder_logits{suffix}"]) < OUTPUT
    # The original crashes with 'encoder' on NCSN++; there the logits of 'encoder_decoder' are the reference.
    assert ("out/encoder_logits" + suffix in arrays) == info["encoder_flag_works"]
    expected = arrays.get("out/encoder_logits" + suffix, arrays[f"out/encoder_decoder_logits{suffix}"])
    assert logits.dtype == torch.float32
    assert relative_error(logits, expected) < OUTPUT
    raw = net.model(arrays["in/c_in"] * x, arrays["in/c_noise"], labels, augment)
    assert relative_error(raw, arrays[f"out/F_x{suffix}"]) < OUTPUT


def test_gradients(case):
    net, arrays, info = case
    x = arrays["in/x"].clone().requires_grad_()
    net.zero_grad()
    augment = arrays.get("in/augment_labels")
    image, logits = net(x, *inputs(arrays)[1:], augment_labels=augment, return_flag="encoder_decoder")
    total = (image * arrays["in/cotangent_D_x"]).sum() + (logits * arrays["in/cotangent_logits"]).sum()
    total.backward()
    assert_gradients(net, x, arrays, info)


def test_gdd_preconditioning(golden):
    arrays, info = golden("gdd/generator_precond")
    arrays = {k: torch.tensor(v) for k, v in arrays.items()}
    for name, prefix in [("GDDPrecond", "gdd"), ("EDMPrecond", "edm")]:
        net = recorded_network(arrays, name, info["constructor_kwargs"])
        for sigma in (0.002, 0.1, 0.8, 2.5, 80.0):
            with torch.no_grad():
                image = net(arrays[f"sigma{sigma}/x"], sigma, arrays["in/labels"])
            assert relative_error(image, arrays[f"sigma{sigma}/{prefix}_D_x"]) < OUTPUT
            if name == "GDDPrecond":
                found = torch.stack([c.flatten()[0] for c in net.coefficients(torch.full([1, 1, 1, 1], sigma))])
                expected = arrays[f"sigma{sigma}/c_skip_c_out_c_in_c_noise"]
                torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)


# EDM2: its U-Net, its log-variance head, and the rewriting of weights


def load(golden, name, **changes):
    arrays, info = golden(f"nets_edm2/{name}")
    kwargs, flags = dict(info["constructor_kwargs"]), {**info.get("flags_for_parameters", {}), **changes}
    if flags:
        hooked = flags["use_gan"] and flags["force_normalization"]
        kwargs["weight_norm"] = weight_norm(flags["use_gan"], "own" if hooked else None)
    net = recorded_network(arrays, "EDM2Precond", kwargs)
    assert [f"param/{name}" for name in net.state_dict()] == [key for key in arrays if key.startswith("param/")]
    return net, {k: torch.tensor(v) for k, v in arrays.items()}, info


def weights(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def changed(net, before):
    return {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}


def expected_after(arrays):
    prefix = "param_after_train_forward/"
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


@pytest.mark.parametrize("name", ["precond_uncond", "precond_cond", "sida_uncond", "sida_cond"])
@torch.no_grad()
def test_edm2_evaluation(golden, name):
    net, arrays, _ = load(golden, name)
    before = weights(net)
    image, logvar = net(*inputs(arrays), return_logvar=True)
    assert relative_error(image, arrays["out/eval_D_x"]) < OUTPUT
    assert relative_error(logvar, arrays["out/eval_logvar"]) < OUTPUT
    if name == "precond_cond":
        assert relative_error(net(*inputs(arrays)[:2]), arrays["out/eval_D_x_labels_none"]) < OUTPUT
    if name.startswith("sida"):
        logits = net(*inputs(arrays), return_flag="encoder")
        assert relative_error(logits, arrays["out/eval_encoder_logits"]) < OUTPUT
    else:
        x, sigma, labels = inputs(arrays)
        c_in, c_noise = net.coefficients(sigma.reshape(-1, 1, 1, 1))[2:]
        raw = net.unet(c_in * x, c_noise.flatten(), labels)
        assert relative_error(raw, arrays["out/eval_F_x"]) < OUTPUT
    assert not changed(net, before)


@pytest.mark.parametrize("name", ["precond_uncond", "precond_cond"])
def test_training_forward_backward_and_rewritten_weights(golden, name):
    net, arrays, info = load(golden, name)
    before = weights(net)
    net.train()
    x = arrays["in/x"].clone().requires_grad_()
    image, logvar = net(x, *inputs(arrays)[1:], return_logvar=True)
    assert relative_error(image, arrays["out/train_D_x"]) < OUTPUT
    assert relative_error(logvar, arrays["out/train_logvar"]) < OUTPUT
    ((image * arrays["in/cotangent_D_x"]).sum() + (logvar * arrays["in/cotangent_logvar"]).sum()).backward()
    assert_gradients(net, x, arrays, info, "train_")
    assert changed(net, before) == set(info["changed_by_one_train_forward"])
    for key, value in expected_after(arrays).items():
        assert relative_error(net.get_parameter(key), value) < OUTPUT, key


@pytest.mark.parametrize("name", ["sida_uncond", "sida_cond"])
@pytest.mark.parametrize("mode", ["pre_hook", "in_forward"])
def test_forced_normalisation_of_sida(golden, name, mode):
    net, arrays, info = load(golden, name)
    assert info["flags_for_parameters"] == {"use_gan": True, "force_normalization": True}
    assert net.weight_norm == "pre_hook"
    net.weight_norm = mode
    before = weights(net)
    image = net.train()(*inputs(arrays))
    assert relative_error(image, arrays["out/train_D_x_after_forced_norm"]) < OUTPUT
    after = expected_after(arrays)
    assert changed(net, before) == set(after)
    for key, value in after.items():
        assert relative_error(net.get_parameter(key), value) < OUTPUT, key


@pytest.fixture(scope="module")
def behaviour(golden):
    """The recorded table: which networks rewrite weights, by flags and by how the module was made."""
    return golden("nets_edm2/sida_uncond")[1]["weight_normalisation_behaviour"]


@pytest.mark.parametrize("row", range(12))
def test_weight_normalisation_table(golden, behaviour, row):
    case = behaviour[row]
    net, arrays, _ = load(golden, "sida_uncond", **{k: case[k] for k in ("use_gan", "force_normalization")})
    if case["how"] != "constructed" and net.weight_norm == "pre_hook":
        net.weight_norm = weight_norm(case["use_gan"], case["how"] == "deepcopied_from_train")

    found = {}
    for training in (True, False):
        trial = copy.deepcopy(net).train(training)
        before = weights(trial)
        with torch.no_grad():
            trial(*inputs(arrays))
        found[training] = bool(changed(trial, before))
    assert found == {True: case["weights_change_in_train_mode"], False: case["weights_change_in_eval_mode"]}

    net.train()
    total = net(*inputs(arrays)).sum() + net(*inputs(arrays)).sum()
    if case["backward_after_two_train_forwards"] == "ok":
        total.backward()
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            total.backward()


@torch.no_grad()
def test_always_acts_like_a_training_forward_and_settles(golden):
    net, arrays, _ = load(golden, "sida_cond")
    net.weight_norm = "always"
    assert net.init_config["kwargs"]["weight_norm"] == "always"
    expected = arrays["out/train_D_x_after_forced_norm"]
    evaluation_copy = copy.deepcopy(net)
    assert relative_error(net(*inputs(arrays)), expected) < OUTPUT
    for key, value in expected_after(arrays).items():
        assert relative_error(net.get_parameter(key), value) < OUTPUT, key
    assert relative_error(net(*inputs(arrays)), expected) < OUTPUT

    evaluation_copy = evaluation_copy.evaluation_copy()
    assert evaluation_copy.weight_norm == "off"
    first = evaluation_copy(*inputs(arrays))
    assert relative_error(first, expected) < OUTPUT
    assert torch.equal(evaluation_copy(*inputs(arrays)), first)
