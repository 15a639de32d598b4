"""Jobs that are longer than a time limit are sent again as often as they need; faults as often as the user says."""

from __future__ import annotations

import multiprocessing
import os
from types import SimpleNamespace

import pytest

from sida.errors import UserError
from tests.workflow.test_requests import paper
from workflow.planning.requests import Requests, Site, allow_attempts

SNAKEFILE = """
from workflow.planning.requests import PIECES, allow_attempts

onstart:
    open("said", "w").write("\\n".join(allow_attempts(workflow, {"training": None, "brief": None, "trials": 3})))

rule training:
    output: "{name}.trained"
    resources: **{PIECES: lambda wildcards: 4}
    shell: "echo {wildcards.name} >> attempts; exit 1"

rule brief:
    output: "{name}.brief"
    resources: **{PIECES: lambda wildcards: None}
    shell: "echo {wildcards.name} >> attempts; exit 1"

rule trials:
    output: "{name}.trials"
    resources: **{PIECES: lambda wildcards: {"some": 2, "none": 4}[wildcards.name]}
    shell: "echo {wildcards.name} >> attempts; exit 1"

rule other:
    output: "{name}.other"
    resources: **{PIECES: lambda wildcards: 3}
    shell: "echo {wildcards.name} >> attempts; exit 1"
"""


def run(folder, *targets):
    """Attempts of a workflow whose jobs all fail, with one retry for faults; and what it said before."""
    import snakemake.cli

    (folder / "Snakefile").write_text(SNAKEFILE)

    def child():
        os.chdir(folder)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        snakemake.cli.main(["--cores", "1", "--retries", "1", "--keep-going", "--nolock", *targets])

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(300)
    assert process.exitcode == 1
    return (folder / "attempts").read_text().split(), (folder / "said").read_text()


def test_a_long_training_gets_an_attempt_for_each_limit_and_the_retries_for_faults(tmp_path):
    attempts, said = run(tmp_path, "long.trained", "short.brief", "a.other", "some.trials", "none.trials")
    assert attempts.count("long") == 4 + 1
    assert attempts.count("short") == attempts.count("a") == 1 + 1
    # A rule has one number of retries, so a measurement that cannot end is sent as often as the one that can.
    assert attempts.count("some") == attempts.count("none") == 2 + 1
    assert "longer than max_hours of the site file, which resume in further attempts: 2; training long needs 4" in said
    assert "which no further attempt ends: 2, " in said
    assert "among them; cut measurements by shard_size" in said


def test_a_training_that_nobody_can_plan_is_named():
    rule = SimpleNamespace(name="distill", restart_times=5)
    job = SimpleNamespace(rule=rule, resources={"pieces": 0}, wildcards_dict={"run": "edm2-xs-sid"})
    dag = SimpleNamespace(needrun_jobs=lambda: [job])
    (line,) = allow_attempts(SimpleNamespace(dag=dag, execution_settings=SimpleNamespace(retries=5)), {"distill": None})
    assert line.startswith("trainings without a plan")
    assert ": 1, distill edm2-xs-sid among them" in line
    assert rule.restart_times == 5


@pytest.fixture
def planned(monkeypatch):
    """Requests whose jobs all take that many hours."""

    def make(hours, **site):
        def plan(self, kind, wildcards, trials):
            if hours is None:
                raise UserError("", "no rate")
            return hours

        monkeypatch.setattr(Requests, "_hours", plan)
        return Requests(paper(), Site(**{"gpu": "H100", "margin": 1.0, **site}))

    return make


@pytest.mark.parametrize(("hours", "pieces"), [(20, None), (40, 2), (48, 3), (235, 10), (236, 11)])
def test_a_measurement_is_cut_between_its_trials(planned, hours, pieces):
    """Ten trials, 23.5 hours in an attempt; where not even one trial fits, no attempt ends it."""
    assert planned(hours).pieces("measure", None, 10) == pieces


@pytest.mark.parametrize(
    ("hours", "site", "pieces"),
    [
        (1, {}, None),
        (23.5, {}, None),
        (23.6, {}, 2),
        (842, {"margin": 1.5}, 54),
        (842, {"max_hours": 72}, 12),
        (2, {"max_hours": 0.25}, 16),
        (None, {}, 0),
    ],
)
def test_pieces_of_a_job_are_its_hours_by_what_an_attempt_computes(planned, hours, site, pieces):
    """An attempt takes half an hour to start; 842 hours are the longest training of `paper` on eight H100."""
    requests = planned(hours, **site)
    assert requests.pieces("student", None) == pieces
    asked = requests.of("student")
    assert asked["pieces"](None) == pieces
    if pieces is None:
        assert asked["runtime"](None, 1) <= 60 * requests.site.max_hours
    else:
        assert asked["runtime"](None, 1) == 60 * requests.site.max_hours


def test_without_a_scheduler_and_within_a_job_nothing_is_counted():
    assert "pieces" not in Requests(paper(), None).of("student")
    assert "pieces" not in Requests(paper(), Site(), inside=True).of("student")
