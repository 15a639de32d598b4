"""The training monitor: distances as in a measurement, from seeds of its own, and of decoded latent networks."""

import statistics
import sys

import numpy as np
import pytest
import torch
import yaml

from sida.config.named_files import find_file
from sida.data import LatentDecoder, load_dataset
from sida.data.archive import dataset_json, image_name
from sida.eval.features import get_extractor
from sida.eval.measuring.measure import Measurer, measure
from sida.eval.measuring.monitor import make_monitor, monitor_facts
from sida.eval.measuring.monitor_settings import SEED0
from sida.eval.measuring.protocol import load_protocol
from sida.files.atomic import read_jsonl
from sida.methods import distill
from sida.networks.file import load_network, read_metadata
from sida.sampling import NO_CLASS, Drawer
from tests.data.test_archive import npy, write_zip
from tests.eval.measuring.specs import DIGITS, content, data_spec, metric, protocol, resampled
from tests.eval.metric_networks import StandInVae, write_inception, write_network
from tests.refused import refused
from tests.sampling.images import generate
from tests.training.toy import STUDENT


def test_a_collapsed_generator_is_evaluated_too():
    """Training goes on where a student gives one image for all seeds; its distance is far from any other."""
    image, monitor = load_dataset(DIGITS).images([7]), make_monitor(DIGITS, num_samples=2500)
    result = monitor(lambda seeds: (image.expand(len(seeds), -1, -1, -1), torch.full((len(seeds),), NO_CLASS)))
    assert result["fd"] > 5 * monitor(resampled)["fd"]


def test_seeds_are_fresh_and_batches_do_not_matter():
    seen = []

    def generate(seeds):
        seen.extend(seeds)
        return resampled(seeds)

    result = make_monitor(DIGITS, num_samples=120, trials=2, batch_size=50)(generate)
    assert seen == list(range(SEED0, SEED0 + 240))
    assert min(seen) > 10 * 50_000  # beyond the seeds of every protocol's trials
    again = make_monitor(DIGITS, num_samples=120, trials=2, batch_size=120)(resampled)
    assert again["fd_trials"] == pytest.approx(result["fd_trials"], rel=1e-6)


def test_single_trial_has_no_spread_and_unconditional_images_no_accuracy():
    def unconditional(seeds):
        return resampled(seeds)[0], torch.full((len(seeds),), NO_CLASS)

    result = make_monitor(DIGITS, num_samples=100)(unconditional)
    assert result["fd_std"] == 0
    assert "accuracy" not in result
    assert make_monitor(DIGITS, num_samples=100)(lambda seeds: (resampled(seeds)[0], None))["fd"] == result["fd"]


def test_accuracy_is_of_all_images_or_there_is_none():
    def labelled(seeds):
        images, classes = resampled(seeds)
        return images, classes if SEED0 + 50 in seeds else None

    asked = content(watch=["fd", "accuracy"])
    for size, known in ((100, True), (50, False)):
        assert ("accuracy" in make_monitor(DIGITS, protocol=asked, num_samples=100, batch_size=size)(labelled)) == known


def test_every_watched_metric_of_the_protocol_is_logged_as_it_is_measured(tmp_path):
    asked = content(num_samples=400, trials=2)
    expected = [record["metrics"] for record in measure(data_spec(protocol=asked), tmp_path, [0, 1])]
    result = make_monitor(DIGITS, protocol=asked, trials=2, seed0=0, batch_size=150, threads=1)(resampled)
    for key in ("fd", "is", "fd_pixel", "accuracy"):
        values = [trial[key] for trial in expected]
        assert result[f"{key}_trials"] == pytest.approx(values, rel=1e-6)
        assert result[key] == pytest.approx(statistics.fmean(values), rel=1e-6)
        assert result[f"{key}_std"] == pytest.approx(statistics.stdev(values), rel=1e-4)
    assert result["num_samples"] == 400
    assert result["accuracy"] > 0.99
    assert "recall" not in result  # needs stored features
    assert result["selection"] == "fd"


def test_the_protocol_says_which_metric_chooses():
    chosen = content(selection="fd_pixel")
    assert make_monitor(DIGITS, protocol=chosen, num_samples=100)(resampled)["selection"] == "fd_pixel"
    facts = [monitor_facts(protocol) for protocol in (content(), content(selection="fd"), chosen)]
    assert facts[0] == facts[1] != facts[2]
    assert load_protocol(content()).facts() == load_protocol(chosen).facts()  # no measured number changes
    # Faults.
    refused("num_samples must be at least 2", make_monitor, DIGITS, num_samples=1)
    refused(r"no extractor 'x' .known: .*digits", make_monitor, DIGITS, protocol=protocol(metric("a", extractor="x")))
    accuracy = protocol(metric("a", "accuracy", reference=None))
    refused("no metric of kind 'frechet'", make_monitor, DIGITS, protocol=accuracy)


@pytest.mark.parametrize("count", [2, 5])
def test_parts_of_an_evaluation_give_the_whole(count):
    """Five parts of three batches: two of them have nothing to do."""
    monitor = make_monitor(DIGITS, num_samples=300, trials=2, batch_size=100, threads=1)
    seen = []

    def generate(seeds):
        seen.append(seeds)
        return resampled(seeds)

    whole = monitor(resampled)
    joined = monitor.join([monitor.part(generate, number, count) for number in range(count)])
    assert joined.keys() == whole.keys()
    for key, value in whole.items():
        assert joined[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9, abs=1e-9)), key
    assert len(seen) == len(set(seen)) == 6


SHORT = {**STUDENT, "total_kimg": 0.032, "batch_gpu": None, "warmup_kimg": 0, "adversarial_kimg": 0, "augment": None}


@pytest.fixture
def latents(tmp_path):
    """A data set of moments with classes, and an EDM2 teacher for it."""
    rng = np.random.default_rng(0)
    names = [image_name(i, ".npy", "img-mean-std-") for i in range(40)]
    members = {name: npy(np.abs(rng.normal(size=(8, 4, 4))).astype(np.float32)) for name in names}
    labels = dataset_json((name, i % 4) for i, name in enumerate(names))
    write_zip(tmp_path / "latents.zip", members | {"dataset.json": labels})
    kwargs = {"img_resolution": 4, "img_channels": 4, "label_dim": 4, "use_fp16": False, "model_channels": 8}
    kwargs |= {"channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8}
    config = {"class": "EDM2Precond", "kwargs": {**kwargs, "logvar_channels": 8}}
    write_network(tmp_path / "teacher.safetensors", config, std=0.1)
    return {"name": "l", "kind": "zip", "path": str(tmp_path / "latents.zip"), "channels": 8, "resolution": 4}


def references(folder, options, images):
    """Statistics of the extractors in published form."""
    files = {}
    for key, name in (("edm2_fid", "inception"), ("edm2_dino", "dinov2")):
        features = get_extractor(name, **options.get(name, {}))(images).double().numpy()
        np.savez(folder / f"{key}.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
        files[key] = str(folder / f"{key}.npz")
    return files


@pytest.mark.usefixtures("dinov2")
def test_edm2_students_are_judged_by_decoded_images(latents, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[Drawer.__module__], "open_decoder", lambda *asked: LatentDecoder(StandInVae()))
    protocol = yaml.safe_load(find_file("protocols", "imagenet512").read_text()) | {"selection": "fd_dinov2"}
    score = {"key": "is", "kind": "inception_score", "extractor": "inception", "splits": 4}
    protocol["metrics"] = [*protocol["metrics"], score]
    protocol["watch"] = [*protocol["watch"], "is"]
    options = {"inception": {"path": str(write_inception(tmp_path / "inception.pt"))}}
    teacher = str(tmp_path / "teacher.safetensors")
    net, _ = load_network(teacher)
    seeds, data = range(1 << 31, (1 << 31) + 32), load_dataset(latents)
    samples = next(generate(net, seeds, "one_step", 32, "empirical", data, decode=LatentDecoder(StandInVae())))
    assert samples.images.shape == (32, 3, 16, 16)
    kwargs = {"dataset": latents, "protocol": protocol, "num_samples": 32, "extractors": options}
    # The references are the decoded images of the start itself, so its distances are 0.
    kwargs["references"] = references(tmp_path, options, samples.images)
    evaluation = {"every_kimg": 0.016, "monitor": "sida.eval.measuring.monitor:make_monitor", "kwargs": kwargs}
    spec = {**SHORT, "dataset": latents, "teacher": teacher, "evaluation": evaluation}
    path = distill(spec, tmp_path / "run")
    records = read_jsonl(tmp_path / "run" / "evaluations.jsonl")
    assert [record["nimg"] for record in records] == [0, 16, 32]
    assert all({"fid", "is", "fd_dinov2"} <= set(record) for record in records)
    assert records[0]["is"] > 1
    assert max(records[0]["fid"], records[0]["fd_dinov2"]) < 1e-4
    best = min(records, key=lambda record: record["fd_dinov2"])
    metadata = read_metadata(path)
    assert (metadata["nimg"], metadata["fd_dinov2"]) == (best["nimg"], best["fd_dinov2"])


def test_real_latents_are_decoded_for_measurements(latents, monkeypatch):
    monkeypatch.setattr(sys.modules[Drawer.__module__], "load_vae", lambda path, device: StandInVae())
    spec = {"run": "data", "method": "data", "sampler": {"kind": "data"}, "protocol": "imagenet512", "dataset": latents}
    batch = next(Measurer({**spec, "vae": "here"}).source.stream(0, 6, 6))
    assert (batch.images.dtype, tuple(batch.images.shape)) == (torch.uint8, (6, 3, 16, 16))
