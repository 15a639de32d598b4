"""Jobs: each with its spec, the names of its inputs, and what its digest reads.

A job's spec is a file, ``results/<preset>/specs/<stage>/<name>.json``, with everything that decides its result; its
command names the file. The job's digest (:mod:`sida.workflow.preset.specs`) is a parameter of its rule: it contains the
spec, the digests of its upstream jobs, which make its inputs, and the content of the user's files. So a changed
setting reaches every product downstream, also after interruptions, and a setting that is changed back runs no job.

Jobs train teachers (``sida train-teacher``) and rows (``sida distill``), measure and sample rows, and show
measurements: tables, figures, claims, the whole preset.
"""

import dataclasses
import os
import re
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.assets.registry import is_counted
from sida.config.families import NULL_LABEL
from sida.config.lookup import source_file
from sida.config.recipe import EvaluationPoints
from sida.config.samplers import SAMPLER_KINDS
from sida.config.settings import names_object
from sida.errors import UserError
from sida.eval.claims.claim import is_shipped
from sida.eval.figures.layout import load_figure_layout
from sida.eval.measuring.monitor_settings import MONITOR
from sida.eval.measuring.protocol import Protocol
from sida.eval.results.conditions import Needs
from sida.eval.results.extended import read_extended
from sida.eval.results.retraining import load_retraining
from sida.eval.results.sheet import SheetRow, read_runs
from sida.eval.tables.layout import load_table_layout
from sida.workflow.preset.networks import FOLDERS, Network
from sida.workflow.preset.outside_code import outside_code
from sida.workflow.preset.preset import Preset

#: Kinds of inputs; rules put their names into paths.
KINDS = (*FOLDERS, "downloads", "files")
#: Folders of installed packages.
_PACKAGES = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Job:
    """A job of the workflow.

    Attributes:
        stage: Folder of its spec.
        spec: Everything that its command reads.
        needs: Names of its inputs, by kind. The trainings of ``teachers`` and ``students`` are upstream jobs.
        upstream: Its other upstream jobs, each by stage and name.
        files: The user's files that its digest reads, besides the ones in ``needs``.
    """

    stage: str
    spec: Mapping[str, Any]
    needs: Mapping[str, list[str]]
    upstream: tuple[tuple[str, str], ...] = ()
    files: tuple[str | Path, ...] = ()


def common_settings(preset: Preset) -> dict[str, Any]:
    """Settings that every spec of a training, measurement or sample has."""
    return {"threads": preset.settings.threads, "device": preset.settings.device}


def needs_of(networks: Iterable[Network | None] = (), files: Iterable[str] = ()) -> dict[str, list[str]]:
    """Names of networks and files by kind; a network is named once."""
    needs: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for network in dict.fromkeys(filter(None, networks)):
        # The null label is a guide without a file.
        if network.name != NULL_LABEL:
            needs[network.kind].append(network.name)
    needs["files"] += files
    return needs


def source_of(name: str) -> str | None:
    """File behind a name: stored images, or the source of a ``module:object``, wherever Python finds the module.

    Modules of Python and of installed packages have none: a new version of a package would run everything again.
    """
    if os.path.exists(name) or not names_object(name):
        return name if os.path.exists(name) else None
    path = source_file(name)
    installed = path and (_PACKAGES & {*Path(path).parts} or Path(path).is_relative_to(sysconfig.get_path("stdlib")))
    return None if installed else path


def code_files(names: Iterable[str]) -> list[str]:
    """Source files of custom objects among names."""
    return [path for name in dict.fromkeys(names) if ":" in name and (path := source_of(name))]


def data_files(preset: Preset, spec: Mapping[str, Any]) -> list[str]:
    """Files behind a data set that are inputs of jobs: its archive, and the source of a custom kind."""
    return [*preset.archives.of(spec), *code_files([str(spec.get("kind"))])]


def any_of(names: Iterable[str]) -> str:
    """Pattern for a wildcard with one of these names; without names a pattern that never matches."""
    return "|".join(map(re.escape, sorted(names))) or "none"


def measurement(preset: Preset, name: str) -> Job:
    """Measurement of a row: the generator, its sampler, and the protocol."""
    row = preset.rows[name]
    network, guide, cells = row.network, row.sampler_guide, row.cells
    spec: dict[str, Any] = {"run": name, "method": cells.method}
    spec |= {"network": network and network.path, "guide": guide and guide.path}
    spec |= {"sampler": row.sampler, "nfe": row.nfe, "dataset": row.data}
    spec |= {"protocol": row.protocol.content(), **common_settings(preset)}
    needs = needs_of([network, guide], data_files(preset, row.data) if row.measured_with_data else [])
    if cells.method == "external" and cells.without_network and (source := source_of(str(cells.checkpoint))):
        needs["files"].append(source)
    needs["downloads"] += sorted(row.protocol.assets(row.decoder))
    needs["files"] += protocol_files(preset, row.protocol)
    return Job("measurements", spec, needs)


def sampling(preset: Preset, name: str) -> Job:
    """Images of a row's trial, ``<row>/trial-<t>``."""
    run, trial = name.rsplit("/trial-", 1)
    row, measured = preset.rows[run], measurement(preset, run)
    first, last = row.protocol.seeds(int(trial))
    classes = row.protocol.label_dist if row.data.get("label_dim") else "uniform"
    spec = {"network": measured.spec["network"], "gnet": measured.spec["guide"], "sampler": row.sampler}
    spec |= {"seeds": f"{first}-{last}", "class_labels": row.class_counts or classes}
    spec |= {"dataset": row.data if row.drawn_from_data else None, **common_settings(preset)}
    return Job("samples", spec, measured.needs)


def protocol_files(preset: Preset, protocol: Protocol) -> list[str]:
    """Files that a protocol reads: archives of fixed references, and source files of custom kinds and extractors."""
    names = [name for metric in protocol.metrics for name in (metric.kind, metric.extractor)]
    references = [preset.data.named(name, where) for where, name in protocol.fixed_datasets().items()]
    return [*code_files(names), *(path for spec in references for path in data_files(preset, spec))]


def sampled_rows(preset: Preset) -> list[str]:
    """Rows whose images ``sida sample`` can write: rows with a sampler of this package and without a decoder."""
    return [
        name for name, row in preset.rows.items() if not row.protocol.decodes and row.sampler["kind"] in SAMPLER_KINDS
    ]


def measuring_parts(preset: Preset) -> list[tuple[int, int, list[str]]]:
    """Jobs of measuring: first trial, last trial, rows; samplers of many steps have several."""
    trials = preset.trials
    size, slow = preset.settings.trials_per_job or trials, list[str]()
    if size < trials:
        slow = [name for name, row in preset.rows.items() if (row.nfe or 1) > 1]
    quick = list(preset.rows) if not slow else [name for name in preset.rows if name not in {*slow}]
    together = [(0, trials - 1, quick)] if quick else []
    return together + [(first, min(first + size, trials) - 1, slow) for first in range(0, trials, size) if slow]


#: Settings of an evaluation about its times; the monitor takes the other settings.
_POINTS = {field.name for field in dataclasses.fields(EvaluationPoints)}


def teacher_training(preset: Preset, name: str) -> Job:
    """Training of a teacher."""
    teacher = preset.teachers[name]
    entry = teacher.entry
    assert entry.network is not None
    assert entry.training is not None
    spec = {"name": name, "dataset": teacher.data, "network": entry.network, **entry.training}
    spec |= {"seed": teacher.seed, **common_settings(preset)}
    files = [*data_files(preset, teacher.data), *code_files([entry.network["class"]])]
    return Job("teachers", spec, needs_of(files=files))


def training(preset: Preset, name: str) -> Job:
    """Training of a row."""
    row = preset.rows[name]
    assert row.training_data is not None
    recipe = {key: value for key, value in row.recipe.items() if key != "evaluation"}
    teacher = row.teacher.network if row.teacher else None
    start = row.start.network if row.start else None
    spec: dict[str, Any] = {"name": name, "method": row.cells.method, "dataset": row.training_data}
    spec |= {"teacher": teacher and teacher.path, "init": start and start.path}
    spec |= {**recipe, "evaluation": None, "seed": row.seed, **common_settings(preset)}
    # A key without a value would change the digests of finished trainings.
    spec |= {} if row.cells.alpha is None else {"alpha": row.cells.alpha}
    spec |= {"guide": row.guide.path} if row.guide else {}
    code = code_files([row.cells.method, *outside_code({"recipe": recipe})])
    needs = needs_of([teacher, row.guide, start], [*data_files(preset, row.training_data), *code])
    if is_counted(counts := row.training_data.get("counts")):
        needs["downloads"].append(str(counts))
    if hasattr(row.options, "assets"):
        needs["downloads"] += row.options.assets(row.resolution)
    if evaluation := row.recipe.get("evaluation"):
        watched = row.protocol.watched_part
        facts = {"dataset": row.training_data, "protocol": watched.content(), "device": preset.settings.device}
        spec["evaluation"] = _evaluation(evaluation, facts)
        needs["downloads"] += sorted(watched.assets(row.decoder))
        needs["files"] += protocol_files(preset, watched)
    return Job("students", spec, needs)


def _evaluation(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluation of a training as its spec has it: times, and the monitor with ``facts`` and its other arguments."""
    kwargs = {**facts, **{key: value for key, value in settings.items() if key not in _POINTS}}
    points = {key: value for key, value in settings.items() if key in _POINTS}
    return {**points, "monitor": MONITOR, "kwargs": kwargs}


def gpus_of(preset: Preset, job: Job) -> int:
    """GPUs of a training: as many as the preset has, or fewer if micro-batches cannot be divided evenly."""
    return most_gpus(preset.settings.gpus, job.spec["batch_size"], job.spec.get("batch_gpu"))


def most_gpus(gpus: int, batch_size: int, batch_gpu: int | None) -> int:
    """Largest number of GPUs up to ``gpus`` with equal numbers of whole micro-batches; 0 for 0."""
    rounds = batch_size if batch_gpu is None else batch_size // batch_gpu
    return max((number for number in range(1, gpus + 1) if rounds % number == 0), default=0)


def find_needs(kind: str, path: Path, runs: Mapping[str, SheetRow]) -> Needs:
    """Needs of a layout; rows that are not in the sheet are left out.

    A layout that cannot be resolved needs every row; its builder reports the fault.

    Args:
        kind: ``tables`` or ``figures``.
        path: The layout.
        runs: The sample sheet.
    """
    try:
        needs = (load_table_layout if kind == "tables" else load_figure_layout)(path).needs(runs)
    except UserError:
        return Needs(list(runs), list(runs))
    # Measured rows and networks are separate: a figure may draw measured levels beside curves of training logs.
    measured, networks = ([run for run in runs if run in names] for names in ({*needs.measured}, {*needs.networks}))
    return dataclasses.replace(needs, measured=measured, networks=networks)


def layout_needs(preset: Preset, kind: str, name: str, *, every: bool = False) -> Needs:
    """Needs of a table or figure (kind ``tables`` or ``figures``), of its measurable or of all rows."""
    return find_needs(kind, preset.layout(kind, name), preset.runs if every else preset.measurable)


def product(preset: Preset, kind: str, name: str) -> Job:
    """A table or figure: only its own rows, so that it can be made alone."""
    path, every = preset.layout(kind, name), layout_needs(preset, kind, name, every=True)
    needs = layout_needs(preset, kind, name)
    rows = {*every.measured, *every.networks}
    spec: dict[str, Any] = {"runs": [row.cells for name, row in preset.runs.items() if name in rows]}
    # With its layout the product can be made again from the results folder alone (sida verify).
    spec["layout"] = read_extended(path)
    if kind == "figures":
        networks = every.networks if every.sampled else []
        spec["generators"] = [measurement(preset, run).spec for run in networks]
    else:
        spec |= {"mode": preset.settings.table_mode, **_table_facts(preset, path, every)}
        if absent := {run: reason for run, reason in preset.absent.items() if run in rows}:
            spec["absent"] = absent
    # A table of measurements needs the file even if none of its rows can be measured.
    collected = needs.measured or (kind == "tables" and preset.settings.table_mode == "measured")
    reads = {"collected": [name] if collected else [], **_collected_rows(preset, needs.measured)}
    reads |= networks_read(preset, needs.networks)
    upstream = [("measurements", run) for run in dict.fromkeys([*needs.measured, *needs.networks])]
    return Job(kind, spec, reads, tuple(upstream))


def _table_facts(preset: Preset, path: Path, needs: Needs) -> dict[str, Any]:
    """Facts in a table's spec besides its rows: settings of trainings, or the scatter of a repeated training."""
    if not load_table_layout(path).shows_settings:
        retraining = preset.settings.retraining
        return {"retraining": dataclasses.asdict(load_retraining(retraining))} if retraining else {}
    rows = [preset.rows[run] for run in needs.networks if preset.runs[run].trained_here]
    students = {row.run: {"settings": training(preset, row.run).spec, "network": row.architecture} for row in rows}
    return {"gpus": preset.settings.gpus, "students": students}


def _collected_rows(preset: Preset, runs: Iterable[str]) -> dict[str, list[str]]:
    """Rows whose trials are measured here, and those that are taken from stored results."""
    rows = list(runs)
    return {
        "measured": [run for run in rows if run not in preset.taken],
        "stored": [run for run in rows if run in preset.taken],
        "rows": rows,
    }


def networks_read(preset: Preset, runs: Iterable[str]) -> dict[str, list[str]]:
    """Networks and guides that rows are sampled from; training logs are beside the networks of students.

    Rows that are taken from stored results have no job.
    """
    rows = [preset.rows[run] for run in runs if run not in preset.taken]
    return needs_of(network for row in rows for network in (row.network, row.sampler_guide))


def collection(preset: Preset) -> Job:
    """The file of all measurements."""
    upstream = tuple(("measurements", run) for run in preset.measurable)
    return Job("collected", {}, _collected_rows(preset, preset.measurable), upstream)


def verdicts(preset: Preset) -> Job:
    """The claims: measurements of all rows, and logs beside their networks."""
    files = filter(None, [preset.settings.claims, preset.settings.retraining])
    study = Path(claims).resolve().parent.name if (claims := preset.settings.claims) and is_shipped(claims) else None
    spec = {"study": study, "runs": [run.cells for run in read_runs(preset.judged_sheet)]}
    return Job("claims", spec, networks_read(preset, preset.measurable), (("collected", ""),), tuple(files))


def everything(preset: Preset) -> Job:
    """The whole preset."""
    settings = preset.settings
    products = [(kind, name) for kind in ("tables", "figures") for name in getattr(settings, kind)]
    upstream = (*products, ("collected", ""), ("claims", ""))
    return Job("preset", dataclasses.asdict(settings), {}, upstream)
