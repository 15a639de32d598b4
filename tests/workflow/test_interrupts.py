"""Ctrl-C in a workflow's main process: what it leaves out on the screen, and what it says last."""

import logging
import subprocess
import sys

import pytest
from snakemake.logging import LogEvent

from sida.workflow.interrupts import Interrupts
from tests.workflow.workspace import heed_interrupts

PRINTING = """
import logging, signal, sys, time
from sida.workflow.interrupts import INTERRUPTS

class Screen(logging.Handler):
    def emit(self, record):
        try:
            signal.raise_signal(signal.SIGINT)
        except (KeyboardInterrupt, SystemExit):
            pass  # as Snakemake's does

INTERRUPTS.take()
"""


@pytest.mark.parametrize(
    "body", ["signal.raise_signal(signal.SIGINT)", "Screen().emit(None)"], ids=["at work", "printing"]
)
def test_an_interrupt_ends_without_a_trace_and_the_last_line_is_ours(body):
    program = f"{PRINTING}{body}\ntime.sleep(60)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, preexec_fn=heed_interrupts
    )
    assert run.returncode == 130
    (line,) = run.stderr.splitlines()
    assert "the same command continues" in line


def test_a_failure_says_last_that_work_is_left():
    program = "from sida.workflow.interrupts import INTERRUPTS; INTERRUPTS.failed(); print('Elapsed time', flush=True)"
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    assert "same command again" in run.stdout.splitlines()[-1]


def record(message, event=None):
    """A line of Snakemake's logger."""
    made = logging.LogRecord("snakemake", logging.ERROR, "", 0, message, (), None)
    made.event = event
    return made


def test_blocks_about_stopped_jobs_are_left_out_and_other_faults_stay():
    stopped = [
        record("RuleException:\nCalledProcessError in file x.smk: returned non-zero exit status 130."),
        record(None, LogEvent.JOB_ERROR),
        record("WorkflowError:\nAt least one job did not complete successfully."),
    ]
    others = [record("MissingOutputException in rule table"), record("Elapsed time: 1"), record("x", LogEvent.PROGRESS)]
    interrupts = Interrupts()
    assert all(map(interrupts.filter, [*stopped, *others]))
    interrupts.interrupted = True
    assert not any(map(interrupts.filter, stopped))
    assert all(map(interrupts.filter, others))
