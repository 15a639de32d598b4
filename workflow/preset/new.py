"""Makes a new study: a folder with the files that those of `studies/` have, and its data.

The files are made from templates in ``config/new``, whose variables ``$name`` depend on the data. Sizes and rates
come from :mod:`workflow.preset.new`.

Sizes, rates and metrics of a new study.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
import string
from pathlib import Path
from typing import Any

from sida.config.resources import ROOT, find
from sida.config.settings import Device, from_mapping
from sida.errors import UserError
from sida.files.atomic import atomic_folder
from sida.progress import visible


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes and rates of a study for images up to a resolution.

    Attributes:
        largest: Largest height and width.
        settings: Values of template variables.
    """

    largest: int
    settings: dict[str, Any]


_SMALL = {
    "device": "cpu",
    "num_blocks": 1,
    "attn_resolutions": "[]",
    "dropout": 0.1,
    "teacher_note": "Small, for a CPU; `sida plan` counts the hours. A better teacher: more kimg, channels and blocks.",
    "teacher_kimg": 200,
    "teacher_batch": 128,
    "teacher_lr": "2.0e-3",
    "lr_decay_start": 0.5,
    "lr_final": 0.0,
    "teacher_ema_kimg": 20,
    "augment": "null",
    "teacher_tick": 5,
    "recipe_note": "Rates of the demo, for networks of this size; the papers' (1e-5) are for far larger ones.",
    "student_kimg": 60,
    "student_batch": 32,
    "student_lr": "5.0e-4",
    "student_ema_kimg": 5,
    "student_tick": 2,
    "every_kimg": 5,
    "adversarial": "    lambda_adv: 3\n    lambda_d: 2\n    warmup_kimg: 1\n    adversarial_kimg: 2",
    "num_samples": 2500,
    "trials": 10,
    "cache": "true",
}
# Source: NVlabs/edm:train.py and README (teachers), Table 8 of SiDA (students).
_LARGE = {
    "device": "cuda",
    "model_channels": 128,
    "num_blocks": 4,
    "attn_resolutions": "[16]",
    "lr_decay_start": 1.0,
    "lr_final": 1.0,
    "teacher_ema_kimg": 500,
    "teacher_tick": 50,
    "recipe_note": "Rates of SiDA's Table 8 (batch 256); the papers train until the curve of evaluations is flat.",
    "student_kimg": 20000,
    "student_batch": 256,
    "student_lr": "1.0e-5",
    "student_ema_kimg": 500,
    "student_tick": 50,
    "every_kimg": 500,
    "adversarial": "    lambda_adv: 0.01\n    lambda_d: 1",
    "num_samples": 50000,
    "trials": 10,
    "cache": "false",
}
SCALES = (
    Scale(8, {**_SMALL, "model_channels": 32, "channel_mult": "[1, 1]"}),
    Scale(16, {**_SMALL, "model_channels": 64, "channel_mult": "[1, 2]"}),
    Scale(
        32,
        {
            **_LARGE,
            "channel_mult": "[2, 2, 2]",
            "dropout": 0.13,
            "teacher_note": "EDM's network and rates for CIFAR-10, which trains it for 200,000 kimg (GPU days).",
            "teacher_kimg": 100000,
            "teacher_batch": 512,
            "teacher_lr": "1.0e-3",
            "augment": "{p: 0.12}",
        },
    ),
    Scale(
        64,
        {
            **_LARGE,
            "channel_mult": "[1, 2, 2, 2]",
            "dropout": 0.05,
            "teacher_note": "EDM's network and rates for FFHQ at 64×64, which trains it for 200,000 kimg (GPU days).",
            "teacher_kimg": 100000,
            "teacher_batch": 256,
            "teacher_lr": "2.0e-4",
            "augment": "{p: 0.15}",
        },
    ),
)
#: Sizes and rates of ``sida new --quick``.
QUICK = Scale(
    16,
    {
        **_SMALL,
        "model_channels": 16,
        "channel_mult": "[1, 2]",
        "teacher_note": "Of `sida new --quick`: every step in minutes. For results make it without --quick.",
        "teacher_kimg": 50,
        "teacher_ema_kimg": 4,
        "student_kimg": 10,
        "student_ema_kimg": 1,
        "every_kimg": 2,
        "num_samples": 500,
        "trials": 3,
    },
)
#: Metrics (key, kind, further fields, label, direction, decimals): without downloads, and with Inception.
METRICS = {
    "pixels": (
        ("fd", "frechet", "reference: data", "FD (pixels)", "lower", 3),
        ("precision", "precision", "reference: data, k: 3", "Prec.", "higher", 3),
        ("recall", "recall", "reference: data, k: 3", "Rec.", "higher", 3),
    ),
    "inception": (
        ("fd", "frechet", "reference: data", "FID", "lower", 3),
        ("is", "inception_score", "splits: 10", "IS", "higher", 3),
        ("precision", "precision", "reference: data, k: 3", "Prec.", "higher", 3),
        ("recall", "recall", "reference: data, k: 3", "Rec.", "higher", 3),
    ),
}


STUDY_FILES = (
    *("preset.yaml", "runs.tsv", "claims.yaml", "questions.yaml", "README.md"),
    *("protocols/own.yaml", "tables/main.yaml", "figures/samples.yaml"),
)
#: Largest number of classes whose names are listed.
_MOST_NAMES = 20


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Options of ``sida new``.

    Attributes:
        study: Folder to make; its name becomes the preset's.
        data: Pictures in a folder or zip, copied to ``data.zip``. A data set in the EDM format (with ``dataset.json``)
            is used in place unless resolution, channels or labels are given.
        resolution: Height and width to crop and scale to; null keeps those of the pictures.
        channels: 3 (RGB) or 1 (grey); null: grey if all pictures are grey, else RGB.
        labels: Labels as in ``sida data prepare``; null is ``auto``.
        device: ``cpu``, ``cuda`` or ``cuda:N``; null chooses by the resolution.
        quick: Small network and short trainings at up to 16×16, which show every step in minutes but not the quality.
    """

    study: str
    data: str
    resolution: int | None = None
    channels: int | None = None
    labels: str | None = None
    device: Device | None = None
    quick: bool = False


def new_study(config: StudyConfig) -> list[str]:
    """Writes the folder of a study, complete or not at all.

    Returns:
        Lines for the user about written files and next steps.

    Raises:
        UserError: The folder exists, its name is no name of a preset, or the data are unsuitable.
    """
    study = Path(config.study)
    name = study.absolute().name.lower()
    if not re.fullmatch("[a-z][a-z0-9-]*", name):
        raise UserError(config.study, "the folder's name must be of a-z, 0-9 and '-' and begin with a letter")
    if study.exists():
        raise UserError(config.study, "exists already", "choose another folder or remove it")
    with atomic_folder(study) as part:
        today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ")
        values = {"name": name, "today": today, **_data_values(config, part, study)}
        for file in STUDY_FILES:
            text = string.Template(find("", f"config/new/{file}").read_text(encoding="utf-8")).substitute(values)
            (part / file).parent.mkdir(exist_ok=True)
            (part / file).write_text(text, encoding="utf-8")
    return [
        f"{config.study}: {values['images']} images {values['size']}, {values['classes']}; "
        f"files {', '.join(STUDY_FILES)}",
        *values["pictures"],
        "look at preset.yaml, then:",
        f"  cd {config.study}",
        "  sida plan --preset preset.yaml     (hours and memory; nothing runs)",
        f"  snakemake --cores 2{values['on_gpu']} -s {values['snakefile']} --configfile preset.yaml",
    ]


def _data_values(config: StudyConfig, part: Path, study: Path) -> dict[str, Any]:
    """Values of template variables that depend on the data; prepares pictures into ``data.zip``."""
    from sida.data import open_archive
    from sida.data.prepare import PrepareConfig, prepare, summary
    from sida.files.archives import open_files

    wishes = {key: value for key in ("resolution", "channels", "labels") if (value := getattr(config, key)) is not None}
    if config.resolution is not None:
        _settings(config, config.resolution)
    facts: dict[str, Any] = {}
    if not wishes and open_files(config.data).find("dataset.json") is not None:
        data = Path(config.data).resolve()
        beside = data.is_relative_to(study.parent.resolve())
        path, kind = (
            os.path.relpath(data, study.resolve()) if beside else str(data),
            "folder" if data.is_dir() else "zip",
        )
        dataset = open_archive(config.data)
    else:
        crop = "none" if config.resolution is None else "center-crop"
        flags = {"source": config.data, "out": str(part / "data.zip"), "transform": crop, "channels": None, **wishes}
        facts = prepare(from_mapping(PrepareConfig, flags, "sida new"))
        path, kind, dataset = "data.zip", "zip", open_archive(str(part / "data.zip"))
    if not dataset.is_pixels:
        raise UserError(
            config.data, "holds latents", "a new study is of pictures, latents are a matter of EDM2 presets"
        )
    names = [visible(" ".join(name.split())) for name in facts.get("class_names", [])]
    return {
        "kind": kind,
        "path": json.dumps(path),
        "pictures": [summary(facts)] if facts else [],
        "class_names": json.dumps(names, ensure_ascii=False),
        **_sized(config, dataset.resolution, dataset.num_channels, dataset, names),
    }


def _settings(config: StudyConfig, resolution: int) -> dict[str, Any]:
    """Sizes and rates for a resolution.

    Raises:
        UserError: There are no sizes and rates for this resolution.
    """
    scales = (QUICK,) if config.quick else SCALES
    scale = next((scale for scale in scales if resolution <= scale.largest), None)
    if scale is None:
        most = scales[-1].largest
        remedy = "leave out --quick" if config.quick else "train on latents (sida data encode) with a custom preset"
        raise UserError(
            config.data,
            f"{resolution}×{resolution} is more than {most}×{most}",
            f"give --resolution {most}, or {remedy}",
        )
    levels = 2 ** scale.settings["channel_mult"].count(",")
    if resolution % levels:
        near = resolution - resolution % levels or levels
        raise UserError(
            config.data, f"{resolution}×{resolution} must be a multiple of {levels}", f"give --resolution {near}"
        )
    return dict(scale.settings)


def _sized(config: StudyConfig, resolution: int, channels: int, dataset: Any, names: list[str]) -> dict[str, Any]:
    values = _settings(config, resolution)
    for key in ("teacher_batch", "student_batch"):
        values[key] = min(values[key], len(dataset))
    values["device"] = config.device or values["device"]
    on_gpu = values["device"] != "cpu"
    values |= {"gpus": int(on_gpu), "on_gpu": " --resources gpu=1" if on_gpu else ""}
    extractor = "pixels" if values["num_samples"] < 10000 else "inception"
    grid = (10, 6) if dataset.label_dim else (8, 8)
    listed = f": {', '.join(names)}" if 0 < len(names) <= _MOST_NAMES else ""
    return values | {
        "resolution": resolution,
        "channels": channels,
        "label_dim": dataset.label_dim,
        "images": len(dataset),
        "size": f"{resolution}×{resolution}×{channels}",
        "classes": f"{dataset.label_dim} classes{listed}" if dataset.label_dim else "no classes",
        "title": f"{Path(config.study).name}, {resolution}×{resolution}",
        "snakefile": ROOT / "Snakefile" if (ROOT / "Snakefile").is_file() else "CHECKOUT/Snakefile",
        "metrics": "\n".join(_metric(extractor, *metric) for metric in METRICS[extractor]),
        "columns": "\n".join(_column(*metric) for metric in METRICS[extractor]),
        "rows": grid[0],
        "columns_of_images": grid[1],
        "upscale": max(1, 64 // resolution),
    }


def _metric(extractor: str, key: str, kind: str, more: str, label: str, better: str, decimals: int) -> str:
    facts = f"key: {key}, kind: {kind}, extractor: {extractor}, {more}"
    return f"  - {{{facts}, label: {label}, better: {better}, decimals: {decimals}}}"


def _column(key: str, kind: str, more: str, label: str, better: str, decimals: int) -> str:
    return f"  - {{head: {label}, metric: {key}, direction: {better}, decimals: {decimals}}}"
