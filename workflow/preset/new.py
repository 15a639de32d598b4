"""Makes a new study: a folder with the files that those of `studies/` have, and its data.

The files are made from templates in ``config/new``, whose variables ``$name`` depend on the data; ``sizes.yaml`` there
has the sizes, rates and metrics.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import string
from pathlib import Path
from typing import Any

from sida.config.resources import find
from sida.config.settings import Device, from_mapping, load_yaml
from sida.errors import UserError, visible
from sida.files.atomic import atomic_folder

STUDY_FILES = (
    *("preset.yaml", "runs.tsv", "claims.yaml", "README.md"),
    *("protocols/own.yaml", "tables/main.yaml", "figures/samples.yaml"),
)
#: Largest number of classes whose names are listed.
_MOST_NAMES = 20
#: Line of a metric in the protocol, and of its column in the table.
_METRIC = (
    "  - {{key: {key}, kind: {kind}, extractor: {extractor}, {more}, "
    "label: {label}, better: {better}, decimals: {decimals}}}"
)
_COLUMN = "  - {{head: {label}, metric: {key}, direction: {better}, decimals: {decimals}}}"


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
        values = {"name": name, **_data_values(config, part, study)}
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
        "  sida plan preset.yaml     (hours and memory; nothing runs)",
        f"  sida run .{values['on_gpu']}",
    ]


def _data_values(config: StudyConfig, part: Path, study: Path) -> dict[str, Any]:
    """Values of template variables that depend on the data; prepares pictures into ``data.zip``."""
    from sida.data import open_archive
    from sida.data.archive import Files
    from sida.data.arrays import is_idx
    from sida.data.prepare import PrepareConfig, prepare, summary

    wishes = {key: value for key in ("resolution", "channels", "labels") if (value := getattr(config, key)) is not None}
    if config.resolution is not None:
        _settings(config, config.resolution)
    facts: dict[str, Any] = {}
    if not wishes and not is_idx(Path(config.data)) and Files(config.data).find("dataset.json") is not None:
        data = Path(config.data).resolve()
        beside = data.is_relative_to(study.parent.resolve())
        path = os.path.relpath(data, study.resolve()) if beside else str(data)
        kind, dataset = "folder" if data.is_dir() else "zip", open_archive(config.data)
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
        **_sized(config, dataset, names),
    }


def _settings(config: StudyConfig, resolution: int) -> dict[str, Any]:
    """Sizes and rates for a resolution.

    Raises:
        UserError: There are no sizes and rates for this resolution.
    """
    sizes = _sizes()
    scales = sizes["quick" if config.quick else "scales"]
    scale = next((scale for scale in scales if resolution <= scale["largest"]), None)
    shown, most = f"{resolution}×{resolution}", scales[-1]["largest"]
    if scale is None:
        remedy = "leave out --quick" if config.quick else "train on latents (sida data encode) with a custom preset"
        raise UserError(config.data, f"{shown} is more than {most}×{most}", f"give --resolution {most}, or {remedy}")
    levels = 2 ** scale["channel_mult"].count(",")
    if resolution % levels:
        near = resolution - resolution % levels or levels
        raise UserError(config.data, f"{shown} must be a multiple of {levels}", f"give --resolution {near}")
    return {**sizes["bases"][scale["base"]], **scale}


def _sizes() -> dict[str, Any]:
    return load_yaml(find("", "config/new/sizes.yaml"))


def _sized(config: StudyConfig, dataset: Any, names: list[str]) -> dict[str, Any]:
    resolution = dataset.resolution
    values = _settings(config, resolution)
    for key in ("teacher_batch", "student_batch"):
        values[key] = min(values[key], len(dataset))
    values["device"] = config.device or values["device"]
    on_gpu = values["device"] != "cpu"
    values |= {"gpus": int(on_gpu), "on_gpu": " -- --resources gpu=1" if on_gpu else ""}
    extractor = "pixels" if values["num_samples"] < 10000 else "inception"
    metrics = _sizes()["metrics"][extractor]
    listed = f": {', '.join(names)}" if 0 < len(names) <= _MOST_NAMES else ""
    rows, columns = (10, 6) if dataset.label_dim else (8, 8)
    return values | {
        "resolution": resolution,
        "channels": dataset.num_channels,
        "label_dim": dataset.label_dim,
        "images": len(dataset),
        "size": f"{resolution}×{resolution}×{dataset.num_channels}",
        "classes": f"{dataset.label_dim} classes{listed}" if dataset.label_dim else "no classes",
        "title": f"{Path(config.study).name}, {resolution}×{resolution}",
        "metrics": "\n".join(_METRIC.format(extractor=extractor, **metric) for metric in metrics),
        "columns": "\n".join(_COLUMN.format(**metric) for metric in metrics),
        "rows": rows,
        "columns_of_images": columns,
        "upscale": max(1, 64 // resolution),
    }
