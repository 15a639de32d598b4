"""Distillation of a teacher into a one-step generator, for all methods."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sida.config.families import NULL_LABEL
from sida.config.feature_networks import UNKNOWN
from sida.config.lookup import code_sha256, load_object
from sida.config.recipe import ResolvedConfig, StudentConfig
from sida.config.roles import decisive, roles
from sida.data import Dataset
from sida.data.dataset import read_sketch
from sida.errors import UserError
from sida.files.atomic import sha256_file
from sida.methods.method import Parts
from sida.methods.registry import (
    METHODS,
    DistillConfig,
    checked_method,
    exposure_of_training,
    faults_of,
    find_method,
    resolve_recipe,
)
from sida.networks import adjusted, architecture, family_of
from sida.networks.file import build_on_meta, load_network, read_metadata
from sida.networks.precond import checkpoint_blocks
from sida.sampling.guidance import Unlabelled, check_guide_fits
from sida.sampling.job import network_file
from sida.sampling.samplers import check_generator
from sida.training.batches import StepBatches
from sida.training.evaluation import Evaluation, evaluation_facts
from sida.training.iteration import StudentTrainer
from sida.training.loop import Run
from sida.training.processes import Ranks
from sida.training.run_folder import check_shapes, class_source, new_network, run_digest

#: Settings that are gone, with the values that digests go on recording.
_GONE = {"real_source": "data", "compile": False}


def distill(
    config: DistillConfig | Mapping[str, Any] | str | os.PathLike[str],
    outdir: str | os.PathLike[str] | None = None,
    *,
    where: str = "student",
    set_aside: bool = False,
) -> Path:
    """Distils a student, resumes an unfinished run, or writes the results of a finished run again.

    Args:
        config: Settings; or a mapping of them, or a YAML or JSON file, which may have the folder under ``outdir``.
        outdir: Folder of the run; None takes the mapping's, or else ``results/local/students/<name>``. The run writes
            ``network.safetensors`` (the averaged generator with the lowest Fréchet distance, or the last without
            evaluations), ``train.jsonl``, ``evaluations.jsonl``, ``snapshots/`` and ``state/``.
        where: Place named in errors.
        set_aside: Start a new run although the folder holds an unfinished run of another configuration. The state of
            the unfinished run remains, and a run with its settings resumes from it.

    Returns:
        Path of the network.

    Raises:
        UserError: Settings, data or networks are wrong; the run has too many NaNs; the state cannot be read, or belongs
            to an unfinished run of another configuration (without ``set_aside``).
        KeyboardInterrupt: The process received SIGINT, or (:class:`sida.errors.Preempted`) SIGTERM or SIGUSR1. The
            state is written, and the same call resumes the run.
    """
    run = Run.from_settings(DistillConfig, config, outdir, where)
    dataset, device = run.dataset, run.device
    checked_method(run.config, where)
    # A network may be named by a folder, an id or an address, or be converted.
    files: dict[str, Any] = {
        role: str(network_file(source))
        for role in ("teacher", "init", "guide")
        if (source := getattr(run.config, role)) not in (None, NULL_LABEL)
    }
    settings = dataclasses.replace(run.config, **files)
    headers = {role: read_metadata(path) for role, path in files.items()}
    parents = {"teacher": None, "init": None} | {role: sha256_file(path) for role, path in files.items()}
    networks = {role: header["network"] for role, header in headers.items()}
    networks |= {"network": settings.network} if settings.network is not None else {}
    resolved = resolve_recipe(settings, networks["network" if settings.teacher is None else "teacher"], where)
    digest = student_digest(resolved, dataset.sha256, parents, where, networks)

    if settings.teacher is not None:
        # Before the folder exists.
        nets = {role: build_on_meta(header["network"], files[role]) for role, header in headers.items()}
        for role, net in nets.items():
            place = f"{where}.{role}: {files[role]}"
            if role == "guide":
                check_guide_fits(nets["teacher"], net, place)
            else:
                check_shapes(net, dataset, place)

    def start(ranks: Ranks) -> StudentTrainer:
        with faults_of(resolved.method):
            trainer = make_trainer(resolved, dataset, device, where)
        trainer.faults = functools.partial(faults_of, resolved.method)
        trainer.batches = StepBatches(resolved, dataset, device, ranks, where)
        if resolved.evaluation is not None:
            place = f"{where}.evaluation"
            evaluation = Evaluation(resolved.evaluation, dataset, trainer.sampler, resolved.device, place)
            trainer.evaluate, trainer.evaluation_points = evaluation, evaluation.settings
        return trainer

    resolved_run = Run(resolved, run.folder, device, dataset)
    sketches = [read_sketch(header.get("images")) for header in headers.values()]
    stated = all(exposure_of_training(header) is not None for header in headers.values())
    known = {} if stated else {"saw": UNKNOWN}
    return resolved_run.train(resolved.method, digest, start, parents, set_aside, sketches, known)


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


def make_trainer(
    config: ResolvedConfig, dataset: Dataset, device: torch.device, where: str = "student"
) -> StudentTrainer:
    """Returns the trainer of a configuration, without its batches.

    Raises:
        UserError: A network cannot be read or built, or does not have a setting.
    """
    if config.fp16 and device.type != "cuda":
        raise UserError(f"{where}.fp16", "float16 needs device 'cuda'", "set fp16 to false")
    paths = {role: path for role in ("teacher", "guide", "init") if (path := getattr(config, role)) is not None}
    nets: dict[str, Any] = {role: load_network(path, device)[0] for role, path in paths.items() if path != NULL_LABEL}
    if config.network is not None:
        nets["network"] = new_network(config.network, config.seed, dataset, device, f"{where}.network")
    teacher, guide = nets["network" if config.teacher is None else "teacher"], nets.get("guide")
    check_generator(teacher, config.generator_steps, where)
    for role, net in nets.items():
        if role != "init" and device.type == "cuda":
            net.use_fp16, net.half_dtype = config.fp16, getattr(torch, config.half)
        if net is not guide and config.network_options:
            net.adjust(adjusted(architecture(net), config.network_options, f"{where}.network_options")[1])
        if role != "init" and config.checkpointing:
            # The gradients of the generator pass through the teacher.
            checkpoint_blocks(net, f"{where}.checkpointing")
    method = find_method(config.method, f"{where}.method")
    options, initial = method.read_options(config.options, f"{where}.options"), nets.get("init", teacher)
    if config.guide == NULL_LABEL:
        guide = Unlabelled(teacher, f"{where}.guide")
    parts = Parts(method, config, options, family_of(teacher), teacher, initial, device, where, guide)
    return (method.trainer or Parts.distiller)(parts)
