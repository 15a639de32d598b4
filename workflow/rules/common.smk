# Shared by all rules - the validated preset, the lists of targets, and how a job is run.

import functools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from snakemake.logging import get_event, logger
from snakemake_interface_logger_plugins.common import LogEvent

from eval.report.needs import find_needs
from eval.report.pdflatex import latex_lack
from workflow.preset.rehearsal import check_preset
from eval.results.selection import read_extended
from sida.errors import UserError
from workflow.preset import Preset
from sida.timing import Stopwatch

try:
    CONFIGFILES = [os.path.relpath(path) for path in workflow.configfiles]
    # The last file given wins, as in Snakemake's merging of their keys.
    PRESET = Preset(config, ", ".join(CONFIGFILES) or "config", [Path(f).parent for f in reversed(CONFIGFILES)])
    check_preset(PRESET)
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)

# Jobs print their own progress and errors; of Snakemake's only the count of finished steps is kept.
CHATTER = ("Select jobs to execute", "Execute ", "RuleException:\nCalledProcessError")
STOPWATCH = Stopwatch()


def heed(record):
    """Notes when jobs start and end (a rule's file is its stage); says which of Snakemake's lines people see."""
    event = get_event(record)
    if event == LogEvent.JOB_INFO and record.shellcmd:
        stage = Path(workflow.get_rule(record.rule_name).snakefile).stem
        STOPWATCH.started(record.jobid, stage, record.threads)
    elif event == LogEvent.JOB_FINISHED:
        STOPWATCH.ended(record.job_id)
    return event != LogEvent.JOB_FINISHED and not record.getMessage().startswith(CHATTER)


logger.addFilter(heed)

RESULTS = PRESET.results
# How to start this workflow again from here; in the checkout Snakemake finds its file itself.
SNAKEFILE = os.path.relpath(workflow.main_snakefile)
AGAIN = ["snakemake", *([] if SNAKEFILE == "Snakefile" else ["-s", SNAKEFILE])]
# Jobs use the interpreter that runs Snakemake, also when its environment was not activated.
os.environ.update(PATH=os.pathsep.join([os.path.dirname(sys.executable), os.getenv("PATH", "")]))
# Who names a network class of their own in a preset permits its files to name it.
PERMITTED = {*os.getenv("SIDA_NETWORK_CODE", "").split(","), *PRESET.network_code}
os.environ.update(SIDA_NETWORK_CODE=",".join(sorted(PERMITTED - {""})))
TRIALS = PRESET.trials
TABLES = PRESET.config["tables"]
FIGURES = PRESET.config["figures"]
RUNS = list(PRESET.measurable)
# A preset without rows shows published numbers alone.
MEASUREMENTS = [f"{RESULTS}/measurements.csv"] if RUNS else []
PARENTS = {parent for run in PRESET.students() for parent in PRESET.parents(run)}
for run, asset in PRESET.left_out.items():
    print(f"{run} is left out: its checkpoint {asset} has no public address (sida assets list)", file=sys.stderr)
PAPER = PRESET.config["paper"]
if PAPER and (lack := latex_lack()):
    PAPER = False
    print(f"{RESULTS}/paper.pdf is left out: {lack}", file=sys.stderr)


def any_of(names):
    """A pattern for a wildcard that is one of these names (of none: one that nothing matches)."""
    return "|".join(map(re.escape, sorted(names))) or "none"


wildcard_constraints:
    run=any_of(PRESET.runs),
    teacher=any_of(PRESET.config["teachers"]),
    trial=r"\d+",


def tables_and_figures():
    """Tables, figures, claims and the numbers they come from."""
    tables = expand(f"{RESULTS}/tables/{{table}}.{{suffix}}", table=TABLES, suffix=["tex", "csv", "md", "html"])
    figures = expand(f"{RESULTS}/figures/{{figure}}.{{suffix}}", figure=FIGURES, suffix=["pdf", "png", "csv"])
    claims = expand(f"{RESULTS}/claims.{{suffix}}", suffix=["md", "json"]) if PRESET.config["claims"] else []
    return [*MEASUREMENTS, *tables, *figures, *claims]


def paper_files():
    """The paper, made only where LaTeX is installed, with a line that says so elsewhere."""
    return [f"{RESULTS}/paper.pdf"] if PAPER else []


def products():
    """What people come for."""
    return [*tables_and_figures(), *paper_files(), f"{RESULTS}/index.html"]


def short_targets():
    """Paths below the preset's folder of everything that can be asked for without naming that folder."""
    teachers = [PRESET.teacher_path(name) for name in PRESET.config["teachers"]]
    single = [f"{RESULTS}/{name}" for name in ("index.html", "paper.pdf", "report.html", "manifest.json")]
    paths = [*tables_and_figures(), *single, *trials_of(RUNS), *network_files(PRESET.runs), *teachers]
    return list(dict.fromkeys(os.path.relpath(path, RESULTS) for path in paths if path.startswith(f"{RESULTS}/")))


def spec(value):
    """A spec as text for the command line; a param, so that a changed setting reruns its job."""
    return json.dumps(value, sort_keys=True)


def checkpoint_source(wildcards):
    """A registered asset must be fetched first; any other checkpoint is a file that is there."""
    source = PRESET.checkpoints[wildcards.checkpoint]
    return source if os.path.exists(source) else f"{RESULTS}/assets/{source}.json"


def student_parents(wildcards):
    """What a student's training needs: its teacher, other generators (its start, a stand-in for the data), downloads."""
    run = PRESET.runs[wildcards.run]
    others = [PRESET.network_path(PRESET.runs[name]) for name in PRESET.parents(run)]
    # Evaluations while it is trained measure as its trials do.
    evaluated = PRESET.config["recipes"][run.recipe].get("evaluation") is not None
    assets = [f"{RESULTS}/assets/{asset}.json" for asset in PRESET.assets_of(run.run)] if evaluated else []
    # A method of one's own, where its source lies here: a newer one is trained again.
    method = [path for path in [":" in run.method and external_source(run.method)] if path]
    return {"teacher": PRESET.teacher_path(run.teacher), "generators": others, "assets": assets, "method": method}


def network_source(name):
    """The source of a network class of one's own (module:object), where that lies here."""
    return [path for path in [":" in name and external_source(name)] if path]


def external_source(name):
    """Stored images, or the source of a module:object where that lies here: a newer one is measured again."""
    source = name.partition(":")[0].replace(".", "/")
    return next((path for path in (name, f"{source}.py", f"{source}/__init__.py") if os.path.exists(path)), None)


def generator_inputs(wildcards):
    """The network (and guide) a row samples from, the class counts it draws by, and the assets its protocol needs."""
    run = PRESET.runs[wildcards.run]
    networks = [PRESET.network_path(run), PRESET.checkpoint_path(run.guide) if run.guide else None]
    if run.method == "external" and run.without_network:
        networks.append(external_source(run.checkpoint))
    assets = [f"{RESULTS}/assets/{asset}.json" for asset in PRESET.assets_of(wildcards.run)]
    return [path for path in (*networks, PRESET.labels_of(run)) if path] + assets


def shards_of_trial(wildcards):
    """All shards of one trial."""
    folder = f"{RESULTS}/statistics/{wildcards.run}/trial-{wildcards.trial}"
    return [f"{folder}/shard-{begin}-{end}.safetensors" for begin, end in PRESET.shards(wildcards.run)]


def network_files(runs):
    """Networks of rows; training logs lie beside the students'."""
    return sorted({path for path in (PRESET.network_path(PRESET.runs[run]) for run in runs) if path})


def trials_of(runs):
    """Measurements of rows."""
    return expand(f"{RESULTS}/measurements/{{run}}/trial-{{trial}}.json", run=runs, trial=range(TRIALS))


@functools.cache
def needs(kind, name):
    """What one table or figure shows: the rows it measures, and those whose network or training log it reads."""
    found = find_needs(PRESET.layout(kind, name), PRESET.measurable)
    return found.measured, network_files(found.networks)


def inputs_of(kind, wildcards):
    """Inputs of one table or figure: only its own rows, so that each can be made alone."""
    name = wildcards[kind.removesuffix("s")]
    measured, networks = needs(kind, name)
    # A table of measurements is made from them even where none of its rows can be measured.
    wanted = measured or (kind == "tables" and PRESET.config["table_mode"] == "measured")
    collected = {"measurements": f"{RESULTS}/collected/{kind}/{name}.csv"} if wanted else {}
    return {"networks": networks, **collected}


@functools.cache
def caption(kind, name):
    """Title and caption of a table's or figure's layout, for the report; its builder says what is wrong with it."""
    try:
        layout = read_extended(PRESET.layout(kind, name))
    except UserError:
        return ""
    return " ".join(f"{layout.get('title', '').rstrip('.')}. {layout.get('caption') or ''}".split())


def measurements_option(wildcards, input):
    """The option of tables and figures that names measurements, where they need any."""
    return ["--measurements", str(input.measurements)] if input.get("measurements") else []


def show_summary():
    """Prints the main table, where everything lies and where the time went; never fails a finished run."""
    if os.path.isdir(f"{RESULTS}/tables"):
        subprocess.run([sys.executable, "-m", "eval", "show", RESULTS], check=False)
    print(f"time      {STOPWATCH.summary(workflow.cores or os.cpu_count())}", file=sys.stderr)


def explain_failure():
    """Says in one line how to go on."""
    print("stopped before the end; what is done is kept: run the same command again to go on", file=sys.stderr)
