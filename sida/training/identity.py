"""Identity of a training run: the digest of everything that decides its result, and the provenance of its network."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import torch

from sida.config.plugins import code_sha256, load_object
from sida.config.recipe import EXCLUDED_FROM_DIGEST, RunConfig, TeacherConfig
from sida.config.settings import names_object
from sida.data.dataset import Dataset
from sida.files.atomic import sha256_json
from sida.networks import architecture
from sida.provenance import code_version

#: Settings that enter every digest. Any other setting enters a digest only if its value differs from its default, so
#: that a new setting changes no recorded digest.
_RECORDED = """
    P_mean P_std adversarial_kimg adversarial_pool alpha augment batch_gpu batch_size betas compile dataset device
    dropout ema_half_life_kimg ema_rampup_ratio eps evaluation fake_score_lr fake_score_weight_norm fp16 gamma
    grad_clip_value init_sigma lambda_adv lambda_d lambda_fake_score lambda_sid logvar lr lr_decay_start lr_final
    max_nan_share method name network real_source seed sigma_data snapshot_kimg t_max threads tick_kimg total_kimg
    warmup_kimg weight_norm
"""
RECORDED = frozenset(_RECORDED.split())


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


def decisive_settings(
    config: RunConfig, excluded: Collection[str] = (), replaced: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the settings of a run that decide its result, by name.

    Args:
        config: Settings.
        replaced: Values that replace those of some settings.
        excluded: Further settings that do not enter the digest at their default value.
    """
    settings = {**dataclasses.asdict(config), **(replaced or {})}
    for field in dataclasses.fields(config):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        later = field.name not in RECORDED or field.name in excluded
        if field.name in EXCLUDED_FROM_DIGEST or (later and settings[field.name] == default):
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
    # Stored teachers have digests without batch_gpu; students always have it.
    settings = decisive_settings(config, excluded=("batch_gpu",))
    settings["network"] = {**settings["network"], **class_source(config.network, f"{where}.network")}
    return run_digest("teacher", settings, dataset_sha256, {})


def common_facts(
    config: RunConfig, digest: str, dataset_sha256: str, parents: Mapping[str, str | None]
) -> dict[str, object]:
    """Returns facts that must be equal in all processes that train together, by name; the digest comes last.

    The processes may have separate disks, so each reads its own files.
    """
    # on_divergence changes no number, but whether a process ends.
    facts = {"code version": code_version(), **parents, "dataset": dataset_sha256}
    return {**facts, "on_divergence": config.on_divergence, "digest of all settings and files": digest}


def run_metadata(
    method: str,
    config: RunConfig,
    digest: str,
    dataset: Dataset,
    net: torch.nn.Module,
    parents: Mapping[str, str | None],
) -> dict[str, Any]:
    """Provenance for the network's header, without times and paths: equal runs give equal files."""
    return {
        "name": config.name,
        "method": method,
        "network": architecture(net),
        "dataset": {**dataset.describe(), "sha256": dataset.sha256},
        "seed": config.seed,
        "parents": dict(parents),
        "code_version": code_version(),
        "config_sha256": digest,
    }
