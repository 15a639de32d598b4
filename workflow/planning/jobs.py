"""The jobs behind a target: what the workflow's rules would run, found without Snakemake, and what each costs."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from sida.assets.cache import cache_dir
from sida.assets.registry import load_registry
from sida.config.families import SD_VAE
from sida.config.mapping import from_mapping, load_yaml
from sida.config.plugins import MONITOR
from sida.config.resources import ROOT
from sida.errors import UserError, suggestion
from sida.methods.resolve import DistillConfig
from workflow.planning.networks import network_cost
from workflow.planning.rates import Assumptions, Gpu
from workflow.planning.records import Records
from workflow.planning.steps import StepCost, student_cost, teacher_cost
from workflow.preset import Preset
from workflow.preset.job_specs import most_gpus
from workflow.preset.targets import Targets

#: States of a run that are kept side by side.
GENERATIONS = 2


@dataclasses.dataclass
class Job:
    """A job.

    Attributes:
        kind: ``fetch``, ``import``, ``data``, ``teacher``, ``student``, ``measure``; ``build`` for tables and figures.
        name: What it makes.
        after: Products that it waits for, by their paths.
        gpus: GPUs that it keeps at once.
        gpu_hours: Hours of one GPU, or all its GPUs' together.
        cpu_hours: Hours without a GPU.
        memory_gb: On each of its GPUs.
        download_gb: What it loads from elsewhere.
        disk_gb: What it leaves on disk.
        facts: For people: images, operations, published scores.
    """

    kind: str
    name: str
    after: list[str] = dataclasses.field(default_factory=list)
    gpus: int = 0
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    memory_gb: float = 0.0
    download_gb: float = 0.0
    disk_gb: float = 0.0
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


class Jobs:
    """Jobs of a preset, by the path of their product.

    Args:
        preset: The preset.
        gpu: The card they run on.
        gpu_name: Its name.
        assumptions: What cannot be counted.
        gpus: GPUs there are; a training takes as many of them as the preset wishes.
        rates: Operations a second by fp16, in place of the card's; a measurement.
        fresh: Count what is there already as well.
    """

    def __init__(
        self,
        preset: Preset,
        gpu: Gpu,
        gpu_name: str,
        assumptions: Assumptions,
        gpus: int = 1,
        rates: Mapping[bool, float] | None = None,
        fresh: bool = False,
    ) -> None:
        self.preset, self.gpu, self.gpu_name, self.assumptions = preset, gpu, gpu_name, assumptions
        self.targets = Targets(preset, False)
        self.width = max(1, min(gpus, preset.config["gpus"]))
        self.rates, self.fresh = dict(rates or {}), fresh
        self.registry, self.records = load_registry(), Records(preset)
        self._looked: set[str] = set()

    def behind(self, targets: Iterable[str]) -> dict[str, Job]:
        """Jobs that make these targets, each after those that it waits for.

        Args:
            targets: Products by their paths or the end of them, or rows of the sheet; none is everything.

        Raises:
            UserError: No such target.
        """
        found: dict[str, Job] = {}
        self._looked.clear()
        wanted = [path for target in targets for path in self.paths(target)]
        everything = [*self.targets.trials(self.targets.rows), *self.targets.tables_and_figures()]
        for path in wanted or everything:
            self._add(path, found)
        return found

    def paths(self, target: str) -> list[str]:
        """Products that a target names.

        Raises:
            UserError: None.
        """
        inside = target.removeprefix(f"{self.preset.results}/").rstrip("/")
        if inside in self.preset.runs:
            return self.targets.trials([inside])
        known = self.targets.short()
        found = [name for name in known if name == inside or name.startswith(f"{inside}/")]
        if not found:
            near = suggestion(inside, [*self.preset.runs, *known])
            near = near if len(near) < 100 else f"; rows are in {self.preset.sheet}"
            raise UserError(f"{target}: no product and no row of {self.preset.source}{near}")
        return [f"{self.preset.results}/{name}" for name in found]

    def _add(self, path: str, found: dict[str, Job]) -> None:
        key = _product(path)
        if key in found or (os.path.exists(path) and not self.fresh and not self._outdated(path, found)):
            return
        job, needs = self._job(path)
        for needed in needs:
            self._add(needed, found)
        job.after = sorted({_product(needed) for needed in needs} & found.keys())
        found[key] = job

    def _outdated(self, path: str, found: dict[str, Job]) -> bool:
        """Whether a product that is there is made again: its spec has changed, or what it is made of is made again."""
        ours = path in self.preset.archives or path.startswith(f"{self.preset.results}/")
        if path in self._looked or not ours:
            return False
        self._looked.add(path)
        try:
            needs = self._job(path)[1]
        except UserError:
            # What it would cost is unknown, and it is there.
            return False
        for needed in filter(os.path.exists, needs):
            self._add(needed, found)
        return self.records.changed(path) or any(_product(needed) in found for needed in needs)

    def job(self, path: str) -> Job:
        """The job that makes a file, by its path, without those that it waits for.

        Raises:
            UserError: Its network or rate is unknown.
        """
        return self._job(path)[0]

    def _job(self, path: str) -> tuple[Job, list[str]]:
        if path in self.preset.archives:
            return self._archive(path), self._archive_needs(path)
        folder, _, inside = path.removeprefix(f"{self.preset.results}/").partition("/")
        name = inside.partition("/")[0]
        if folder == "assets":
            asset = self.registry[name.removesuffix(".json")]
            cached = not self.fresh and (cache_dir() / asset.target).exists()
            size = 0.0 if cached else self.assumptions.gigabytes(asset)
            return Job("fetch", asset.id, download_gb=size, disk_gb=size), []
        if folder == "checkpoints":
            needs = [self.targets.checkpoint(name)]
            source = self.registry.get(self.preset.checkpoints[name])
            return Job("import", name, disk_gb=self.assumptions.gigabytes(source) if source else 0.0), needs
        if folder == "teachers":
            return self._teacher(name), self.targets.teacher(name)
        if folder == "students":
            return self.student(name), _flat(self.targets.training(name).values())
        if folder == "measurements":
            return self._measure(name), self.targets.generator(name)
        if folder == "barriers":
            return Job("build", f"{folder}/{name}"), self.targets.compared(name.removesuffix(".json"))
        if folder == "ticks":
            return self._ticks(inside)
        return Job("build", f"{folder}/{name}".rstrip("/")), self._shown(folder, name)

    def _ticks(self, inside: str) -> tuple[Job, list[str]]:
        """A row that is timed by its first log records, or what is made of these."""
        timed, name = self.preset.timed, inside.split("/")[-2] if "/" in inside else inside.rsplit(".", 1)[0]
        if inside.startswith("students/"):
            job, images = self.student(name), self.preset.tick_spec(name)["total_kimg"] * 1000
            hours = images * job.facts["gflop_per_image"] * 1e9 / self._rate(job.facts["fp16"]) / 3600
            facts = job.facts | {"images": images, "evaluations": 0}
            return dataclasses.replace(job, gpu_hours=hours, disk_gb=0.0, facts=facts), []
        runs = timed.get(name) or [run for runs in timed.values() for run in runs]
        return Job("build", f"ticks/{name}"), self.targets.ticks(dict.fromkeys(runs))

    def _shown(self, folder: str, name: str) -> list[str]:
        if folder == "analytic.json":
            return []
        if folder not in ("tables", "figures", "experiments"):
            return self.targets.trials(self.targets.rows)
        needs = self.targets.needs(folder, name.rsplit(".", 1)[0])
        studied = self.targets.analytic if needs.analytic else []
        studied = [*studied, *(self.targets.barriers(needs.networks) if needs.barriers else [])]
        return [*self.targets.trials(needs.measured), *self.targets.networks(needs.networks), *studied]

    def network(self, teacher: str | None) -> dict[str, Any] | None:
        """Architecture of a teacher, as the preset says, or of a published one; None where nobody says."""
        return self.preset.config["teachers"].get(teacher or "", {}).get("network") or self._like(teacher)

    def resolved(self, run: str) -> Any:
        """Settings of a student, each with its value, as on a GPU if the preset is for one."""
        from sida.methods.resolve import resolve_recipe

        row = self.preset.runs[run]
        network = self.network(row.teacher)
        if network is None:
            raise UserError(
                f"{self.preset.source}: teachers.{row.teacher}: has no network, so that its cost is unknown; add it"
            )
        return resolve_recipe(from_mapping(DistillConfig, self.preset.student_spec(run), run), network, run)

    def student(self, run: str) -> Job:
        """A distillation.

        Raises:
            UserError: The network of its teacher or guide, or the card's rate, is unknown.
        """
        config, network = self.resolved(run), self.network(self.preset.runs[run].teacher)
        assert network is not None  # else resolving would have failed
        guide = self._guide(run)
        if guide is None and config.guide is not None:
            raise UserError(
                f"{self.preset.sheet}: run '{run}': guide '{self.preset.runs[run].guide}' is not known by its network, "
                "so that its cost is unknown; name a teacher of the preset"
            )
        cost, images = student_cost(config, network, self.width, guide), config.total_kimg * 1000
        seconds = images * cost.operations / self._rate(cost.fp16)
        evaluations = 0
        if config.evaluation is not None and config.evaluation["monitor"] == MONITOR:
            evaluations = _evaluations(config.evaluation, config.total_kimg)
            watched = config.evaluation["kwargs"]
            drawn = evaluations * watched["num_samples"] * watched.get("trials", 1)
            seconds += drawn * self._measured(run, network_cost(network).forward, cost.fp16)
        job = self._training("student", run, cost, seconds)
        # Rounds that are cut would change the batch that the adversarial scalar is pooled over.
        job.gpus = most_gpus(job.gpus, config.batch_size, config.batch_gpu)
        job.facts |= {"images": images, "evaluations": evaluations}
        return job

    def _teacher(self, name: str) -> Job:
        teacher = self.preset.config["teachers"][name]
        cost, images = teacher_cost(teacher["training"], teacher["network"]), teacher["training"]["total_kimg"] * 1000
        job = self._training("teacher", name, cost, images * cost.operations / self._rate(cost.fp16))
        job.facts["images"] = images
        return job

    def _training(self, kind: str, name: str, cost: StepCost, seconds: float) -> Job:
        disk = (GENERATIONS * cost.state + cost.network) / 1e9
        facts = {"gflop_per_image": cost.operations / 1e9, "fp16": cost.fp16}
        return Job(kind, name, [], self.width, seconds / 3600, 0.0, cost.memory / 1e9, 0.0, disk, facts)

    def _measure(self, run: str) -> Job:
        row, protocol = self.preset.runs[run], self.preset.protocol(self.preset.runs[run])
        images = self.preset.trials * protocol.num_samples
        network = self.network(row.teacher) or self._like(row.checkpoint)
        guided = row.guide is not None and not row.trained_here
        guide = self._guide(run) if guided else None
        forward, fp16 = 0.0, False
        if network is not None and not row.without_network:
            sampler = self.preset.measure_spec(run)["nfe"] or 1
            forward = sampler * network_cost(network).forward
            forward += sampler * network_cost(guide).forward if guide else 0.0
            fp16 = bool(network["kwargs"].get("use_fp16", False))
        hours = images * self._measured(run, forward, fp16) / 3600
        unknown = None in (network, guide if guided else network) and not row.without_network
        return Job("measure", run, [], 1, hours, 0.0, facts={"images": images, "network_unknown": unknown})

    def _guide(self, run: str) -> dict[str, Any] | None:
        """Architecture of a row's guiding network; None without one, or where the preset does not say."""
        return self.network(self.preset.runs[run].guide)

    def _like(self, checkpoint: str | None) -> dict[str, Any] | None:
        """Architecture of a checkpoint: that of the teacher whose name its own begins with (an EMA of the same).

        Published ones are described once, in the preset that trains them.
        """
        name = (checkpoint or "").replace("guide-", "teacher-")
        for teachers in (self.preset.config["teachers"], _published_teachers()):
            like = [teacher for teacher, entry in teachers.items() if name.startswith(teacher) and entry.get("network")]
            if like:
                network: dict[str, Any] = teachers[max(like, key=len)]["network"]
                return network
        return None

    def _measured(self, run: str, forward: float, fp16: bool) -> float:
        """Seconds for an image to be drawn, decoded and seen by all feature networks."""
        protocol, foreign = self.preset.protocol(self.preset.runs[run]), self.assumptions.foreign
        seconds = forward / self._rate(fp16) if forward else 0.0
        others = sum(getattr(foreign, str(name), 0.0) for name in {*protocol.extractors()})
        others += foreign.vae_decode if protocol.quantisation == "truncate_unit" else 0.0
        return seconds + (others * 1e9 / self._rate(False) if others else 0.0)

    def _rate(self, fp16: bool) -> float:
        return self.rates.get(fp16) or self.gpu.rate(fp16, self.gpu_name)

    def _archive_needs(self, path: str) -> list[str]:
        vae = SD_VAE.assets if self.targets.origin(path).dataset else ()
        return [*self.targets.sources(path), *(f"{self.preset.results}/assets/{asset}.json" for asset in vae)]

    def _archive(self, path: str) -> Job:
        dataset = self.preset.dataset(self.preset.archives[path], self.preset.source)
        images, numbers = dataset.get("num_images") or 0, dataset["channels"] * dataset["resolution"] ** 2
        if self.targets.origin(path).dataset:
            hours = images * self.assumptions.foreign.vae_encode * 1e9 / self._rate(False) / 3600
            return Job("data", path, [], 1, hours, disk_gb=images * numbers * 4 / 1e9)
        hours = images / self.assumptions.pictures_per_second / 3600
        return Job("data", path, cpu_hours=hours, disk_gb=images * numbers / 1e9)


@functools.cache
def _published_teachers() -> dict[str, dict[str, Any]]:
    teachers: dict[str, dict[str, Any]] = load_yaml(ROOT / "config/paper.yaml")["teachers"]
    return teachers


def _evaluations(points: Mapping[str, Any], total_kimg: float) -> int:
    """Number of evaluations of a training, the one before it included."""
    share = max(1.0, total_kimg / points["every_kimg"])
    per_decade = points.get("per_decade")
    return 1 + (int(share) if per_decade is None else 1 + int(per_decade * math.log10(share)))


def _product(path: str) -> str:
    """What one job makes: the trials of a row together, the formats of a table together."""
    if "/measurements/" in path:
        return os.path.dirname(path)
    return os.path.splitext(path)[0] if "/tables/" in path or "/figures/" in path else path


def _flat(values: Iterable[Any]) -> list[str]:
    return [path for value in values for path in ([value] if isinstance(value, str) else value)]
