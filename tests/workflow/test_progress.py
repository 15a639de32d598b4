"""Progress of a whole run, fed with events on a clock that the test moves."""

import io
import subprocess
import sys

import pytest

from sida.config.resources import ROOT
from workflow.planning.watch import START_SECONDS, Bars, RunProgress, planned_seconds
from workflow.preset import Preset
from workflow.preset.files import find_preset


class Clock:
    now = 500.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock):
    """A training of nine tenths of the work and two tables; the plan's rate is ten times too high."""
    made = RunProgress(clock)
    made.expect([1, 2, 3])
    made.weigh({1: 18 * START_SECONDS - START_SECONDS})
    return made


@pytest.fixture
def student(progress, clock, tmp_path):
    """The training has run for ten seconds and said this of itself."""

    def started(line: str, seconds: float = 10) -> RunProgress:
        (tmp_path / "student.log").write_text(f"[distill x]  {line}\n")
        progress.started(1, "student x: distilling", str(tmp_path / "student.log"))
        clock.now += seconds
        return progress

    return started


def test_steps_count_by_their_cost(progress, clock, tmp_path):
    for table in (2, 3):
        progress.started(table, "table", str(tmp_path / "none.log"))
    clock.now += 100
    progress.ended(2)
    assert progress.line(1, 3) == "1 of 3 steps done, 5 % of the work, 31m40s left"
    progress.ended(3)
    assert "10 % of the work, 15m00s left" in progress.line(2, 3)


def test_a_running_job_counts_by_its_log(student):
    log = "10/40 kimg  25 %  1 kimg/s  30s left\n[score x]  9/10 img  90 %  1 img/s  1s left"
    assert student(log).line(0, 3) == "0 of 3 steps done, 22 % of the work, 34s left"


def test_work_of_an_earlier_run_says_nothing_about_the_rate(student):
    # A fortieth of the training took 10 s; a tenth of it and two tables, another ninth of its work, are left.
    line = student("36,000/40,000 img  90 %  100 img/s  40s left").line(0, 3)
    assert "81 % of the work, 1m24s left" in line


def test_between_two_lines_of_a_log_the_time_left_falls(student, clock):
    progress = student("10/40 kimg  25 %  1 kimg/s  30s left")
    # Both tables, a tenth of the work, are still to come, however late the next line is.
    for seconds, left in ((0, "34s"), (12, "22s"), (100, "4s")):
        clock.now += seconds
        assert progress.line(0, 3).endswith(f"22 % of the work, {left} left")


def test_no_time_left_without_a_plan_and_failed_jobs_are_not_done(clock, tmp_path):
    made = RunProgress(clock)
    made.expect([1, 2])
    made.started(1, "a", str(tmp_path / "none.log"))
    clock.now += 5
    assert made.line(0, 2) == "0 of 2 steps done"
    made.weigh({})
    made.ended(1, failed=True)
    assert "0 % of the work" in made.line(0, 2)
    made.started(1, "a", "")
    made.ended(1)
    assert "50 % of the work, 5s left" in made.line(1, 2)


def test_bars_of_the_whole_and_of_each_running_job(student):
    progress = student("20/40 kimg  50 %  1 kimg/s  20s left", seconds=20)
    progress.started(2, "table y: building", "")
    whole, training, table = progress.bars(60)
    assert whole == "#########-----------" + "  45 %  whole run, 24s left"
    assert training == "##########----------  50 %  student x: distilling"
    assert table.startswith("--------------------   0 %  table y")
    assert max(map(len, progress.bars(30))) < 30


def test_shares_of_stages_and_waiting_add_up(clock):
    made = RunProgress(clock)
    made.started(1, "a", "", "teacher")
    made.started(2, "b", "", "student", threads=2)
    clock.now += 30
    made.ended(1)
    clock.now += 60
    made.ended(2)
    made.ended(3)
    assert made.summary(4) == "1 min 30 s on 4 cores: teacher 8 %, student 50 %, waiting 42 %"
    assert RunProgress(clock).summary(1) == "0 s on 1 core: waiting 100 %"


def test_bars_take_the_last_lines_and_give_them_back():
    stream = io.StringIO()
    bars = Bars(stream)
    bars.draw(["whole", "job"], 24)
    assert "\033[1;22r" in stream.getvalue()
    assert "\033[23;1H\033[2Kwhole\033[24;1H\033[2Kjob" in stream.getvalue()
    bars.close()
    assert "\033[r" in stream.getvalue()[-12:]


def test_weights_are_the_costs_of_the_plan():
    preset = Preset.load(find_preset("demo"))
    outputs = {
        "student": ["students/sid-a1.0/network.safetensors"],
        "half": ["students/sid2a-a1.0/network.safetensors"],
        "measured": [f"measurements/teacher-nfe35/trial-{trial}.json" for trial in range(2)],
        "once": ["measurements/teacher-nfe35/trial-0.json"],
        "table": ["tables/main.tex"],
    }
    paths = {job: [f"{preset.results}/{path}" for path in made] for job, made in outputs.items()}
    seconds = planned_seconds(preset, paths)
    assert 1.5 < seconds["student"] / seconds["half"] < 2.5
    assert seconds["measured"] == pytest.approx(2 * seconds["once"])
    assert seconds["once"] > 0
    assert seconds["table"] == 0


def test_watching_loads_nothing_heavy():
    code = "import sys, workflow.planning.watch; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
