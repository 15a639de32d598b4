"""Parity of the EDM U-Nets and preconditioning with the recorded official networks."""

from __future__ import annotations

import pytest
import torch

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
    assert relative_error(x.grad, arrays["grad_x"]) < GRADIENT
    gradients = {name: p.grad for name, p in net.named_parameters()}
    assert list(gradients) == info["grad_norm_names"]
    norms = torch.stack([g.double().norm() for g in gradients.values()])
    assert relative_error(norms, arrays["grad_norm"]) < GRADIENT
    stored = [k for k in arrays if k.startswith("grad/")]
    assert stored
    for key in stored:
        assert relative_error(gradients[key.removeprefix("grad/")], arrays[key]) < GRADIENT, key


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
