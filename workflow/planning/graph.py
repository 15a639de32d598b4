"""Jobs that Snakemake would run for targets: its own dry run, read through its logging interface."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sida.config.lookup import CHECKOUT, ROOT
from sida.errors import UserError
from workflow.checks import PLANNING, give_cache


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


def planned_jobs(files: Sequence[Path], targets: Sequence[str], fresh: bool = False) -> list[Planned]:
    """Jobs that Snakemake would run.

    Args:
        files: Files of a preset; later ones win.
        targets: Paths of products; none: the whole preset.
        fresh: Whether jobs whose products are up to date count.

    Raises:
        UserError: Snakemake reports a fault.
    """
    if not CHECKOUT:
        raise UserError(
            "sida plan", "the workflow runs from a checkout", "clone the repository and run `make setup` there"
        )
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


@contextlib.contextmanager
def _recorded() -> Iterator[list[Planned]]:
    """Records the jobs that Snakemake reports (event ``JOB_INFO`` of its logger plugins); the environment stays."""
    from snakemake.logging import LogEvent, get_event, logger

    found: list[Planned] = []
    environment, planning = dict(os.environ), PLANNING.set(True)

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
        PLANNING.reset(planning)
