"""What tells a run from others: the digest of all that decides its result, and the provenance in its network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from sida.config.plugins import code_sha256, load_object
from sida.config.ranges import names_object
from sida.data.dataset import Dataset
from sida.files.atomic import sha256_json
from sida.methods.defaults import BETAS
from sida.methods.registry import METHODS
from sida.methods.resolve import DistillConfig
from sida.networks import architecture
from sida.runtime.provenance import code_version
from sida.training.config import BESIDE, TeacherConfig
from sida.training.evaluation import evaluation_facts

Config = TeacherConfig | DistillConfig
#: Settings that came after runs had been recorded: with its default value, each leaves a run what it was without it.
LATER = {
    "teacher": {"batch_gpu", "lr_rampup_kimg", "lr_ref_batches", "data_order", "power_ema"},
    "student": {"options", "generator_betas", "half", "kernels", "guidance", "guide"},
}


def run_digest(
    kind: str,
    config: Config,
    dataset_sha256: str,
    parents: Mapping[str, str | None],
    where: str = "spec",
    networks: Mapping[str, Mapping[str, Any]] | None = None,
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
        networks: Architectures of these networks: the source of a class from outside decides the result, too.

    Raises:
        UserError: The monitor of the evaluation cannot be found, or its protocol or data cannot be read; or a network's
            class is from outside and not allowed.
    """
    settings = dataclasses.asdict(config)
    method = METHODS.get(settings.get("method", ""))
    if recorded := getattr(method and method.options, "recorded", None):
        settings["options"] = recorded(settings["options"])
    for field in dataclasses.fields(config):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in BESIDE or (field.name in LATER[kind] and settings[field.name] == default):
            del settings[field.name]
    for path in ("teacher", "init", "guide"):
        settings.pop(path, None)
    if parents.get("real_source") is not None:
        settings.pop("real_source")
    if settings.get("evaluation") is not None:
        settings["evaluation"] = evaluation_facts(settings["evaluation"], config.dataset, f"{where}.evaluation")
    for name, value in _recorded(settings.get("method", "")).items():
        if settings.get(name, 0) is None:
            settings[name] = value
    if settings.get("method", "") not in ("", *METHODS):
        source = code_sha256(*load_object(settings["method"], f"{where}.method", "method"))
        settings["method"] = {"name": settings["method"], "source_sha256": source}
    built = {"network": settings["network"]} if "network" in settings else {}
    for name, network in {**built, **(networks or {})}.items():
        if names_object(network["class"]):
            source = code_sha256(*load_object(network["class"], f"{where}.{name}.class", "class"))
            settings[name] = {**settings.get(name, {}), "source_sha256": source}
    settings["dataset"] = {k: v for k, v in settings["dataset"].items() if k not in ("path", "cache")}
    return sha256_json({"kind": kind, "settings": settings, "dataset": dataset_sha256, "parents": dict(parents)})


def common_facts(
    config: Config, digest: str, dataset_sha256: str, parents: Mapping[str, str | None]
) -> dict[str, object]:
    """What processes that train together must have in common, by name; the digest last, which most of it is part of.

    Their disks need not be shared, so each reads files of its own.
    """
    # These change no number, but what the processes say to each other.
    talk = {"shard": config.shard, "on_divergence": config.on_divergence}
    code = {"code version": code_version()}
    return {**code, **parents, "dataset": dataset_sha256, **talk, "digest of all settings and files": digest}


def _recorded(method: str) -> dict[str, Any]:
    """Values of settings that runs recorded before they could be left out."""
    values = {"init_sigma": 2.5, "betas": BETAS}
    own = METHODS[method].defaults["edm"] if method in METHODS else {}
    return {name: own.get(name, value) for name, value in values.items()}


def run_metadata(
    method: str,
    config: Config,
    digest: str,
    dataset: Dataset,
    net: torch.nn.Module,
    parents: Mapping[str, str | None],
) -> dict[str, Any]:
    """Provenance for the network's header, without times and paths: equal runs give equal files."""
    metadata: dict[str, Any] = {
        "name": config.name,
        "method": method,
        "network": architecture(net),
        "dataset": {**dataset.describe(), "sha256": dataset.sha256},
        "seed": config.seed,
        "parents": dict(parents),
        "code_version": code_version(),
        "config_sha256": digest,
    }
    if getattr(config, "guidance", 1.0) != 1:
        metadata["guidance"] = config.guidance  # type: ignore[union-attr]
    return metadata
