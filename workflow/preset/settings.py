"""Keys of a preset file (``studies/<name>/preset.yaml``): types, ranges, defaults and descriptions."""

import dataclasses
import os
from typing import Annotated, Any, Literal

from sida.config.datasets import DatasetSettings, Transform
from sida.config.recipe import NetworkConfig, Recipe, TeacherTraining
from sida.config.samplers import Sampler
from sida.config.settings import CheckedAs, Count, Device, Name, Natural, Pattern, Settings
from sida.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherEntry:
    """A diffusion teacher: trained here (``network`` and ``training``) or imported (``checkpoint``).

    Attributes:
        network: Network to train from scratch; with a checkpoint: its architecture, for plans.
        training: Settings of the training; with a checkpoint they are used only with the preset's ``train_teachers``.
        checkpoint: Asset id, path or address of a published checkpoint.
        dataset: Name of the teacher's data set (default the preset's).
        seed: Training seed (default the preset's).
    """

    network: Annotated[dict[str, Any], CheckedAs(NetworkConfig)] | None = None
    training: Annotated[dict[str, Any], CheckedAs(TeacherTraining)] | None = None
    checkpoint: str | None = None
    dataset: str | None = None
    seed: Natural | None = None

    def __post_init__(self) -> None:
        if self.checkpoint is None and (self.network is None or self.training is None):
            raise SettingError("checkpoint", "needs either network and training or checkpoint")
        if self.training is not None and self.network is None:
            raise SettingError("training", "needs the network that is trained", "add it")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeFrom(Settings):
    """Source of an archive: published files (``sida data prepare``) or another data set (``sida data encode``).

    Attributes:
        source: Asset id, or path of a folder or archive of pictures; see ``sida data prepare``.
        beside: Further assets that belong to the source and lie in its folder (labels).
        installed: Folder in which a package of the operating system keeps the source; if it exists, nothing is fetched.
        dataset: Data set of pixels to encode; not with ``source``.
        resolution: Height and width; null: the images' own.
        transform: Method of cropping images to squares, see ``sida data prepare``.
        labels: Source of the classes, see ``sida data prepare``.
        subset: Part of CIFAR-10, of a folder of MNIST's format, or of folders that are named so.
        images: Number of images to stop after; null takes all.
    """

    source: str | None = None
    beside: tuple[str, ...] = ()
    installed: str | None = None
    dataset: str | None = None
    resolution: Count | None = None
    transform: Transform | None = None
    labels: Literal["auto", "folders", "none"] | None = None
    subset: Literal["train", "test"] | None = None
    images: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.source is None) == (self.dataset is None):
            raise SettingError("source", "needs either source or dataset, not both")
        names = (field.name for field in dataclasses.fields(self) if field.name != "dataset")
        if self.dataset is not None and any(getattr(self, name) for name in names):
            raise SettingError("dataset", "an encoded data set has no further settings", "remove them")

    @property
    def here(self) -> str | None:
        """The source's folder of the operating system, else the source."""
        return self.installed if self.installed and os.path.isdir(self.installed) else self.source


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetEntry(DatasetSettings):
    """A data set under its name, and the source of its archive.

    Attributes:
        made_from: Source from which the workflow makes a missing archive; null: the archive must exist.
    """

    made_from: Annotated[dict[str, Any], CheckedAs(MadeFrom)] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Stored results of a study that an extension takes unchanged rows from.

    Attributes:
        folder: Their folder.
        preset: The preset that they are results of.
        beside: Folder of the sheet with further rows.
        waiting: Rows that are neither taken nor run.
        added: Further rows, which no claim is about.
        sheet: The sheet without these.
    """

    folder: str
    preset: str
    beside: str
    waiting: str = ""
    added: str = ""
    sheet: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings(Settings):
    """Machine that `sida plan` counts hours for.

    Attributes:
        gpu: Card of ``config/plan.yaml``; null: H200, for ``device: cpu`` CPU.
        gpus: Number of GPUs, or of cores for a study without; null: 1 GPU, this machine's cores.
    """

    gpu: str | None = None
    gpus: Count | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PresetSettings:
    """Keys of a preset file.

    Attributes:
        base: File beside this one with the keys that this file does not set.
        preset: Name of the preset; results go to ``results/<preset>/``.
        title: Headline of the report.
        seed: Base seed, from which all random numbers of the run derive.
        runs: Sample sheet (TSV): one row per generator to measure.
        dataset: Name of a data set of the preset or of ``config/datasets.yaml``; a row of the sheet may name another.
        datasets: Further data sets by name; paths are relative to the preset's folder.
        protocol: Evaluation protocol, a name or a file.
        second_protocols: Second protocols by the name of the first: a row with a network is measured under both, the
            second time as ``<run>.<protocol>``; a row's own ``second_protocol`` comes first.
        claims: File of claims to decide (``claims.py``), which is code.
        retraining: Scatter of a repeated training, a name in ``config/retraining`` or a file, by which a table says
            whether single trainings differ; without it none of them is bold.
        search: Presets whose trainings chose the recipes, files beside this one; ``sida plan`` names the rows that have
            its seeds.
        stored: Stored results that unchanged rows are taken from, as `sida run --extend` writes it.
        tables: Layouts of ``config/tables`` to build.
        figures: Layouts of ``config/figures`` to build.
        without: Rows that are not measured, by their ids, or by the methods of the sheet: ``[teacher]`` leaves out all
            teachers.
        table_mode: Numbers as published (``paper``), published and measured (``audit``), or measured.
        paper: Build ``paper.pdf`` from all tables and figures (needs LaTeX).
        device: Torch device of training, sampling and measuring.
        threads: CPU threads of each job; results depend on it.
        gpus: Number of GPUs of a training; sampling and measuring use one. 0 requests none from the scheduler.
        plan: Machine that `sida plan` counts hours for; its options come first.
        train_teachers: Train the teachers that have both ``training`` and ``checkpoint``; false downloads them.
        trials_per_job: Trials that one job measures for samplers of many steps, so that cores share them; null: all.
        samplers: Samplers by name; the sheet names one per row.
        teachers: Diffusion teachers by id.
        recipes: Distillation settings by name, in addition to the files in ``recipes/``; the sheet adds method,
            teacher, alpha and seed.
    """

    base: str | None = None
    preset: Annotated[str, Pattern("[a-z][a-z0-9-]*", "of a-z, 0-9 and '-', first a letter")]
    title: str = ""
    seed: Natural = 0
    runs: str
    dataset: str
    datasets: dict[Name, Annotated[dict[str, Any], CheckedAs(DatasetEntry)]] = dataclasses.field(default_factory=dict)
    protocol: str
    second_protocols: dict[Name, str] = dataclasses.field(default_factory=dict)
    claims: str | None = None
    retraining: str | None = None
    search: tuple[str, ...] = ()
    stored: Annotated[dict[str, Any], CheckedAs(StoredRows)] | None = None
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    table_mode: Literal["paper", "audit", "measured"] = "measured"
    paper: bool = False
    device: Device = "cpu"
    threads: Count = 1
    gpus: Natural = 0
    plan: PlanSettings = dataclasses.field(default_factory=PlanSettings)
    train_teachers: bool = False
    trials_per_job: Count | None = None
    samplers: dict[str, Annotated[dict[str, Any], CheckedAs(Sampler)]]
    teachers: dict[Name, TeacherEntry] = dataclasses.field(default_factory=dict)
    recipes: dict[str, Annotated[dict[str, Any], CheckedAs(Recipe)]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.preset == "board":
            raise SettingError("preset", "'board' would write among the sent rows", "choose another name")
