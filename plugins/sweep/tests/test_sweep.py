"""The verb: a small sweep that is interrupted and resumed, its record, faulty grids, and averages as an axis."""

import json
from types import SimpleNamespace

import pytest
import yaml

from sida.eval.measuring.measure import Measurer
from sida.eval.measuring.protocol import load_protocol
from sida.eval.results.trial_files import score_of
from sida.networks.file import read_metadata, save_network
from sida.plugins.sweep.choice import choose
from sida.plugins.sweep.grid import make_averages, read_grid
from sida.plugins.sweep.sweep import SEARCHED, Sweep, search_protocol
from sida.workflow.cli import main
from tests.eval.measuring.specs import content, metric
from tests.networks.made import random_network
from tests.refused import command, refused
from tests.training.toy import NETWORK


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """``sida sweep`` over three strengths of guidance, with images for a second of work."""
    folder = tmp_path_factory.mktemp("sweep")
    metrics = [metric("fd", label="FD"), metric("accuracy", "accuracy", "digits", None)]
    protocol = content(name="small", num_samples=60, trials=2, metrics=metrics, watch=None)
    (folder / "small.yaml").write_text(yaml.safe_dump(protocol))
    network = random_network(NETWORK["class"], {**NETWORK["kwargs"], "label_dropout": 0.2}, std=0.05)
    save_network(network, folder / "net.safetensors", {"method": "sid"})
    options = {"sampler": "heun:2", "gnet": "null", "over": "guidance=0,1,3", "protocol": folder / "small.yaml"}
    options |= {"search-samples": 24, "out": folder / "out", "device": "cpu"}
    return ["sweep", str(folder / "net.safetensors"), *(f"--{key}={value}" for key, value in options.items())]


@pytest.fixture(scope="module")
def swept(words):
    """Record and output of the sweep, after an interruption at the third candidate; and what each call measured."""
    calls, sums = [[]], Measurer.sums

    def counted(self, trial, *arguments):
        calls[-1].append((self.spec.run, trial))
        if len(calls) == 1 and len(calls[0]) == 3:
            raise KeyboardInterrupt
        return sums(self, trial, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Measurer, "sums", counted)
        assert main(words) == 130
        calls.append([])
        printed = command(*words)
    out = next(word for word in words if word.startswith("--out=")).removeprefix("--out=")
    with open(f"{out}/score.json", encoding="utf-8") as file:
        return json.load(file), printed, calls


@pytest.mark.slow
def test_an_interrupted_sweep_resumes_with_its_candidates(swept):
    record, _, calls = swept
    assert calls[0] == [("guidance=0", 0), ("guidance=1", 0), ("guidance=3", 0)]
    assert calls[1][0] == ("guidance=3", 0)
    # Then the two trials of the full score.
    assert [trial for _, trial in calls[1][1:]] == [0, 1]
    assert len(record["measurements"]) == 2


def test_search_and_report_share_no_seed_and_candidates_share_all(swept):
    record, _, _ = swept
    searched = [one["measurement"]["seeds"] for one in record["sweep"]["candidates"]]
    assert searched == [[120, 143]] * 3
    assert [one["seeds"] for one in record["measurements"]] == [[0, 59], [60, 119]]


def test_the_best_one_has_the_lowest_search_value_and_says_of_how_many(swept):
    record, printed, _ = swept
    sweep = record["sweep"]
    best = min(sweep["candidates"], key=lambda one: one["value"])
    assert best["name"] == sweep["best"]
    guidance = float(sweep["best"].removeprefix("guidance="))
    assert record["measurements"][0]["source"]["sampler"]["guidance"] == guidance
    assert all(word in sweep["line"] for word in (sweep["best"], "3 candidates", "FD of 24 images"))
    assert sweep["line"] in printed
    assert sweep["line"] in record["warnings"]
    assert sweep["share"] == pytest.approx(24 / 120)


@pytest.mark.parametrize(("images", "too_few"), [(199, True), (200, False)])
def test_errors_are_left_out_below_twice_the_references_effective_rank(images, too_few):
    details = {"fd": {"reference": {"effective_rank": 100.0}}}
    facts = {"n": images, "seeds": [0, images - 1], "details": details}
    search = [{**facts, "metrics": {SEARCHED: value}} for value in (3.0, 2.0)]
    choice = choose([3.0, 2.0], [[3.1, 2.9, 3.0], [2.0, 2.1, 1.9]])
    score = SimpleNamespace(
        protocol=SimpleNamespace(num_samples=1000), records=[None], lines=list, record=dict,
        summary=lambda: {"fd": {"mean": 2.5, "standard_error": None}},
    )  # fmt: skip
    fd = next(one for one in load_protocol("digits").metrics if one.key == "fd")
    sweep = Sweep(["a", "b"], fd, search, choice, score)
    said = [" ± " in text for text in (sweep.line(), "\n".join(sweep.lines()))]
    assert said == [not too_few] * 2
    assert [told.partition("; ")[2] for told in sweep.warnings()] == ["say --search-samples"] * too_few
    assert sweep.record()["sweep"].get("too_few", False) == too_few


def test_a_strength_of_one_has_no_guiding_network(swept):
    guides = [one["measurement"]["source"]["guide"] for one in swept[0]["sweep"]["candidates"]]
    assert guides == ["null", None, "null"]


def test_the_row_says_which_network_chose_it(swept):
    record, _, _ = swept
    assert {one["saw"] for one in record["measurements"]} == {"choice:inception choice:digits"}
    assert not {one.get("saw") for one in (c["measurement"] for c in record["sweep"]["candidates"])} - {None}
    assert {row.saw for row in score_of(record, "score.json").rows} == {"choice:inception choice:digits"}


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ([], "--over: has one candidate.*sida score"),
        (["guidance=2"], "--over: has one candidate"),
        (["guidance"], "--over: must be KEY=VALUE"),
        (["guidance=1,2", "guidance=3"], "--over guidance: is given twice"),
        (["guidance=1,1.0"], r"--over guidance=1\.0: is the candidate guidance=1;"),
        (["guidance=1,,2"], "--over.*guidance"),
        (["guidence=1,2"], "--over.*guidence.*guidance"),
        (["init_sigma=1,2"], "--over.*init_sigma.*does not read it"),
        (["std=0.1,wide"], "--over std=wide: is no number"),
    ],
)
def test_a_faulty_grid_is_refused_before_anything_is_drawn(words, over, told):
    axes = [f"--over={text}" for text in over]
    refused(told, command, *(word for word in words if not word.startswith("--over")), *axes)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--metric=accuracy", "--metric: must be a Fréchet distance.*it has fd"),
        ("--search-samples=19", "--search-samples: parts: 10 of 19 images"),
        ("--search-samples=61", "--search-samples: must be at most 60"),
        ("--over=guidance_channels=1,2", "guidance_channels.*the network draws 1"),
    ],
)
def test_a_fault_of_a_candidate_ends_the_sweep_before_its_search(words, option, told, tmp_path):
    refused(told, command, *words, option, f"--out={tmp_path}")
    assert not [*tmp_path.rglob("trial-*")]


def test_the_search_costs_at_most_15_per_cent_of_full_scores():
    for name in ("digits", "cifar10"):
        protocol = load_protocol(name)
        searching = search_protocol(protocol, protocol.metric(protocol.selection_key), 1)
        assert searching.num_samples * searching.trials <= 0.15 * protocol.num_samples
        assert searching.seed0 >= protocol.seeds(protocol.trials - 1)[1] + 1


def test_widths_of_averages_are_an_axis(tmp_path):
    sources = []
    for nimg in (1000, 2000, 3000):
        sources.append(str(tmp_path / f"{nimg}.safetensors"))
        record = {"average_std": 0.1, "nimg": nimg, "config_sha256": "0"}
        save_network(random_network(NETWORK["class"], NETWORK["kwargs"], seed=nimg), sources[-1], record)
    grid = read_grid(sources, ["std=0.08,0.12", "guidance=1,2"], "heun:4")
    made = make_averages(grid, sources, tmp_path / "averages")
    assert [one.name for one in made] == [f"std={std},guidance={g}" for std in (0.08, 0.12) for g in (1, 2)]
    assert [read_metadata(one.source)["average_std"] for one in made] == [0.08, 0.08, 0.12, 0.12]
    # Without the axis each network is a candidate.
    assert [one.name for one in read_grid(sources, [], "heun:4")] == [f"network={source}" for source in sources]
