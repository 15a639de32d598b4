"""The keys of a preset file (``studies/<name>/preset.yaml``): types, ranges, defaults and descriptions."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from eval.results.analyses import AnalysisEntry
from sida.config.datasets import DatasetEntry
from sida.config.ranges import CheckedAs, Count, Device, Name, Natural, Pattern
from sida.config.samplers import Sampler
from sida.training.config import NetworkConfig, Recipe, TeacherTraining


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
            raise ValueError("checkpoint: needs either network and training or checkpoint")
        if self.training is not None and self.network is None:
            raise ValueError("training: needs the network that is trained; add it")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PresetSettings:
    """Keys of a preset file.

    Attributes:
        base: File beside this one with the keys that this file does not set, for a variant of a preset.
        preset: Name of the preset; results go to ``results/<preset>/``.
        title: Headline of the report.
        seed: Base seed, from which all random numbers of the run derive.
        runs: Sample sheet (TSV): one row per generator to measure.
        dataset: Name of a data set of the preset or of ``config/datasets.yaml``; a row of the sheet may name another.
        datasets: Further data sets by name; paths are relative to the preset's folder.
        protocol: Evaluation protocol, a name or a file: n, trials, metrics, references.
        also: Second protocols by the name of the first: a row with a ``checkpoint`` and a sampler is measured under
            both, the second time as ``<run>.<protocol>``.
        claims: Claims to decide (YAML); null for none.
        experiments: Questions with dated predictions, decided by the claims (YAML); null for none.
        stored: Stored results that unchanged rows are taken from, as `sida run --extend` writes it: ``folder``, the
            ``preset`` that they are results of, ``beside``, the folder of the sheet with further rows, ``waiting``,
            rows that are neither taken nor run, ``added`` rows, of which no claim speaks, and the ``sheet`` without
            these.
        tables: Layouts of ``config/tables`` to build.
        figures: Layouts of ``config/figures`` to build.
        analyses: Analyses by name: functions of the study that find facts and curves of rows; null removes one of
            the base.
        rates: Whether to compare speed and memory of the trainings with the plan, time the device, and keep the
            device's rates for ``sida plan``.
        table_mode: ``paper``: published numbers as printed; ``audit``: published and measured numbers; ``measured``:
            measured numbers.
        paper: Build ``paper.pdf`` from all tables and figures (needs LaTeX).
        device: Torch device of training, sampling and measuring: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads of each job; results depend on it.
        gpus: Number of GPUs of a training; sampling and measuring use one. 0 requests none from the scheduler.
        train_teachers: Train the teachers that have both ``training`` and ``checkpoint``; false downloads them.
        shard_size: Images that one job measures, merged afterwards (for clusters); null: one job measures all trials.
        trials_per_job: Trials that one job measures for samplers of many steps, so that cores share them; null: all.
        samplers: Samplers by name; the sheet names one per row.
        teachers: Diffusion teachers by id, trained here or imported from a checkpoint.
        recipes: Distillation settings by name, in addition to those of files in ``recipes/``; the sheet adds method,
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
    also: dict[Name, str] = dataclasses.field(default_factory=dict)
    claims: str | None = None
    experiments: str | None = None
    stored: dict[Name, str] | None = None
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    analyses: dict[Name, Annotated[dict[str, Any], CheckedAs(AnalysisEntry)] | None] = dataclasses.field(
        default_factory=dict
    )
    rates: bool = False
    table_mode: Literal["paper", "audit", "measured"] = "measured"
    paper: bool = False
    device: Device = "cpu"
    threads: Count = 1
    gpus: Natural = 0
    train_teachers: bool = False
    shard_size: Count | None = None
    trials_per_job: Count | None = None
    samplers: dict[str, Annotated[dict[str, Any], CheckedAs(Sampler)]]
    teachers: dict[Name, Annotated[dict[str, Any], CheckedAs(TeacherEntry)]] = dataclasses.field(default_factory=dict)
    recipes: dict[str, Annotated[dict[str, Any], CheckedAs(Recipe)]] = dataclasses.field(default_factory=dict)
