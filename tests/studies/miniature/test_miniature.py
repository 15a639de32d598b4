"""The miniature preset: its files fit together, each experiment stands alone, and every setting starts."""

import dataclasses
import json
import random
import re

import pytest

from eval.claims import load_claims
from sida.config.resources import ROOT
from sida.methods import distill
from sida.training import train_teacher
from tests.eval.synthetic_output import measurement_lines, write_csv
from tests.refused import refusing
from tests.studies.plans import dry_run, seeds_of
from workflow.cli import eval_main
from workflow.cli import sida_main as main
from workflow.preset import Preset
from workflow.preset.rehearsal import check_preset
from workflow.preset.specs import find_needs

METRICS = {"fd": 4.0, "fd_own": 2.0, "fd_pixel": 0.4, "is": 9.0, "precision": 0.8, "recall": 0.7, "accuracy": 0.97}


@pytest.fixture(scope="module")
def preset():
    return Preset.load(ROOT / "studies/miniature/preset.yaml")


@pytest.fixture(scope="module")
def short():
    return Preset.load(ROOT / "studies/miniature/afternoon.yaml")


def test_an_afternoon_has_rows_of_the_miniature_and_takes_five_core_hours(preset, short, capsys):
    check_preset(short)
    assert all(vars(run) == vars(preset.runs[name]) for name, run in short.runs.items())
    # Each table and figure of the paper has its counterpart.
    for kind, numbers in (("tables", 8), ("figures", 10)):
        assert [name.rpartition("-")[2] for name in short.layouts[kind]] == [
            f"{kind[:-1]}{k}" for k in range(1, numbers + 1)
        ]
    alphas = [run.alpha for run in short.runs.values() if run.recipe == "alpha-sida"]
    assert alphas == [-0.25, 0, 0.5, 0.75, 1, 1.2, 1.5]
    assert main(["plan", "--preset", "miniature studies/miniature/afternoon.yaml", "--fresh", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["gpu_hours"] <= 5


def layouts(preset):
    return [(kind, name) for kind in ("tables", "figures") for name in preset.layouts[kind]]


def test_every_row_is_shown_and_no_experiment_needs_all(preset):
    shown = set()
    for kind, name in layouts(preset):
        needs = find_needs(ROOT / f"studies/miniature/{kind}/{name}.yaml", preset.runs)
        needed = {*needs.networks, *needs.measured}
        assert 0 < len(needed) < len(preset.runs) / 2, name
        shown |= needed
    parents = {parent for run in preset.students() for parent in preset.parents(run)}
    assert set(preset.runs) - shown - parents == set()


def test_claims_name_rows_and_three_seeds_where_training_is_compared(preset):
    for claim in load_claims(ROOT / "studies/miniature/claims.yaml"):
        assert claim.scope == "digits"
        for part in claim.parts:
            for operand in (one for key, one in part.operands.items() if key != "level" and one.value is None):
                if operand.run:
                    assert operand.run in preset.runs, claim.id
                    assert part.rule != "TRAIN", claim.id
                else:
                    # Those of EDM2's layers are not the seed by which their weights were tuned.
                    found = seeds_of(preset, operand)
                    assert found, claim.id
                    assert all(seeds in ({0, 1, 2}, {1, 2, 3}) for seeds in found), claim.id


def test_controls_change_one_thing(preset):
    def without(run, *keys):
        return {key: value for key, value in preset.specs.student(run).items() if key not in ("name", *keys)}

    frame = ("grad_clip_value", "warmup_kimg")
    norms = ("weight_norm", "fake_score_weight_norm")
    for run, base, *asked in (
        *((f"{teacher}-no-data", f"{teacher}-sida", "real_source") for teacher in ("t30", "t30b")),
        *((f"{teacher}-pool-sample", f"{teacher}-sida", "adversarial_pool") for teacher in ("t30", "t30b")),
        ("t30-sid-clipped", "t30-sid", *frame),
        ("t30-sida-unclipped", "t30-sida", *frame, "adversarial_kimg"),
        ("edm2-sida-norm-off", "edm2-sida", *norms),
        *((f"edm2-{method}-nologvar", f"edm2-{method}", "logvar") for method in ("sid", "sida")),
        ("lag-sida-a0.5", "alpha-sida-a0.5", "fake_score_lr"),
    ):
        assert without(run, *asked) == without(base, *asked), run
    for teacher in ("t30", "t30b"):
        source = preset.specs.student(f"{teacher}-no-data")["real_source"]
        assert source.endswith(f"students/{teacher}-sid/network.safetensors")
    for run, value in (("t30-sid-clipped", 1), ("t30-sid", 0), ("t30-sida-unclipped", 0)):
        assert {preset.specs.student(run).get(key, 0) for key in frame} == {value}
    restart, sid2a = preset.specs.student("t30-restart"), preset.specs.student("t30-sid2a")
    assert all(restart[key] == sid2a[key] for key in ("init", "total_kimg", "lr", "warmup_kimg", "teacher"))


def test_further_teachers_differ_from_the_first_by_their_seed(preset):
    for name in ("t10", "t30", "t50", "t100", "t200"):
        first, other = preset.specs.teacher(name), preset.specs.teacher(f"{name}b")
        assert {key for key in first if first[key] != other[key]} == {"name", "seed"}


def test_ways_to_spend_one_budget_see_equally_many_images(preset):
    def images(run):
        row = preset.runs[run]
        return preset.specs.student(run)["total_kimg"] + (images(row.init) if row.init else 0)

    for rows in (
        ["t30-sid", "t30-sida", "t30-sid2a", "t30-restart", "t30-gdd"],
        ["edm2-sid", "edm2-sida", "edm2-sid2a"],
    ):
        assert {images(run) for run in rows} == {40}
    for size in ("small", "large", "uncond"):
        assert {images(f"{size}-{method}") for method in ("sid", "sida", "sid2a")} == {40}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("teacher-t30", r"run 't30-no-data': recipes.no-data.real_source 'teacher-t30' is not a one-step generator"),
        ("t30-no-data-s1", r"run 't30-no-data(-s1)?'.*circle"),
    ],
)
def test_bad_stand_in_for_the_data_is_one_line(preset, source, fault):
    changed = json.loads(json.dumps(dataclasses.asdict(preset.settings)))
    changed["recipes"]["no-data"]["real_source"] = source
    with refusing(fault):
        Preset(changed, "studies/miniature/preset.yaml")


@pytest.mark.parametrize(
    ("target", "jobs"),
    [
        ("tables/mini-table6.tex", {"train_teacher": 2, "distill": 4, "measure": 6, "collect_part": 1, "table": 1}),
        *(
            pytest.param(target, jobs, marks=pytest.mark.slow)
            for target, jobs in (
                ("figures/mini-figure9.pdf", {"train_teacher": 1, "distill": 1, "figure": 1}),
                ("students/t30-no-data/network.safetensors", {"train_teacher": 1, "distill": 1, "distill_parent": 1}),
            )
        ),
    ],
)
def test_an_experiment_alone_runs_only_its_own_rows(tmp_path, target, jobs):
    found, _ = dry_run(tmp_path, "miniature/preset.yaml", "--", target)
    measuring = sum(found.pop(rule) for rule in list(found) if rule.startswith("measure"))
    assert found | ({"measure": measuring} if measuring else {}) == jobs


@pytest.fixture(scope="module")
def made_up(preset, tmp_path_factory):
    """Logs and measurements of every row; drawn, not measured."""
    folder, noise, truth = tmp_path_factory.mktemp("made-up"), random.Random(0), {}
    for name, run in preset.runs.items():
        metrics = {metric.key: METRICS.get(metric.key, 1.0) for metric in preset.protocol(run).metrics}
        truth[name] = (35 if run.method == "teacher" else 1, metrics)
    write_csv(folder / "measurements.csv", measurement_lines(5, 2500, truth))
    for run in preset.students():
        student = folder / "students" / run.run
        student.mkdir(parents=True)
        total = int(preset.specs.student(run.run)["total_kimg"] * 1000)
        logs = {"evaluations": [], "train": []}
        for nimg in range(0, total + 1, total // 10):
            fd = 25 / (1 + nimg / 2000) + noise.uniform(2, 3)
            trials = {"fd": fd, "fd_std": 0.1, "fd_trials": [fd, fd], "num_samples": 2500, "accuracy": 0.9}
            trials |= {"selection": "fd", "fd_own": fd / 2, "is": 9.0 - fd / 10, "fd_pixel": None}
            logs["evaluations"].append({"nimg": nimg, **trials})
            weights = {"fake_score": 1.0 + nimg / 1e6, "generator": 1.0}
            logs["train"].append({"nimg": nimg, "img_per_s": 300.0, "memory_mb": 800.0, "weight_rms": weights})
        for name, records in logs.items():
            (student / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def measured_options(preset, made_up) -> list[str]:
    options = ["--measurements", str(made_up / "measurements.csv"), "--runs", str(ROOT / preset.sheet)]
    return [*options, "--results", str(made_up)]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["preset", "short"])
def test_every_curve_can_be_drawn(which, made_up, tmp_path, request):
    preset = request.getfixturevalue(which)
    for name in (name for kind, name in layouts(preset) if kind == "figures"):
        layout = ROOT / f"studies/miniature/figures/{name}.yaml"
        if find_needs(layout, preset.runs).measured or name == "mini-figure1":
            words = ["figure", "--layout", str(layout), *measured_options(preset, made_up)]
            words += ["--spec", json.dumps(preset.specs.figure(name)), "--out", str(tmp_path / f"{name}.pdf")]
            assert eval_main(words) == 0
            assert "missing" not in (tmp_path / f"{name}.csv").read_text()


@pytest.mark.parametrize("which", ["preset", "short"])
def test_every_table_and_the_claims_can_be_built(which, made_up, tmp_path, request):
    preset = request.getfixturevalue(which)
    common = measured_options(preset, made_up)
    settings = json.dumps(dataclasses.asdict(preset.settings))
    for name in (name for kind, name in layouts(preset) if kind == "tables"):
        layout = str(ROOT / f"studies/miniature/tables/{name}.yaml")
        words = ["--mode", "measured", "--config", settings, "--out", str(tmp_path / f"{name}.tex")]
        assert eval_main(["table", "--layout", layout, *common, *words]) == 0
        assert not re.search("not (measured|configured)", (tmp_path / f"{name}.md").read_text()), name
    claims = ["--claims", str(ROOT / preset.settings.claims), "--out", str(tmp_path / "claims.md")]
    assert eval_main(["claims", *claims, *common]) == 0
    verdicts = json.loads((tmp_path / "claims.json").read_text())
    assert len(verdicts["claims"]) == len(load_claims(ROOT / preset.settings.claims))


def shrunk(spec: dict, folder, **changes) -> dict:
    """A spec for a few iterations whose files lie below ``folder`` instead of the results."""
    spec = json.loads(json.dumps(spec).replace("results/miniature", str(folder)))
    return {**spec, "batch_size": 16, "tick_kimg": 0.032, **changes}


@pytest.mark.slow
def test_every_distinct_setting_starts(preset, tmp_path):
    """Each teacher, and the first row of each pair of recipe and teacher with all it depends on, for a few steps."""
    from eval.measuring.measure import measure

    protocol = ROOT / preset.settings.protocol
    for name in preset.trained_teachers():
        spec = shrunk(preset.specs.teacher(name), tmp_path, total_kimg=0.08)
        train_teacher(spec, tmp_path / "teachers" / name)

    def run(name: str) -> None:
        folder = tmp_path / "students" / name
        if (folder / "network.safetensors").exists():
            return
        for parent in preset.parents(preset.runs[name]):
            run(parent)
        budget = {"total_kimg": 0.08, "warmup_kimg": 0.016, "adversarial_kimg": 0.032}
        spec = preset.specs.student(name)
        # Not every method has both phases.
        spec = shrunk(spec, tmp_path, **{key: value for key, value in budget.items() if key in spec})
        if spec["evaluation"] is not None:
            spec["evaluation"] = spec["evaluation"] | {"every_kimg": 0.08}
            spec["evaluation"]["kwargs"] |= {"num_samples": 100, "trials": 1, "protocol": str(protocol)}
        distill(spec, folder)

    first = {}
    for row in preset.students():
        first.setdefault((row.recipe, row.teacher, row.alpha if row.family == "α" else None), row.run)
    for name in first.values():
        run(name)
    # A network of each family through the protocol itself, with fewer images.
    import yaml

    small = yaml.safe_load(protocol.read_text()) | {"num_samples": 200, "trials": 1}
    for name in ["data", "teacher-edm2", "uncond-sida", "edm2-sida", "t30-sida"]:
        spec = json.loads(json.dumps(preset.specs.measurement(name)).replace("results/miniature", str(tmp_path)))
        (record,) = measure(spec | {"protocol": small}, tmp_path / "measurements" / name, [0])
        assert record["metrics"]["fd"] > 0
        assert ("accuracy" in record["metrics"]) == (not name.startswith("uncond"))
