"""Parity of EDM2's U-Net, its log-variance head and the rewriting of weights with the recorded official networks."""

from __future__ import annotations

import copy

import pytest
import torch

from sida.networks import build_network, copied_weight_norm, official_weight_norm
from tests.golden.vectors import relative_error
from tests.networks.made import inputs, recorded_network

OUTPUT, GRADIENT = 1e-5, 1e-4


def load(golden, name, **changes):
    arrays, info = golden(f"nets_edm2/{name}")
    kwargs = {**info["constructor_kwargs"], **info.get("flags_for_parameters", {}), **changes}
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
def test_evaluation(golden, name):
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
    assert relative_error(x.grad, arrays["train_grad_x"]) < GRADIENT
    gradients = {n: p.grad for n, p in net.named_parameters()}
    assert set(gradients) == set(info["grad_norm_names"])
    norms = torch.stack([gradients[n].double().norm() for n in info["grad_norm_names"]])
    assert relative_error(norms, arrays["train_grad_norm"]) < GRADIENT
    for key in (k for k in arrays if k.startswith("train_grad/")):
        assert relative_error(gradients[key.removeprefix("train_grad/")], arrays[key]) < GRADIENT, key
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
    assert net.weight_norm == official_weight_norm(case["use_gan"], case["force_normalization"])
    if case["how"] != "constructed":
        net.train(case["how"] == "deepcopied_from_train")
        mode = copied_weight_norm(net.weight_norm, net.training)
        net = copy.deepcopy(net)
        net.weight_norm = mode

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

    evaluation_copy.stop_rewriting()
    assert evaluation_copy.weight_norm == "off"
    first = evaluation_copy(*inputs(arrays))
    assert relative_error(first, expected) < OUTPUT
    assert torch.equal(evaluation_copy(*inputs(arrays)), first)


@torch.no_grad()
def test_without_logvar_head(golden):
    net, arrays, _ = load(golden, "sida_cond")
    plain = build_network({"class": "EDM2Precond", "kwargs": {**net.init_config["kwargs"], "logvar_channels": None}})
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("logvar")}, strict=True)
    plain.eval()
    assert torch.equal(plain(*inputs(arrays)), net(*inputs(arrays)))
