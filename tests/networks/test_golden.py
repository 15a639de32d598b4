"""Parity of the networks of EDM and EDM2, and of EDM2's rewriting of weights, with the recorded official ones."""

import contextlib
import copy

import pytest
import torch

from sida.networks.official import weight_norm
from tests.golden.vectors import agree, load_tensors
from tests.near import GRADIENT, assert_near, is_copy, same_bits
from tests.networks.made import inputs, recorded_network


@pytest.fixture(
    scope="module", params=["song_ddpmpp_uncond", "song_ncsnpp_uncond", "song_ddpmpp_cond", "adm_uncond_tiny"]
)
def case(request):
    arrays, info = load_tensors(f"nets_edm/{request.param}")
    kwargs = {**info["constructor_kwargs"], "model_type": info["unet_class"]}
    return recorded_network(arrays, info["precond_class"], kwargs), arrays, info


def assert_gradients(net, x, arrays, info, prefix=""):
    """Of the images, the norms of those of all parameters, and some of these."""
    gradients = {name: p.grad for name, p in net.named_parameters()}
    assert gradients.keys() == set(info["grad_norm_names"])
    norms = torch.stack([gradients[name].double().norm() for name in info["grad_norm_names"]])
    some = {f"{prefix}grad/{name}": gradient for name, gradient in gradients.items()}
    stored = some.keys() & arrays.keys()
    assert stored
    found = {f"{prefix}grad_norm": norms, f"{prefix}grad_x": x.grad} | {key: some[key] for key in stored}
    agree(arrays, GRADIENT, **found)


@torch.no_grad()
def test_state_dict_and_outputs_of_every_flag(case):
    net, arrays, info = case
    assert [f"param/{name}" for name in net.state_dict()] == [key for key in arrays if key.startswith("param/")]
    x, sigma, labels = inputs(arrays)
    agree(arrays, out__D_x_sigma_scalar_2p5=net(x, 2.5, labels))
    # Missing labels are a row of zeros.
    if labels is not None:
        agree(arrays, out__D_x_labels_none=net(x, sigma))
    for suffix in ("", "_aug") if "augment_dim" in info["constructor_kwargs"] else ("",):
        given = {"augment_labels": arrays["in/augment_labels"] if suffix else None}
        both = net(x, sigma, labels, **given, return_flag="encoder_decoder")
        logits = net(x, sigma, labels, **given, return_flag="encoder")
        raw = net.model(arrays["in/c_in"] * x, arrays["in/c_noise"], labels, **given)
        # The original crashes with 'encoder' on NCSN++; there the logits of 'encoder_decoder' are the reference.
        alone = "encoder_logits" if info["encoder_flag_works"] else "encoder_decoder_logits"
        assert logits.dtype == torch.float32
        found = {"D_x": net(x, sigma, labels, **given), "encoder_decoder_D_x": both[0], "F_x": raw, alone: logits}
        agree(arrays, **{f"out/{name}{suffix}": value for name, value in found.items()})
        agree(arrays, **{f"out/encoder_decoder_logits{suffix}": both[1]})


def test_gradients(case):
    net, arrays, info = case
    x = arrays["in/x"].clone().requires_grad_()
    net.zero_grad()
    augment = arrays.get("in/augment_labels")
    image, logits = net(x, *inputs(arrays)[1:], augment_labels=augment, return_flag="encoder_decoder")
    ((image * arrays["in/cotangent_D_x"]).sum() + (logits * arrays["in/cotangent_logits"]).sum()).backward()
    assert_gradients(net, x, arrays, info)


@torch.no_grad()
def test_gdd_preconditioning():
    arrays, info = load_tensors("gdd/generator_precond")
    gdd, edm = (recorded_network(arrays, name, info["constructor_kwargs"]) for name in ("GDDPrecond", "EDMPrecond"))
    for sigma in (0.002, 0.1, 0.8, 2.5, 80.0):
        given = arrays[f"sigma{sigma}/x"], sigma, arrays["in/labels"]
        agree(arrays, **{f"sigma{sigma}/gdd_D_x": gdd(*given), f"sigma{sigma}/edm_D_x": edm(*given)})
        found = torch.stack([c.flatten()[0] for c in gdd.coefficients(torch.full([1, 1, 1, 1], sigma))])
        expected = arrays[f"sigma{sigma}/c_skip_c_out_c_in_c_noise"]
        assert_near(found, expected.float())


# EDM2: its U-Net, its log-variance head, and the rewriting of weights


def load(name, **changes):
    """A network, its twin with the weights from before, and arrays and facts."""
    arrays, info = load_tensors(f"nets_edm2/{name}")
    kwargs, flags = dict(info["constructor_kwargs"]), {**info.get("flags_for_parameters", {}), **changes}
    if flags:
        hooked = flags["use_gan"] and flags["force_normalization"]
        kwargs["weight_norm"] = weight_norm(flags["use_gan"], "own" if hooked else None)
    net = recorded_network(arrays, "EDM2Precond", kwargs)
    assert [f"param/{name}" for name in net.state_dict()] == [key for key in arrays if key.startswith("param/")]
    return net, copy.deepcopy(net), arrays, info


def changed(net, before):
    pairs = zip(net.named_parameters(), before.parameters(), strict=True)
    return {name for (name, now), then in pairs if not is_copy(now, then)}


def assert_rewritten(net, before, arrays):
    """The weights that a training pass rewrote, and their values, are the recorded ones."""
    prefix = "param_after_train_forward/"
    after = {key.removeprefix(prefix) for key in arrays if key.startswith(prefix)}
    assert changed(net, before) == after
    agree(arrays, **{prefix + name: net.get_parameter(name) for name in after})


@pytest.mark.parametrize("name", ["precond_uncond", "precond_cond", "sida_uncond", "sida_cond"])
@torch.no_grad()
def test_edm2_evaluation(name):
    net, before, arrays, _ = load(name)
    x, sigma, labels = inputs(arrays)
    image, logvar = net(x, sigma, labels, return_logvar=True)
    agree(arrays, out__eval_D_x=image, out__eval_logvar=logvar)
    if name == "precond_cond":
        agree(arrays, out__eval_D_x_labels_none=net(x, sigma))
    if name.startswith("sida"):
        agree(arrays, out__eval_encoder_logits=net(x, sigma, labels, return_flag="encoder"))
    else:
        c_in, c_noise = net.coefficients(sigma.reshape(-1, 1, 1, 1))[2:]
        agree(arrays, out__eval_F_x=net.unet(c_in * x, c_noise.flatten(), labels))
    assert not changed(net, before)


@pytest.mark.parametrize("name", ["precond_uncond", "precond_cond"])
def test_training_forward_backward_and_rewritten_weights(name):
    net, before, arrays, info = load(name)
    x = arrays["in/x"].clone().requires_grad_()
    image, logvar = net.train()(x, *inputs(arrays)[1:], return_logvar=True)
    agree(arrays, out__train_D_x=image, out__train_logvar=logvar)
    ((image * arrays["in/cotangent_D_x"]).sum() + (logvar * arrays["in/cotangent_logvar"]).sum()).backward()
    assert_gradients(net, x, arrays, info, "train_")
    assert_rewritten(net, before, arrays)


@pytest.mark.parametrize("name", ["sida_uncond", "sida_cond"])
@pytest.mark.parametrize("mode", ["pre_hook", "in_forward", "always"])
def test_forced_normalisation_of_sida(name, mode):
    """``always`` acts in evaluation, too, and settles; then a copy for evaluation needs no mode."""
    net, before, arrays, _ = load(name)
    assert net.weight_norm == "pre_hook"
    net.weight_norm = before.weight_norm = mode
    always = mode == "always"
    agree(arrays, out__train_D_x_after_forced_norm=net.train(not always)(*inputs(arrays)))
    assert_rewritten(net, before, arrays)
    if always:
        assert net.init_config["kwargs"]["weight_norm"] == "always"
        copied = before.evaluation_copy()
        assert copied.weight_norm == "off"
        first, second = copied(*inputs(arrays)), copied(*inputs(arrays))
        agree(arrays, out__train_D_x_after_forced_norm=net(*inputs(arrays)))
        agree(arrays, out__train_D_x_after_forced_norm=first)
        assert same_bits(first, second)


@pytest.mark.parametrize("row", range(12))
def test_weight_normalisation_table(row):
    """Which networks rewrite weights, by flags and by how the module was made."""
    case = load_tensors("nets_edm2/sida_uncond")[1]["weight_normalisation_behaviour"][row]
    net, before, arrays, _ = load("sida_uncond", **{k: case[k] for k in ("use_gan", "force_normalization")})
    if case["how"] != "constructed" and net.weight_norm == "pre_hook":
        net.weight_norm = weight_norm(case["use_gan"], case["how"] == "deepcopied_from_train")
    for mode in ("train", "eval"):
        trial = copy.deepcopy(net).train(mode == "train")
        trial(*inputs(arrays))
        assert bool(changed(trial, before)) == case[f"weights_change_in_{mode}_mode"]
    net.train()
    total = net(*inputs(arrays)).sum() + net(*inputs(arrays)).sum()
    refused = pytest.raises(RuntimeError, match="modified by an inplace operation")
    with contextlib.nullcontext() if case["backward_after_two_train_forwards"] == "ok" else refused:
        total.backward()
