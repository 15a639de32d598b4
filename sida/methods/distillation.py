"""Distillation of a teacher into a one-step generator, for all methods, the run's digest, and its evaluations.

The digest covers everything that decides the result.

A monitor measures the generator. ``module:factory`` in the settings names a callable that makes it from keyword
arguments. The digest contains the value of ``monitor_facts(**arguments)`` of the same module: a JSON value with
everything that decides the monitor's numbers. Without this function the digest contains the arguments, with files by
their content, and the source of a module from outside this package. ``RECORDED_AS`` is a moved module's former name,
which digests keep.

A monitor whose work can be divided among processes has ``part(generate, number, count)`` and ``join(parts)``, which
together equal a call of the monitor. Any other monitor is called by rank 0 alone.
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sida.config.families import NULL_LABEL
from sida.config.lookup import code_sha256, is_ours, load_object
from sida.config.recipe import EvaluationSettings, ResolvedConfig, StudentConfig
from sida.config.roles import decisive, roles
from sida.config.samplers import INFINITE, Sampler
from sida.config.settings import from_mapping
from sida.data import Dataset
from sida.data.dataset import read_sketch
from sida.errors import UserError
from sida.files.atomic import by_content, sha256_file
from sida.methods.method import Parts
from sida.methods.registry import METHODS, DistillConfig, checked_method, find_method, resolve_recipe
from sida.networks import adjusted, architecture, family_of
from sida.networks.file import load_network, read_metadata
from sida.networks.precond import checkpoint_blocks, no_noise_level
from sida.sampling import Drawer
from sida.sampling.guidance import Unlabelled, check_guide_fits
from sida.training.batches import StepBatches
from sida.training.iteration import StudentTrainer
from sida.training.loop import Run
from sida.training.processes import Interruption, Ranks
from sida.training.run import check_shapes, class_source, new_network, run_digest

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
    own = METHODS[config.method].official.get("edm", {}) if config.method in METHODS else {}
    recorded = {name: role.recorded for name, role in roles(StudentConfig).items() if role.recorded is not None} | _GONE
    settings |= {name: own.get(name, value) for name, value in recorded.items() if settings.get(name) is None}
    if config.method not in METHODS:
        source = code_sha256(*load_object(config.method, f"{where}.method", "method"))
        settings["method"] = {"name": config.method, "source_sha256": source}
    for name, network in (networks or {}).items():
        if source_of := class_source(network, f"{where}.{name}"):
            settings[name] = {**settings.get(name, {}), **source_of}
    return run_digest("student", settings, dataset_sha256, parents)


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
    run = Run.opened(DistillConfig, config, outdir, where)
    settings, dataset, device = run.config, run.dataset, run.device
    checked_method(settings, where)
    guide = settings.guide if settings.guide != NULL_LABEL else None
    paths = {"teacher": settings.teacher, "init": settings.init} | ({"guide": guide} if guide else {})
    headers = {role: read_metadata(path) for role, path in paths.items() if path}
    parents = {role: path and sha256_file(path) for role, path in paths.items()}
    networks = {role: header["network"] for role, header in headers.items()}
    networks |= {"network": settings.network} if settings.network is not None else {}
    resolved = resolve_recipe(settings, networks["network" if settings.teacher is None else "teacher"], where)
    digest = student_digest(resolved, dataset.sha256, parents, where, networks)

    def start(ranks: Ranks, config: ResolvedConfig) -> StudentTrainer:
        trainer = make_trainer(config, dataset, device, where)
        trainer.batches = StepBatches(config, dataset, device, ranks, where)
        if config.evaluation is not None:
            evaluation = Evaluation(config.evaluation, dataset, trainer.sampler, config.device, f"{where}.evaluation")
            trainer.evaluate, trainer.evaluation = evaluation, evaluation.settings
        return trainer

    resolved_run = Run(resolved, run.folder, device, dataset)
    sketches = [read_sketch(header.get("images")) for header in headers.values()]
    return resolved_run.train(resolved.method, digest, start, parents, set_aside, sketches)


def make_trainer(
    config: ResolvedConfig, dataset: Dataset, device: torch.device, where: str = "student"
) -> StudentTrainer:
    """Returns the trainer of a configuration, without its batches.

    Raises:
        UserError: A network cannot be read or built, does not fit the data set, or does not have a setting.
    """
    if config.fp16 and device.type != "cuda":
        raise UserError(f"{where}.fp16", "float16 needs device 'cuda'", "set fp16 to false")
    paths = {role: path for role in ("teacher", "guide", "init") if (path := getattr(config, role)) is not None}
    nets: dict[str, Any] = {role: load_network(path, device)[0] for role, path in paths.items() if path != NULL_LABEL}
    if config.network is not None:
        nets["network"] = new_network(config.network, config.seed, dataset, device, f"{where}.network")
    teacher, guide = nets["network" if config.teacher is None else "teacher"], nets.get("guide")
    if config.init_sigma == INFINITE and getattr(teacher, "noise_limit", None) is None:
        raise no_noise_level(teacher, f"{where}.init_sigma")
    for role, net in nets.items():
        network_place = f"{where}.{role}: {paths.get(role)}"
        if net is guide:
            check_guide_fits(teacher, guide, network_place)
        else:
            check_shapes(net, dataset, network_place)
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
    return Parts(method, config, options, family_of(teacher), teacher, initial, device, where, guide).trainer()


class Evaluation:
    """Measures a network at intervals during its training.

    The monitor is made at its first use. Latents are decoded before the monitor measures them, as in a final
    measurement.

    Args:
        settings: Mapping of :class:`sida.config.recipe.EvaluationSettings`.
        dataset: Training data; images have its classes with its class frequencies.
        sampler: Sampler of the generator.
        device: Device that draws the images.
        where: Place named in errors.
    """

    def __init__(
        self, settings: Mapping[str, Any], dataset: Dataset, sampler: Sampler, device: str, where: str
    ) -> None:
        self.settings, self.where = from_mapping(EvaluationSettings, settings, where), where
        self.drawer = Drawer(sampler, dataset=lambda: dataset, device=device)
        self.classes = "empirical" if dataset.label_dim else "uniform"

    @functools.cached_property
    def monitor(self) -> Any:
        """``monitor(generate) -> record``.

        Raises:
            UserError: The module or factory does not exist.
        """
        _, factory = load_object(self.settings.monitor, f"{self.where}.monitor", "factory")
        return factory(**self.settings.kwargs)

    def __call__(self, net: torch.nn.Module, interruption: Interruption, ranks: Ranks) -> dict[str, Any]:
        """Evaluates a network on all ranks if the monitor can be divided, else on rank 0.

        Args:
            net: Averaged network, the same on all ranks.
            interruption: Stop requests of this rank.
            ranks: Processes of the run.

        Returns:
            The monitor's record. Its key ``selection`` (default ``fd``) names a value; the run keeps the network with
            the lowest.

        Raises:
            KeyboardInterrupt: This rank was asked to end.
        """
        self.drawer.net, monitor = net, self.monitor
        self.drawer.rounded = bool(getattr(monitor, "rounds", False))

        def images(seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
            interruption.request.enforce()
            (batch,) = self.drawer.draw(seeds, len(seeds), self.classes)
            return batch.images, batch.classes

        if ranks.world_size == 1 or not (hasattr(monitor, "part") and hasattr(monitor, "join")):
            return ranks.from_first(lambda: dict(monitor(images)))
        parts = ranks.gather(monitor.part(images, ranks.rank, ranks.world_size))
        return ranks.from_first(lambda: dict(monitor.join(parts)))


def evaluation_facts(evaluation: Mapping[str, Any], dataset: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns everything about an evaluation that decides which network a run keeps, for the run's digest.

    Args:
        evaluation: ``{every_kimg, monitor, kwargs}``.
        dataset: Spec of the training data. The run's digest already contains it, so the monitor's copy is left out.
        where: Place named in errors.

    Raises:
        UserError: The module or factory does not exist, or does not accept the arguments.
    """
    module, factory = load_object(evaluation["monitor"], f"{where}.monitor", "factory")
    source = {} if is_ours(evaluation["monitor"]) else {"source_sha256": code_sha256(module, factory)}
    name = getattr(module, "RECORDED_AS", evaluation["monitor"])
    kwargs = {k: v for k, v in evaluation.get("kwargs", {}).items() if k != "dataset" or v != dataset}
    facts: Callable[..., Any] | None = getattr(module, "monitor_facts", None)
    points = {key: value for key, value in evaluation.items() if value is not None}
    try:
        inspect.signature(factory).bind(**evaluation.get("kwargs", {}))
    except TypeError as error:
        raise UserError(f"{where}.kwargs", f"{evaluation['monitor']} does not accept them ({error})") from None
    return {**points, **source, "monitor": name, "kwargs": by_content(kwargs) if facts is None else facts(**kwargs)}
