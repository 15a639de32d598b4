"""What a configuration trains: its method's players, made of teacher, guide and initial generator."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from sida.config.augmentation import OFFICIAL_FLAGS
from sida.config.families import Family, WeightNorm
from sida.data import AugmentPipe
from sida.losses import SiDLoss
from sida.methods.distiller import Distiller
from sida.methods.method import Method
from sida.methods.recipe import ResolvedConfig
from sida.networks import architecture, build_network
from sida.networks.checkpointing import checkpoint_blocks
from sida.networks.guidance import GuidedDenoiser
from sida.training.iteration import Turns
from sida.training.player import Player
from sida.training.schedule import Schedule

AnyLoss = TypeVar("AnyLoss")


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
    config: ResolvedConfig
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
        return Turns(players, self.schedule(), **self.of_all_turns())

    def of_all_turns(self) -> dict[str, Any]:
        """Settings that all players share, whether one of them is a fake score or not."""
        config = self.config
        return {
            "seed": config.seed,
            "init_sigma": config.init_sigma,
            "ema_half_life": config.ema_half_life_kimg * 1000,
            "ema_rampup_ratio": config.ema_rampup_ratio,
            "cuda_graphs": config.cuda_graphs,
        }

    def augment(self, official: Mapping[str, float] = OFFICIAL_FLAGS) -> AugmentPipe | None:
        """The configured augmentation; ``official`` is what it does where the flags are left out."""
        settings = self.config.augment
        return None if settings is None else AugmentPipe.from_config(settings, f"{self.where}.augment", official)


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
        lambda_sid=config.lambda_sid,
        lambda_adv=config.lambda_adv,
        lambda_d=config.lambda_d,
        lambda_fake_score=config.lambda_fake_score,
        grad_clip_value=config.grad_clip_value or None,
        augment=parts.augment(),
        compile=config.compile,
        kernels=config.kernels,
        recompute=config.recompute,
        psi_steps=parts.method.psi_steps,
        others=others,
        **parts.of_all_turns(),
    )
