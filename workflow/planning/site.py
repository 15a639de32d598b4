"""Site file: a cluster's limits, cards and options, written by its users (``profiles/site.yaml``)."""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from sida.config.lookup import ROOT, check_code_path
from sida.config.settings import Count, Positive, Settings, from_mapping
from sida.errors import UserError
from sida.files.text_files import parse_yaml, read_text
from sida.workflow.planning.assumptions import load_assumptions

#: Environment variable that names another file.
VARIABLE = "SIDA_SITE"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site(Settings):
    """Description of a cluster.

    Attributes:
        gpu: Name of the card in ``config/plan.yaml``; null: H200, or CPU for presets with ``device: cpu``.
        gpus_per_node: Number of GPUs of a node; a training on more GPUs runs on several nodes.
        cores_per_node: Number of cores of a node; null: any. A training requests at most so many.
        partition: Partition or queue of jobs; null: the scheduler's default.
        gpu_partition: Partition or queue of jobs with a GPU; null: ``partition``.
        account: Account or project of the jobs.
        extra: Further options of the submit command.
        max_hours: Longest time that a job may request; a longer training resumes in its next attempt.
        max_memory_gb: Largest memory that a job may request on a node.
        margin: Requested time divided by planned time.
    """

    gpu: str | None = None
    gpus_per_node: Count = 8
    cores_per_node: Count | None = None
    partition: str | None = None
    gpu_partition: str | None = None
    account: str | None = None
    extra: str | None = None
    max_hours: Positive = 24.0
    max_memory_gb: Positive = 500.0
    margin: Positive = 1.5


def load_site(own: Iterable[Path] = ()) -> Site:
    """Reads the file ``SIDA_SITE``, else ``profiles/site.yaml`` of the current folder, else of the checkout.

    Args:
        own: Folders of the preset, whose ``plan.yaml`` may define cards.

    Raises:
        UserError: A missing or faulty file, or a file of the current folder without the user's permission.
    """
    path_of_variable = os.environ.get(VARIABLE)
    if path_of_variable and not Path(path_of_variable).is_file():
        raise UserError(f"{VARIABLE}={path_of_variable}", "no such file", f"name your site file, or unset {VARIABLE}")
    usual = [Path("profiles/site.yaml"), ROOT / "profiles/site.yaml"]
    path = Path(path_of_variable) if path_of_variable else next((path for path in usual if path.is_file()), None)
    if path is None:
        return Site()
    if not path_of_variable and path.resolve() != usual[1].resolve():
        check_code_path(
            path, "a site file, whose options go to the command that submits jobs", f"set {VARIABLE}={path}"
        )
    # The file may be empty or have comments only.
    content = parse_yaml(read_text(path), str(path))
    site = from_mapping(Site, {} if content is None else content, f"{path}:")
    if site.gpu is not None:
        load_assumptions(own).gpu(site.gpu, f"{path}: gpu:")
    return site
