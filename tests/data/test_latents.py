import dataclasses
from types import SimpleNamespace

import numpy as np
import torch

from sida.config.families import EDM2_LATENTS
from sida.data import LatentDecoder, LatentEncoder, LatentScaling, load_dataset, load_vae
from tests.data.test_archive import npy, write_zip
from tests.refused import refused

#: First three channels × 0.1 + 0.5, as in the golden recording.
STAND_IN = SimpleNamespace(decode=lambda x: SimpleNamespace(sample=x[:, :3] * 0.1 + 0.5))


def test_scaling_and_decoding_match_the_golden_ones(golden):
    arrays, _ = golden("losses_edm2/latent_scaling")
    scaling = LatentScaling()
    np.testing.assert_allclose(scaling.scale, arrays["scale"], rtol=1e-6)
    np.testing.assert_allclose(scaling.bias, arrays["bias"], rtol=1e-6)
    noise = torch.from_numpy(arrays["draw/00_randn_like"])
    latents = scaling.sample(torch.from_numpy(arrays["in/raw_mean_std"]), lambda x: noise)
    np.testing.assert_allclose(latents, arrays["out/latents"], atol=1e-5)
    np.testing.assert_allclose(scaling.to_raw(latents), arrays["fake_vae_input"], atol=1e-4)
    pixels = LatentDecoder(STAND_IN, batch_size=2)(torch.from_numpy(arrays["out/latents"]))
    np.testing.assert_array_equal(pixels, arrays["out/decoded_uint8_with_fake_vae"])


def test_decoded_bytes_follow_the_official_rule(golden):
    arrays, _ = golden("generation/uint8_quantisation")
    identity = SimpleNamespace(decode=lambda x: SimpleNamespace(sample=x))
    decode = LatentDecoder(identity, dataclasses.replace(EDM2_LATENTS, raw_mean=(0.0,), raw_std=(0.5,)))
    for name in ("q", "ramp"):
        values = torch.from_numpy(arrays[name])[None, None, None]
        np.testing.assert_array_equal(decode(values)[0, 0, 0], arrays[f"{name}/uint8_latent_decoder"])


def test_a_latent_archive_gives_moments_and_samples_them(tmp_path):
    moments = np.random.default_rng(0).normal(size=(3, 8, 4, 4)).astype(np.float32)
    path = write_zip(tmp_path / "latents.zip", {f"{i}.npy": npy(item) for i, item in enumerate(moments)})
    data = load_dataset({"name": "img512", "kind": "zip", "path": path, "channels": 8, "resolution": 4})
    assert not data.is_pixels
    assert data.network_shape == (4, 4, 4)
    batch = data.images([2, 0])
    np.testing.assert_array_equal(batch, moments[[2, 0]])
    assert torch.equal(data.network_input(batch, torch.ones_like), LatentScaling().sample(batch, torch.ones_like))
    assert not torch.equal(data.network_input(batch), data.network_input(batch))
    # Neither mirrored nor those of another autoencoder.
    spec = {"name": "img512", "kind": "zip", "path": path}
    assert refused("xflip has no meaning", load_dataset, spec | {"xflip": True}).place == path
    other = write_zip(tmp_path / "other.zip", {"0.npy": npy(np.zeros((32, 4, 4), np.float32))})
    assert refused("32 channels.*sida data encode", load_dataset, spec | {"path": other}).place == other


def test_decode_and_encode_with_a_real_autoencoder_of_random_weights(tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    net = AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4).eval()
    net.save_pretrained(tmp_path / "vae")
    vae = load_vae(str(tmp_path / "vae"))
    latents = torch.randn(9, 4, 4, 4)
    images = LatentDecoder(vae)(latents)
    with torch.no_grad():
        raw = net.decode(LatentScaling().to_raw(latents)).sample
        moments = net.encode(images.float() / 255).latent_dist
    assert torch.equal(images, (raw.clamp(0, 1) * 255).to(torch.uint8))
    torch.testing.assert_close(LatentEncoder(vae)(images), torch.cat([moments.mean, moments.std], 1))
    assert not vae.training
    assert not any(p.requires_grad for p in vae.parameters())
    # A folder from elsewhere may hold pickles, which are not read.
    net.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    for name in ("pickled", "missing"):
        error = refused(r"cannot load the VAE .*sida assets fetch", load_vae, str(tmp_path / name))
        assert error.place == str(tmp_path / name)
