# Definitions for all rules - the objects of the start, the environment of jobs, and functions that rules share.

import os
import shlex

from sida.config.families import SD_VAE
from workflow.preset.spec_files import content_digest, with_pictures
from workflow.preset.targets import any_of
from workflow.start import Start

START = Start(workflow, config)
PRESET, TARGETS, SPECS, REQUESTS = START.preset, START.targets, START.specs, START.requests
RESULTS, ONE_GPU = START.results, START.one_gpu
# Snakemake removes this variable from jobs in a conda environment, so their commands set it again.
shell.prefix("set -euo pipefail; export PYTHONPATH={START.import_path:q}; ")


envvars:
    "SIDA_ALLOW_CODE",
    "SIDA_RUN_STARTED",


wildcard_constraints:
    run=any_of(PRESET.runs),
    teacher=any_of(PRESET.settings.teachers),
    trial=r"\d+",


def measured_digest(wildcards):
    """Digest of a row's measurement: of its spec, and of the pictures of a measured folder."""
    return with_pictures(SPECS.digest("measurements", wildcards.run), PRESET.runs[wildcards.run].checkpoint)


def measurements_option(wildcards, input):
    """Option of tables and figures for the file of measurements, if they need it."""
    return ["--measurements", str(input.measurements)] if input.get("measurements") else []
