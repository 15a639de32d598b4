"""Identity of a training run: the digest of everything that decides its result."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from sida.config.families import check_images
from sida.config.plugins import code_sha256, load_object
from sida.config.recipe import EXCLUDED_FROM_DIGEST, RunConfig, TeacherConfig
from sida.config.settings import names_object
from sida.data.dataset import Dataset
from sida.errors import settings_in
from sida.files.atomic import sha256_json

#: Settings that are younger than the first recorded digests, which a digest holds only where they differ from their
#: default. The name of a new setting belongs here.
YOUNGER = {
    "data_order", "generator_betas", "guidance", "guide", "half", "init", "kernels", "lr_rampup_kimg",
    "lr_ref_batches", "options", "power_ema",
}  # fmt: skip


def check_shapes(net: torch.nn.Module, dataset: Dataset, where: str) -> None:
    """Checks that a network fits the images and classes of a data set.

    Raises:
        UserError: Resolution, channels or classes differ.
    """
    channels, resolution, _ = dataset.network_shape
    wanted = {"img_resolution": resolution, "img_channels": channels, "label_dim": dataset.label_dim}
    with settings_in(where):
        check_images({option: getattr(net, option) for option in wanted}, wanted, f"data set '{dataset.name}'")


def run_digest(kind: str, settings: Mapping[str, Any], dataset_sha256: str, parents: Mapping[str, str | None]) -> str:
    """Returns the digest of everything that decides a run's result.

    Args:
        kind: ``"teacher"`` or ``"student"``.
        settings: Settings that decide the result, see :func:`decisive_settings`.
        dataset_sha256: Digest of the data.
        parents: SHA-256 of the networks from which a student starts.
    """
    dataset = {key: value for key, value in settings["dataset"].items() if key not in ("path", "cache")}
    plain = {**settings, "dataset": dataset}
    return sha256_json({"kind": kind, "settings": plain, "dataset": dataset_sha256, "parents": dict(parents)})


def decisive_settings(config: RunConfig) -> dict[str, Any]:
    """Returns the settings of a run that decide its result, by name."""
    settings = dataclasses.asdict(config)
    for field in dataclasses.fields(config):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in EXCLUDED_FROM_DIGEST or (field.name in YOUNGER and settings[field.name] == default):
            del settings[field.name]
    return settings


def class_source(network: Mapping[str, Any], where: str) -> dict[str, str | None]:
    """Returns the SHA-256 of a custom network class's source, as an entry of its settings; empty for our classes.

    Raises:
        UserError: The class cannot be found or is not allowed.
    """
    if not names_object(network["class"]):
        return {}
    return {"source_sha256": code_sha256(*load_object(network["class"], f"{where}.class", "class"))}


def teacher_digest(config: TeacherConfig, dataset_sha256: str, where: str = "spec") -> str:
    """Returns the digest of everything that decides a teacher's training, see :func:`run_digest`.

    Raises:
        UserError: The network has a custom class that is not allowed.
    """
    settings = decisive_settings(config)
    if config.batch_gpu is None:
        # As in the digests of stored teachers; those of students always have it.
        del settings["batch_gpu"]
    settings["network"] = {**settings["network"], **class_source(config.network, f"{where}.network")}
    return run_digest("teacher", settings, dataset_sha256, {})
