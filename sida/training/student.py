"""Distillation of a teacher into a one-step generator, by any method."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from sida.checkpoint import load_network, read_metadata
from sida.config import from_mapping
from sida.data import AugmentPipe, Dataset, load_dataset
from sida.errors import UserError
from sida.families import Family
from sida.io import sha256_file
from sida.losses import SiDLoss
from sida.methods import Method, find_method
from sida.networks import architecture, build_network, family_of
from sida.networks.checkpointing import checkpoint_blocks
from sida.networks.guidance import GuidedDenoiser, check_guide
from sida.settings.samplers import Sampler
from sida.training.averages import Average
from sida.training.background import Tensors
from sida.training.batches import GeneratedBatches, StepBatches, step_batches
from sida.training.config import DistillConfig, SettledConfig, WeightNorm, settled
from sida.training.distiller import Distiller
from sida.training.evaluation import Evaluation
from sida.training.identity import run_digest, run_metadata
from sida.training.iteration import Turns
from sida.training.logs import check_tensorboard
from sida.training.loop import TrainingLoop
from sida.training.meter import IterationRecord
from sida.training.pictures import Pictures
from sida.training.plan import Plan
from sida.training.player import Player
from sida.training.process import prepare_process
from sida.training.ranks import ALONE, Ranks, joined, own_device
from sida.training.run import RunFiles, check_shapes, read_config, run_folder
from sida.training.schedule import Schedule

AnyLoss = TypeVar("AnyLoss")


class StudentTrainer:
    """What an iteration changes, with its source of batches.

    Args:
        turns: The method's players.
        batches: Where images and labels come from.
    """

    def __init__(self, turns: Turns, batches: StepBatches | GeneratedBatches) -> None:
        self.turns, self.batches = turns, batches

    @property
    def ema(self) -> Average:
        """The averaged generator."""
        return self.turns.ema

    @property
    def snapshots(self) -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
        """See :class:`sida.training.loop.Trainer`."""
        return {"": (self.ema.net, {})}

    def iteration(self, nimg: int) -> IterationRecord:
        """One iteration on the batches of image ``nimg``."""
        return self.turns.take(nimg, lambda stream, with_images: self.batches(stream, nimg, with_images))

    def weight_rms(self) -> dict[str, float | None]:
        """See :class:`sida.training.loop.Trainer`."""
        return self.turns.weight_rms()

    def state(self) -> Tensors:
        """Everything a resumed run needs (references, not copies)."""
        return self.turns.state()

    def load(self, state: Tensors) -> None:
        """Puts a :meth:`state` back."""
        self.turns.load(state)


def distill(
    config: DistillConfig | Mapping[str, Any],
    outdir: str | os.PathLike[str] | None = None,
    *,
    where: str = "student",
    set_aside: bool = False,
) -> Path:
    """Distils a student, or goes on where an earlier process stopped, or just writes the results of a finished run.

    Args:
        config: Settings, or a mapping of them (which may name the folder under ``outdir``).
        outdir: Folder of the run; None takes the mapping's, else ``results/local/students/<name>``. Gets
            ``network.safetensors`` (the averaged generator with the lowest Fréchet distance; the last one without
            evaluation), ``train.jsonl``, ``evaluations.jsonl``, ``snapshots/`` and ``state/``.
        where: Place named in errors.
        set_aside: Start anew although the folder holds an unfinished run of another configuration. Its state stays
            there and is gone on from when its settings come back.

    Returns:
        Path of the network.

    Raises:
        UserError: Bad settings, data or networks; too many NaNs; a kept state that cannot be read, or one of an
            unfinished run of another configuration (without ``set_aside``).
        KeyboardInterrupt: SIGINT came, or (:class:`sida.errors.Preempted`) SIGTERM or SIGUSR1; the state was kept,
            the same call goes on.
    """
    config, outdir = read_config(DistillConfig, config, outdir, where)
    device = own_device(config.device, where)
    check_tensorboard(config.tensorboard, where)
    prepare_process(config.threads)
    dataset = load_dataset(config.dataset, f"{where}.dataset")
    parents: dict[str, str | None] = {"teacher": _sha256(config.teacher, f"{where}.teacher"), "init": None}
    config = settled(config, read_metadata(config.teacher)["network"], where)
    if config.init is not None:
        parents["init"] = _sha256(config.init, f"{where}.init")
    if config.guide is not None:
        parents["guide"] = _sha256(config.guide, f"{where}.guide")
    if config.real_source != "data":
        parents["real_source"] = _sha256(config.real_source, f"{where}.real_source")
    digest = run_digest("student", config, dataset.sha256, parents, where)
    stage = f"distill {config.name}"
    folder = run_folder(outdir, "students", config.name)
    with joined(device) as ranks, RunFiles(folder, digest, set_aside, ranks, config.tensorboard) as files:
        if files.finished:
            files.publish_again(stage)
            return files.network
        turns = make_turns(config, dataset, device, where)
        turns.join(ranks, config.shard == "optimizer")
        trainer = StudentTrainer(turns, make_batches(config, dataset, device, where, ranks))
        metadata = run_metadata(config.method, config, digest, dataset, turns.generator.net, parents)
        evaluate = None
        if config.evaluation is not None:
            place = f"{where}.evaluation"
            evaluate = Evaluation(config.evaluation, dataset, config.init_sigma, config.device, place)
        plan = Plan.from_config(config, stage)
        metadata["sampler"] = {"kind": "one_step", "init_sigma": config.init_sigma}
        sampler = Sampler(kind="one_step", init_sigma=config.init_sigma)
        picture = Pictures(sampler, config.pictures, config.device)
        TrainingLoop(plan, trainer, files, metadata, evaluate, ranks, picture).run()
    return files.network


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a method makes its players from (:attr:`sida.methods.Method.turns`).

    Attributes:
        method: The method.
        config: Settings, each with its value.
        options: The method's own settings, in its dataclass; None where it has none.
        family: Of the teacher's network.
        teacher: The teacher, on the device.
        initial: The network that the generator starts as.
        device: Where networks are.
        where: Place named in errors.
        guide: Guiding network, on the device; None without guidance.
    """

    method: Method
    config: SettledConfig
    options: Any
    family: Family
    teacher: torch.nn.Module
    initial: torch.nn.Module
    device: torch.device
    where: str
    guide: torch.nn.Module | None = None

    @property
    def true_score(self) -> torch.nn.Module:
        """φ, as the generator's loss asks it: the teacher, guided where the recipe says so."""
        if self.guide is None:
            return self.teacher
        return GuidedDenoiser(self.teacher, self.guide, self.config.guidance)

    def copy(self, source: torch.nn.Module, weight_norm: WeightNorm | None) -> torch.nn.Module:
        """A copy of a network that learns, with the configured dropout, precision and weight normalisation."""
        network = copy.deepcopy(architecture(source))
        if self.config.dropout is not None:
            network["kwargs"]["dropout"] = self.config.dropout
        if self.device.type == "cuda":
            network["kwargs"]["use_fp16"] = self.config.fp16
        if weight_norm is not None:
            network["kwargs"]["weight_norm"] = weight_norm
        net = build_network(network).to(self.device)
        net.load_state_dict(source.state_dict())
        if self.config.checkpointing:
            checkpoint_blocks(net, f"{self.where}.checkpointing")
        net.half_dtype = getattr(torch, self.config.half)
        return net.requires_grad_(True)

    def loss(self, cls: type[AnyLoss], **more: Any) -> AnyLoss:
        """A loss (a dataclass) with the settings that have the names of its fields, and more."""
        fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        settings = {field.name for field in dataclasses.fields(self.config)}
        return cls(**{name: getattr(self.config, name) for name in fields & settings}, **more)

    def schedule(self) -> Schedule:
        """Phases and rates as configured; without real images there is no adversarial phase."""
        config = self.config
        adversarial = config.adversarial_kimg if self.method.real_images else None
        return Schedule(config.warmup_kimg, adversarial, config.total_kimg, config.lr_decay_start, config.lr_final)

    def turns(self, players: Sequence[Player]) -> Turns:
        """Players of a method that has no fake score, as configured."""
        config = self.config
        return Turns(
            players,
            self.schedule(),
            seed=config.seed,
            init_sigma=config.init_sigma,
            ema_half_life=config.ema_half_life_kimg * 1000,
            ema_rampup_ratio=config.ema_rampup_ratio,
            cuda_graphs=config.cuda_graphs,
        )

    def augment(self) -> AugmentPipe | None:
        """The configured augmentation."""
        settings = self.config.augment
        return None if settings is None else AugmentPipe.from_config(settings, f"{self.where}.augment")


def make_turns(config: DistillConfig, dataset: Dataset, device: torch.device, where: str = "student") -> Turns:
    """What a configuration trains: its method's players, with networks, losses and schedule.

    Raises:
        UserError: A network that cannot be read or does not fit the data set, or a setting it does not have.
    """
    teacher, _ = load_network(config.teacher, device)
    check_shapes(teacher, dataset, f"{where}.teacher: {config.teacher}")
    config = settled(config, architecture(teacher), where)
    if config.fp16 and device.type != "cuda":
        raise UserError(f"{where}.fp16: float16 needs device 'cuda'; set fp16 to false")
    guide = None
    if config.guide is not None:
        guide, _ = load_network(config.guide, device)
        check_guide(teacher, guide, f"{where}.guide: {config.guide}")
    frozen = [net for net in (teacher, guide) if net is not None]
    for net in frozen if device.type == "cuda" else ():
        cast(Any, net).use_fp16, cast(Any, net).half_dtype = config.fp16, getattr(torch, config.half)
    initial = teacher
    if config.init is not None:
        initial, _ = load_network(config.init, device)
        check_shapes(initial, dataset, f"{where}.init: {config.init}")
    method = find_method(config.method, f"{where}.method")
    if method.options is None and config.options:
        raise UserError(f"{where}.options: method '{config.method}' has no settings of its own; remove them")
    options = None if method.options is None else from_mapping(method.options, config.options, f"{where}.options")
    if config.checkpointing:
        if config.compile:
            raise UserError(f"{where}.checkpointing: does not go with compile; turn one of them off")
        # The generator's gradients pass the teacher too.
        for net in frozen:
            checkpoint_blocks(net, f"{where}.checkpointing")
    parts = Parts(method, config, options, family_of(teacher), teacher, initial, device, where, guide)
    return method.turns(parts) if method.turns else make_score_distiller(parts)


def make_score_distiller(parts: Parts, loss: SiDLoss | None = None, others: Sequence[Player] = ()) -> Distiller:
    """Teacher, fake score and generator of a configuration.

    Args:
        parts: Settings and networks.
        loss: None makes the method's.
        others: Further players between fake score and generator.
    """
    config = parts.config
    return Distiller(
        parts.true_score,
        parts.copy(parts.teacher, config.fake_score_weight_norm),
        parts.copy(parts.initial, config.weight_norm),
        parts.method.loss(parts) if loss is None else loss,
        parts.schedule(),
        lr=config.lr,
        fake_score_lr=config.fake_score_lr,
        betas=config.betas,
        generator_betas=config.generator_betas,
        eps=config.eps,
        init_sigma=config.init_sigma,
        lambda_sid=config.lambda_sid,
        lambda_adv=config.lambda_adv,
        lambda_d=config.lambda_d,
        lambda_fake_score=config.lambda_fake_score,
        grad_clip_value=config.grad_clip_value or None,
        augment=parts.augment(),
        ema_half_life=config.ema_half_life_kimg * 1000,
        ema_rampup_ratio=config.ema_rampup_ratio,
        seed=config.seed,
        compile=config.compile,
        kernels=config.kernels,
        recompute=config.recompute,
        cuda_graphs=config.cuda_graphs,
        psi_steps=parts.method.psi_steps,
        others=others,
    )


def make_batches(
    config: DistillConfig, dataset: Dataset, device: torch.device, where: str = "student", ranks: Ranks = ALONE
) -> StepBatches | GeneratedBatches:
    """Batches of a configuration: the data's, or with ``real_source`` a generator's images in their place.

    Raises:
        UserError: The generator cannot be read or does not fit the data set, or the batch cannot be shared.
    """
    batches = step_batches(config, dataset, device, ranks, where)
    if config.real_source == "data":
        return batches
    net, metadata = load_network(config.real_source, device)
    place = f"{where}.real_source: {config.real_source}"
    check_shapes(net, dataset, place)
    sampler = metadata.get("sampler") or {}
    if sampler.get("kind") != "one_step" or not dataset.is_pixels:
        raise UserError(f"{place}: must be a one-step generator of pixels; give a student's network")
    return GeneratedBatches(batches, net, sampler["init_sigma"])


def _sha256(path: str, where: str) -> str:
    if not Path(path).is_file():
        raise UserError(f"{where}: no such file '{path}'; train or download it first, or correct the path")
    return sha256_file(path)
