"""Resources of jobs under a scheduler: minutes and memory by the plan; GPUs, nodes, partition, account by the site.

Planned values are functions of Snakemake's ``wildcards`` and ``attempt``; each attempt requests an additional half of
the first request, up to the site's limit.

Retries of a job: those of the user for faults, and one for each time limit that the plan expects.

A training longer than the site's time limit ends at the limit and resumes in its next attempt; so does a measurement of
several trials if each trial is shorter than the limit. The resource `PIECES` is the number of attempts. Snakemake has
retries of rules only, so a rule gets the number of its longest job.

Site file: a cluster's limits, cards and options, written by its users (``profiles/site.yaml``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sida.config.plugins import check_code_path
from sida.config.resources import ROOT
from sida.config.settings import Count, Positive, Settings, from_mapping
from sida.errors import UserError
from sida.files.text_files import parse_yaml, read_text
from workflow.planning.costs import SMALLER, Costs, Job, driver_memory, too_large
from workflow.planning.jobs import Jobs
from workflow.planning.rates import load_assumptions
from workflow.preset import Preset

#: Resource of a job longer than the site's limit: number of planned attempts; 0: there is no plan.
PIECES = "pieces"


def allow_attempts(workflow: Any, resumable: Mapping[str, int | None]) -> list[str]:
    """Sets the retries of rules to the planned attempts of their jobs, before the first job starts.

    Args:
        workflow: Snakemake's workflow with its jobs.
        resumable: Rules whose jobs resume after an attempt, with the largest useful number of attempts: None for any
            number, for a measurement its trials. Jobs of other rules start from the beginning.

    Returns:
        Lines to print about jobs with several attempts, without a plan, or that cannot end within the limit.
    """
    faults = workflow.execution_settings.retries
    asked = [(job, job.resources.get(PIECES)) for job in workflow.dag.needrun_jobs()]
    long = [(pieces, job) for job, pieces in asked if pieces is not None]
    several = [(pieces, job) for pieces, job in long if 1 < pieces <= _most(job, resumable)]
    for pieces, job in several:
        job.rule.restart_times = max(job.rule.restart_times, faults + pieces - 1)
    lines = []
    if several:
        most, longest = max(several, key=lambda found: found[0])
        lines.append(
            f"jobs longer than max_hours of the site file, which resume in further attempts: {len(several)}; "
            f"{_name(longest)} needs {most}, and {faults} retries for faults come on top"
        )
    unknown = [job for pieces, job in long if resumable.get(job.rule.name, 1) is None and not pieces]
    if unknown:
        lines.append(
            f"trainings without a plan (a card or network without a rate): {len(unknown)}, {_name(unknown[0])} among "
            f"them; sent again {faults} times: if they need more attempts of max_hours, give --retries"
        )
    hopeless = [job for pieces, job in long if pieces > max(1, _most(job, resumable))]
    if hopeless:
        lines.append(
            f"jobs planned longer than max_hours of the site file, which no further attempt ends: {len(hopeless)}, "
            f"{_name(hopeless[0])} among them; cut measurements by shard_size (docs/cluster.md)"
        )
    return lines


def _most(job: Any, resumable: Mapping[str, int | None]) -> float:
    """Largest useful number of attempts of a job."""
    most = resumable.get(job.rule.name, 1)
    return float("inf") if most is None else most


def _name(job: Any) -> str:
    return " ".join([job.rule.name, *map(str, job.wildcards_dict.values())])


#: Environment variable that names another file.
VARIABLE = "SIDA_SITE"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site(Settings):
    """Description of a cluster.

    Attributes:
        gpu: Name of the card in ``config/plan.yaml``; null: H200, or CPU for presets with ``device: cpu``.
        gpus_per_node: Number of GPUs of a node; a training on more GPUs runs on several nodes.
        partition: Partition or queue of jobs; null: the scheduler's default.
        gpu_partition: Partition or queue of jobs with a GPU; null: ``partition``.
        account: Account or project of the jobs; null: none.
        extra: Further options of the submit command.
        max_hours: Longest time that a job may request; a longer training resumes in its next attempt.
        max_memory_gb: Largest memory that a job may request on a node.
        margin: Requested time divided by planned time.
    """

    gpu: str | None = None
    gpus_per_node: Count = 8
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
    named = os.environ.get(VARIABLE)
    if named and not Path(named).is_file():
        raise UserError(f"{VARIABLE}={named}", "no such file", f"name your site file, or unset {VARIABLE}")
    usual = [Path("profiles/site.yaml"), ROOT / "profiles/site.yaml"]
    path = Path(named) if named else next((path for path in usual if path.is_file()), None)
    if path is None:
        return Site()
    if not named and path.resolve() != usual[1].resolve():
        check_code_path(
            path, "a site file, whose options go to the command that submits jobs", f"set {VARIABLE}={path}"
        )
    # The file may be empty or have comments only.
    given = parse_yaml(read_text(path), str(path))
    site = from_mapping(Site, {} if given is None else given, f"{path}:")
    if site.gpu is not None:
        load_assumptions(own).gpu(site.gpu, f"{path}: gpu:")
    return site


#: Minutes of every job for starting Python, reading data and writing results.
START_MINUTES = 30.0
#: GB of main memory: of a process with torch; of a measuring job; of an import per GB of its file.
PROCESS_GB, MEASURE_GB, IMPORT_GB = 4.0, 16.0, 3.0
#: Growth of the request with each attempt, as a share of the first request.
GROWTH = 0.5
#: Kinds of jobs that use the preset's GPUs.
ON_GPU = ("teacher", "student", "measure", "reference", "shard", "sample", "figure", "encode", "tick")
TRAINED = ("teacher", "student")
#: Kinds of the rules that train.
TRAINING_RULES = {"train_teacher": "teacher", "distill": "student", "distill_parent": "student", "tick": "student"}

Value = int | str | None | Callable[..., int | str | None]


class Requests:
    """Resources of a preset's jobs, by their kind.

    Args:
        preset: The preset.
        site: The cluster; None for runs without a scheduler, which request nothing.
        inside: Whether this process is inside a job; then time and memory are not planned again.
    """

    def __init__(self, preset: Preset, site: Site | None, inside: bool = False) -> None:
        self.preset, self.site, self.inside = preset, site, inside

    def of(self, kind: str, trials: int | None = None) -> dict[str, Value]:
        """Resources of a rule besides GPUs.

        Args:
            kind: ``teacher, student, measure, reference, shard, merge, sample, figure, encode, prepare,
                import, tick`` or ``build``.
            trials: Number of whole trials that one job measures.
        """
        if self.site is None:
            return {"nodes": 1} if kind in TRAINED else {}
        site = self.site
        on_gpu = kind in ON_GPU and self.preset.settings.gpus > 0
        named = {
            "slurm_partition": (site.gpu_partition or site.partition) if on_gpu else site.partition,
            "slurm_account": site.account,
            "slurm_extra": site.extra,
        }
        asked: dict[str, Value] = {key: value for key, value in named.items() if value is not None}
        if not self.inside:
            asked["runtime"] = lambda wildcards, attempt: self.minutes(kind, wildcards, attempt, trials)
            asked["mem_mb"] = lambda wildcards, attempt: self.memory_mb(kind, wildcards, attempt)
            asked[PIECES] = lambda wildcards: self.pieces(kind, wildcards, trials)
        return asked | (self._nodes(kind) if kind in TRAINED else {})

    def _nodes(self, kind: str) -> dict[str, Value]:
        """Nodes of a training; the job starts one launcher on each of several nodes (see workflow.launch)."""
        asked: dict[str, Value] = {"nodes": lambda wildcards: self.nodes(kind, wildcards)}
        several = {"tasks": lambda nodes: nodes, "tasks_per_gpu": lambda nodes: 0, "mpi": lambda nodes: "srun"}
        for key, value in several.items():
            asked[key] = functools.partial(self._if_several, kind, value)
        asked["cpus_per_task"] = lambda wildcards: self.preset.settings.threads * self._on_a_node(kind, wildcards)
        return asked

    def _if_several(self, kind: str, value: Callable[[int], int | str], wildcards: Any) -> int | str | None:
        nodes = self.nodes(kind, wildcards)
        return value(nodes) if nodes > 1 else None

    def gpus(self, kind: str, wildcards: Any) -> int:
        """GPUs of a training."""
        if kind == "teacher":
            return self.preset.specs.training_gpus(self.preset.specs.teacher(wildcards.teacher))
        return self.preset.specs.training_gpus(self.preset.specs.student(wildcards.run))

    def nodes(self, kind: str, wildcards: Any) -> int:
        """Smallest number of nodes with the GPUs of a training, equally many on each node."""
        assert self.site is not None
        gpus = self.gpus(kind, wildcards)
        fewest = max(1, math.ceil(gpus / self.site.gpus_per_node))
        return next(nodes for nodes in range(fewest, max(gpus, 1) + 1) if gpus % nodes == 0)

    def _on_a_node(self, kind: str, wildcards: Any) -> int:
        return max(1, self.gpus(kind, wildcards) // self.nodes(kind, wildcards))

    def minutes(self, kind: str, wildcards: Any, attempt: int, trials: int | None = None) -> int:
        """Minutes that a job requests; without a plan the site's maximum."""
        assert self.site is not None
        most = math.ceil(60 * self.site.max_hours)
        try:
            hours = self._hours(kind, wildcards, trials)
        except UserError:
            return most
        wanted = (START_MINUTES + 60 * hours * self.site.margin) * _grown(attempt)
        return min(most, math.ceil(wanted))

    def pieces(self, kind: str, wildcards: Any, trials: int | None = None) -> int | None:
        """Number of attempts that a job needs because of the site's time limit.

        Returns:
            None if one attempt suffices; 0 without a plan. Each attempt computes for the time limit minus its start,
            and measures whole trials; if a trial is longer than an attempt, the number of trials plus one.
        """
        assert self.site is not None
        most = 60 * self.site.max_hours
        try:
            wanted = 60 * self._hours(kind, wildcards, trials) * self.site.margin
        except UserError:
            return 0
        if START_MINUTES + wanted <= most:
            return None
        # At least half of the limit remains for computing.
        computing = max(most - START_MINUTES, most / 2)
        if trials is None:
            return max(2, math.ceil(wanted / computing))
        whole = int(computing / (wanted / trials))
        return max(2, math.ceil(trials / whole)) if whole else trials + 1

    def memory_mb(self, kind: str, wildcards: Any, attempt: int) -> int:
        """MB of main memory that a job requests on each node."""
        assert self.site is not None
        most = math.ceil(1000 * self.site.max_memory_gb)
        try:
            wanted = 1000 * self._memory(kind, wildcards) * _grown(attempt)
        except UserError:
            return most
        return min(most, math.ceil(wanted))

    def too_large(self, jobs: Iterable[Any]) -> str:
        """Warning about trainings whose planned memory exceeds that of the site's card, or of the smallest card here.

        Args:
            jobs: Snakemake's jobs to run.

        Returns:
            One line; empty if all fit, if the card is unknown, or on a CPU.
        """
        trained = [(TRAINING_RULES[job.rule.name], job.wildcards) for job in jobs if job.rule.name in TRAINING_RULES]
        if not trained or self.preset.settings.device == "cpu":
            return ""
        memory = self._jobs.costs.gpu.memory_gb if self.site else driver_memory()
        planned = list[Job]()
        for kind, wildcards in trained if memory else []:
            with contextlib.suppress(UserError):
                planned.append(self._planned(kind, wildcards))
        large = too_large(planned, memory or 0.0, self._jobs.costs.gpu_name if self.site else "a GPU here")
        return f"warning: {large}; {SMALLER}" if large else ""

    def _hours(self, kind: str, wildcards: Any, trials: int | None) -> float:
        """Planned hours from a job's start to its end."""
        preset = self.preset
        if kind in TRAINED:
            job = self._planned(kind, wildcards)
            return (job.gpu_hours + job.cpu_hours) / max(1, job.gpus)
        if kind in ("measure", "shard", "sample"):
            share = (trials or 1) / preset.trials
            if kind == "shard":
                images = preset.trials * preset.protocol(preset.runs[wildcards.run]).num_samples
                share = (int(wildcards.end) - int(wildcards.begin)) / images
            return share * self._planned(kind, wildcards).gpu_hours
        if kind in ("reference", "encode", "prepare"):
            job = self._planned(kind, wildcards)
            return job.gpu_hours + job.cpu_hours
        return 0.0

    def _memory(self, kind: str, wildcards: Any) -> float:
        """Planned GB on one node: processes, a copy of the kept states, and on a CPU the networks."""
        if kind in TRAINED:
            job = self._planned(kind, wildcards)
            on_cpu = job.memory_gb if self.preset.settings.device == "cpu" else 0.0
            return self._on_a_node(kind, wildcards) * (PROCESS_GB + on_cpu) + job.disk_gb
        if kind == "import":
            return PROCESS_GB + IMPORT_GB * self._planned("import", wildcards).disk_gb
        measured = kind in ("measure", "reference", "shard", "merge", "sample", "encode")
        return MEASURE_GB if measured and self.preset.settings.device != "cpu" else PROCESS_GB

    def _planned(self, kind: str, wildcards: Any) -> Job:
        """The plan's job of a kind of rule.

        Raises:
            UserError: Nothing is known about its time: a network or rate.
        """
        if kind in ("encode", "prepare"):
            return self._job(str(wildcards.archive))
        if kind == "reference":
            return self._job(f"{self.preset.results}/references/{'/'.join(wildcards)}.safetensors")
        if kind == "import":
            return self._job(f"{self.preset.results}/checkpoints/{wildcards.checkpoint}/network.safetensors")
        if kind == "teacher":
            return self._job(f"{self.preset.results}/teachers/{wildcards.teacher}/network.safetensors")
        if kind == "student":
            return self._job(f"{self.preset.results}/students/{wildcards.run}/network.safetensors")
        return self._job(f"{self.preset.results}/measurements/{wildcards.run}")

    @functools.cache  # noqa: B019 - requests live as long as their run
    def _job(self, path: str) -> Job:
        return self._jobs.job(path)[0]

    @functools.cached_property
    def _jobs(self) -> Jobs:
        card = self.site.gpu if self.site and self.preset.settings.device != "cpu" else None
        return Jobs(Costs(self.preset, card, max(1, self.preset.settings.gpus), fresh=True))


def _grown(attempt: int) -> float:
    return 1 + GROWTH * (attempt - 1)
