"""Resources of jobs: GPUs and nodes; under a scheduler minutes and memory by the plan, and the site's options.

Planned values are functions of Snakemake's ``wildcards`` and ``attempt``; each attempt requests an additional half of
the first request, up to the site's limit. Jobs that resume (:data:`RESUMED`) may be longer than the limit: one ends
at it and goes on in its next attempt, as often as the profile's ``retries`` allow.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

from sida.errors import UserError
from sida.workflow.planning.costs import SMALLER, STAGES, Cost, Costs, too_large
from sida.workflow.planning.driver import driver_cards
from sida.workflow.planning.site import Site
from sida.workflow.preset import Preset
from sida.workflow.preset.jobs import gpus_of
from sida.workflow.preset.specs import job_named


@dataclasses.dataclass(frozen=True)
class Executor:
    """How an executor of Snakemake takes a job's partition, account, further options, GPUs and nodes.

    Attributes:
        partition: Resource with the partition or queue.
        account: Resource with the account or project.
        extra: Resource with further options of the submit command.
        gpus: Further option for a number of GPUs; empty: the executor reads the resource ``gpu``.
        nodes: Whether a job may have several nodes.
    """

    partition: str
    account: str
    extra: str
    gpus: str = ""
    nodes: bool = False


#: By the executor's name. Each reads its own resources, so a job has the resources of all executors.
EXECUTORS = {
    "slurm": Executor("slurm_partition", "slurm_account", "slurm_extra", nodes=True),
    # Its plugin has no resource for GPUs (0.3.3).
    "lsf": Executor("lsf_queue", "lsf_project", "lsf_extra", gpus="-gpu num={}"),
    # The submit command names resources: {resources.partition}.
    "cluster-generic": Executor("partition", "account", "extra"),
}
#: Executors on this machine; they read none of these.
HERE = ("local", "dryrun", "touch")

#: Minutes of every job for starting Python, reading data and writing results.
START_MINUTES = 30.0
#: GB of main memory: of a process with torch; of a measuring job; of an import per GB of its file.
PROCESS_GB, MEASURE_GB, IMPORT_GB = 4.0, 16.0, 3.0
#: Growth of the request with each attempt, as a share of the first request.
GROWTH = 0.5
#: Trainings, whose GPUs may be on several nodes.
TRAINED = ("teachers", "students")
#: Folders of products whose jobs resume where they were interrupted: trainings from their state, measurements within a
#: trial, the encoding of a data set from its parts. No other job may be planned for more than an hour.
RESUMED = (*TRAINED, "measurements", "archives")

Value = int | str | None | Callable[..., int | str | None]


class Requests:
    """Resources of a preset's jobs, by the folder of their products.

    Args:
        preset: The preset.
        site: The cluster; None for runs without a scheduler, which request GPUs alone.
        inside: Whether this process is inside a job; then time and memory are not planned again.
    """

    def __init__(self, preset: Preset, site: Site | None, inside: bool = False) -> None:
        self.preset, self.site, self.scheduled = preset, site or Site(), site is not None
        self.inside = inside

    def of(self, stage: str, share: float = 1.0, gpu: bool = False) -> dict[str, Value]:
        """Resources of a rule.

        Args:
            stage: ``teachers, students, measurements, checkpoints, archives`` or ``build``.
            share: Share of the planned cost in one job.
            gpu: Whether the job uses a GPU; trainings use the preset's number.
        """
        # One process of an encoding for each GPU of a node.
        most = self.site.gpus_per_node if stage == "archives" else 1
        request: dict[str, Value] = {"gpu": min(most, self.preset.settings.gpus)} if gpu else {}
        if stage in TRAINED:
            request = {"gpu": lambda wildcards: self.gpus(stage, wildcards), "nodes": 1}
        if not self.scheduled:
            return request
        for executor in EXECUTORS.values():
            request |= self._options(executor, stage, gpu)
        if not self.inside:
            request["runtime"] = lambda wildcards, attempt: self.minutes(stage, wildcards, attempt, share)
            request["mem_mb"] = lambda wildcards, attempt: self.memory_mb(stage, wildcards, attempt)
        return request | (self._nodes(stage) if stage in TRAINED else {})

    def _options(self, executor: Executor, stage: str, gpu: bool) -> dict[str, Value]:
        """Resources that an executor reads; without a value an empty text, which a submit command can name."""
        site, on_gpu = self.site, (gpu or stage in TRAINED) and self.preset.settings.gpus > 0
        partition = (site.gpu_partition or site.partition) if on_gpu else site.partition

        def extra(wildcards: Any) -> str:
            gpus = self.gpus(stage, wildcards) if stage in TRAINED else 1
            return " ".join(filter(None, [executor.gpus.format(gpus) if gpus else "", site.extra]))

        return {
            executor.partition: partition or "",
            executor.account: site.account or "",
            executor.extra: extra if executor.gpus and on_gpu else site.extra or "",
        }

    def check_executor(self, name: str, jobs: Iterable[Any]) -> None:
        """Refuses jobs for a card that ask for none, and an executor that would drop what jobs or the site ask for.

        Args:
            name: Name of Snakemake's executor.
            jobs: Snakemake's jobs to run.

        Raises:
            UserError: The preset's device is a card and it asks for none, or the executor drops an option of the site
                file or a job's GPUs, or gives a job one node.
        """
        if not self.scheduled or name in HERE:
            return
        settings, on_gpu = self.preset.settings, any(job.resources.get("gpu") is not None for job in jobs)
        if settings.device.startswith("cuda") and not settings.gpus and on_gpu:
            fault = f"is 0 with device '{settings.device}', so that jobs would get no GPU from the scheduler"
            raise UserError(f"{self.preset.source}: gpus", fault, "set gpus (at the command's end: -- --config gpus=1)")
        executor, remedy = EXECUTORS.get(name), f"use one of {', '.join(EXECUTORS)} (docs/cluster.md)"
        if executor is None:
            options = [key for key in ("partition", "gpu_partition", "account", "extra") if getattr(self.site, key)]
            dropped = options or ["gpus"] * any(job.resources.get("gpu") for job in jobs)
            if dropped:
                fault = f"is unknown here, and jobs would lose {', '.join(dropped)}"
                raise UserError(f"executor {name}", fault, remedy)
        elif not executor.nodes:
            for job in jobs:
                if (nodes := job.resources.get("nodes") or 1) > 1:
                    fault = (
                        f"{_name(job.wildcards)} needs {nodes} nodes (gpus_per_node of the site file), a job gets one"
                    )
                    raise UserError(f"executor {name}", fault, "lower the preset's gpus, or use slurm")

    def _nodes(self, stage: str) -> dict[str, Value]:
        """Nodes of a training; the job starts one launcher on each of several nodes (see sida.workflow.launch)."""
        nodes = functools.partial(self.nodes, stage)
        return {
            "nodes": nodes,
            "tasks": lambda wildcards: nodes(wildcards) if nodes(wildcards) > 1 else None,
            "tasks_per_gpu": lambda wildcards: 0 if nodes(wildcards) > 1 else None,
            "mpi": lambda wildcards: "srun" if nodes(wildcards) > 1 else None,
            "cpus_per_task": lambda wildcards: self._cores(stage, wildcards),
        }

    def gpus(self, stage: str, wildcards: Any) -> int:
        """GPUs of a training."""
        return gpus_of(self.preset, job_named(self.preset, stage, _name(wildcards)))

    def nodes(self, stage: str, wildcards: Any) -> int:
        """Smallest number of nodes with the GPUs of a training, equally many on each node."""
        gpus = self.gpus(stage, wildcards)
        fewest = max(1, math.ceil(gpus / self.site.gpus_per_node))
        return next(nodes for nodes in range(fewest, max(gpus, 1) + 1) if gpus % nodes == 0)

    def _on_a_node(self, stage: str, wildcards: Any) -> int:
        return max(1, self.gpus(stage, wildcards) // self.nodes(stage, wildcards))

    def _cores(self, stage: str, wildcards: Any) -> int:
        """Cores of a training on one node: the preset's threads for each GPU, as far as the node has them."""
        cores = self.preset.settings.threads * self._on_a_node(stage, wildcards)
        return min(cores, self.site.cores_per_node or cores)

    def minutes(self, stage: str, wildcards: Any, attempt: int, share: float = 1.0) -> int:
        """Minutes that a job requests; without a plan the site's maximum."""
        minutes = lambda: (START_MINUTES + self._computing(stage, wildcards, share)) * _growth(attempt)
        return _at_most(60 * self.site.max_hours, minutes)

    def _computing(self, stage: str, wildcards: Any, share: float = 1.0) -> float:
        """Planned minutes of a job besides its start, with the site's margin."""
        cost = self._planned_cost(stage, wildcards)
        gpus = max(1, cost.gpus) if stage in TRAINED else min(max(1, cost.gpus), self.site.gpus_per_node)
        hours = (cost.gpu_hours + cost.cpu_hours) / gpus
        return 60 * hours * share * self.site.margin

    def attempts(self, stage: str, wildcards: Any, share: float = 1.0) -> int:
        """Attempts that a job that resumes needs because of the site's limit; 0 without a plan."""
        most = 60 * self.site.max_hours
        try:
            minutes = self._computing(stage, wildcards, share)
        except UserError:
            return 0
        # At least half of the limit remains for computing.
        return 1 if START_MINUTES + minutes <= most else math.ceil(minutes / max(most - START_MINUTES, most / 2))

    def memory_mb(self, stage: str, wildcards: Any, attempt: int) -> int:
        """MB of main memory that a job requests on each node; with an unknown network the site's maximum."""
        megabytes = lambda: 1000 * self._memory(stage, wildcards) * _growth(attempt)
        return _at_most(1000 * self.site.max_memory_gb, megabytes)

    def _memory(self, stage: str, wildcards: Any) -> float:
        """Planned GB on one node: processes with kept images, a copy of the kept states, and on a CPU the networks."""
        on_cpu = self.preset.settings.device == "cpu"
        if stage in TRAINED:
            cost = self._sizes(stage, wildcards)
            own = PROCESS_GB + (cost.memory_gb if on_cpu else 0.0) + self._kept_images(stage, wildcards)
            return self._on_a_node(stage, wildcards) * own + cost.disk_gb
        if stage == "checkpoints":
            return PROCESS_GB + IMPORT_GB * self._planned_cost(stage, wildcards).disk_gb
        process = MEASURE_GB if stage in ("measurements", "archives") and not on_cpu else PROCESS_GB
        return process + (self._kept_images(stage, wildcards) if stage == "measurements" else 0.0)

    def _kept_images(self, stage: str, wildcards: Any) -> float:
        """GB of the images that each process keeps (``cache`` of the data set); 0 where their number is unknown."""
        data = job_named(self.preset, stage, _name(wildcards)).spec["dataset"]
        sizes = [data.get(key) or 0 for key in ("num_images", "channels", "resolution")]
        if not data.get("cache"):
            return 0.0
        # Latents, which alone have eight channels, are float32.
        return math.prod(sizes) * sizes[2] * (4 if sizes[1] == 8 else 1) / 1e9

    def warnings(self, jobs: Iterable[Any], retries: int = 0) -> list[str]:
        """Lines about trainings beyond the memory of their card, and about jobs beyond the site's limit.

        Args:
            jobs: Snakemake's jobs to run.
            retries: Number of times that Snakemake sends a failed job again.
        """
        jobs = list(jobs)
        trainings = [(stage, job.wildcards) for job in jobs if (stage := STAGES.get(job.rule.name)) in TRAINED]
        lines = [self._too_large(trainings)] if self.preset.settings.device != "cpu" else []
        if self.scheduled:
            counts = {_name(wildcards): self.attempts(stage, wildcards) for stage, wildcards in trainings}
            unknown = [name for name, attempts in counts.items() if not attempts]
            if unknown:
                lines.append(f"trainings without a plan (no rate of their card): {len(unknown)}, {unknown[0]} first")
            for job in jobs:
                if job.rule.name == "encode_data":
                    counts[f"encoding {_name(job.wildcards)}"] = self.attempts("archives", job.wildcards)
                elif trials := _trials(job.rule.name):
                    share = trials / self.preset.trials
                    counts[f"measuring {_name(job.wildcards)}"] = self.attempts("measurements", job.wildcards, share)
            longest = max(counts, key=lambda name: counts[name], default="")
            if longest and counts[longest] > retries + 1:
                lines.append(
                    f"{longest} is planned for {counts[longest]} attempts of max_hours of the site file, each of which "
                    f"resumes, and --retries is {retries}: give --retries {counts[longest] + retries}"
                )
        return [line for line in lines if line]

    def _too_large(self, trainings: Iterable[tuple[str, Any]]) -> str:
        memory = self._costs.gpu.memory_gb if self.scheduled else min(driver_cards(), default=math.inf)
        planned = list[Cost]()
        for stage, wildcards in trainings if memory < math.inf else []:
            with contextlib.suppress(UserError):
                planned.append(self._sizes(stage, wildcards))
        large = too_large(planned, memory, self._costs.gpu_name if self.scheduled else "a GPU here")
        return f"warning: {large}; {SMALLER}" if large else ""

    def _planned_cost(self, stage: str, wildcards: Any) -> Cost:
        """The planned cost of a job.

        Raises:
            UserError: A network or rate is unknown.
        """
        return Cost("build", "") if stage == "build" else self._costs.of(stage, _name(wildcards))

    def _sizes(self, stage: str, wildcards: Any) -> Cost:
        """The planned cost of a job, whose hours may be missing: memory and disk need no rate of the card.

        Raises:
            UserError: A network is unknown.
        """
        try:
            return self._planned_cost(stage, wildcards)
        except UserError:
            return self._untimed.of(stage, _name(wildcards))

    @functools.cached_property
    def _costs(self) -> Costs:
        return self._make_costs()

    @functools.cached_property
    def _untimed(self) -> Costs:
        return self._make_costs(timed=False)

    def _make_costs(self, timed: bool = True) -> Costs:
        card = self.site.gpu if self.preset.settings.device != "cpu" else None
        return Costs(self.preset, card, max(1, self.preset.settings.gpus), fresh=True, timed=timed)


def _name(wildcards: Any) -> str:
    """Name of a job below the folder of its products."""
    values = dict(wildcards.items())
    return str(next(values[key] for key in ("run", "teacher", "checkpoint", "archive") if key in values))


def _trials(rule: str) -> int:
    """Trials of a job by its rule (measure_FIRST_LAST); 0 for another rule."""
    name, *numbers = rule.split("_")
    first, last = map(int, numbers) if name == "measure" else (1, 0)
    return 1 if rule == "sample" else last - first + 1


def _growth(attempt: int) -> float:
    return 1 + GROWTH * (attempt - 1)


def _at_most(most: float, request: Callable[[], float]) -> int:
    """A planned amount up to the site's most, which a job without a plan requests."""
    with contextlib.suppress(UserError):
        most = min(most, request())
    return math.ceil(most)
