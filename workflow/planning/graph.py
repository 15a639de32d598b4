"""Jobs that Snakemake would run for targets: its own dry run, read through its logging interface."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sida.config.resources import CHECKOUT, ROOT
from sida.errors import UserError
from workflow.checks import give_cache
from workflow.preset import Preset


@dataclass(frozen=True)
class Planned:
    """A job that Snakemake would run.

    Attributes:
        rule: Its rule.
        wildcards: Values of the rule's wildcards.
        inputs: Files that it reads.
        outputs: Files that it makes.
    """

    rule: str
    wildcards: dict[str, str]
    inputs: list[str]
    outputs: list[str]


def has_workflow() -> bool:
    """Whether this is a checkout with Snakemake; a wheel has no workflow."""
    return CHECKOUT and importlib.util.find_spec("snakemake") is not None


def planned_jobs(files: Sequence[Path], targets: Sequence[str], fresh: bool = False) -> list[Planned]:
    """Jobs that Snakemake would run.

    Args:
        files: Files of a preset; later ones win.
        targets: Paths of products; none: the whole preset.
        fresh: Whether jobs whose products are up to date count.

    Raises:
        UserError: Snakemake reports a fault.
    """
    give_cache()
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import WorkflowError
    from snakemake.settings.enums import Quietness, RerunTrigger
    from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, WorkflowSettings

    triggers = frozenset({RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT})
    with _recorded() as found, SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        try:
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=1),
                config_settings=ConfigSettings(configfiles=tuple(files)),
                workflow_settings=WorkflowSettings(),
                snakefile=ROOT / "Snakefile",
            )
            dag = workflow.dag(DAGSettings(targets=set(targets), forceall=fresh, rerun_triggers=triggers))
            dag.execute_workflow(executor="dryrun")
        except WorkflowError as error:
            raise UserError("the plan", f"Snakemake: {error}") from None
    return found


#: Rules without shards, with their wildcard, by the folder of their products.
_RULES = {
    "assets": ("fetch", "asset"),
    "checkpoints": ("import_checkpoint", "checkpoint"),
    "archives": ("prepare_data", "archive"),
    "teachers": ("train_teacher", "teacher"),
    "students": ("distill", "run"),
    "measurements": ("measure_0_9", "run"),
    "tables": ("table", "table"),
    "figures": ("figure", "figure"),
}
_FOLDERS = {"downloads": "assets", "imports": "checkpoints", "measured": "measurements"}


def jobs_of_a_wheel(preset: Preset, paths: Sequence[str]) -> list[Planned]:
    """Jobs behind targets in a wheel, which has no Snakefile and has made nothing: from the lists that rules read.

    Args:
        preset: The preset.
        paths: Paths of products; none: the whole preset.
    """
    found: dict[str, Planned] = {}

    def add(stage: str, name: str) -> str:
        key = f"{stage}/{name}"
        if key not in found:
            inputs = [add(_FOLDERS.get(kind, kind), each) for kind, each in _read(preset, stage, name)]
            rule, wildcards = "teacher_reference", dict(zip(("teacher", "protocol", "reference"), name.split("/")))
            if stage != "references":
                rule, wildcards = _RULES[stage][0], {_RULES[stage][1]: name}
            found[key] = Planned(rule, wildcards, inputs, [key] * (preset.trials if stage == "measurements" else 1))
        return key

    inside = [path.removeprefix(f"{preset.results}/").split("/") for path in paths]
    named = [
        (stage, Path(rest[0]).stem if stage in ("tables", "figures") else rest[0]) for stage, *rest in inside if rest
    ]
    if len(named) < len(inside) or not paths:
        named += [(kind, name) for kind in ("tables", "figures") for name in preset.layouts[kind]]
        named += [("measurements", run) for run in preset.measurable]
    for stage, name in dict.fromkeys(named):
        add(stage, name)
    return list(found.values())


def _read(preset: Preset, stage: str, name: str) -> list[tuple[str, str]]:
    """Kinds and names of what a job reads, as far as other jobs make it."""
    if stage == "assets":
        return []
    if stage == "checkpoints":
        source = preset.imports[name]
        return [] if "://" in source or os.path.exists(source) else [("assets", source)]
    needs = preset.archive_needs(name) if stage == "archives" else preset.job(stage, name).needs
    kinds = ("teachers", "students", "imports", "references", "downloads", "measured")
    read = [(kind, each) for kind in kinds for each in needs.get(kind, [])]
    return [*read, *(("archives", path) for path in needs.get("files", []) if path in preset.archives)]


@contextlib.contextmanager
def _recorded() -> Iterator[list[Planned]]:
    """Records the jobs that Snakemake reports (event ``JOB_INFO`` of its logger plugins); the environment stays."""
    from snakemake.logging import LogEvent, get_event, logger

    found: list[Planned] = []
    environment = dict(os.environ)

    def record(line: logging.LogRecord) -> bool:
        if get_event(line) == LogEvent.JOB_INFO:
            given = vars(line)
            files = [[*map(str, given[key] or [])] for key in ("input", "output")]
            found.append(Planned(given["rule_name"], dict(given["wildcards"]), *files))
        return False

    logger.addFilter(record)
    try:
        yield found
    finally:
        logger.removeFilter(record)
        os.environ.clear()
        os.environ.update(environment)
