# What every rule needs: the validated preset, the lists of targets, and how a job is run.

import json
import os
import re
import subprocess
import sys

from sida.errors import UserError
from sida.preset import Preset

try:
    PRESET = Preset(
        config, ", ".join(os.path.relpath(f) for f in workflow.configfiles) or "config"
    )
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)

RESULTS = PRESET.results
# Jobs use the interpreter that runs Snakemake, also when its environment was not activated.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
TRIALS = PRESET.trials
TABLES = PRESET.config["tables"]
FIGURES = PRESET.config["figures"]
RUNS = list(PRESET.runs)


wildcard_constraints:
    run="|".join(map(re.escape, PRESET.runs)) or "none",
    teacher="|".join(map(re.escape, PRESET.config["teachers"])) or "none",
    trial=r"\d+",


def products():
    """Tables, figures and claims of the preset: what people come for."""
    tables = expand(f"{RESULTS}/tables/{{table}}.{{suffix}}", table=TABLES, suffix=["tex", "csv", "md", "html"])
    figures = expand(f"{RESULTS}/figures/{{figure}}.{{suffix}}", figure=FIGURES, suffix=["pdf", "png", "csv"])
    claims = expand(f"{RESULTS}/claims.{{suffix}}", suffix=["md", "json"]) if PRESET.config["claims"] else []
    paper = [f"{RESULTS}/paper.pdf"] if PRESET.config["paper"] else []
    return tables + figures + claims + paper + [f"{RESULTS}/measurements.csv"]


def spec(value):
    """A spec as text for the command line; a param, so that a changed setting reruns its job."""
    return json.dumps(value, sort_keys=True)


def show_summary():
    """Prints the main table and where everything lies; never fails a finished run."""
    subprocess.run([sys.executable, "-m", "eval", "show", RESULTS], check=False)


def explain_failure():
    """Says in one line how to go on."""
    print("stopped before the end; what is done is kept: run the same command again to go on", file=sys.stderr)
