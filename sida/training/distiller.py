"""The one loop body of SiD, SiDA and SiD2A: networks, a loss, a schedule and batches; no data set, no devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from sida.data.augment import AugmentPipe
from sida.errors import UserError
from sida.losses import Draws, SiDLoss
from sida.randomness import generator as random_generator
from sida.sampling.one_step import one_step
from sida.training.compilation import compiled
from sida.training.draws import seed_layers, step_draws
from sida.training.guards import GuardReport
from sida.training.learner import Average, Learner, Reduce
from sida.training.schedule import Phase, Schedule, ema_beta

#: ``(images (N, C, H, W), class_labels (N, label_dim) or None)``.
Batch = tuple[torch.Tensor, torch.Tensor | None]


@dataclasses.dataclass
class IterationRecord:
    """What one iteration did.

    Attributes:
        losses: Scaled losses as they were back-propagated, but without the schedule's weights; 0-dim.
        grad_norms: Gradient norm per network that took a step, before clipping; 0-dim.
        samples: Samples that went through a loss.
        nan_samples: Those dropped because they held a NaN.
        bad_gradients: Gradient entries that were NaN or infinite.
    """

    losses: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    grad_norms: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    samples: int = 0
    nan_samples: int = 0
    bad_gradients: torch.Tensor | int = 0

    def add_loss(self, name: str, value: torch.Tensor) -> None:
        """Adds one round's share."""
        value = value.detach()
        self.losses[name] = self.losses[name] + value if name in self.losses else value

    def add_step(self, name: str, report: GuardReport) -> None:
        """Notes a network's step."""
        self.grad_norms[name] = report.norm
        self.bad_gradients = self.bad_gradients + report.replaced


class Distiller:
    """Teacher φ, fake score ψ, generator θ and θ's average, and how one iteration changes them.

        distiller = Distiller(phi, psi, theta, SiDALoss(), Schedule(), lr=1e-5)
        record = distiller.iteration(nimg, [(images, labels)], [(images, labels)])

    An iteration is a ψ step on images of the current θ, then a θ step through the new ψ, then the average: algorithm 1
    of SiDA (arXiv:2410.14919) with the official code's order, modes and scales (golden facts 5-13). While the schedule
    holds θ back, its forward and backward passes are skipped; nothing else notices, because draws depend on counters
    only.

    Args:
        true_score: φ; frozen here.
        fake_score: ψ; usually a copy of φ.
        generator: θ; a copy of φ, or for SiD2A of a distilled generator.
        loss: The method's losses per element: SiD's or one derived from it; ``loss.uses_real_images`` says whether ψ
            also judges real images.
        schedule: Phases by images seen.
        lr: θ's learning rate.
        fake_score_lr: ψ's; None for the same.
        betas: Adam's β₁ and β₂.
        eps: Adam's ε: 1e-8 in float32, 1e-6 with float16.
        init_sigma: σ_init of the generator.
        lambda_sid: Weight of the SiD term.
        lambda_adv: Weight of the adversarial term (which is also multiplied by C·H·W).
        lambda_d: Weight of the discriminator term: 1 for EDM, 100 for EDM2 in the paper.
        lambda_fake_score: Weight of ψ's denoising term.
        grad_clip_value: Value clip of ψ's gradients (1 in SiDA on EDM networks); None is off. θ is never clipped.
        augment: Augmentation of ψ's batches; None is off. θ's are never augmented.
        ema_half_life: Half-life of the average, in images.
        ema_rampup_ratio: The half-life is at most this share of the images seen; None is no limit.
        seed: Run seed of all draws.
        rank: Number of this device.
        world_size: Number of devices; the average's step counts the images of all of them.
        reduce: Averages a gradient vector over devices, in place; losses are means over this device's images, of
            which all devices bring equally many (:data:`sida.training.learner.Reduce`).
        compile: Run the networks through ``torch.compile``.
    """

    def __init__(
        self,
        true_score: torch.nn.Module,
        fake_score: torch.nn.Module,
        generator: torch.nn.Module,
        loss: SiDLoss,
        schedule: Schedule,
        *,
        lr: float,
        fake_score_lr: float | None = None,
        betas: tuple[float, float] = (0.0, 0.999),
        eps: float = 1e-8,
        init_sigma: float = 2.5,
        lambda_sid: float = 100.0,
        lambda_adv: float = 0.01,
        lambda_d: float = 1.0,
        lambda_fake_score: float = 1.0,
        grad_clip_value: float | None = None,
        augment: AugmentPipe | None = None,
        ema_half_life: float = 500_000,
        ema_rampup_ratio: float | None = 0.05,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        reduce: Reduce | None = None,
        compile: bool = False,
    ) -> None:
        if not isinstance(loss, SiDLoss):
            kind = type(loss).__name__
            raise UserError(
                f"loss: {kind} has no fake score, which this loop trains; take SiDLoss or one derived from it"
            )
        self.loss, self.schedule, self.init_sigma, self.augment = loss, schedule, init_sigma, augment
        self.lambda_sid, self.lambda_adv = lambda_sid, lambda_adv
        self.lambda_d, self.lambda_fake_score = lambda_d, lambda_fake_score
        self.ema_half_life, self.ema_rampup_ratio = ema_half_life, ema_rampup_ratio
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.true_score = true_score.eval().requires_grad_(False)
        self._phi = compiled(true_score) if compile else true_score
        self.fake_score = Learner(
            fake_score,
            lr if fake_score_lr is None else fake_score_lr,
            betas,
            eps,
            grad_clip_value,
            reduce,
            compile,
        )
        self.generator = Learner(generator, lr, betas, eps, None, reduce, compile)
        self.ema = Average(self.generator)
        self.device = self.generator.flat.vector.device

    def iteration(
        self,
        nimg: int,
        psi_batches: Sequence[Batch],
        generator_batches: Sequence[Batch],
        draws: Sequence[Draws] | None = None,
    ) -> IterationRecord:
        """One ψ step, one θ step (if the schedule wants it), one step of the average.

        Args:
            nimg: Images seen before this iteration, over all devices.
            psi_batches: One pair per accumulation round: real images (only their shape counts for SiD) and labels.
            generator_batches: The same for θ; of the images only the shape counts, of a separate batch the labels.
            draws: Replace the random tensors: one mapping per round, ψ's rounds first. A round may have ``z``,
                ``noise`` and ``sigma_normal`` (ψ) or ``t`` (θ), see :func:`sida.training.draws.step_draws`; what it
                leaves out is drawn as without it.
        """
        phase, record = self.schedule.at(nimg), IterationRecord()
        rounds = len(psi_batches)
        if draws is not None and len(draws) != rounds + len(generator_batches):
            raise ValueError(f"{len(draws)} mappings of draws for {rounds} + {len(generator_batches)} rounds")
        self._psi_step(nimg, psi_batches, None if draws is None else draws[:rounds], phase, record)
        if phase.update_generator:
            self._theta_step(nimg, generator_batches, None if draws is None else draws[rounds:], phase, record)
        images = self.world_size * sum(len(batch[0]) for batch in psi_batches)
        self.ema.update(ema_beta(nimg, images, self.ema_half_life, self.ema_rampup_ratio))
        return record

    def _psi_step(
        self, nimg: int, batches: Sequence[Batch], draws: Sequence[Draws] | None, phase: Phase, record: IterationRecord
    ) -> None:
        draws = self._draws("psi", nimg, batches, draws, "sigma_normal")
        total = sum(len(images) for images, _ in batches)
        augment = self._augment(nimg)
        generator, fake_score = self.generator.eval(), self.fake_score.train()
        for (real, labels), given in zip(batches, draws):
            with torch.no_grad():
                images = one_step(generator, given["z"], labels, self.init_sigma)
            terms = self.loss.fake_score_loss(
                fake_score, images, labels, real if self.loss.uses_real_images else None, augment, given
            )
            record.samples += len(images)
            record.nan_samples += terms.nan_count
            _propagate(
                record,
                ("denoising", terms.denoising, self.lambda_fake_score / total, 1.0),
                ("discriminator", terms.discriminator, self.lambda_d / total, 1.0),
            )
        record.add_step("fake_score", self.fake_score.step(phase.lr_factor))

    def _theta_step(
        self, nimg: int, batches: Sequence[Batch], draws: Sequence[Draws] | None, phase: Phase, record: IterationRecord
    ) -> None:
        draws = self._draws("generator", nimg, batches, draws, "t")
        total = sum(len(images) for images, _ in batches)
        generator, fake_score = self.generator.train(), self.fake_score.eval()
        for (like, labels), given in zip(batches, draws):
            images = one_step(generator, given["z"], labels, self.init_sigma)
            terms = self.loss.generator_loss(self._phi, fake_score, images, labels, given)
            record.samples += len(images)
            record.nan_samples += terms.nan_count
            pixels = like[0].numel()
            _propagate(
                record,
                ("sid", terms.sid, self.lambda_sid / total, phase.sid_weight),
                ("adversarial", terms.adversarial, self.lambda_adv * pixels / total, phase.adversarial_weight),
            )
        record.add_step("generator", self.generator.step(phase.lr_factor))

    def _draws(
        self, purpose: str, nimg: int, batches: Sequence[Batch], given: Sequence[Draws] | None, level: str
    ) -> Sequence[Draws]:
        seed_layers(self.seed, purpose, nimg, self.rank, self.device)
        if given is not None and all({"z", "noise", level} <= mapping.keys() for mapping in given):
            return given
        shapes = [images.shape for images, _ in batches]
        own = step_draws(self.seed, purpose, nimg, self.rank, shapes, self.device, level)
        # What a mapping leaves out stays the run's own draw.
        return own if given is None else [{**drawn, **mapping} for drawn, mapping in zip(own, given)]

    def _augment(self, nimg: int) -> Any:
        if self.augment is None:
            return None
        pipe, source = self.augment, random_generator(self.seed, "augment", nimg, self.rank)
        return lambda images: pipe(images, generator=source)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything a resumed run needs, as named tensors (references, not copies); φ is not part of it."""
        return {f"{part}/{name}": value for part, owner in self._parts() for name, value in owner.state().items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Puts a :meth:`state` back."""
        for part, owner in self._parts():
            prefix = f"{part}/"
            owner.load({name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)})

    def _parts(self) -> list[tuple[str, Learner | Average]]:
        return [("fake_score", self.fake_score), ("generator", self.generator), ("ema", self.ema)]


def _propagate(record: IterationRecord, *terms: tuple[str, torch.Tensor | None, float, float]) -> None:
    """Back-propagates the sum of a round's terms and notes each without its weight.

    Args:
        record: Where the losses are noted.
        *terms: Name, loss per element (None: the method has no such term), scale, and the schedule's weight.
    """
    weighted = []
    for name, per_element, scale, weight in terms:
        if per_element is None:
            continue
        value = per_element.sum() * scale
        record.add_loss(name, value)
        # A term of weight 0 costs no backward pass.
        if weight:
            weighted.append(value if weight == 1 else weight * value)
    sum(weighted[1:], weighted[0]).backward()
