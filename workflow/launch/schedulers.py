"""PBS, LSF and Grid Engine: how each is asked to run a job, where a job stands, and to end it."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Wish:
    """What a job asks for.

    Attributes:
        name: For people.
        script: File that is run.
        log: File that takes its output.
        cores: CPU cores.
        gpus: GPUs.
        minutes: Time limit.
        mem_mb: Main memory.
        queue: Queue; None for the scheduler's own choice.
        account: Account or project; None names none.
        extra: More options.
    """

    name: str
    script: str
    log: str
    cores: int
    gpus: int
    minutes: int
    mem_mb: int
    queue: str | None = None
    account: str | None = None
    extra: str | None = None


@dataclass(frozen=True)
class Scheduler:
    """A scheduler's commands.

    Attributes:
        submit: The command for a job.
        job_id: Pattern of the job's id in that command's answer.
        status: Command that is asked about a job, whose id follows.
        gone: Pattern in its answer where it does not know the job (any more).
        ended: Pattern where the job has ended or cannot start.
        cancel: Command that ends jobs.
    """

    submit: Callable[[Wish], list[str]]
    job_id: str
    status: tuple[str, ...]
    gone: str
    ended: str
    cancel: str


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}:00"


def _more(wish: Wish, queue: str, account: str) -> list[str]:
    words = [queue, wish.queue] if wish.queue else []
    words += [account, wish.account] if wish.account else []
    return words + shlex.split(wish.extra or "")


def _pbs(wish: Wish) -> list[str]:
    """OpenPBS and PBS Pro."""
    chunk = f"select=1:ncpus={wish.cores}:mem={wish.mem_mb}mb" + (f":ngpus={wish.gpus}" if wish.gpus else "")
    words = ["qsub", "-N", wish.name[:230], "-j", "oe", "-o", wish.log, "-V", "-l", chunk]
    return [*words, "-l", f"walltime={_clock(wish.minutes)}", *_more(wish, "-q", "-A"), wish.script]


def _lsf(wish: Wish) -> list[str]:
    """LSF 10.1 and newer, which knows units of memory."""
    words = ["bsub", "-J", wish.name, "-o", wish.log, "-n", str(wish.cores), "-W", str(wish.minutes)]
    words += ["-R", f"span[hosts=1] rusage[mem={wish.mem_mb}MB]", "-M", f"{wish.mem_mb}MB"]
    words += ["-gpu", f"num={wish.gpus}"] if wish.gpus else []
    return [*words, *_more(wish, "-q", "-P"), "sh", wish.script]


def _sge(wish: Wish) -> list[str]:
    """Grid Engine; memory is counted for each slot. The names ``smp``, ``h_vmem`` and ``gpu`` are the site's."""
    words = ["qsub", "-terse", "-N", wish.name, "-j", "y", "-o", wish.log, "-V", "-cwd", "-S", "/bin/sh"]
    words += ["-pe", "smp", str(wish.cores)] if wish.cores > 1 else []
    words += ["-l", f"h_rt={_clock(wish.minutes)},h_vmem={-(-wish.mem_mb // wish.cores)}M"]
    words += ["-l", f"gpu={wish.gpus}"] if wish.gpus else []
    return [*words, *_more(wish, "-q", "-P"), wish.script]


SCHEDULERS = {
    "pbs": Scheduler(
        submit=_pbs,
        job_id=r"^(\d+(?:\[\])?(?:\.\S+)?)$",
        status=("qstat", "-f"),
        gone=r"Unknown Job|Job has finished",
        ended=r"job_state = [FX]",
        cancel="qdel",
    ),
    "lsf": Scheduler(
        submit=_lsf,
        job_id=r"^Job <(\d+)> is submitted",
        status=("bjobs", "-noheader", "-o", "stat"),
        gone=r"is not found",
        ended=r"^(DONE|EXIT|ZOMBI)\b",
        cancel="bkill",
    ),
    "sge": Scheduler(
        submit=_sge,
        job_id=r"^(\d+)$",
        status=("qstat", "-j"),
        gone=r"do(es)? not exist",
        # A job that could not be started waits in state Eqw until somebody looks.
        ended=r"^error reason",
        cancel="qdel",
    ),
}


def submitted(scheduler: Scheduler, wish: Wish) -> str:
    """Hands a job in.

    Returns:
        Its id.

    Raises:
        SystemExit: The command failed, or its answer has no id; with one line.
    """
    words = scheduler.submit(wish)
    answer = _ask(words)
    if answer.returncode:
        raise SystemExit(f"error: {words[0]}: {_line(answer)}")
    found = re.search(scheduler.job_id, answer.stdout, re.M)
    if not found:
        raise SystemExit(f"error: {words[0]} named no job: {_line(answer)}")
    return found[1]


def in_queue(scheduler: Scheduler, job: str) -> bool:
    """Whether a job waits or runs; a scheduler that does not answer is asked again later."""
    answer = _ask([*scheduler.status, job])
    text = answer.stdout + answer.stderr
    return not (re.search(scheduler.gone, text) or re.search(scheduler.ended, text, re.M))


def cancelled(scheduler: Scheduler, jobs: Sequence[str]) -> None:
    """Ends jobs; those that have ended are no fault."""
    _ask([scheduler.cancel, *jobs])


def _ask(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(f"error: {words[0]}: no such command here; start where jobs are submitted") from None


def _line(answer: subprocess.CompletedProcess[str]) -> str:
    text = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
    return text[-1] if text else f"exit status {answer.returncode}"
