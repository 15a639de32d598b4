"""The line between a teacher's weights and its student's: values, claims, figure, jobs, and what is refused."""

import csv
import dataclasses

import numpy as np
import pytest
import torch

from eval.claims import Operand
from eval.claims.write import amount
from eval.figures.build import build_figure
from eval.measuring.protocol import load_protocol
from eval.results.analyses import ANALYSIS_FORMAT, read_analysis
from eval.results.stored import store
from sida.config.resources import ROOT
from sida.errors import UserError
from sida.files.atomic import sha256_file, write_hashed_json, write_json
from sida.files.tensors import write_tensors
from sida.losses import EDMLoss
from sida.networks import build_network
from sida.networks.file import load_network, save_network
from studies.miniature.barrier import LINE, barrier, facts, line_points
from tests.eval.claims.evidence import evidence, lines
from tests.eval.claims.evidence import verdict as decided
from tests.eval.synthetic_output import measurement_lines, write_csv
from tests.refused import refusing
from tests.studies.plans import analyse, check_fault
from tests.training.toy import DATASET, NETWORK
from workflow.archive.verify import verify
from workflow.planning.costs import Costs
from workflow.planning.jobs import Jobs
from workflow.preset import Preset
from workflow.preset.rehearsal import check_preset
from workflow.preset.targets import Targets

SAMPLER = {"sampler": {"kind": "one_step", "init_sigma": 80.0}}


def toy(path, seed, kwargs=None, cls="EDMPrecond", metadata=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_network({"class": cls, "kwargs": {**NETWORK["kwargs"], **(kwargs or {})}})
        for value in net.parameters():
            # Networks start with layers of zeros, through which nothing would be seen.
            value.data += 0.05 * torch.randn(value.shape)
    save_network(net, path, metadata or {})
    return str(path)


@pytest.fixture
def spec(tmp_path):
    teacher = toy(tmp_path / "teacher.safetensors", 0)
    student = toy(tmp_path / "student.safetensors", 1, cls="GDDPrecond", metadata=SAMPLER)
    protocol, function = load_protocol("digits").content(), f"{ROOT}/studies/miniature/barrier.py:LINE"
    options = {"points": 3, "num_samples": 300, "passes": 1}
    made = {"run": "x", "method": "gdd", "teacher": teacher, "network": student, "options": options}
    return made | {"analysis": "barriers", "function": function, "dataset": DATASET, "protocol": protocol, "threads": 1}


def test_curves_are_the_losses_of_weights_on_the_line(tmp_path, spec, capsys):
    assert analyse(spec, tmp_path / "x.json") == 0
    found = read_analysis(tmp_path / "x.json")
    assert found["curves"]["t"] == [0.0, 0.5, 1.0]
    assert "fd" in capsys.readouterr().out
    # A network in the middle, made by hand, has at its own end what the line has in its middle.
    ends = [load_network(spec[name])[0] for name in ("teacher", "network")]
    state = {name: (value + ends[1].state_dict()[name]) / 2 for name, value in ends[0].state_dict().items()}
    for name, net in zip(("teacher", "network"), ends):
        net.load_state_dict(state)
        save_network(net, tmp_path / f"middle-{name}.safetensors", SAMPLER)
    middle = {name: str(tmp_path / f"middle-{name}.safetensors") for name in ("teacher", "network")}
    assert analyse({**spec, **middle}, tmp_path / "y.json") == 0
    again = read_analysis(tmp_path / "y.json")
    for name in ("denoising", "fd"):
        assert again["curves"][name] == pytest.approx([found["curves"][name][1]] * 3, rel=1e-5)
        assert again["facts"][f"{name}_barrier"] == pytest.approx(0, abs=1e-3 * found["curves"][name][1])
        assert found["facts"][f"{name}_barrier"] == barrier(found["curves"][name])


def test_a_line_is_the_same_again(tmp_path, spec):
    for name in ("x", "y"):
        analyse(spec, tmp_path / f"{name}.json")
    assert read_analysis(tmp_path / "x.json")["curves"] == read_analysis(tmp_path / "y.json")["curves"]


def test_denoising_is_the_loss_of_training(tmp_path, spec):
    """To the noise of one draw for each image: the same weight, levels and preconditioning, per pixel."""
    from sida.data import load_dataset

    analyse(spec, tmp_path / "x.json")
    net, _ = load_network(spec["teacher"])
    data = load_dataset(DATASET)
    indices = np.arange(len(data))
    images, labels = data.images(indices).float() / 127.5 - 1, data.labels(indices)
    with torch.no_grad():
        drawn = [float(EDMLoss()(net, images, labels).mean()) for _ in range(20)]
    value = read_analysis(tmp_path / "x.json")["curves"]["denoising"][0]
    assert min(drawn) * 0.9 < value < max(drawn) * 1.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"points": 2}}, "--spec.options.points: must be between 3 and 1001, got 2"),
        ({"options": {"pionts": 3}}, "pionts: unknown key (did you mean 'points'?)"),
        ({"network": "teacher"}, "is no one-step generator; give a student's network"),
        ({"network": "none.safetensors"}, "none.safetensors"),
        ({"network": "wide"}, "has other weights than"),
        ({"protocol": {"fd": "no"}}, "protocol"),
    ],
)
def test_fault_is_one_line_and_nothing_is_written(tmp_path, spec, change, message, capsys):
    if change.get("network") == "teacher":
        change = {"network": spec["teacher"]}
    elif change.get("network") == "wide":
        wide = {"model_channels": 8}
        change = {"network": toy(tmp_path / "wide.safetensors", 1, wide, metadata=SAMPLER)}
    check_fault({**spec, **change}, message, tmp_path, capsys)


def test_barrier_is_what_lies_above_the_chord_inside():
    assert line_points(5) == [0, 0.25, 0.5, 0.75, 1]
    assert barrier([1.0, 2.0, 3.0]) == 0
    assert barrier([1.0, 4.0, 3.0]) == 2
    # Convex: below its chord everywhere, least so beside an end.
    values = [t**2 for t in line_points(5)]
    assert barrier(values) == pytest.approx(0.25**2 - 0.25)
    # A rise above the chord that stays below an end counts.
    assert barrier([10.0, 9.0, 8.0, 1.0]) == pytest.approx(4.0)


A, B = Operand(where={"recipe": "a"}), Operand(where={"recipe": "b"})
FLAT = [1.0, 1.0, 1.0]


def hill(height):
    return [10.0, 5.0 + height, 0.0]


def write(folder, run, curves):
    record = {"format": ANALYSIS_FORMAT, "run": run, "facts": facts(curves), "about": LINE.facts}
    record["curves"] = {"t": line_points(len(curves["fd"])), **curves}
    write_hashed_json(folder / "analyses/barriers" / f"{run}.json", record)


def made(folder, **barriers):
    """Evidence of runs ``a-0`` ..., with an FD of the given barriers and a flat denoising loss."""
    for recipe, heights in barriers.items():
        for seed, height in enumerate(heights):
            if height is not None:
                write(folder, f"{recipe}-{seed}", {"fd": hill(height), "denoising": FLAT})
    rows = [lines(f"{recipe}-{seed}", [4.0, 4.1]) for recipe, found in barriers.items() for seed in range(len(found))]
    return evidence(*rows, students=folder / "students")


def verdict(found, **part):
    return decided(found, rule="FACT", of="barriers", fact="fd_barrier", **part)


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([1.0, 1.1, 0.9], "supported"),
        ([-1.0, -1.1, -0.9], "contradicted"),
        ([1.0, -1.0, 0.5], "not decided here"),
        # Two training seeds are too few.
        ([1.0, 1.1], "not decided here"),
    ],
)
def test_a_barrier_is_above_zero_beyond_its_scatter_over_seeds(tmp_path, heights, expected):
    found = verdict(made(tmp_path, a=heights), a=A)
    assert found.outcome == expected
    if expected == "supported":
        assert found.findings[0].numbers["gain"] == pytest.approx(1.0)
        assert "claimed above 0" in found.findings[0].evidence
        told = amount(found.claim.parts[0], found.findings[0])
        assert told["text"].startswith("fd barrier +1.00 [")


def test_none_is_a_range_as_well(tmp_path):
    for heights, expected in (([-1.0, -1.1, -0.9], "supported"), ([1.0, 1.1, 0.9], "contradicted")):
        found = verdict(made(tmp_path, a=heights), a=A, low=float("-inf"), high=0.0)
        assert found.outcome == expected
        assert "claimed at most 0" in found.findings[0].evidence


@pytest.mark.parametrize(("less", "expected"), [(1.0, "supported"), (-1.0, "contradicted"), (0.0, "not decided here")])
def test_one_barrier_is_larger_than_another(tmp_path, less, expected):
    heights = [1.0, 1.1, 0.9]
    found = verdict(made(tmp_path, a=heights, b=[height - less for height in heights]), a=A, b=B)
    assert found.outcome == expected
    assert found.findings[0].numbers["gain"] == pytest.approx(less)


def test_what_was_not_computed_is_not_decided(tmp_path):
    found = verdict(made(tmp_path, a=[1.0, 1.1, None]), a=A)
    assert found.outcome == "not decided here"
    assert "no analysis barriers of run 'a-2'" in found.findings[0].evidence


def drawn(folder, labels):
    """CSV of a figure of curves of the analysis, for rows ``a-0`` ... of some labels, and its messages."""
    rows = [(f"{label}-{seed}", label, str(seed)) for label, count in labels.items() for seed in range(count)]
    text = ["run\tlabel\tmethod\tteacher\trecipe\tsampler\tseed"]
    text += [f"{run}\t{label}\tsid\tt\t{label}\tone-step\t{seed}" for run, label, seed in rows]
    (folder / "runs.tsv").write_text("\n".join(text) + "\n")
    series = "[{each: {method: sid}, pool_seeds: true}]"
    panel = f"of: barriers, x: t, y: fd, chord: true, x_scale: linear, y_scale: linear, series: {series}"
    (folder / "f.yaml").write_text(f"{{kind: curves, title: Line, final: false, panels: [{{{panel}}}]}}")
    paths, said = build_figure(folder / "f.yaml", folder / "runs.tsv", folder, folder / "f.pdf")
    assert {path.suffix for path in paths} == {".pdf", ".png", ".csv"}
    with open(folder / "f.csv", newline="") as stream:
        return list(csv.DictReader(stream)), said


def test_figure_shows_a_curve_for_each_method_and_says_what_is_missing(tmp_path):
    made(tmp_path, a=[1.0, 1.1, 0.9], b=[2.0, None])
    found, said = drawn(tmp_path, {"a": 3, "b": 2})
    assert said == ["not shown, no data yet: b"]
    shown = [(line["run"], line["t"], line["value"]) for line in found if line["kind"] == "curve"]
    assert ("a-0 a-1 a-2", "0.5", "6.0") in shown
    assert ("b-0", "0.5", "7.0") in shown
    assert len(shown) == 2 * 3


def test_curves_of_other_lengths_have_the_places_of_all(tmp_path):
    made(tmp_path, a=[1.0, 1.1, 0.9])
    write(tmp_path, "a-1", {"fd": [1.0] * 5, "denoising": [1.0] * 5})
    assert [line["t"] for line in drawn(tmp_path, {"a": 3})[0]] == ["0.0", "0.5", "1.0"]


def test_a_column_that_an_analysis_does_not_have_is_one_line(tmp_path):
    made(tmp_path, a=[1.0])
    write_hashed_json(
        tmp_path / "analyses/barriers/a-0.json",
        {"format": ANALYSIS_FORMAT, "run": "a-0", "facts": {}, "curves": {"t": [0.0], "fid": [1.0]}},
    )
    with pytest.raises(UserError, match=r"panels\[0\]\.series\[0\]\.each: a-0: .* no column 'fd'.*'fid'"):
        drawn(tmp_path, {"a": 1})


STORED = {"fd": [9.123456789, 5.0, 1.0], "denoising": [0.1, 0.2, 0.3]}


@pytest.fixture(scope="module")
def preset():
    return Preset.load(ROOT / "studies/miniature/preset.yaml")


def test_each_row_is_compared_with_its_teacher(preset):
    names = ("instance", "gdd", "gdd-i", "sid", "sida")
    assert set(preset.analysed("barriers")) == {f"line-{name}{seed}" for name in names for seed in ("", "-s1", "-s2")}
    spec = preset.specs.analysis("barriers", "line-gdd-s1")
    assert spec["network"] == "results/miniature/students/line-gdd-s1/network.safetensors"
    assert spec["teacher"] == "results/miniature/teachers/t30/network.safetensors"
    assert "trials" not in spec["protocol"] or "rows" not in spec
    targets = Targets(preset, paper=False)
    assert {spec["network"], spec["teacher"]} <= set(targets.analysed("line-gdd-s1"))
    assert "analyses/barriers/line-gdd-s1.json" in targets.short
    assert targets.shown("figures", "mini-barrier")["analyses"] == targets.analyses()
    assert len(targets.answered("barrier")["analyses"]) == 15
    assert targets.answered("gdd")["analyses"] == []
    job, _ = Jobs(Costs(preset, "H200", fresh=True)).job("results/miniature/analyses/barriers/line-instance.json")
    assert (job.kind, job.name) == ("build", "analyses/barriers/line-instance.json")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"rows": {}}, "analyses.barriers.rows: "),
        ({"rows": {"recipy": "sid"}}, "no column 'recipy'"),
        ({"options": {"points": 1}}, "points: must be between 3 and 1001"),
        ({"rows": {"run": "data"}}, "'data', which is neither trained here nor a teacher"),
        ({"function": "barrier.py:LIEN"}, "'LIEN' .*'LINE'"),
        ({"function": "barier.py:LINE"}, "no such file 'barier.py'"),
        (None, "no analysis 'barriers'"),
    ],
)
def test_fault_is_one_line_before_anything_runs(preset, change, fault):
    alone = {"tables": [], "figures": ["mini-barrier"], "claims": None, "experiments": None}
    config = dataclasses.asdict(preset.settings)
    analyses = {"barriers": config["analyses"]["barriers"] | change} if change else {}
    with refusing(fault):
        check_preset(Preset({**config, **alone, "analyses": analyses}, "studies/miniature/preset.yaml", preset.own))


def test_an_analysis_of_another_network_is_found(tmp_path):
    files = {role: tmp_path / f"{role}s/x/network.safetensors" for role in ("teacher", "student")}
    for role, path in files.items():
        write_tensors(path, {"w": torch.tensor([float(ord(role[0]))])}, {"name": role})
    named = dict(zip(("teacher", "network"), files.values()))
    asked = {role: f"results/x/{path.relative_to(tmp_path)}" for role, path in named.items()}
    write_json(tmp_path / "specs/analyses/barriers/s.json", asked)
    inputs = {role: sha256_file(path) for role, path in named.items()}
    record = {"format": ANALYSIS_FORMAT, "run": "s", "facts": {}, "curves": STORED, "inputs": inputs}
    write_hashed_json(tmp_path / "analyses/barriers/s.json", record)
    report = verify(tmp_path)
    assert (report.faults, report.counts["parents that are here"]) == ([], 2)
    write_tensors(files["student"], {"w": torch.tensor([0.0])}, {"name": "student"})
    (fault,) = verify(tmp_path).faults
    assert fault.startswith("analyses/barriers/s.json: was made from another network than students/x/network.safe")


def test_stored_curves_come_back(tmp_path):
    results, stored = tmp_path / "results", tmp_path / "stored"
    results.mkdir()
    write_csv(results / "measurements.csv", measurement_lines(1, 10, {"b": (1, {"fd": 5.0})}))
    record = {"format": ANALYSIS_FORMAT, "run": "b", "facts": {}, "curves": STORED}
    write_hashed_json(results / "analyses/barriers/b.json", record)
    store(results, stored, {}, {})
    assert read_analysis(stored / "analyses/barriers/b.json")["curves"] == STORED
    # A study without any has no such file, and loses an old one.
    (results / "analyses/barriers/b.json").unlink()
    store(results, stored, {}, {})
    assert not (stored / "analyses").exists()
