"""Where a run's time goes, on a clock that the test moves."""

from __future__ import annotations

from workflow.planning.watch import Stopwatch


def test_shares_of_stages_and_waiting_add_up():
    now = [100.0]
    watch = Stopwatch(lambda: now[0])
    watch.started(1, "teacher")
    watch.started(2, "student", threads=1)
    now[0] += 30
    watch.ended(1)
    now[0] += 60
    watch.ended(2)
    watch.ended(3)
    assert watch.summary(2) == "1 min 30 s on 2 cores: teacher 17 %, student 50 %, waiting 33 %"


def test_threads_count_as_cores():
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    watch.started("a", "measure", threads=2)
    now[0] += 10
    watch.ended("a")
    assert watch.summary(2) == "10 s on 2 cores: measure 100 %, waiting 0 %"


def test_a_run_without_jobs_has_a_line_too():
    assert Stopwatch(lambda: 0.0).summary(1) == "0 s on 1 core: waiting 100 %"
