"""Starts a workflow in the process of Snakemake: environment of jobs, preset, lines on the screen."""

import contextlib
import dataclasses
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snakemake.cli import get_argument_parser

from sida.assets.cache import RUN_STARTED, check_reachable
from sida.cli.main import FAULTS, replace_unencodable
from sida.errors import UserError, counted, say
from sida.eval.report.paper import missing_latex
from sida.files.ordinary import ordinary_files
from sida.workflow.checks import (
    PACKAGES,
    PLANNING,
    check_data,
    check_folder,
    check_packages,
    check_pickles,
    check_profile,
    check_scheduler,
    closed_results,
    missing_package,
)
from sida.workflow.commands.archive import show_results
from sida.workflow.interrupts import INTERRUPTS
from sida.workflow.launch import devices
from sida.workflow.planning.driver import check_card, driver_cards
from sida.workflow.planning.requests import Requests
from sida.workflow.planning.site import load_site
from sida.workflow.preset import preset_from
from sida.workflow.preset.checks import check_preset, unshown_remark
from sida.workflow.preset.files import read_preset
from sida.workflow.preset.lock import PresetLock
from sida.workflow.preset.specs import Jobs, write_specs
from sida.workflow.preset.targets import Targets


class Start:
    """Prepares this process for a workflow, reads the preset, and makes the objects that rules use.

    Ends the process with one line if a file is faulty.

    Attributes:
        preset: The checked preset.
        jobs: Its jobs with their digests.
        targets: Its products.
        makes_paper: Whether ``paper.pdf`` is one of them.
        requests: Requests of jobs to a scheduler.
        import_path: ``PYTHONPATH`` of jobs.

    Args:
        workflow: Snakemake's workflow.
        config: Settings of Snakemake's files and command line.
    """

    def __init__(self, workflow: Any, config: dict[str, Any]) -> None:
        replace_unencodable()
        self._workflow = workflow
        # A profile may set the option of a job, but only jobs have this variable of their workflow.
        self._job = not workflow.is_main_process and RUN_STARTED in os.environ
        self._interrupts = INTERRUPTS if workflow.is_main_process and not PLANNING.get() else None
        if self._interrupts is not None:
            self._interrupts.take()
            self._interrupts.begin()
        self._share_environment()
        with _ending():
            self._read(config)
        # A job notes a fault that stays there, for its next attempt (sida/cli/main.py). A new run forgets all.
        os.environ[FAULTS] = os.path.abspath(f"{self.preset.results}/logs/faults")
        self._lock = PresetLock(self.preset.results, sys.argv)
        missing = missing_latex() if self.preset.settings.paper else None
        self.makes_paper, self.targets = self.preset.settings.paper and not missing, Targets(self.preset)
        self.requests = Requests(self.preset, self._site, inside=workflow.remote_exec)
        self._remark(missing)

    def command(self, *options: str) -> list[str]:
        """Command, as words, that starts this workflow again with these options and the current settings."""
        # In the checkout Snakemake finds the Snakefile without an option.
        snakefile = os.path.relpath(self._workflow.main_snakefile)
        file = [] if snakefile == "Snakefile" else ["-s", snakefile]
        config_args = [str(word) for word in self._workflow.config_settings.config_args or []]
        settings = ["--configfile", *self._files, *(["--config", *config_args] if config_args else [])]
        return ["snakemake", *file, *options, *settings]

    def check_targets(self) -> None:
        """Ends the process with one line, which names the closest product, if no rule makes a target.

        Snakemake's own message names none, and warns of input functions.
        """
        if PLANNING.get() or not self._workflow.is_main_process:
            return
        rules = list(self._workflow.rules)
        names = {rule.name for rule in rules}
        with _ending():
            # Snakemake gives the workflow its targets after the Snakefile is read.
            for target in get_argument_parser().parse_known_args()[0].targets:
                if not (target in names or os.path.exists(target) or any(rule.is_producer(target) for rule in rules)):
                    # Raises for a word that is no name of a product either.
                    files = self.targets.paths_of(target)
                    raise UserError(target, "is a name for sida run alone", f"name files, such as {files[0]}")

    def begin(self) -> None:
        """Takes the preset's lock and writes the specs; ends a second workflow with one line.

        Names the trainings that are planned beyond the memory of their card, or beyond the site's time limit.
        """
        jobs = list(self._workflow.dag.needrun_jobs())
        with _ending():
            check_scheduler(executor := self._workflow.executor_plugin.name)
            if not self._workflow.deployment_settings.deployment_method:
                check_packages()
            self.requests.check_executor(executor, jobs)
            if self._site is None and any(job.resources.get("gpu") for job in jobs):
                check_card(self.preset.settings.device, self.preset.source)
            check_reachable(job.wildcards.asset for job in jobs if job.rule.name == "fetch")
            specs = {str(job.params.get("spec")) for job in jobs if job.params.get("spec")}
            inside = [path.removeprefix(f"{self.preset.results}/specs/").removesuffix(".json") for path in specs]
            check_data(self.preset, sorted(inside))
            self._lock.take()
            shutil.rmtree(os.environ[FAULTS], ignore_errors=True)
            # Jobs would write through a link, and wait for a pipe.
            ordinary_files(self.preset.results, math.inf)
            write_specs(self.preset, sorted(inside))
        for line in self.requests.warnings(jobs, self._workflow.execution_settings.retries):
            print(line, file=sys.stderr)

    def fail(self) -> None:
        """Lets the last line be that work is left, or the next start leave out the rows that were found absent."""
        if self._interrupts is None:
            return
        self._interrupts.failed()
        os.environ[RUN_STARTED] = str(time.time())  # so that the answers of this run count
        now, before = dataclasses.replace(self.preset).absent, self.preset.absent
        if new := {run: now[run] for run in self._shown(now) if run not in before}:
            _say_absent(new)
            self._interrupts.again = True

    def show_summary(self) -> None:
        """Prints the first table and paths of results, and ends with status 1 if it lacks rows that are absent."""
        with contextlib.suppress(UserError):
            if os.path.isdir(f"{self.preset.results}/tables"):
                show_results(self.preset)
        sys.stdout.flush()  # the rows come last, also in a file of both streams
        if absent := self._shown(self.preset.absent):
            _say_absent(absent)
            sys.exit(1)

    def _shown(self, absent: dict[str, str]) -> dict[str, str]:
        """The absent rows that a table or figure of this run would show."""
        if not absent:
            return {}
        paths = [str(path) for job in self._workflow.dag.jobs for path in job.output]
        shown = self.targets.rows(paths)
        return {run: reason for run, reason in absent.items() if run in shown}

    def _share_environment(self) -> None:
        """Sets variables that all jobs inherit, also on other machines.

        The user's permission for code from outside is one (:mod:`sida.config.lookup`); presets give no permission.
        """
        os.environ.update(SIDA_ALLOW_CODE=os.getenv("SIDA_ALLOW_CODE", ""), SIDA_TYPED_CODE="no")
        # Each download is hashed once per run, when it is first used (sida/assets/cache.py).
        if not self._job:
            os.environ[RUN_STARTED] = str(time.time())
        # Jobs import the packages of this checkout, and code of the working folder only if it is allowed.
        self.import_path = os.pathsep.join([*filter(None, [os.getenv("PYTHONPATH")]), str(self._workflow.basedir)])
        # They use the interpreter of Snakemake, even if its environment is not activated.
        programs = os.pathsep.join([os.path.dirname(sys.executable), os.getenv("PATH", "")])
        os.environ.update(PYTHONSAFEPATH="1", PYTHONPATH=self.import_path, PATH=programs)

    def _read(self, config: dict[str, Any]) -> None:
        """Reads and checks the preset and the profile."""
        if not self._job and not PLANNING.get():
            check_profile(sys.argv)
            check_pickles(sys.argv)
        check_folder(Path.cwd())
        self._files = [os.path.relpath(path) for path in self._workflow.configfiles]
        # The last file takes precedence, as in Snakemake.
        self.preset = preset_from(*read_preset(self._files, config))
        check_preset(self.preset)
        # A faulty file that is part of a digest is reported here.
        self.jobs = Jobs(self.preset)
        self.jobs.digest("preset")
        # Profiles of schedulers have a time limit for jobs; each job then requests its planned time.
        limited = "runtime" in (self._workflow.resource_settings.default_resources or {})
        self._site = load_site(self.preset.folders) if limited else None
        if self._site is None:
            self._share_gpus()
        else:
            os.environ.pop("SIDA_GPUS", None)

    def _share_gpus(self) -> None:
        """Distributes this machine's GPUs among jobs by their number, as a scheduler does itself."""
        if not self._workflow.is_main_process or not self.preset.settings.gpus:
            return
        # Snakemake answers with a resource of value None for a missing one.
        if count := getattr(self._workflow.global_resources.get("gpu"), "value", None) or shared_gpus():
            self._workflow.register_resource("gpu", count)
            os.environ.setdefault("SIDA_GPUS", str(count))

    def _remark(self, missing: str | None) -> None:
        """Prints the products of the preset that this run does not make; ``missing``: missing parts of LaTeX."""
        preset = self.preset
        if PLANNING.get():  # the plan prints it after its table
            return
        lines = [f"{preset.results}/paper.pdf is left out: {missing}"] if missing else []
        if preset.left_out:
            rows = f"{counted(len(preset.left_out), 'row')} left out"
            lines.append(f"{rows} (sida plan {preset.source} --verbose says why)")
        for figure in preset.settings.figures:
            if missing_rows := [run for run in self.targets.rows_without_network(figure) if run in preset.left_out]:
                text = f"{preset.results}/figures/{figure}.pdf is left out: no network of {', '.join(missing_rows)}"
                lines.append(text)
        if self._workflow.is_main_process:
            lines += filter(None, (closed_results(preset.results), unshown_remark(preset)))
        for line in lines:
            print(line, file=sys.stderr)


def shared_gpus() -> int:
    """Number of GPUs for the jobs of this machine: by ``SIDA_GPUS``, else all visible ones.

    Raises:
        UserError: ``SIDA_GPUS`` names no GPUs.
    """
    pool = os.environ.get("SIDA_GPUS")
    return len(devices(pool)) if pool else len(driver_cards())


def _say_absent(rows: dict[str, str]) -> None:
    for run, reason in rows.items():
        say(f"not measured: {run}: {reason}; `sida assets fetch {reason.partition(': ')[0]}` asks again")


@contextlib.contextmanager
def _ending() -> Iterator[None]:
    """Ends the process with one line for a fault."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        # Only the code of networks that no family lists needs the packages of jobs here, as a custom class.
        if error.name not in PACKAGES:
            raise
        fault = missing_package(error.name, "this preset is checked with it", f"install {error.name} there")
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(1)
