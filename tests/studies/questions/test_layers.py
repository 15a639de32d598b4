"""Blocks of a network by noise level: changes of the output without each, and faults."""

from __future__ import annotations

import json
import statistics

import pytest
import torch

from eval.results.analyses import read_analysis
from sida.config.resources import ROOT
from sida.data import load_dataset
from sida.networks.checkpoint import load_network, save_network
from sida.runtime.randomness import generator
from studies.questions.layers import profiles, raw_output, skipped
from tests.studies.miniature.test_barrier import toy
from tests.training.toy import DATASET
from workflow.cli import eval_main as main

LEVELS = [0.02, 0.4, 8.0]


@pytest.fixture
def spec(tmp_path):
    options = {"sigma_max": 8, "levels": 3, "num_images": 40, "repeats": 4}
    common = {"analysis": "layers", "function": f"{ROOT}/studies/questions/layers.py:LAYERS", "options": options}
    network = toy(tmp_path / "teacher.safetensors", 0)
    return {"run": "x", "method": "teacher", "network": network, "dataset": DATASET, "threads": 1, **common}


def changed(spec, path, change):
    """A copy of the spec's teacher with other weights, as a file."""
    net, _ = load_network(spec["network"])
    with torch.no_grad():
        change(net)
    save_network(net, path, {})
    return str(path)


def run(spec, out):
    return main(["analyse", "--spec", json.dumps(spec), "--out", str(out)])


def profile(spec, out):
    assert run(spec, out) == 0
    return profiles(read_analysis(out)["curves"])


def nought(*layers):
    for layer in layers:
        layer.weight.zero_()
        layer.bias.zero_()


def test_a_block_without_residual_branches_does_nothing_and_others_do(tmp_path, spec, capsys):
    def without(net):
        attending, halving = net.model.dec["4x4_in0"], net.model.enc["4x4_down"]
        assert attending.num_heads
        assert halving.skip is not None
        nought(attending.conv1, attending.proj, halving.conv1)

    deep = {**spec, "network": toy(tmp_path / "deep.safetensors", 0, {"channel_mult": [1, 1]})}
    found = profile({**deep, "network": changed(deep, tmp_path / "n.safetensors", without)}, tmp_path / "x.json")
    assert [*found["01 enc.8x8_block0"]] == LEVELS
    for block, levels in found.items():
        values = [value for changes in levels.values() for value in changes]
        assert len(values) == 4 * 3
        assert (max(values) == 0) == (min(values) == 0) == (block in ("04 dec.4x4_in0", "02 enc.4x4_down"))
    assert "01 enc.8x8_block0" in capsys.readouterr().out


def test_a_block_that_matters_at_one_noise_level_is_found_there(tmp_path, spec):
    """The block's branch is a shift by the embedding, which has no part along the lowest level's embedding."""

    def at_high_noise(net):
        block = net.model.enc["8x8_block0"]
        nought(block.conv0, block.affine, net.model.map_label)
        block.norm1.bias.zero_()
        block.conv1.bias.zero_()
        low, high = (
            net.model.embed(net.coefficients(torch.tensor(s))[3][None], torch.zeros(1, 10), None)[0]
            for s in (0.02, 8.0)
        )
        direction = high - low * (high @ low) / (low @ low)
        block.affine.weight[0] = direction / direction.norm() ** 2

    teacher = changed(spec, tmp_path / "n.safetensors", at_high_noise)
    found = profile({**spec, "network": teacher}, tmp_path / "x.json")["01 enc.8x8_block0"]
    assert largest(found)[0] != 0.02
    assert largest(found)[1] > 1e-4
    assert max(found[0.02]) < 1e-6 * largest(found)[1]


def test_changes_are_of_the_raw_output_relative_to_it(tmp_path, spec):
    net, _ = load_network(spec["network"])
    noisy, labels = torch.randn(5, 1, 8, 8), torch.eye(10)[:5]
    with torch.no_grad():
        raw, denoised = raw_output(net, noisy, 0.4, labels), net(noisy, 0.4, labels)
        c_skip, c_out, _, _ = net.coefficients(torch.tensor(0.4))
        with skipped(net.model.enc["8x8_block0"]):
            without = net(noisy, 0.4, labels)
        assert torch.equal(net(noisy, 0.4, labels), denoised)
    assert torch.allclose(raw, ((denoised - c_skip * noisy) / c_out).double(), atol=1e-5)
    assert not torch.allclose(without, denoised)


def test_a_student_has_the_noise_level_of_its_latents(tmp_path, spec):
    sampler = {"sampler": {"kind": "one_step", "init_sigma": 2.5}}
    student = toy(tmp_path / "s.safetensors", 0, metadata=sampler)
    found = profile({**spec, "network": student}, tmp_path / "x.json")["01 enc.8x8_block0"]
    assert [*found] == [2.5]
    # The first repeat by hand: latents and labels, and no image.
    (net, _), data, source = load_network(student), load_dataset(DATASET), generator(0, "layers", 0)
    labels = data.labels(torch.randint(len(data), (40,), generator=source).numpy())
    latents = 2.5 * torch.randn((40, 1, 8, 8), generator=source)
    with torch.no_grad():
        whole = raw_output(net, latents, 2.5, labels)
        with skipped(net.model.enc["8x8_block0"]):
            change = raw_output(net, latents, 2.5, labels) - whole
    assert found[2.5][0] == pytest.approx(float(change.square().sum() / whole.square().sum()), rel=1e-6)


def largest(levels):
    """Noise level at which a block's mean change is largest, and this mean."""
    return max(((sigma, statistics.fmean(changes)) for sigma, changes in levels.items()), key=lambda found: found[1])


def test_a_profile_is_the_same_again_and_repeats_differ(tmp_path, spec):
    first, second = (profile(spec, tmp_path / f"{name}.json") for name in ("x", "y"))
    assert first == second
    assert len(set(first["01 enc.8x8_block0"][0.4])) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"repeats": 3}}, "--spec.options.repeats: must be between 4 and 1000, got 3"),
        ({"network": "none.safetensors"}, "none.safetensors"),
        ({"student": "x"}, "student: unknown key"),
    ],
)
def test_fault_is_one_line_and_nothing_is_written(tmp_path, spec, change, message, capsys):
    assert run({**spec, **change}, tmp_path / "x.json") == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "x.json").exists()
