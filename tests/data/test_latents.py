import dataclasses
import json
import os
import signal
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sida.config.families import EDM2_LATENTS, LATENTS, SD_LATENTS
from sida.config.samplers import read_sampler
from sida.data import LatentDecoder, LatentEncoder, LatentScaling, load_dataset
from sida.data.dataset import InMemory
from sida.data.pictures import encode_png
from sida.data.prepare import encode_dataset
from sida.eval.measuring.generators import DataSource
from sida.eval.measuring.protocol import load_protocol
from sida.eval.results.identity import comparable
from sida.methods.method import Exposure
from sida.methods.registry import exposure_of_training
from sida.networks import build_network
from sida.networks.file import read_metadata
from sida.sampling import Drawer
from sida.training import train_teacher
from sida.training.run_folder import check_shapes
from tests.data.test_archive import npy, write_zip
from tests.near import assert_levels, assert_near, is_copy, same_bits
from tests.networks.made import SMALL, random_network
from tests.plugins import needs
from tests.refused import refused
from tests.training.toy import fork, wait

#: First three channels × 0.1 + 0.5, as in the golden recording.
STAND_IN = SimpleNamespace(decode=lambda x: SimpleNamespace(sample=x[:, :3] * 0.1 + 0.5))


def test_scaling_and_decoding_match_the_golden_ones(golden):
    arrays, _ = golden("losses_edm2/latent_scaling")
    scaling = LatentScaling()
    assert_near(scaling.scale, arrays["scale"])
    assert_near(scaling.bias, arrays["bias"])
    noise = torch.from_numpy(arrays["draw/00_randn_like"])
    latents = scaling.sample(torch.from_numpy(arrays["in/raw_mean_std"]), lambda x: noise)
    assert_near(latents, arrays["out/latents"])
    assert_near(scaling.to_raw(latents), arrays["fake_vae_input"])
    pixels = LatentDecoder(STAND_IN, batch_size=2)(torch.from_numpy(arrays["out/latents"]))
    assert_levels(pixels, arrays["out/decoded_uint8_with_fake_vae"])


def test_decoded_bytes_follow_the_official_rule(golden):
    arrays, _ = golden("generation/uint8_quantisation")
    identity = SimpleNamespace(decode=lambda x: SimpleNamespace(sample=x))
    decode = LatentDecoder(identity, dataclasses.replace(EDM2_LATENTS, raw_mean=(0.0,), raw_std=(0.5,)))
    for name in ("q", "ramp"):
        values = torch.from_numpy(arrays[name])[None, None, None]
        assert_levels(decode(values)[0, 0, 0], arrays[f"{name}/uint8_latent_decoder"])


def made_moments(count: int, spread: str = "std") -> np.ndarray:
    """Moments with the scatter of an autoencoder's, whose deviations are positive."""
    rng = np.random.default_rng(0)
    second = rng.uniform(0.01, 0.4, (count, 4, 4, 4)) if spread == "std" else rng.normal(-6, 3, (count, 4, 4, 4))
    return np.concatenate([rng.normal(0, 4.5, (count, 4, 4, 4)), second], 1).astype(np.float32)


def test_a_latent_archive_gives_moments_and_samples_them(tmp_path):
    moments = made_moments(3)
    path = write_zip(tmp_path / "latents.zip", {f"{i}.npy": npy(item) for i, item in enumerate(moments)})
    data = load_dataset({"name": "img512", "kind": "zip", "path": path, "channels": 8, "resolution": 4})
    assert not data.is_pixels
    assert data.network_shape == (4, 4, 4)
    batch = data.images([2, 0])
    assert is_copy(batch, moments[[2, 0]])
    assert_near(data.network_input(batch, torch.ones_like), LatentScaling().sample(batch, torch.ones_like))
    assert not same_bits(data.network_input(batch), data.network_input(batch))
    # Neither mirrored nor those of another autoencoder.
    spec = {"name": "img512", "kind": "zip", "path": path}
    assert refused("xflip has no meaning", load_dataset, spec | {"xflip": True}).where == path
    other = write_zip(tmp_path / "other.zip", {"0.npy": npy(np.zeros((32, 4, 4), np.float32))})
    assert refused("32 channels.*sida data encode", load_dataset, spec | {"path": other}).where == other


class OnMeta:
    """An autoencoder on a device without content, which refuses tensors of another device."""

    device = torch.device("meta")

    def decode(self, x):
        assert x.device == self.device
        return SimpleNamespace(sample=x[:, :3])

    def encode(self, x):
        assert x.device == self.device
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=x[:, [0, 1, 2, 0]], std=x[:, [0, 1, 2, 0]]))


def test_an_autoencoder_gets_its_input_on_its_own_device(tmp_path, monkeypatch):
    assert LatentDecoder(OnMeta(), batch_size=2)(torch.zeros(3, 4, 2, 2)).device == OnMeta.device
    assert LatentEncoder(OnMeta())(torch.zeros(3, 3, 2, 2, dtype=torch.uint8)).device == OnMeta.device
    # Latents of a data set, which are on the processor.
    path = write_zip(tmp_path / "latents.zip", {f"{i}.npy": npy(item) for i, item in enumerate(made_moments(3))})
    monkeypatch.setattr("sida.sampling.generate.load_vae", lambda path, device: OnMeta())
    data = load_dataset({"name": "img512", "kind": "zip", "path": path})
    drawer = Drawer(read_sampler("data"), dataset=lambda: data, vae="vae", device="meta")
    (batch,) = drawer.draw(range(2), 2, output_device="meta")
    assert batch.images.shape == (2, 3, 4, 4)


class Halves:
    """Autoencoder whose latents are means of 8 × 8 pixels, as they are given to it."""

    def encode(self, x):
        self.given = x
        small = torch.nn.functional.avg_pool2d(x, 8)
        mean = torch.cat([small, small[:, :1]], 1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.full_like(mean, 0.5)))

    def decode(self, x):
        return SimpleNamespace(sample=x[:, :3])


def encoded(folder, kind):
    """An archive of latents of a kind, with the pixels and the values that its autoencoder was given."""
    pixels, vae = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), dtype=np.uint8), Halves()
    path, latents = str(folder / f"{kind}.zip"), LATENTS[kind]
    registered = {"latents": latents, "autoencoder": latents.decoders[0]}
    encode_dataset(InMemory("rgb", pixels, None), path, LatentEncoder(vae, latents), **registered)
    return path, torch.from_numpy(pixels).float(), getattr(vae, "given", None)


def test_an_encoding_that_is_killed_leaves_no_archive_and_the_next_one_has_the_same_bytes(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = Path(encoded(tmp_path / "whole", "sd")[0]).read_bytes()

    def killed_at(member):
        write, calls = zipfile.ZipFile.writestr, []

        def writestr(archive, *given):
            calls.append(given)
            if len(calls) == member:
                os.kill(os.getpid(), signal.SIGKILL)
            write(archive, *given)

        zipfile.ZipFile.writestr = writestr
        encoded(tmp_path, "sd")
        return 0

    # Three latents, their labels, and the file that says their kind.
    for member in (1, 4, 5):
        assert wait(fork(lambda member=member: killed_at(member), tmp_path / "log")) == -signal.SIGKILL
        assert not (tmp_path / "sd.zip").exists()
    assert Path(encoded(tmp_path, "sd")[0]).read_bytes() == whole


def test_an_archive_records_the_latents_of_other_networks_than_edm2s(tmp_path):
    path, pixels, given = encoded(tmp_path, "sd")
    assert_near(given, pixels / 127.5 - 1)
    data = load_dataset({"name": "x", "kind": "zip", "path": path, "latents": "sd"})
    assert data.latents == load_dataset({"name": "x", "kind": "zip", "path": path}).latents == "sd"
    batch = data.images([0, 2])
    expected = (batch[:, :4] + batch[:, 4:]) * 0.18215  # facebookresearch/DiT:train.py
    assert_near(data.network_input(batch, torch.ones_like), expected)
    # EDM2's archives have the bytes of EDM2's tool; without a record the data set's settings say the kind.
    path, pixels, given = encoded(tmp_path, "edm2")
    assert_near(given, pixels / 255)
    assert not any("latents" in name for name in zipfile.ZipFile(path).namelist())
    assert load_dataset({"name": "x", "kind": "zip", "path": path}).latents == "edm2"
    assert load_dataset({"name": "x", "kind": "zip", "path": path, "latents": "sd"}).latents == "sd"


#: Autoencoders as they are named where latents are made, and whether they are registered for the kind.
ENCODERS = [
    *(("edm2", "sd-vae-ft-mse", True), ("edm2", "sd-vae-ft-ema", False), ("edm2", None, False)),
    *(("sd", "sd-vae-ft-mse", True), ("sd", "sd-vae-ft-ema", True), ("sd", "vae", False), ("sd", None, False)),
]


@pytest.mark.parametrize(("kind", "autoencoder", "registered"), ENCODERS)
@needs("transformers")
def test_a_network_that_learns_from_latents_of_another_encoder_has_an_unknown_exposure(
    tmp_path, kind, autoencoder, registered
):
    """Also images that are decoded from them."""
    path, pixels = str(tmp_path / "x.zip"), np.random.default_rng(1).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)
    encoder = LatentEncoder(Halves(), LATENTS[kind])
    encode_dataset(InMemory("rgb", pixels, None), path, encoder, latents=LATENTS[kind], autoencoder=autoencoder)
    data = {"name": "x", "kind": "zip", "path": path}
    assert load_dataset(data).foreign_encoder == (not registered)
    assert DataSource(load_dataset(data)).saw == ("" if registered else "unknown")
    sizes = {"img_resolution": 2, "img_channels": 4, "label_dim": 0}
    unet = {"class": "EDMPrecond", "kwargs": {**SMALL, **sizes, "channel_mult": [1], "attn_resolutions": []}}
    transformer = {"patch_size": 1, "hidden_size": 8, "depth": 1, "num_heads": 1}
    network = unet if kind == "edm2" else {"class": "SiTPrecond", "kwargs": {**sizes, **transformer}}
    spec = {"name": "t", "dataset": data, "network": network, "total_kimg": 0.004, "batch_size": 4, "seed": 1}
    header = read_metadata(train_teacher({**spec, "tick_kimg": 0.004, "lr": 1e-4}, tmp_path / "t"))
    assert exposure_of_training(header) == (Exposure() if registered else None)


@pytest.mark.parametrize(("encoder", "foreign"), [("sd-vae-ft-ema", False), ("mine", True), ("", True), (None, True)])
def test_an_archive_states_its_encoder(tmp_path, encoder, foreign):
    spec = stored_moments(tmp_path / "x.zip", made_moments(2), {"kind": "sd", "encoder": encoder})
    assert load_dataset(spec).foreign_encoder == foreign
    assert not load_dataset(stored_moments(tmp_path / "y.zip", made_moments(2))).foreign_encoder


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"kind": "sdxl"}', r"of kind 'sdxl'.*sida data encode"),
        (b"{", r"latents\.json.*key 'kind'"),
        (b'["sd"]', r"latents\.json.*key 'kind'"),
        (b'{"kind": "edm2"}', r"of kind 'edm2', the spec says 'sd'.*encode --latents sd"),
    ],
)
def test_latents_of_another_or_no_kind_are_refused(tmp_path, content, reason):
    members = {"0.npy": npy(made_moments(1)[0]), "latents.json": content}
    spec = {"name": "x", "kind": "zip", "path": write_zip(tmp_path / "x.zip", members), "latents": "sd"}
    assert spec["path"] in refused(reason, load_dataset, spec).where


def stored_moments(path, moments, facts=None):
    """Spec of an archive of moments."""
    members = {f"{i}.npy": npy(item) for i, item in enumerate(moments)}
    record = {} if facts is None else {"latents.json": json.dumps(facts).encode()}
    return {"name": "x", "kind": "zip", "path": write_zip(path, members | record)}


@pytest.mark.parametrize("said", ["recorded", "asked"])
def test_log_variances_are_read_as_deviations_where_the_archive_or_the_spec_says_so(tmp_path, said, capsys):
    stored = made_moments(5, "logvar")
    stored[0, 4:] = -200  # of a pixel without any noise
    stored[0, 4, 0, 0] = 200
    facts = {"kind": "sd", "spread": "logvar"} if said == "recorded" else None
    spec = stored_moments(tmp_path / "x.zip", stored, facts)
    if said == "asked":
        spec |= {"latents": "sd", "spread": "logvar"}
    moments = load_dataset(spec).images(range(5)).numpy()
    assert is_copy(moments[:, :4], stored[:, :4])
    # diffusers cuts them at −30 and 20.
    assert_near(moments[:, 4:], np.exp(stored[:, 4:].clip(-30, 20) / 2), each=True)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("spread", "second", "told"),
    [
        ("std", lambda a: np.log(a), r"deviation of -\d.*spread: logvar"),
        ("std", lambda a: a * (np.arange(a.size).reshape(a.shape) != 37), "deviation of 0.*spread: logvar"),
        ("logvar", lambda a: a, "no logarithm of a variance below 0.01.*spread: std"),
    ],
    ids=["logarithms", "a zero", "deviations"],
)
def test_moments_of_the_other_form_are_named_with_their_image(tmp_path, spread, second, told):
    moments = made_moments(70)
    moments[69, 4:] = second(moments[69, 4:])
    spec = stored_moments(tmp_path / "x.zip", moments if spread == "std" else np.repeat(moments[69:], 70, 0))
    error = refused(told, lambda: load_dataset({**spec, "spread": spread}).images(range(70)))
    assert error.where.startswith(spec["path"])
    assert spread == "logvar" or error.where.endswith("69.npy")


@pytest.mark.parametrize("facts", [{"kind": "sd", "spread": "std"}, {"kind": "sd", "spread": "variance"}])
def test_a_record_of_another_spread_is_refused(tmp_path, facts):
    spec = stored_moments(tmp_path / "x.zip", made_moments(2), facts)
    refused(f"spread '{facts['spread']}'.*spec says 'logvar'.*std, logvar", load_dataset, {**spec, "spread": "logvar"})


def test_latents_that_are_scaled_already_are_told(tmp_path, capsys):
    moments = made_moments(9)
    load_dataset(stored_moments(tmp_path / "raw.zip", moments))
    assert not capsys.readouterr().err
    load_dataset(stored_moments(tmp_path / "scaled.zip", moments * np.float32(0.18215)))
    assert "scaled.zip: its latents scatter by 0.78" in capsys.readouterr().err


def test_pixels_are_no_latents(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"0.png": encode_png(np.zeros((8, 8, 3), np.uint8))})
    refused(r"has pixels.*sida data encode", load_dataset, {"name": "x", "kind": "zip", "path": path, "latents": "sd"})


def test_bytes_of_decoded_latents_follow_each_official_rule():
    x = torch.linspace(-1.2, 1.2, 4001).reshape(1, 1, 1, -1).repeat(1, 4, 1, 1)
    drawn = lambda **options: LatentDecoder(Halves(), SD_LATENTS, **options)(x * 0.18215)
    shown = Halves().decode(LatentScaling(SD_LATENTS).to_raw(x * 0.18215)).sample
    # sihyun-yu/REPA:generate.py, and willisma/SiT:sample_ddp.py.
    assert_levels(drawn(), (255 * (shown + 1) / 2).clamp(0, 255).to(torch.uint8))
    assert_levels(drawn(rounded=True), (127.5 * shown + 128).clamp(0, 255).to(torch.uint8))
    # The same rule for pixels in 0..1.
    half = LatentDecoder(Halves(), EDM2_LATENTS, rounded=True)
    unit = half.scaling.to_raw(x)[:, :3]
    assert_levels(half(x), (255 * unit + 0.5).clamp(0, 255).to(torch.uint8))


@pytest.mark.parametrize(
    ("network", "kind", "fits"),
    [
        ("SiTPrecond", "sd", True),
        ("DiTPrecond", "sd", True),
        ("SiTPrecond", "edm2", False),
        ("EDMPrecond", "sd", False),
    ],
)
def test_a_network_takes_latents_of_its_own_kind_alone(tmp_path, network, kind, fits):
    path, _, _ = encoded(tmp_path, kind)
    data = load_dataset({"name": "x", "kind": "zip", "path": path})
    kwargs = {"img_resolution": 2, "img_channels": 4}
    small = {"patch_size": 1, "hidden_size": 8, "depth": 1, "num_heads": 1}
    unet = {"model_type": "SongUNet", "model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    with torch.device("meta"):
        config = {"class": network, "kwargs": kwargs | (unet if network == "EDMPrecond" else small)}
        net = build_network(config)
    if fits:
        check_shapes(net, data, "teacher t")
        return
    error = refused(rf"has '{kind}'.*sida data encode --latents", check_shapes, net, data, "teacher t")
    assert error.where == "teacher t.latents"


@needs("transformers")
def test_the_decoder_is_that_of_the_networks_latents_or_the_named_one_of_them(monkeypatch, tmp_path):
    fetched = []
    monkeypatch.setattr(
        sys.modules[Drawer.__module__], "fetch_many", lambda ids: fetched.append(ids) or {"x": tmp_path}
    )
    monkeypatch.setattr(sys.modules[Drawer.__module__], "load_vae", lambda path, device: Halves())
    small = {"patch_size": 2, "hidden_size": 8, "depth": 1, "num_heads": 1}
    net = build_network({"class": "SiTPrecond", "kwargs": {"img_resolution": 4, "img_channels": 4, **small}})
    drawn = lambda sampler, net=net, **options: next(Drawer(read_sampler(sampler), net, **options).draw([0, 1], 2))
    assert drawn("flow:2").images.dtype == drawn("flow:2,decoder=sd-vae-ft-mse").images.dtype == torch.uint8
    assert [ids[0] for ids in fetched] == ["sd-vae-ft-ema", "sd-vae-ft-mse"]
    # Refused before anything is drawn.
    unet = random_network("EDMPrecond", {**SMALL, "img_channels": 4})
    refused(r"decoder.*of EDM2.*use sd-vae-ft-mse", drawn, "one_step:decoder=sd-vae-ft-ema", unet)
    refused(r"decoder.*draws pixels", drawn, "one_step:decoder=sd-vae-ft-ema", random_network("EDMPrecond", SMALL))
    refused(r"^vae: .*draws pixels", drawn, "one_step", random_network("EDMPrecond", SMALL), vae="folder")
    refused(r"decoder.*vae also names a decoder", drawn, "flow:2,decoder=sd-vae-ft-mse", vae="folder")
    refused("sd-vae-ft-mse", read_sampler, "flow:2,decoder=sd-vae")
    assert len(fetched) == 2


def test_the_way_to_bytes_is_part_of_an_identity():
    rounded = load_protocol("imagenet256-rounded")
    usual = load_protocol("imagenet256")
    facts = ("reference", "extractor")
    assert comparable(usual.identity("fid", *facts), rounded.identity("fid", *facts))
    assert rounded.decodes
    assert rounded.rounds
    assert not usual.rounds
