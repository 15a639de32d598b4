"""Digest of a distillation: it covers everything that decides the result, and no path."""

from collections.abc import Mapping
from typing import Any

from sida.config.families import NULL_LABEL
from sida.config.lookup import code_sha256, load_object
from sida.config.recipe import StudentConfig
from sida.config.roles import decisive, roles
from sida.methods.registry import METHODS, find_method
from sida.training.evaluation import evaluation_facts
from sida.training.run import class_source, run_digest

#: Settings that are gone, with the values that digests go on recording.
_GONE = {"real_source": "data", "compile": False}


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
    options_recorded = getattr(find_method(config.method, f"{where}.method").options, "recorded", dict)
    settings = decisive(config)
    if options := options_recorded(config.options):
        settings["options"] = options
    for path in ("teacher", "init", "guide"):
        if settings.get(path) != NULL_LABEL:
            settings.pop(path, None)
    if settings.get("evaluation") is not None:
        settings["evaluation"] = evaluation_facts(settings["evaluation"], config.dataset, f"{where}.evaluation")
    official = METHODS[config.method].official.get("edm", {}) if config.method in METHODS else {}
    defaults = {name: role.recorded for name, role in roles(StudentConfig).items() if role.recorded is not None} | _GONE
    settings |= {name: official.get(name, value) for name, value in defaults.items() if settings.get(name) is None}
    if config.method not in METHODS:
        source = code_sha256(*load_object(config.method, f"{where}.method", "method"))
        settings["method"] = {"name": config.method, "source_sha256": source}
    for name, network in (networks or {}).items():
        if source_of := class_source(network, f"{where}.{name}"):
            settings[name] = {**settings.get(name, {}), **source_of}
    return run_digest("student", settings, dataset_sha256, parents)
