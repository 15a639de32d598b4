"""Trainings of a rehearsal: small transformers, a few steps of a few images, on random pictures.

A preset that trains is rehearsed with small networks, since steps at true size take minutes on a processor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.errors import UserError
from sida.eval.features.registry import extractor_class
from sida.networks.file import network_class
from sida.workflow.preset import Preset

#: Sizes of a transformer; its images, classes and patches stay.
SIZES = {"hidden_size": 64, "depth": 2, "num_heads": 4}
#: Steps of a training, images of a step and of a micro-batch, images of an evaluation.
STEPS, BATCH, MICRO_BATCH, EVALUATED = 12, 4, 2, 4
#: Parts of a training after which the generator and the adversarial term join, where a recipe has them join later.
_JOINS = {"warmup_kimg": 1 / 4, "adversarial_kimg": 1 / 2}
#: Widths of the autoencoder of latents.
AUTOENCODER = (32, 32, 32, 32)


def trains(preset: Preset) -> bool:
    """Whether a preset trains networks."""
    return bool(preset.students or preset.trained_teachers)


def small_network(network: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A transformer ``{class, kwargs}`` of the smallest sizes.

    Raises:
        UserError: The network is no transformer.
    """
    kwargs = dict(network["kwargs"])
    if not SIZES.keys() <= network_class(network, where).options_of(kwargs).keys():
        fault = f"trainings are rehearsed with small transformers, and {network['class']} is none"
        raise UserError(f"--rehearse: {where}", fault, "rehearse a preset of published files")
    return {**network, "kwargs": kwargs | SIZES | _without_blocks(kwargs)}


def _without_blocks(options: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults for those of a transformer's options that name blocks, of which a small one has few."""
    return {key: default for key, default in (("encoder_depth", None), ("feature_blocks", [])) if key in options}


def small_trainings(preset: Preset) -> dict[str, Any]:
    """Changes of a preset's teachers and recipes.

    Raises:
        UserError: A network is no transformer, or unknown.
    """
    settings, teachers, recipes = preset.settings, {}, {}
    for name, teacher in settings.teachers.items():
        if teacher.network is None:
            raise UserError(f"--rehearse: teacher '{name}'", "has no network", "name its class and kwargs")
        teachers[name] = {"network": small_network(teacher.network, f"teacher '{name}'")}
        if teacher.training is not None:
            teachers[name]["training"] = _short_lengths(teacher.training)
    for name, recipe in settings.recipes.items():
        recipes[name] = _short_lengths(recipe) | {"fp16": False, "half": "float16"}
        recipes[name]["network_options"] = _without_blocks(recipe.get("network_options") or {})
        if recipe.get("network") is not None:
            recipes[name]["network"] = small_network(recipe["network"], f"recipe '{name}'")
        if recipe.get("evaluation") is not None:
            half = STEPS * BATCH / 2000
            recipes[name]["evaluation"] = {"every_kimg": half, "num_samples": EVALUATED}
    return {"teachers": teachers, "recipes": recipes}


def _short_lengths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Lengths and batches of a short training."""
    total = STEPS * BATCH / 1000
    short = {"total_kimg": total, "batch_size": BATCH, "batch_gpu": MICRO_BATCH, "tick_kimg": total / 4}
    return short | {key: total * part for key, part in _JOINS.items() if settings.get(key)}


def training_datasets(preset: Preset) -> set[str]:
    """Data sets of the trainings of a preset."""
    settings = preset.settings
    names = {settings.dataset, *(row.dataset for row in preset.runs.values())}
    return {name for name in (*names, *(teacher.dataset for teacher in settings.teachers.values())) if name}


def encoded(entry: Mapping[str, Any], folder: Path, name: str, images: int) -> dict[str, Any]:
    """Settings of an archive of latents that the workflow makes of random pictures."""
    facts = ("kind", "resolution", "channels", "label_dim", "latents", "made_from")
    path = os.fspath(folder / "datasets" / f"{name}.zip")
    return {key: entry[key] for key in facts if key in entry} | {"path": path, "num_images": images}


def is_timm(extractor: str) -> bool:
    """Whether a feature network is one of timm, whose name its class has as ``model``."""
    return extractor_class(extractor).model is not None


def without_judges(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Metrics of a protocol without those of timm's feature networks; means are of the others."""
    judged = {str(metric["key"]) for metric in metrics if (name := metric.get("extractor")) and is_timm(name)}
    rest = [{**metric} for metric in metrics if metric["key"] not in judged]
    for metric in rest:
        if metric.get("of"):
            metric["of"] = [key for key in metric["of"] if key not in judged]
    return rest
