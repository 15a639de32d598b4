"""The demo's four seeds: the lead in each, what differs between them, their scatter; and the probe of `make demo`."""

import math
import re
import runpy
from statistics import mean, stdev

import pytest

from sida.config.lookup import ROOT
from sida.eval.results.logs import read_log
from sida.eval.results.retraining import load_retraining
from sida.eval.results.stored import stored_rows
from sida.workflow.preset.jobs import measuring_parts, teacher_training, training
from tests.workflow.workspace import shipped

#: Runs of SiD and SiDA by seed.
RUNS = {11: ("sid-a1.0", "sida-a1.0"), **{seed: (f"sid-s{seed}", f"sida-s{seed}") for seed in (12, 13, 14)}}


def means(metric):
    """Means over trials of SiD and of SiDA, by seed."""
    values: dict[str, list[float]] = {}
    for folder in ("stored", "demo-seeds/stored"):
        for row in stored_rows(ROOT / "studies/demo" / folder):
            if row["metric"] == metric:
                values.setdefault(row["run"], []).append(float(row["value"]))
    return {seed: tuple(mean(values[run]) for run in runs) for seed, runs in RUNS.items()}


def last_evaluations():
    """FD of SiD and of SiDA at the trainings' ends, by seed."""
    for seed, runs in RUNS.items():
        students = ROOT / "studies/demo" / ("stored" if seed == 11 else "demo-seeds/stored") / "students"
        yield tuple(read_log(students / run / "evaluations.jsonl")[-1]["fd"] for run in runs)


def test_sida_leads_by_more_than_30_percent_with_each_seed():
    assert min(1 - sida / sid for sid, sida in means("fd").values()) > 0.3


def test_pages_name_lead_and_recall_of_each_seed():
    shown = lambda pairs: [f"{100 * (1 - sida / sid):.0f}" for sid, sida in pairs]
    leads, ends = shown(means("fd").values()), shown(last_evaluations())
    recalls = [f"{sida:.2f} (SiD {sid:.2f})" for sid, sida in means("recall").values()]
    further = f"{leads[1]}, {leads[2]}, and {leads[3]} %"
    page = (ROOT / "README.md").read_text()
    for words in (further, *recalls, f"{ends[0]}, {ends[1]}, {ends[2]}, and {ends[3]} % below"):
        assert words in page, words
    study = (ROOT / "studies/demo/README.md").read_text()
    for seed, lead, end in zip(RUNS, leads, ends, strict=True):
        assert re.search(rf"^\| {seed} \| .* \| {lead} % \| {end} % \|", study, re.M), seed
    assert f"{leads[0]}, {further}" in (ROOT / "docs/faq.md").read_text()
    table = (ROOT / "docs/measurements.md").read_text()
    assert f"| SiDA below SiD | {' | '.join(f'{lead} %' for lead in leads)} |" in table
    for place, label in enumerate(("SiD", "SiDA")):
        assert f"| One step, {label} | {' | '.join(f'{pair[place]:.2f}' for pair in means('fd').values())} |" in table


def test_the_further_seeds_differ_in_seed_alone():
    demo, seeds = shipped("demo"), shipped("demo-seeds")
    without = lambda job: {key: value for key, value in job.spec.items() if key not in ("name", "seed", "teacher")}
    for seed, runs in list(RUNS.items())[1:]:
        teacher = teacher_training(seeds, f"digits-{seed}")
        assert teacher.spec["seed"] == seed
        assert without(teacher) == without(teacher_training(demo, "digits-short"))
        for run, own in zip(runs, RUNS[11], strict=True):
            job = training(seeds, run)
            assert job.spec["seed"] == seed
            assert job.needs["teachers"] == [f"digits-{seed}"]
            assert without(job) == without(training(demo, own))


def test_bold_counts_the_scatter_of_these_seeds():
    scatter = load_retraining("digits-demo")
    for metric, std in scatter.std.items():
        relative = [stdev(values) / mean(values) for values in zip(*means(metric).values(), strict=True)]
        assert std == pytest.approx(math.hypot(*relative) / math.sqrt(2), abs=6e-4), metric
    assert scatter.df == 2 * (len(RUNS) - 1)


@pytest.mark.slow
def test_the_probe_counts_every_job_and_images_and_evaluations():
    job_seconds = runpy.run_path(str(ROOT / "studies/demo/probe.py"))["job_seconds"]
    preset, start = shipped("demo"), 2.0
    seconds = job_seconds(preset, start)
    measured = {f"{run} {first}-{last}" for first, last, rows in measuring_parts(preset) for run in rows}
    assert {*preset.teachers, *(row.run for row in preset.students)} | measured < {*seconds}
    assert min(seconds.values()) == start
    work = {name: value - start for name, value in seconds.items()}
    # The teacher takes 35 evaluations for an image, and SiD²A's row has fewer images than SiD's.
    of = lambda run: sum(work[name] for name in measured if name.startswith(f"{run} "))
    assert of("teacher-nfe35") > 10 * of("sida-a1.0") > 0
    assert 0 < work["sid2a-a1.0"] < work["sid-a1.0"]
