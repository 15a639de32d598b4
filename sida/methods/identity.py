"""Identity of a distillation: the digest of everything that decides its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sida.config.plugins import code_sha256, load_object
from sida.methods.recipe import StudentConfig
from sida.methods.registry import BETAS, METHODS
from sida.training.evaluation import evaluation_facts
from sida.training.identity import class_source, decisive_settings, run_digest


def student_digest(
    config: StudentConfig,
    dataset_sha256: str,
    parents: Mapping[str, str | None],
    where: str = "spec",
    networks: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Returns the digest of everything that decides a distillation's result.

    Files enter by content, not by path. So a results folder can be moved, but a retrained teacher or an edited protocol
    of the monitor counts as a different run.

    Args:
        config: Settings.
        dataset_sha256: Digest of the data.
        parents: SHA-256 of the networks from which the student starts.
        where: Place named in errors.
        networks: Architectures of these networks; the source of a custom class enters the digest.

    Raises:
        UserError: The monitor of the evaluation does not exist, its protocol or data cannot be read, or a custom method
            or network class is not allowed.
    """
    options = getattr(METHODS[config.method].options if config.method in METHODS else None, "recorded", dict)
    settings = decisive_settings(config, replaced={"options": options(config.options)})
    for path in ("teacher", "init", "guide"):
        settings.pop(path, None)
    if parents.get("real_source") is not None:
        settings.pop("real_source")
    if settings.get("evaluation") is not None:
        settings["evaluation"] = evaluation_facts(settings["evaluation"], config.dataset, f"{where}.evaluation")
    for name, value in _recorded_defaults(config.method).items():
        if settings[name] is None:
            settings[name] = value
    if config.method not in METHODS:
        source = code_sha256(*load_object(config.method, f"{where}.method", "method"))
        settings["method"] = {"name": config.method, "source_sha256": source}
    for name, network in (networks or {}).items():
        if source_of := class_source(network, f"{where}.{name}"):
            settings[name] = {**settings.get(name, {}), **source_of}
    return run_digest("student", settings, dataset_sha256, parents)


def _recorded_defaults(method: str) -> dict[str, Any]:
    """Values that digests record for settings that a method does not read."""
    values = {"init_sigma": 2.5, "betas": BETAS}
    own = METHODS[method].defaults["edm"] if method in METHODS else {}
    return {name: own.get(name, value) for name, value in values.items()}
