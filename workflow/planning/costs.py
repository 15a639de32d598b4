"""Cost of one job: hours, memory, downloads and disk, counted on its networks at the rates of ``config/plan.yaml``."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from sida.assets.registry import Asset, find_asset, is_address, load_registry
from sida.config.families import NULL_LABEL
from sida.config.settings import from_mapping
from sida.errors import UserError
from sida.eval.measuring.monitor_settings import MONITOR
from sida.files.text_files import read_text
from sida.methods.registry import DistillConfig, resolve_recipe
from sida.workflow.planning.assumptions import load_assumptions
from sida.workflow.planning.steps import CONTEXT_BYTES, StepCost, network_cost, student_cost, teacher_cost
from sida.workflow.preset import Preset
from sida.workflow.preset.files import presets, read_preset
from sida.workflow.preset.jobs import most_gpus, teacher_training, training
from sida.workflow.preset.settings import PresetSettings

#: Folder of the products of each rule with a cost, whose wildcards name a product there.
STAGES = {
    "fetch": "assets",
    "import_checkpoint": "checkpoints",
    "prepare_data": "archives",
    "encode_data": "archives",
    "train_teacher": "teachers",
    "distill": "students",
    "distill_parent": "students",
}
#: Number of states of a run that are kept.
GENERATIONS = 2


@dataclasses.dataclass
class Cost:
    """The cost of a job.

    Attributes:
        kind: ``fetch``, ``import``, ``data``, ``teacher``, ``student``, ``measure``; ``build`` for tables and figures.
        name: Name of the product.
        after: Paths of products that the job waits for.
        gpus: Number of GPUs that the job uses at the same time.
        gpu_hours: Sum of the hours of its GPUs.
        cpu_hours: Hours without a GPU.
        memory_gb: Memory on each GPU.
        download_gb: Size of downloads.
        disk_gb: Size of its files on disk.
        images: Number of images that it trains on or measures.
        network_unknown: Whether a network is not described, so that its evaluations do not count.
        jobs: Number of Snakemake's jobs that make it.
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
    images: int = 0
    network_unknown: bool = False
    jobs: int = 1


class Costs:
    """Computes the cost of single jobs of a preset.

    Args:
        preset: The preset, whose folder may have a ``plan.yaml``.
        card: Card of the jobs; None: H200, or CPU for a preset without a GPU.
        gpus: Number of available GPUs; a training uses as many of them as the preset requests.
        fresh: Whether downloads that are in the cache count.
        timed: Whether hours count; without them a card needs no rate.
    """

    def __init__(
        self, preset: Preset, card: str | None = None, gpus: int = 1, fresh: bool = False, timed: bool = True
    ) -> None:
        self.preset, self.assumptions, self.timed = preset, load_assumptions(preset.folders), timed
        own, default = preset.settings.plan.gpu, "CPU" if preset.settings.device == "cpu" else "H200"
        self.gpu_name = card or own or default
        self.gpu = self.assumptions.gpu(self.gpu_name, "--gpu" if card else f"{preset.name}: plan.gpu")
        self.width = max(1, min(gpus, preset.settings.gpus))
        self.fresh, self.registry = fresh, load_registry()
        self._recipes: dict[tuple[Any, ...], Any] = {}

    @functools.cache  # noqa: B019 - costs live as long as their plan
    def of(self, stage: str, name: str) -> Cost:
        """Cost of a job by the folder of its product and its name there; of a measurement: of all trials.

        Raises:
            UserError: The network of the job, or the card's rate, is unknown.
        """
        makers = {
            "assets": self.fetch,
            "checkpoints": self.imported,
            "archives": self.archive,
            "teachers": self.teacher,
            "students": self.student,
            "measurements": self.measurement,
            "samples": self.sample,
        }
        return makers[stage](name) if stage in makers else Cost("build", f"{stage}/{name}".rstrip("/"))

    def fetch(self, name: str) -> Cost:
        """A download."""
        size = self._download(self.registry[name])
        return Cost("fetch", name, download_gb=size, disk_gb=size)

    def _download(self, asset: Asset) -> float:
        """GB of a download; 0 for a file in the cache."""
        cached = not self.fresh and asset.path.exists()
        return 0.0 if cached else self.assumptions.gigabytes(asset)

    def imported(self, name: str) -> Cost:
        """The import of a published checkpoint, given by its folder."""
        location = self.preset.imports[name]
        if is_address(location):
            asset = find_asset(self.registry, location)
            disk = 2 * self.assumptions.gigabytes(asset)
            return Cost("import", name, download_gb=self._download(asset), disk_gb=disk)
        source = self.registry.get(location)
        return Cost("import", name, disk_gb=self.assumptions.gigabytes(source) if source else 0.0)

    def network(self, teacher: str | None) -> dict[str, Any] | None:
        """Architecture of a teacher, from the preset or of a published teacher; None if unknown."""
        described = self.preset.teachers.get(teacher or "")
        return (described and described.entry.network) or self.like(teacher)

    def resolved(self, run: str) -> tuple[Any, dict[str, Any]]:
        """Resolved settings of a student but for its name, α and seed, and the network of its teacher or recipe.

        They are for a GPU if the preset uses one.

        Raises:
            UserError: The network is unknown.
        """
        row = self.preset.rows[run]
        network = row.architecture or self.network(row.cells.teacher)
        if network is None:
            setting = f"{self.preset.source}: teachers.{row.cells.teacher}"
            raise UserError(setting, "has no network, so its cost is unknown", "add it")
        if row.alike not in self._recipes:
            spec = training(self.preset, run).spec
            self._recipes[row.alike] = resolve_recipe(from_mapping(DistillConfig, spec, run), network, run)
        return self._recipes[row.alike], network

    def student(self, run: str) -> Cost:
        """A distillation.

        Raises:
            UserError: The network of its teacher or guide, or the card's rate, is unknown.
        """
        (config, network), guide_name = self.resolved(run), self.preset.runs[run].guide
        guide = network if guide_name == NULL_LABEL else self.network(guide_name)
        if guide is None and config.guide is not None:
            fault = f"guide '{guide_name}' has no known network, so its cost is unknown"
            raise UserError(f"{self.preset.sheet}: run '{run}'", fault, "name a teacher of the preset")
        cost, images = student_cost(config, network, guide), config.total_kimg * 1000
        seconds = images * (cost.operations / self._rate(cost.fp16) + cost.features / self._rate(False))
        if config.evaluation is not None and config.evaluation["monitor"] == MONITOR:
            watched = config.evaluation["kwargs"]
            num_images = watched["num_samples"] * watched.get("trials", 1)
            num_images *= _evaluations(config.evaluation, config.total_kimg)
            seconds += num_images * self._measuring_seconds(run, network_cost(network).forward, cost.fp16)
        job = self._training("student", run, cost, seconds, images)
        # A smaller micro-batch would change the batch over which the adversarial scalar is pooled.
        job.gpus = most_gpus(job.gpus, config.batch_size, config.batch_gpu)
        return job

    def teacher(self, name: str) -> Cost:
        """The training of a teacher."""
        teacher = teacher_training(self.preset, name).spec
        cost, images = teacher_cost(teacher, teacher["network"]), teacher["total_kimg"] * 1000
        seconds = images * cost.operations / self._rate(cost.fp16)
        return self._training("teacher", name, cost, seconds, images)

    def _training(self, kind: str, name: str, cost: StepCost, seconds: float, images: float) -> Cost:
        return Cost(
            kind,
            name,
            gpus=self.width,
            gpu_hours=seconds / 3600,
            memory_gb=cost.memory / 1e9,
            disk_gb=(GENERATIONS * cost.state + cost.network) / 1e9,
            images=round(images),
        )

    def measurement(self, run: str) -> Cost:
        """All trials of a row."""
        row, cells = self.preset.rows[run], self.preset.runs[run]
        images = self.preset.trials * row.protocol.num_samples
        networks = (
            []
            if cells.without_network
            else [row.architecture or self.network(cells.teacher) or self.like(cells.checkpoint)]
        )
        if networks and row.sampler_guide is not None:
            networks.append(networks[0] if cells.guide == NULL_LABEL else self.network(cells.guide))
        networks_known = [network for network in networks if network] if networks and networks[0] else []
        fp16 = bool(networks_known and networks_known[0]["kwargs"].get("use_fp16", False))
        forward = sum((row.nfe or 1) * network_cost(network).forward for network in networks_known)
        hours = (images * self._measuring_seconds(run, forward, fp16) + self._references(run)) / 3600
        weights = sum(4.0 * network_cost(network).parameters for network in networks_known)
        files = [self.registry[name] for name in sorted(row.protocol.assets(row.decoder)) if name in self.registry]
        weights += sum(1e9 * self.assumptions.gigabytes(each) for each in files if each.kind in ("extractor", "vae"))
        memory = (CONTEXT_BYTES + weights) / 1e9 if self.preset.settings.gpus else 0.0
        unknown = None in networks
        return Cost("measure", run, gpus=1, gpu_hours=hours, memory_gb=memory, images=images, network_unknown=unknown)

    def sample(self, name: str) -> Cost:
        """Images of a row's trial, ``<row>/trial-<t>``: its share in the row's measurement."""
        every, trials = self.measurement(name.rpartition("/")[0]), self.preset.trials
        hours, images = every.gpu_hours / trials, every.images // trials
        return dataclasses.replace(every, name=f"samples/{name}", gpu_hours=hours, images=images)

    def like(self, checkpoint: str | None) -> dict[str, Any] | None:
        """Architecture of a checkpoint, from the teacher whose name is the beginning of the checkpoint's name.

        Published teachers are described once, in the preset of the checkout that trains them.
        """
        name = (checkpoint or "").replace("guide-", "teacher-")
        ours = {teacher: entry.network for teacher, entry in self.preset.settings.teachers.items()}
        for networks in (ours, _published_networks()):
            if like := [teacher for teacher in networks if name.startswith(teacher) and networks[teacher]]:
                return networks[max(like, key=len)]
        return None

    def _measuring_seconds(self, run: str, forward: float, fp16: bool) -> float:
        """Seconds per image for drawing, decoding and all feature networks."""
        protocol = self.preset.rows[run].protocol
        seconds = forward / self._rate(fp16) if forward else 0.0
        others = sum(self.assumptions.gflop_of(str(name)) for name in {*protocol.extractors()})
        others += self.assumptions.gflop["vae_decode"] if protocol.decodes else 0.0
        return seconds + (others * 1e9 / self._rate(False) if others else 0.0)

    def _references(self, run: str) -> float:
        """Seconds for the features of the data sets that a row's protocol takes as references, once for all trials."""
        row = self.preset.rows[run]
        sources, seconds = row.protocol.sources, 0.0
        for key, extractor in {(key, metric.extractor) for metric in row.protocol.metrics for key in metric.references}:
            gflop = self.assumptions.gflop_of(str(extractor))
            if sources[key].kind == "dataset" and gflop:
                data = self.preset.data.named(str(sources[key].dataset), run) if sources[key].fixed else row.data
                images = min(filter(None, (data.get("num_images"), data.get("max_size"))), default=0)
                seconds += images * gflop * 1e9 / self._rate(False)
        return seconds

    def _rate(self, fp16: bool) -> float:
        if not self.timed:
            return math.inf
        # Processors compute in float32.
        return self.gpu.rate(fp16 and self.preset.settings.device != "cpu", self.gpu_name)

    def archive(self, path: str) -> Cost:
        """An archive of a data set."""
        archives = self.preset.archives
        dataset = self.preset.data.named(archives.made[path], self.preset.source)
        images = dataset.get("num_images") or 0
        numbers = (dataset.get("channels") or 3) * (dataset.get("resolution") or 0) ** 2
        if archives.made_from(path).dataset:
            hours = images * self.assumptions.gflop["vae_encode"] * 1e9 / self._rate(False) / 3600
            # Until it is whole, the archive lies in parts beside it.
            return Cost("data", path, gpus=self.width, gpu_hours=hours, disk_gb=2 * images * numbers * 4 / 1e9)
        hours = images / self.assumptions.pictures_per_second / 3600
        return Cost("data", path, cpu_hours=hours, disk_gb=images * numbers / 1e9)


@functools.cache
def _published_networks() -> dict[str, dict[str, Any] | None]:
    networks: dict[str, dict[str, Any] | None] = {}
    for path in presets().values():
        # A faulty preset of the working folder is reported where it is used.
        with contextlib.suppress(UserError):
            if "\n    checkpoint: " in read_text(path):
                settings = from_mapping(PresetSettings, read_preset([path])[0], f"{path}:")
                networks |= {name: teacher.network for name, teacher in settings.teachers.items()}
    return networks


def _evaluations(points: Mapping[str, Any], total_kimg: float) -> int:
    """Number of evaluations of a training, including the one before its first step."""
    share = max(1.0, total_kimg / points["every_kimg"])
    per_decade = points.get("per_decade")
    return 1 + (int(share) if per_decade is None else 1 + int(per_decade * math.log10(share)))


#: Largest ratio of planned to reserved memory of a training (Table 8's memory).
SPARE = 1.25
#: Remedy for a training that is too large.
SMALLER = (
    "take a larger card, `checkpointing: true`, or a smaller batch_gpu, which changes the adversarial term "
    "(docs/differences.tsv, 20)"
)


def too_large(jobs: Iterable[Cost], memory_gb: float, card: str) -> str:
    """Message about jobs whose planned memory exceeds a card's; empty if all fit."""
    large = sorted((job for job in jobs if job.memory_gb > memory_gb), key=lambda job: -job.memory_gb)
    if not large:
        return ""
    examples = ", ".join(f"{job.name} ({job.memory_gb:.0f} GB)" for job in large[:3]) + (
        ", ..." if len(large) > 3 else ""
    )
    return f"{len(large)} of the trainings need more than the {memory_gb:.0f} GB of {card}: {examples}"


def span(hours: float) -> str:
    """Formats hours as ``20 minutes``, ``1.3 hours`` or ``12.5 days``."""
    if hours < 1:
        return f"{math.ceil(60 * hours)} minutes"
    return f"{hours / 24:,.1f} days" if hours > 48 else f"{hours:,.1f} hours"
