# Definitions for all rules - the preset, the environment of jobs, and functions that look a job up.

import os
import shlex

from sida.assets.registry import load_registry
from sida.workflow.preset.jobs import any_of
from sida.workflow.preset.jobs import measuring_parts, sampled_rows
from sida.workflow.start import Start

START = Start(workflow, config)
PRESET, JOBS, REQUESTS = START.preset, START.jobs, START.requests
RESULTS, SETTINGS, ARCHIVES = PRESET.results, PRESET.settings, PRESET.archives
# Snakemake removes this variable from jobs in a conda environment, so their commands set it again.
shell.prefix("set -euo pipefail; export PYTHONPATH={START.import_path:q}; ")


# `<results>` in paths is the folder of the preset's products.
pathvars:
    results=RESULTS,


envvars:
    "SIDA_ALLOW_CODE",
    "SIDA_RUN_STARTED",


wildcard_constraints:
    run=any_of(PRESET.runs),
    teacher=any_of(SETTINGS.teachers),
    table=any_of(SETTINGS.tables),
    figure=any_of(SETTINGS.figures),
    trial=any_of(map(str, range(PRESET.trials))),


#: Rows of the preset that are measured here, with the numbers of their trials.
ROWS, TRIALS = list(PRESET.measurable), range(PRESET.trials)
#: Name of the job that a rule's wildcards name, by the folder of its spec.
NAMES = {
    "teachers": lambda wildcards: wildcards.teacher,
    "students": lambda wildcards: wildcards.run,
    "measurements": lambda wildcards: wildcards.run,
    "samples": lambda wildcards: f"{wildcards.run}/trial-{wildcards.trial}",
    "tables": lambda wildcards: wildcards.table,
    "figures": lambda wildcards: wildcards.figure,
}


def of(stage, *paths):
    """Input function: paths with the names of what a job reads, one for each; none where it reads nothing of the kind."""
    return lambda wildcards: expand(paths, **JOBS.named(stage, NAMES[stage](wildcards)).needs)


def digest(stage):
    """Parameter of a job: another value makes Snakemake run the job again."""
    return lambda wildcards: JOBS.digest(stage, NAMES[stage](wildcards))


def literal(value):
    """Input or parameter as it is; in a plain text Snakemake would take words in braces for wildcards."""
    return lambda wildcards: value


def published(wildcards):
    """Asset behind an imported checkpoint; none for a file, and for an address, which its import fetches."""
    source = PRESET.imports[wildcards.checkpoint]
    return [] if "://" in source or os.path.exists(source) else [source]


def registered(wildcards):
    """Facts of the registry that decide which file an asset is; with a hash its address does not count."""
    # The fetch says that a name is unknown.
    asset = load_registry().get(wildcards.asset)
    return [asset.target, str(asset.size), asset.sha256 or asset.url] if asset else []


def stored_option(stored):
    """Option of `sida collect` for the rows that are taken from stored results."""
    return ["--stored", PRESET.stored["folder"], *stored] if stored else []


def measurements_option(wildcards, input):
    """Option of tables and figures for the file of measurements, if they need it."""
    return ["--measurements", str(input.measurements)] if input.get("measurements") else []
