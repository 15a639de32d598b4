# Definitions for all rules - the validated preset, the lists of targets, and the environment of jobs.

import functools
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from snakemake.dag import DAG
from snakemake.jobs import Job
from snakemake.logging import get_event, logger
from snakemake_interface_logger_plugins.common import LogEvent

from eval.report.paper import missing_latex
from sida.assets import check_pinned_code, find_asset, load_registry
from sida.assets.transport import check_reachable
from sida.config.families import SD_VAE
from sida.errors import UserError
from workflow.planning.requests import allow_attempts
from workflow.planning.costs import check_card
from workflow.planning.watch import Stopwatch
from workflow.planning.requests import Requests
from workflow.planning.requests import load_site
from workflow.planning.watch import watch
from workflow.preset import Preset
from workflow.preset.files import read_preset
from workflow.preset.start import PresetLock
from workflow.preset.start import ask_for_missing, find_targets, forget_failed
from workflow.preset.rehearsal import check_preset, unshown_remark
from workflow.preset.spec_files import SpecFiles, content_digest, with_pictures
from workflow.preset.start import check_files, check_folder, check_profile, closed_results, fix_times
from workflow.preset.targets import Targets, any_of

# Every job, also on other machines, gets the user's permission for code from outside (sida/config/plugins.py); presets
# give no permission.
os.environ.update(SIDA_ALLOW_CODE=os.getenv("SIDA_ALLOW_CODE", ""), SIDA_TYPED_CODE="no")
# A profile may claim to be a job, but only jobs have this variable of their workflow.
JOB = not workflow.is_main_process and "SIDA_RUN_STARTED" in os.environ
# Each download is hashed once per run, when it is first used (sida/assets/fetch.py).
if not JOB:
    os.environ["SIDA_RUN_STARTED"] = str(time.time())
# Jobs import the packages of this checkout, and code of the working folder only if it is allowed.
IMPORT_PATH = os.pathsep.join([*filter(None, [os.getenv("PYTHONPATH")]), str(workflow.basedir)])
os.environ.update(PYTHONSAFEPATH="1", PYTHONPATH=IMPORT_PATH)
# Snakemake removes this variable from jobs in a conda environment, so their commands set it again.
shell.prefix("set -euo pipefail; export PYTHONPATH={IMPORT_PATH:q}; ")


envvars:
    "SIDA_ALLOW_CODE",
    "SIDA_RUN_STARTED",


try:
    if not JOB:
        check_profile(sys.argv)
    check_folder(Path.cwd())
    CONFIGFILES = [os.path.relpath(path) for path in workflow.configfiles]
    check_files(CONFIGFILES)
    # The last file takes precedence, as in Snakemake.
    SETTINGS, SOURCE, FOLDERS = read_preset(CONFIGFILES, config)
    PRESET = Preset(SETTINGS, SOURCE, FOLDERS)
    check_preset(PRESET)
    # Profiles of schedulers have a time limit for jobs; each job then requests its planned time.
    SITE = load_site(PRESET.own) if "runtime" in (workflow.resource_settings.default_resources or {}) else None
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)

# Jobs print their progress and errors; of Snakemake's lines only the count of finished steps is kept, with its share.
CHATTER = ("Select jobs to execute", "Execute ", "RuleException:\nCalledProcessError")
STOPWATCH = Stopwatch()
PROGRESS = None


def watch_run():
    """Starts to watch all jobs of this run that compute."""
    jobs = [job for job in workflow.dag.needrun_jobs() if job.shellcmd]
    outputs = {str(job.jobid): [str(path) for path in job.output] for job in jobs}
    folders = [str(folder) for folder in FOLDERS]
    return watch({"config": SETTINGS, "source": SOURCE, "folders": folders, "outputs": outputs})


def record_event(record):
    """Records the start and end of jobs (the stage is the rule's file); returns whether Snakemake prints the line."""
    global PROGRESS
    event = get_event(record)
    if event == LogEvent.JOB_STARTED and PROGRESS is None and not JOB:
        PROGRESS = watch_run()
    elif event == LogEvent.JOB_INFO and record.shellcmd:
        stage = Path(workflow.get_rule(record.rule_name).snakefile).stem
        STOPWATCH.started(record.jobid, stage, record.threads)
        if PROGRESS:
            PROGRESS.started(record.jobid, record.rule_msg or record.rule_name, "".join(record.log[:1]))
    elif event in (LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR):
        number = record.job_id if event == LogEvent.JOB_FINISHED else record.jobid
        STOPWATCH.ended(number)
        if PROGRESS:
            PROGRESS.ended(number, failed=event == LogEvent.JOB_ERROR)
    elif event == LogEvent.PROGRESS and PROGRESS:
        record.event, record.msg = None, PROGRESS.line(record.done, record.total)
    return event != LogEvent.JOB_FINISHED and not record.getMessage().startswith(CHATTER)


logger.addFilter(record_event)

RESULTS = PRESET.results
if workflow.is_main_process and (remark := closed_results(RESULTS)):
    print(remark, file=sys.stderr)
# In the checkout Snakemake finds the Snakefile without an option.
SNAKEFILE = os.path.relpath(workflow.main_snakefile)
# Jobs use the interpreter of Snakemake, even if its environment is not activated.
os.environ.update(PATH=os.pathsep.join([os.path.dirname(sys.executable), os.getenv("PATH", "")]))
# A run on this machine distributes the given number of GPUs among jobs; a scheduler does that itself.
if SITE is None and workflow.is_main_process and (shared := workflow.global_resources.get("gpu")):
    os.environ.setdefault("SIDA_GPUS", str(shared.value))
elif SITE is not None:
    os.environ.pop("SIDA_GPUS", None)
for run, asset in PRESET.left_out.items():
    print(f"{run} is left out: its checkpoint {asset} has no public address (sida assets list)", file=sys.stderr)
PAPER = PRESET.config["paper"]
if PAPER and (missing := missing_latex()):
    PAPER = False
    print(f"{RESULTS}/paper.pdf is left out: {missing}", file=sys.stderr)
TARGETS = Targets(PRESET, PAPER)
if workflow.is_main_process and (remark := unshown_remark(TARGETS)):
    print(remark, file=sys.stderr)
# A training runs one process per GPU; sampling and measuring use one GPU.
ONE_GPU = min(1, PRESET.config["gpus"])
SPECS = SpecFiles(PRESET)
LOCK = PresetLock(RESULTS, sys.argv)
# Rules whose jobs resume after the time limit, with the useful number of attempts: any, or the number of trials.
RESUMABLE = dict.fromkeys(["train_teacher", "distill", "distill_parent"]) | {
    f"measure_{first}_{last}": last - first + 1 for first, last, _ in TARGETS.measure_jobs()
}
REQUESTS = Requests(PRESET, SITE, inside=workflow.remote_exec)
# Downloads are identified by their hashes, and presets share archives.
ask_for_missing(DAG, left_out=["fetch", "prepare_data", "encode_data"])
forget_failed(Job)
find_targets(DAG, PRESET.source, RESULTS, functools.cache(TARGETS.short))


wildcard_constraints:
    run=any_of(PRESET.runs),
    teacher=any_of(PRESET.config["teachers"]),
    trial=r"\d+",
    experiment=any_of(PRESET.experiments),


def measured_digest(wildcards):
    """Digest of a row's measurement: of its spec, and of the pictures of a measured folder."""
    return with_pictures(SPECS.digest("measurements", wildcards.run), PRESET.runs[wildcards.run].checkpoint)


def restart_command(*options):
    """Command, as words, that starts this workflow again with these options and the current settings."""
    snakefile = [] if SNAKEFILE == "Snakefile" else ["-s", SNAKEFILE]
    changed = [str(word) for word in workflow.config_settings.config_args or []]
    settings = ["--configfile", *CONFIGFILES, *(["--config", *changed] if changed else [])]
    return ["snakemake", *snakefile, *options, *settings]


def measurements_option(wildcards, input):
    """Option of tables and figures for the file of measurements, if they need it."""
    return ["--measurements", str(input.measurements)] if input.get("measurements") else []


def experiments_option(wildcards, input):
    """Option of pages for the preset's experiments, if it has any."""
    return ["--experiments", str(input.experiments)] if input.get("experiments") else []


def begin():
    """Takes the preset's lock, writes the specs and sets retries; ends a second workflow with one line.

    Names the trainings that are planned beyond the memory of their card.
    """
    jobs = list(workflow.dag.needrun_jobs())
    try:
        for asset in {job.wildcards.asset for job in workflow.dag.jobs if job.rule.name == "fetch"}:
            check_pinned_code(find_asset(load_registry(), asset))
        check_reachable(job.wildcards.asset for job in jobs if job.rule.name == "fetch")
        if SITE is None and any(job.resources.get("gpu") for job in jobs):
            check_card(PRESET.config["device"], SOURCE)
        LOCK.take()
        fix_times(RESULTS, LOCK.path)
        SPECS.write()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if warning := REQUESTS.too_large(jobs):
        print(warning, file=sys.stderr)
    if SITE is not None:
        for line in allow_attempts(workflow, RESUMABLE):
            print(line, file=sys.stderr)


def show_summary():
    """Prints the main table, paths of results and the use of time; never fails a finished run."""
    if os.path.isdir(f"{RESULTS}/tables"):
        subprocess.run([sys.executable, "-m", "eval", "show", RESULTS], check=False)
    # Runs with a scheduler have jobs instead of cores, and `workflow.cores` would stop them.
    cores = workflow.resource_settings.cores or os.cpu_count()
    print(f"time      {STOPWATCH.summary(cores)}", file=sys.stderr)


def explain_failure():
    """Prints one line about continuing."""
    print("stopped before the end; finished work is kept: run the same command again to continue", file=sys.stderr)
