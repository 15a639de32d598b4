"""The page of `fashion-anew`: its tables and verdicts are those of the stored rows."""

import json
from math import log
from statistics import mean, stdev

import pytest

from sida.config.lookup import ROOT
from sida.eval.claims.claim import load_claims
from sida.eval.claims.evidence import Evidence
from sida.eval.claims.finding import UNDECIDED
from sida.eval.claims.write import decide
from sida.eval.results.logs import logs_of
from sida.eval.results.measurements import load_measurements
from sida.eval.results.sheet import read_runs
from sida.eval.results.stored import files_of, stored_rows
from sida.workflow.preset.extension import write_extension
from studies.fashion import differences, scatter
from tests.plugins import needs
from tests.studies.test_pages import cells_by_label, values_of

pytestmark = needs("judges")

STUDY = ROOT / "studies/fashion"
STORED = STUDY / "fashion-anew/stored"
PAGE, CLAIMS = (STUDY / "anew.md").read_text(), (STORED / "claims.json").read_text()
THREE, GDDS = differences.PAIRS[:3], differences.PAIRS[3:6]


def section(name):
    return PAGE.split(f"## {name}\n")[1].split("\n## ")[0]


def test_the_rows_of_the_bench_anew_are_its_stored_measurements():
    table = cells_by_label(section("Measured"))
    columns = [("fd", 3), ("fd_pixel", 1), ("fd_lite0", 1)]
    trials = {metric: values_of(STORED, metric) for metric in ("fd", "fd_pixel", "fd_lite0", "recall")}
    assert table.keys() - {"row"} == {f"`{run}`" for run in trials["fd"]}
    for run, recalls in trials["recall"].items():
        values = [(trials[metric][run], digits) for metric, digits in columns]
        expected = [f"{mean(value):.{digits}f} ± {stdev(value):.{digits}f}" for value, digits in values]
        assert table[f"`{run}`"] == [*expected, f"{mean(recalls):.2f}"], run


def test_the_tables_of_verdicts_are_those_that_the_study_prints(capsys):
    differences.main()
    printed, shown = cells_by_label(capsys.readouterr().out), cells_by_label(section("Verdicts"))
    cells = {label.strip(): [cell.strip() for cell in row] for label, row in printed.items()}
    names = differences.METHODS
    for label in [*names.values(), *(f"{names[method]} − {names[other]}" for method, other in differences.PAIRS)]:
        assert shown[label] == cells[label]


@pytest.fixture(scope="module")
def values():
    """Values by judge, recipe, teacher and seed."""
    return {metric: differences.values_of(metric) for metric in differences.JUDGES}


@pytest.fixture(scope="module")
def means(values):
    """Means by judge and recipe."""
    return {metric: differences.means_of(values[metric]) for metric in values}


@pytest.fixture(scope="module")
def gaps(values):
    """Differences by judge and pair."""
    return {
        metric: {pair: differences.compare(values[metric], *pair) for pair in differences.PAIRS} for metric in values
    }


def test_predictions_about_intervals_and_orders_came_out_as_the_page_says(gaps, means):
    text = section("Verdicts")
    assert "1. holds" in text
    assert all(gap.low < 0 < gap.high for of_pairs in gaps.values() for gap in map(of_pairs.get, THREE))
    assert "2. holds" in text
    assert all(gap.high < 0 for of_pairs in gaps.values() for gap in map(of_pairs.get, GDDS))
    assert all(gap.designs == ("nested", "nested") for of_pairs in gaps.values() for gap in of_pairs.values())
    orders = {metric: sorted(("sid", "sida", "sid2a", "gdd"), key=value.get) for metric, value in means.items()}
    sid, gdd = (gaps["fd"]["gdd-lite0", other] for other in ("sid", "gdd"))
    assert f"{sid.value:.1f} above SiD's (predicted: 0.15 below)" in text
    assert f"{gdd.value:.1f} above GDD's (predicted: 0.43 above)" in text
    assert sid.low < -0.15 < sid.high
    assert gdd.low < 0.43 < gdd.high
    assert all(gaps[metric]["gdd-lite0", "gdd"].low < 0 for metric in ("fd", "fd_pixel"))
    assert "6. fails" in text
    assert orders["fd_pixel"] == ["gdd", "sida", "sid", "sid2a"]
    assert orders["fd_lite0"] == ["gdd", "sid2a", "sid", "sida"]


def test_teachers_that_differ_are_those_of_the_page(gaps, values):
    text = section("Verdicts")
    differ = {
        (metric, *pair): gap.blocks_p for metric, of in gaps.items() for pair, gap in of.items() if gap.blocks_differ
    }
    count = sum(map(len, gaps.values()))
    assert f"(p < 0.05) in {len(differ)} of the {count} differences" in text
    assert {(metric, other) for metric, _, other in differ} == {("fd_pixel", "sid")}
    assert all(f"(p = {p:.3f})" in text for p in differ.values())
    leads = (
        -gap.value / mean(values["fd_pixel"]["sid"][teacher].values())
        for teacher, gap in gaps["fd_pixel"]["gdd", "sid"].blocks.items()
    )
    one, two, three = (f"{100 * lead:.0f}" for lead in leads)
    assert f"in pixels is {one}, {two} and {three} % below SiD's" in text


def test_training_seeds_scatter_as_the_page_says():
    table = scatter.scatter(scatter.values_of(STORED))
    (line,) = (line for line in section("Verdicts").splitlines() if line.startswith("3. "))
    for method, row in table.iterrows():
        text = f"{row['training seed']:.1f} % ({row['seed, low']:.1f} to {row['seed, high']:.1f})"
        assert text in line, (method, text)


def test_accuracies_and_near_copies_are_those_of_the_page():
    accuracy, tails = values_of(STORED, "accuracy"), values_of(STORED, "copies_tail")
    of = lambda part: [100 * mean(values) for run, values in accuracy.items() if part in run]
    text = section("Verdicts")
    for name in ("-gdd-s", "-lite0-"):
        assert f"{min(of(name)):.1f} to {max(of(name)):.1f} %" in text
    assert min(of("-gdd-s")) > 100 * mean(accuracy["data"]) > max(of("-lite0-"))
    most = max(mean(values) for run, values in tails.items() if run != "data")
    assert f"at most {100 * most:.2f} % for any generator" in text


def test_the_network_of_imagenet_taught_little_at_first():
    logs = {name: list(records) for name, records in logs_of(STORED) if "-gdd-" in name and "train" in name}
    imagenet, clothes = (
        [ticks for name, ticks in logs.items() if ("lite0" in name) is asked] for asked in (True, False)
    )
    peaks = lambda logs, loss: [max(tick["losses"][loss] for tick in ticks) for ticks in logs]
    spans = [
        (peaks(imagenet, "r1"), 0),
        (peaks(imagenet, "real_or_fake"), 1),
        ([ticks[-1]["losses"]["real_or_fake"] for ticks in imagenet], 2),
        ([mean(values) for run, values in values_of(STORED).items() if "lite0" in run], 1),
        ([mean(values) for run, values in values_of(STORED, "recall").items() if "lite0" in run], 2),
    ]
    for values, digits in spans:
        assert len(values) == 4
        assert f"{min(values):.{digits}f} to {max(values):.{digits}f}" in section("Verdicts"), values
    assert all(max(ticks, key=lambda tick: tick["losses"]["r1"])["nimg"] <= 4096 for ticks in imagenet)
    assert f"at most {max(peaks(clothes, 'r1')):.1f})" in section("Verdicts")
    assert f"where guessing has {2 * log(2):.2f}" in section("Verdicts")
    ends = [ticks[-1]["losses"]["real_or_fake"] for ticks in clothes]
    assert f"(GDD: {min(ends):.2f} to {max(ends):.2f})" in section("Verdicts")


def test_claims_came_out_as_the_page_says(tmp_path):
    sheet = {run.run: run for run in read_runs(STUDY / "anew.tsv")}
    for name, content in files_of(STORED, sheet):
        if name.endswith(".jsonl"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
    evidence = Evidence(load_measurements(STORED), sheet, tmp_path)
    verdicts = decide(load_claims(STUDY / "anew.py").claims, evidence)
    assert {verdict.claim.id: verdict.outcome for verdict in verdicts} == dict.fromkeys(
        ["N-01", "N-02", "N-03", "N-04"], UNDECIDED
    )
    stored = {claim["id"]: [part["evidence"] for part in claim["findings"]] for claim in json.loads(CLAIMS)["claims"]}
    assert stored == {verdict.claim.id: [part.evidence for part in verdict.findings] for verdict in verdicts}
    (n_03,) = (verdict for verdict in verdicts if verdict.claim.id == "N-03")
    assert [finding.outcome for finding in n_03.findings].count("supported") == 5


def test_the_first_page_quotes_this_one(gaps, means):
    text = (STUDY / "README.md").read_text()
    value, other, gap = means["fd"]["sida"], means["fd"]["sid"], gaps["fd"]["sida", "sid"]
    assert f"{value:.3f} against {other:.3f}, difference {gap.low:.2f} to {gap.high:.2f}".replace("-", "−") in text
    share = {metric: -100 * gaps[metric]["gdd", "sid"].value / means[metric]["sid"] for metric in gaps}
    assert f"by {share['fd_pixel']:.0f} %, and by {share['fd_lite0']:.0f} % in EfficientNet-Lite0's features" in text
    features = "EfficientNet-Lite0's features"
    assert f"by {share['fd_lite0']:.0f} % in {features} and by {share['fd_pixel']:.0f} % in pixels" in PAGE


def test_pairs_of_seeds_on_two_processors_are_counted():
    of, values = {}, values_of(STORED)
    for row in stored_rows(STORED):
        of[row["run"]] = row["trained_on"].split("model ")[-1].split(",")[0]
    pairs = {}
    for run in of:
        if "lite0" not in run and "half" not in run and run != "data":
            pairs.setdefault(run.rsplit("-s", 1)[0], []).append((of[run], mean(values[run])))
    mixed = [sorted(pair) for pair in pairs.values() if len({model for model, _ in pair}) == 2]
    assert len(pairs) == 12
    assert all([model for model, _ in pair] == ["167", "207"] for pair in mixed)
    higher = sum(first > second for (_, first), (_, second) in mixed)
    assert (len(mixed), higher) == (8, 6)


def test_the_blocks_differ_as_the_page_says(means):
    first = {metric: values_of(STUDY / "stored", metric) for metric in ("fd", "fd_pixel")}
    shifts = {
        metric: {
            method: means[metric][method] - mean(mean(trials) for run, trials in of.items() if f"-{method}-" in run)
            for method in ("sid", "sida", "sid2a", "gdd")
        }
        for metric, of in first.items()
    }
    assert f"by at most {max(map(abs, shifts['fd'].values())):.2f}; in pixels SiD²A's" in PAGE
    assert f"SiD²A's differs by {shifts['fd_pixel']['sid2a']:.1f} (" in PAGE


def test_times_of_trainings_are_those_of_the_logs():
    minutes = {}
    for name, ticks in logs_of(STORED):
        if name.startswith("students") and name.endswith("train.jsonl"):
            method = name.split("/")[1].split("-", 1)[1].rsplit("-", 1)[0]
            minutes.setdefault(method, []).append(sum(tick["seconds"] for tick in ticks) / 60)
    for methods, text in (
        (["sid", "sida"], "SiD and SiDA took {} minutes"),
        (["sid2a"], "SiD²A {} after its half"),
        (["gdd"], "GDD {}, of"),
        (["gdd-lite0"], "EfficientNet-Lite0 {} minutes"),
    ):
        times = [time for method in methods for time in minutes[method]]
        assert text.format(f"{min(times):.0f} to {max(times):.0f}") in PAGE
    assert f"all took {sum(map(sum, minutes.values())) / 60:.1f} hours" in PAGE


def test_all_rows_are_stored_so_that_an_extension_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert write_extension([STUDY / "fashion-anew.yaml"], None, STORED)[1] == []
