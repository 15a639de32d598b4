"""What a run is: the digest that tells its states from others', and the provenance of its network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import torch

from sida.config import names_object
from sida.data.dataset import Dataset
from sida.errors import UserError
from sida.io import sha256_json
from sida.methods import METHODS
from sida.plugins import load_object, source_sha256
from sida.provenance import code_version
from sida.training.config import DistillConfig, TeacherConfig
from sida.training.evaluation import evaluation_facts

Config = TeacherConfig | DistillConfig


def run_digest(
    kind: str, config: Config, dataset_sha256: str, parents: Mapping[str, str | None], where: str = "spec"
) -> str:
    """Digest of everything that decides a run's result.

    Files count by content, not by path: a results folder may be moved, a retrained teacher makes another run, and so
    does an edited protocol whose metric chooses the network that is kept.

    Args:
        kind: ``"teacher"`` or ``"student"``.
        config: Settings.
        dataset_sha256: Digest of the data.
        parents: SHA-256 of the networks a student starts from.
        where: Place named in errors.

    Raises:
        UserError: The monitor of the evaluation cannot be found, or its protocol or data cannot be read.
    """
    settings = dataclasses.asdict(config)
    for path in ("teacher", "init"):
        settings.pop(path, None)
    if parents.get("real_source") is not None:
        settings.pop("real_source")
    if settings.get("evaluation") is not None:
        settings["evaluation"] = evaluation_facts(settings["evaluation"], config.dataset, f"{where}.evaluation")
    if not settings.get("options", True):
        # A setting that came later does not change what a run without it is.
        del settings["options"]
    if settings.get("method", "") not in ("", *METHODS):
        module, _ = load_object(settings["method"], f"{where}.method", "method")
        settings["method"] = {"name": settings["method"], "source_sha256": source_sha256(module)}
    network = settings.get("network")
    if network is not None and names_object(network["class"]):
        module, _ = load_object(network["class"], f"{where}.network.class", "class")
        settings["network"] = {**network, "source_sha256": source_sha256(module)}
    settings["dataset"] = {k: v for k, v in settings["dataset"].items() if k not in ("path", "cache")}
    return sha256_json({"kind": kind, "settings": settings, "dataset": dataset_sha256, "parents": dict(parents)})


def run_metadata(
    method: str,
    config: Config,
    digest: str,
    dataset: Dataset,
    network: Mapping[str, Any],
    parents: Mapping[str, str | None],
) -> dict[str, Any]:
    """Provenance for the network's header, without times and paths: equal runs give equal files."""
    metadata: dict[str, Any] = {
        "name": config.name,
        "method": method,
        "network": dict(network),
        "dataset": {**dataset.describe(), "sha256": dataset.sha256},
        "seed": config.seed,
        "parents": dict(parents),
        "code_version": code_version(),
        "config_sha256": digest,
    }
    return metadata


def architecture(net: torch.nn.Module) -> dict[str, Any]:
    """``{class, kwargs}`` of a network."""
    return dict(cast(Mapping[str, Any], net.init_config))


def check_shapes(net: torch.nn.Module, dataset: Dataset, where: str) -> None:
    """Requires a network for exactly this data set's images and classes.

    Raises:
        UserError: Resolution, channels or classes differ.
    """
    channels, resolution, _ = dataset.network_shape
    wanted = {"img_resolution": resolution, "img_channels": channels, "label_dim": dataset.label_dim}
    for key, expected in wanted.items():
        actual = getattr(net, key)
        if actual != expected:
            raise UserError(f"{where}.{key}: {actual}, but data set {dataset.name} has {expected}; make them equal")
