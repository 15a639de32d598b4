"""Training of a diffusion teacher."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from sida.config.recipe import TeacherConfig, TeacherTraining
from sida.config.samplers import Sampler
from sida.data import AugmentPipe
from sida.errors import UserError
from sida.networks import architecture, family_of
from sida.networks.precond import checkpoint_blocks
from sida.noise import (
    Draw,
    Draws,
    complete_draws,
    edm_weight,
    lognormal_sigma,
    normal,
    score_weight,
    sigma_of_time,
    uniform,
    unit_noise,
)
from sida.training.averages import power_beta
from sida.training.batches import Augment, MicroBatch, StepBatches, augmented
from sida.training.iteration import Trainer
from sida.training.logs import LogRecords, lost
from sida.training.loop import Run
from sida.training.optimizer import Average, OptimizedNetwork
from sida.training.processes import Ranks
from sida.training.run_folder import new_network, teacher_digest
from sida.training.schedule import Schedule, teacher_learning_rate
from sida.training.steps import OptimizerStep


@dataclasses.dataclass(eq=False)
class EDMLoss:
    """``w(σ) (D(y + n; σ) − y)²`` with ``ln σ ~ N(P_mean, P_std²)``.

        loss = EDMLoss()(net, images, labels).sum() / len(images)

    Attributes:
        P_mean: Mean of ln σ (EDM −1.2, EDM2 −0.4).
        P_std: Standard deviation of ln σ (EDM 1.2, EDM2 1.0).
        sigma_data: Standard deviation of the data, for the weight.
        return_logvar: Whether the network also predicts the log variance u(σ) of its error; the loss is then
            ``w e^{−u} (D − y)² + u`` (EDM2, arXiv:2312.02696, equation 21).

    Source: EDM (arXiv:2206.00364), equation 8 and Table 1; NVlabs/edm:training/loss.py.
    """

    #: Draws by name.
    DRAWS: ClassVar[Mapping[str, Draw]] = {"sigma_normal": normal, "noise": unit_noise}

    P_mean: float = TeacherTraining.P_mean
    P_std: float = TeacherTraining.P_std
    sigma_data: float = TeacherTraining.sigma_data
    return_logvar: bool = False

    def __call__(
        self,
        net: Callable[..., Any],
        images: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        augment: Augment | None = None,
        draws: Draws | None = None,
    ) -> torch.Tensor:
        """Loss per element, float32 ``(N, C, H, W)``.

        Args:
            net: Preconditioned network.
            images: Clean images ``(N, C, H, W)`` in [-1, 1], or latents.
            class_labels: ``(N, label_dim)`` or None.
            augment: ``images -> (images, augment_labels)``, with its own random draws.
            draws: ``sigma_normal`` ``(N, 1, 1, 1)`` and ``noise`` ``(N, C, H, W)``, both unit normal, replace the
                random ones.
        """
        all_draws = complete_draws(self.DRAWS, draws, images)
        all_draws |= {} if augment is None else augmented(augment, images, None)
        return self.batch_loss(net, MicroBatch(images, class_labels, draws=all_draws))

    def batch_loss(self, net: Callable[..., Any], batch: MicroBatch) -> torch.Tensor:
        """Loss of a micro-batch of real images, see :meth:`__call__`."""
        (clean, augment_labels), labels = batch.clean, batch.class_labels
        sigma = self.sigma(batch.draws)
        weight = self.weight(sigma)
        assert sigma.shape == (len(clean), 1, 1, 1)
        noisy = torch.addcmul(clean, sigma, batch.draws["noise"])
        if not self.return_logvar:
            return weight * (net(noisy, sigma, labels, augment_labels=augment_labels) - clean).square()
        denoised, logvar = net(noisy, sigma, labels, return_logvar=True)
        return (weight / logvar.exp()) * (denoised - clean).square() + logvar

    def sigma(self, draws: Draws) -> torch.Tensor:
        """Noise levels, float32 ``(N, 1, 1, 1)``: log-normal."""
        return lognormal_sigma(draws["sigma_normal"], self.P_mean, self.P_std)

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """w(σ), the shape of ``sigma``."""
        return edm_weight(sigma, self.sigma_data)


@dataclasses.dataclass(eq=False)
class VelocityLoss(EDMLoss):
    """Flow matching: the square of the error of the velocity n − y, at a time t = σ / (1 + σ) uniform in [0, 1].

    It is ``(1 + σ)²/σ² (D(y + σ n; σ) − y)²``; P_mean, P_std and sigma_data have no effect. The official loss is the
    mean over the elements.

    Source: willisma/SiT:transport/transport.py, whose time is 1 − t; arXiv:2210.02747.
    """

    DRAWS: ClassVar[Mapping[str, Draw]] = {"t": uniform, "noise": unit_noise}

    def sigma(self, draws: Draws) -> torch.Tensor:
        """See :meth:`EDMLoss.sigma`."""
        return sigma_of_time(draws["t"])

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """See :meth:`EDMLoss.weight`."""
        return score_weight(sigma, self.sigma_data, "velocity")


#: Losses of a teacher by the setting ``loss``.
LOSSES = {"edm": EDMLoss, "velocity": VelocityLoss}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherSchedule(Schedule):
    """Learning rates of a teacher: those of :func:`~sida.training.schedule.teacher_learning_rate`, with a decay.

    Attributes:
        config: Settings of the teacher.
    """

    config: TeacherConfig

    def lr_factor(self, nimg: int) -> float:
        """See :meth:`~sida.training.schedule.Schedule.lr_factor`."""
        config, rampup = self.config, self.config.lr_rampup_kimg * 1000
        factor = teacher_learning_rate(nimg, config.batch_size, 1.0, rampup, config.lr_ref_batches)
        return super().lr_factor(nimg) * factor


class TeacherTrainer(Trainer):
    """Trains a denoiser and averages its weights.

    Args:
        config: Settings.
        net: Network on its device.
        batches: Batches of this device.

    Attributes:
        widths: Relative widths of the averages (EDM2); empty for one average with a half-life.
    """

    sampler = Sampler(kind="heun")

    def __init__(self, config: TeacherConfig, net: torch.nn.Module, batches: StepBatches) -> None:
        self.batches, self._pixels = batches, math.prod(batches.dataset.network_shape)
        # Networks with a log-variance head are trained with the head.
        family = family_of(net)
        has_logvar = family.has_variance_head(architecture(net))
        if has_logvar and config.loss != "edm":
            fault = f"'{config.loss}' does not train the log-variance head of the network"
            raise UserError("loss", fault, f"set {family.variance_head} of the network to null")
        settings = config.P_mean, config.P_std, config.sigma_data
        self.loss = loss = LOSSES[config.loss](*settings, return_logvar=has_logvar)
        infinity = family.infinite_gradient
        self.network = OptimizedNetwork(net, config.lr, config.betas, config.eps, infinity=infinity)
        self.widths = config.power_ema
        self.provenance = {"average_std": self.widths[0]} if self.widths else {}
        averages = {f"ema-{std}": Average(self.network) for std in self.widths} or {"ema": Average(self.network)}
        count = batches.per_device
        step = OptimizerStep(
            "teacher",
            self.network,
            lambda batch: {"denoising": loss.batch_loss(net, batch).sum() / count},
            "teacher",
            lambda pixels: {"denoising": count},
            loss.DRAWS,
            real_images=True,
            generates=False,
            augment=None if config.augment is None else AugmentPipe.from_config(config.augment, "augment"),
        )
        decay = config.total_kimg, config.lr_decay_start, config.lr_final
        schedule = TeacherSchedule(0.0, None, 1.0, *decay, config=config)
        super().__init__([step], schedule, config, averages)

    def lost(self, ticks: LogRecords) -> str | None:
        """See :class:`sida.training.iteration.Trainer`."""
        losses = [tick["losses"].get("denoising") for tick in ticks]
        return lost(losses, self._pixels, self.loss.return_logvar)

    @property
    def snapshots(self) -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
        """See :class:`sida.training.iteration.Trainer`."""
        if not self.widths:
            return super().snapshots
        averages = zip(self.widths, self.averages.values())
        return {f"-{std:g}": (average.net, {"average_std": std}) for std, average in averages}

    def update_averages(self, nimg: int, images: int) -> None:
        """See :meth:`~sida.training.iteration.Trainer.update_averages`."""
        if not self.widths:
            return super().update_averages(nimg, images)
        for std, average in zip(self.widths, self.averages.values()):
            average.update(float(power_beta(std, nimg + images, images)))


def train_teacher(
    config: TeacherConfig | Mapping[str, Any] | str | os.PathLike[str],
    outdir: str | os.PathLike[str] | None = None,
    *,
    where: str = "teacher",
    set_aside: bool = False,
) -> Path:
    """Trains a teacher, resumes an unfinished run, or writes the results of a finished run again.

    Arguments, result and errors are those of :func:`sida.methods.distill`. The default folder is
    ``results/local/teachers/<name>``. There are no evaluations: the network is the last average.
    """
    run = Run.from_settings(TeacherConfig, config, outdir, where)
    dataset = run.dataset

    def start(ranks: Ranks) -> TeacherTrainer:
        config = run.config
        net = new_network(config.network, config.seed, dataset, run.device, f"{where}.network")
        if config.augment is not None and not family_of(net).augmentation:
            fault = f"{family_of(net).title} networks take no augmentation"
            raise UserError(f"{where}.augment", fault, "set it to null")
        net.drops_labels = True
        if config.checkpointing:
            checkpoint_blocks(net, f"{where}.checkpointing")
        return TeacherTrainer(config, net, StepBatches(config, dataset, run.device, ranks, where, config.data_order))

    return run.train("teacher", teacher_digest(run.config, dataset.sha256), start, set_aside=set_aside)
