"""Blocks of a network by noise level: the output's change without each, claims and figure of it, faults."""

import csv
import statistics

import pytest
import torch

from eval.figures.build import build_figure
from eval.results.analyses import ANALYSIS_FORMAT, read_analysis
from sida.config.resources import ROOT
from sida.data import load_dataset
from sida.files.atomic import write_hashed_json
from sida.machine import generator
from sida.networks.checkpoint import load_network, save_network
from studies.questions.layers import LAYERS, facts, profiles, raw_output, skipped
from tests.eval.claims.evidence import evidence, lines
from tests.eval.claims.evidence import verdict as decided
from tests.studies.miniature.test_barrier import toy
from tests.studies.plans import analyse, check_fault
from tests.training.toy import DATASET

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


def profile(spec, out):
    assert analyse(spec, out) == 0
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
    check_fault({**spec, **change}, message, tmp_path, capsys)


KIND = f"{ROOT}/studies/questions/layers_figure.py:LayersFigure"

SIGMAS = (0.02, 0.4, 8.0)
LOW, HIGH, FLAT = (4.0, 2.0, 1.0), (1.0, 2.0, 4.0), (1.0, 1.1, 1.2)


def write(folder, run, curves, factor=2.0):
    record = {
        "format": ANALYSIS_FORMAT,
        "run": run,
        "facts": facts(curves, factor),
        "about": LAYERS.facts,
        "curves": curves,
    }
    write_hashed_json(folder / f"analyses/layers/{run}.json", record)


def made(folder, *blocks, scatter=0.02, run="t", sigmas=SIGMAS, factor=2.0, before=(1.0, 1.0, 1.0)):
    """Evidence of a network whose blocks change the output by these means at the three levels, over eight repeats."""
    turns = [1 + scatter * (repeat % 4 - 1.5) for repeat in range(8)]
    curves = {"sigma": [sigma for _ in turns for sigma in sigmas]}
    for number, means in enumerate(blocks):
        # Blocks and levels scatter in different directions.
        curves[f"block{number}"] = [
            mean * turns[(repeat + number + 2 * place) % 8] for repeat in range(8) for place, mean in enumerate(means)
        ]
        curves[f"untrained block{number}"] = [mean for _ in range(8) for mean in before[: len(sigmas)]]
    write(folder, run, curves, factor)
    return evidence(lines(run, [4.0, 4.1]), students=folder / "students")


def verdict(found, run="t"):
    lowest = {"varying_share": 0.5, "apart": 1.0}
    fact = {"rule": "FACT", "of": "layers", "a": {"run": run}}
    return decided(found, *({**fact, "fact": name, "low": low} for name, low in lowest.items()))


@pytest.mark.parametrize(
    ("blocks", "scatter", "expected"),
    [
        ((LOW, HIGH), 0.02, "supported"),
        ((LOW, HIGH, FLAT, FLAT), 0.02, "supported"),
        # Fewer than half of the blocks vary.
        ((LOW, HIGH, FLAT, FLAT, FLAT), 0.02, "contradicted"),
        # Blocks vary, but all work at one level: the profiles do not tell layers apart.
        ((LOW, LOW), 0.02, "contradicted"),
        # Scatter hides the differences.
        ((LOW, HIGH), 0.9, "not decided here"),
        # A block that does nothing does not vary.
        (((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), LOW), 0.02, "contradicted"),
    ],
)
def test_layers_work_at_different_levels_beyond_their_sampling_error(tmp_path, blocks, scatter, expected):
    assert verdict(made(tmp_path, *blocks, scatter=scatter)).outcome == expected


def test_a_network_that_varies_as_much_before_its_training_shows_nothing(tmp_path):
    assert verdict(made(tmp_path, LOW, HIGH, before=(1.0, 1.2, 1.4))).outcome == "supported"
    assert verdict(made(tmp_path, LOW, HIGH, before=(1.0, 2.0, 4.0))).outcome == "contradicted"
    found = made(tmp_path, LOW, HIGH)
    write(tmp_path, "t", {"sigma": [*SIGMAS] * 8, "a": [4.0, 2.0, 1.0] * 8, "b": [1.0, 2.0, 4.0] * 8})
    assert verdict(found).outcome == "not decided here"


def test_levels_are_chosen_by_other_repeats_than_those_that_compare_them(tmp_path):
    """Noise without a difference between levels: the largest of the first repeats is not the largest of the others."""
    found = made(tmp_path, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), scatter=0.3, factor=1.0)
    assert verdict(found).outcome != "supported"


def test_rows_without_a_file_are_not_decided(tmp_path):
    found = verdict(made(tmp_path, LOW, HIGH), run="other")
    assert found.outcome == "not decided here"
    assert "no analysis layers of run 'other'" in found.findings[0].evidence


def test_figure_shows_a_panel_for_each_network_and_says_what_is_missing(tmp_path):
    made(tmp_path, LOW, HIGH, run="teacher-a")
    # A student's only noise level.
    made(tmp_path, LOW[:1], HIGH[:1], run="a-sid", sigmas=(2.5,))
    sheet, layout = tmp_path / "runs.tsv", tmp_path / "f.yaml"
    sheet.write_text(
        "run\tlabel\tmethod\tteacher\tsampler\nteacher-a\tA\tteacher\ta\theun-18\nteacher-b\tB\tteacher\tb\theun-18\n"
        "a-sid\tS\tsid\ta\tone-step\n"
    )
    layout.write_text(f"{{kind: '{KIND}', title: Layers, each: {{method: [teacher, sid]}}}}")
    paths, said = build_figure(layout, sheet, tmp_path, tmp_path / "f.pdf")
    assert {path.suffix for path in paths} == {".pdf", ".png", ".csv"}
    assert said == ["not shown, no data yet: B"]
    with open(tmp_path / "f.csv", newline="") as stream:
        shown = list(csv.DictReader(stream))
    assert len(shown) == 2 * 3 + 2
    assert (shown[0]["block"], shown[0]["sigma"]) == ("block0", "0.02")
    assert float(shown[0]["low"]) < 4.0 < float(shown[0]["high"])
