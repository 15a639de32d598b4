"""`sida export --to hf`: the folder loads in diffusers, offline, and gives the images of `sida sample`."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import sida
from sida.config.samplers import Sampler
from sida.eval.results.trial_files import write_csv
from sida.files.atomic import sha256_file
from sida.plugins.exchange.hub_folder import model_source
from sida.workflow.cli import main
from tests.eval.metric_networks import write_network
from tests.eval.synthetic_output import write_preset
from tests.forks import run_anew
from tests.near import assert_levels, assert_near, same_bits
from tests.networks.made import SMALL, random_network
from tests.refused import command, refused

#: A text of a stranger's measurements.
ODD = "<script>x</script> [a](javascript:b) ![c](https://d.example/e.png) | \u202egnp"

UNET = {**SMALL, "label_dim": 10}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    preset = write_preset(folder / "results/demo")
    network = preset / "students/sida-a1.0/network.safetensors"
    # Noise of GDD's networks, not of SiD's.
    sampler = {"kind": "one_step", "init_sigma": 80.0}
    write_network(network, {"class": "EDMPrecond", "kwargs": UNET}, std=0.2, method="sida", nimg=1000, sampler=sampler)
    facts = {"method": "sida", "metric": "fd", "n": 100, "nfe": 1, "protocol": "digits", "settings": "frechet"}
    facts |= {"date": "2026-11-22", "origin": "x"}
    rows = [{**facts, "run": "odd", "network_sha256": sha256_file(network), "trial": 0, "value": 7.0, "protocol": ODD}]
    for run, digest, value in (("sida-a1.0", sha256_file(network), 4.0), ("sid-a1.0", "2" * 64, 98765.0)):
        own = {**facts, "run": run, "network_sha256": digest}
        rows += [{**own, "trial": trial, "value": value + trial} for trial in range(3)]
    write_csv(preset / "measurements.csv", [], rows)
    assert main(["export", str(network.parent), "--to", "hf", str(folder / "hf"), "--license", "cc0-1.0"]) == 0
    return folder / "hf", network


def test_the_pipeline_gives_the_same_images_without_the_network(exported, monkeypatch, tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="the extra 'latent' is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    folder, network = exported
    load = diffusers.DiffusionPipeline.from_pretrained
    pipe = load(str(folder), custom_pipeline=str(folder), trust_remote_code=True)
    expected = sida.load(network).sample(16, seed=0).transpose(0, 2, 3, 1)
    assert_levels(pipe(batch_size=16, seed=0, output_type="np").images, expected)
    pictures = pipe(batch_size=2, seed=3, class_labels=4).images
    assert_levels(pictures[1], sida.load(network).sample(2, seed=3, classes=4)[1, 0])
    drawn = [pipe(2, torch.Generator().manual_seed(1), 1, "pt", return_dict=False)[0] for _ in range(2)]
    assert same_bits(*drawn)
    assert not same_bits(drawn[0], pipe(2, torch.Generator().manual_seed(2), output_type="pt").images)
    for options in ({"num_inference_steps": 4}, {"output_type": "latent"}, {"generator": [torch.Generator()] * 3}):
        with pytest.raises(ValueError, match=next(iter(options))):
            pipe(batch_size=2, **options)
    with pytest.raises((ValueError, OSError)):
        load(str(folder), custom_pipeline=str(folder))


class Alone:
    """Refuses every package but torch and safetensors with their needs."""

    OTHERS = {"sida", "eval", "workflow", "diffusers", "huggingface_hub", "yaml", "scipy"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.OTHERS:
            raise ImportError(name)


def draw_alone(folder, out):
    """Draws images with a folder's own model."""
    for name in [name for name in sys.modules if name.partition(".")[0] in Alone.OTHERS]:
        del sys.modules[name]
    sys.meta_path.insert(0, Alone())
    sys.path[:] = [folder, *(path for path in sys.path if "site-packages" in path or "lib/python" in path)]
    model = importlib.import_module("model")
    assert model.__file__.startswith(folder)
    np.save(out, model.OneStepGenerator.from_pretrained(folder).sample(5, seed=3, batch_size=4))


def test_the_model_runs_with_torch_and_safetensors_alone(exported, tmp_path):
    folder, network = exported
    run_anew(draw_alone, str(folder / "generator"), tmp_path / "drawn.npy")
    expected = sida.load(network, device="cpu").sample(5, seed=3, batch_size=4)
    assert_levels(np.load(tmp_path / "drawn.npy"), expected)


@pytest.mark.parametrize("name", ["ECTPrecond", "GDDPrecond", "EDM2Precond", "SiTPrecond", "DiTPrecond"])
def test_every_family_has_a_model_file_that_computes_the_same(name, tmp_path):
    kwargs = {**UNET, "model_type": "DhariwalUNet"} if name == "GDDPrecond" else UNET
    if name == "EDM2Precond":
        kwargs = {"img_resolution": 8, "img_channels": 4, "label_dim": 3, "model_channels": 16, "channel_mult": [1, 2]}
        kwargs |= {"num_blocks": 1, "attn_resolutions": [4]}
    if name in ("SiTPrecond", "DiTPrecond"):
        kwargs = {"img_resolution": 8, "img_channels": 4, "label_dim": 3, "hidden_size": 16, "depth": 2, "num_heads": 2}
    net = random_network(name, kwargs)
    (tmp_path / "model.py").write_text(model_source(net.init_config, tmp_path, Sampler(kind="one_step")))
    spec = importlib.util.spec_from_file_location(f"model_{name}", tmp_path / "model.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.build().eval()
    made.load_state_dict(net.state_dict())
    z = torch.randn(2, net.img_channels, 8, 8)
    labels = torch.eye(net.label_dim)[:2] if net.label_dim else None
    with torch.no_grad():
        assert_near(made(2.5 * z, torch.tensor(2.5), labels), net(2.5 * z, torch.tensor(2.5), labels))


def test_the_card_has_the_measurements_of_this_very_file(exported):
    folder, network = exported
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(head)
    metric, odd = (found for result in card["model-index"][0]["results"] for found in result["metrics"])
    metric, odd = (metric, odd) if metric["value"] == 5.0 else (odd, metric)
    assert odd["value"] == 7.0
    (line,) = (line for line in text.splitlines() if "script" in line)
    assert line.isprintable()
    protocol = line.split("| 1 | 100 | ")[1].removesuffix(" |")
    assert not re.search(r"<s|(?<!\\)\]\(|(?<!\\)\| ", protocol)
    assert (metric["type"], metric["value"], metric["args"]["std"], metric["args"]["trials"]) == ("fd", 5.0, 1.0, 3)
    assert card["license"] == "cc0-1.0"
    assert metric["name"] == "FD"
    assert "arxiv:2410.14919" in card["tags"]
    assert "| FD | 5 ± 1 | 3 | 100 |" in text
    assert sha256_file(network) in text
    assert "98765" not in text.split("## Measurements")[1].split("## Training")[0].replace("cc0", "")
    assert (folder / "samples.png").is_file()
    found = ModelCard.load(folder / "README.md").data.eval_results
    assert {result.metric_value for result in found} == {5.0, 7.0}


def test_a_benchmark_gets_an_entry_by_the_hubs_own_types_and_none_is_the_default(exported, tmp_path):
    hub = pytest.importorskip("huggingface_hub", "1.5")
    folder, network = exported
    assert not (folder / ".eval_results").exists()
    out, to = tmp_path / "out", ("--to", "hf")
    place = "digits/fd=some-one/one.step:digits_fd"
    command("export", network.parent, *to, out, "--benchmark", place)
    (entry,) = yaml.safe_load((out / ".eval_results/sida.yaml").read_text())
    # All keys of the format, by huggingface/hub-docs:eval_results.yaml.
    assert entry.keys() <= {"dataset", "value", "verifyToken", "date", "source", "notes"}
    assert entry["dataset"] == {"id": "some-one/one.step", "task_id": "digits_fd"}
    (parsed,) = hub.parse_eval_result_entries([entry])
    assert hub.eval_result_entries_to_yaml([parsed]) == [entry]
    assert (parsed.value, parsed.date) == (5.0, "2026-11-22")
    assert "3 trials of 100 images, standard deviation over trials 1.0; NFE 1; protocol digits" in parsed.notes
    assert parsed.notes.endswith("exposed to: unknown")
    for wrong, words in (
        ("fd=some-one/one-step:fd", "more than once.*digits/fd"),
        ("fid=some-one/one-step:fid", "not measured"),
        ("fd=one-step", "METRIC=OWNER/DATASET:TASK"),
        ("fd", "KEY=VALUE"),
    ):
        refused(f"--benchmark.*{words}", command, "export", network.parent, *to, tmp_path / "no", "--benchmark", wrong)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "place",
    ["../d:t", "o/..:t", "./d:t", "/o/d:t", "o/d/e:t", "o/.git:t", "o/d.git:t", "o/-d:t", "o/d--e:t", "ö/d:t", "o/d:..",
     "o/d:", "o/d:a/b", f"o/{'d' * 97}:t", f"o/d:{'t' * 97}", "o/d:t\nx", "o/d:t: x"],
)  # fmt: skip
def test_a_benchmark_has_a_name_that_the_hub_takes(tmp_path, place):
    refused("--benchmark fd=", command, "export", tmp_path, "--to", "hf", tmp_path / "no", "--benchmark", f"fd={place}")
    assert not (tmp_path / "no").exists()


def test_an_unmeasured_network_says_so_and_nothing_is_overwritten(exported, tmp_path, capsys, monkeypatch):
    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    shutil.copy(exported[1], "network.safetensors")
    command = ["export", ".", "--to", "hf", "../out"]
    assert main(command) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "\n# alone\n" in card
    assert "was not measured" in card
    assert json.loads((tmp_path / "out/model_index.json").read_text())["_class_name"][1] == "OneStepPipeline"
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err


MINE = """
import torch


class Generator(torch.nn.Module):
    def forward(self, seeds):
        streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack([torch.randint(0, 256, (1, 8, 8), generator=s, dtype=torch.uint8) for s in streams])


def sample(seeds):
    return Generator()(seeds).numpy()


class Plain:
    def __call__(self, seeds):
        return sample(seeds)
"""


class Scripted(torch.nn.Module):
    def forward(self, z):
        return z.view(-1, 1, 8, 8).clamp(-1, 1)


@pytest.mark.parametrize("measured", ["images.npz", "own_g:Plain"])
def test_a_row_of_another_generator_is_refused(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SIDA_ALLOW_CODE", "own_g:sample,own_g:Plain")
    (tmp_path / "own_g.py").write_text(MINE)
    np.savez("images.npz", arr_0=np.random.default_rng(5).integers(0, 256, (96, 8, 8, 1), np.uint8))
    score = ["--protocol", "digits", "--num-samples", "96", "--trials", "1", "--out", "row.json"]
    assert main(["score", measured, *score]) == 0
    capsys.readouterr()
    assert main(["export", "own_g:sample", "--to", "hf", "folder", "--row", "row.json"]) == 1
    assert "row.json: was measured with another generator than own_g:sample" in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [("own_g:sample", []), ("own_g:Plain", []), ("g.pt", ["--latent", "64"]), ("g.pt2", ["--latent", "64"])],
)
def test_a_generator_of_ones_own_is_exported_with_its_row(name, more, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SIDA_ALLOW_CODE", f"./{name}")
    (tmp_path / "own_g.py").write_text(MINE)
    if name == "g.pt":
        torch.jit.script(Scripted()).save(name)
    elif more:
        shapes = ({0: torch.export.Dim("batch")},)
        torch.export.save(torch.export.export(Scripted(), (torch.zeros(2, 64),), dynamic_shapes=shapes), name)
    score = ["--protocol", "digits", "--num-samples", "64", "--trials", "2", "--name", "Mine", "--out", "row.json"]
    assert main(["score", name, *score, *more]) == 0
    assert main(["export", name, "--to", "hf", "folder", "--row", "row.json", "--like", "main"]) == 0
    card = (tmp_path / "folder/README.md").read_text()
    assert "| fd | " in card
    assert "| Mine" in card
    env = {"PATH": "/usr/bin:/bin"}
    (use,) = re.findall(r"^```python\n(.*?)^```", card, re.M | re.S)
    command = [sys.executable, "-c", f"{use}\nprint(tuple(images.shape))"]
    drawn = subprocess.run(command, cwd=tmp_path / "folder", check=True, env=env, capture_output=True, text=True)
    assert drawn.stdout == "(16, 1, 8, 8)\n"
    # Another generator than the scored one.
    other = "own_g:sample" if more else "own_g:Generator"
    capsys.readouterr()
    assert main(["export", other, "--to", "hf", "other", "--row", "row.json"]) == 1
    assert "another generator" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
