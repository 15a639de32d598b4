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
from sida.machine import derive_seed
from sida.networks import architecture, build_network, family_of
from sida.networks.unet import checkpoint_blocks
from sida.noise import Draw, Draws, complete_draws, edm_weight, lognormal_sigma, normal, unit_noise
from sida.training.averages import Average, ema_beta, power_beta
from sida.training.batches import StepBatches, seed_layers, step_draws
from sida.training.logs import IterationRecord, LogRecords, lost
from sida.training.loop import Run, Trainer
from sida.training.micro_batches import Augment, seeded
from sida.training.optimizer import OptimizedNetwork
from sida.training.processes import Ranks
from sida.training.run import check_shapes, teacher_digest
from sida.training.schedule import linear_decay, teacher_learning_rate


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
        drawn = complete_draws(self.DRAWS, draws, images)
        sigma = lognormal_sigma(drawn["sigma_normal"], self.P_mean, self.P_std)
        weight = edm_weight(sigma, self.sigma_data)
        clean, augment_labels = (images, None) if augment is None else augment(images)
        noisy = torch.addcmul(clean, sigma, drawn["noise"])
        if not self.return_logvar:
            denoised = net(noisy, sigma, class_labels, augment_labels=augment_labels)
            return weight * (denoised - clean).square()
        denoised, logvar = net(noisy, sigma, class_labels, return_logvar=True)
        return (weight / logvar.exp()) * (denoised - clean).square() + logvar


class TeacherTrainer(Trainer):
    """Trains a denoiser and averages its weights.

    Args:
        config: Settings.
        net: Network on its device.
        batches: Batches of this device.

    Attributes:
        widths: Relative widths of the averages (EDM2); that of an average with a half-life is None.
    """

    sampler = Sampler(kind="heun")

    def __init__(self, config: TeacherConfig, net: torch.nn.Module, batches: StepBatches) -> None:
        self.config, self.batches = config, batches
        # Networks with a log-variance head are trained with the head.
        family = family_of(net)
        has_logvar = family.has_variance_head(architecture(net))
        self.loss = EDMLoss(config.P_mean, config.P_std, config.sigma_data, return_logvar=has_logvar)
        self.augment = None if config.augment is None else AugmentPipe.from_config(config.augment, "augment")
        infinity = family.infinite_gradient
        self.network = OptimizedNetwork(net, config.lr, config.betas, config.eps, infinity=infinity)
        self.widths: tuple[float | None, ...] = config.power_ema or (None,)
        averages = {"ema" if std is None else f"ema-{std}": Average(self.network) for std in self.widths}
        super().__init__({"teacher": self.network}, averages)

    @property
    def provenance(self) -> dict[str, Any]:
        """See :class:`sida.training.loop.Trainer`."""
        return {} if self.widths[0] is None else {"average_std": self.widths[0]}

    def lost(self, ticks: LogRecords) -> str | None:
        """See :class:`sida.training.loop.Trainer`."""
        losses = [tick["losses"].get("denoising") for tick in ticks]
        return lost(losses, math.prod(self.batches.dataset.network_shape), self.loss.return_logvar)

    @property
    def snapshots(self) -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
        """See :class:`sida.training.loop.Trainer`."""
        if self.widths == (None,):
            return super().snapshots
        of_width = zip(self.widths, self.averages.values())
        return {f"-{std:g}": (average.net, {"average_std": std}) for std, average in of_width}

    def iteration(self, nimg: int) -> IterationRecord:
        """Does one step of the denoiser and its averages."""
        record, batches, seed = IterationRecord(), self.batches("teacher", nimg), self.config.seed
        shapes, device = [images.shape for images, _ in batches], self.batches.device
        draws = step_draws(seed, "teacher", nimg, shapes, device, EDMLoss.DRAWS, self.ranks)
        net = self.network.train()
        position = self.batches.rank * self.batches.per_device
        for (images, labels), drawn in zip(batches, draws):
            seed_layers(seed, "teacher", nimg, position, device)
            augment = seeded(self.augment, seed, "augment", nimg, position)
            loss = self.loss(net, images, labels, augment, drawn).sum() / self.batches.per_device
            loss.backward()
            record.add_loss("denoising", loss)
            position += len(images)
        record.samples += self.batches.per_device
        record.add_step("teacher", self.network.step(self._lr_factor(nimg)))
        for std, average in zip(self.widths, self.averages.values()):
            average.update(self._beta(std, nimg))
        return record

    def _lr_factor(self, nimg: int) -> float:
        config = self.config
        decay = linear_decay(nimg / (config.total_kimg * 1000), config.lr_decay_start, config.lr_final)
        rampup = config.lr_rampup_kimg * 1000
        return decay * teacher_learning_rate(nimg, config.batch_size, 1.0, rampup, config.lr_ref_batches)

    def _beta(self, std: float | None, nimg: int) -> float:
        config, batch_size = self.config, self.config.batch_size
        if std is not None:
            return float(power_beta(std, nimg + batch_size, batch_size))
        return ema_beta(nimg, batch_size, config.ema_half_life_kimg * 1000, config.ema_rampup_ratio)


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
    run = Run.opened(TeacherConfig, config, outdir, where)
    dataset = run.dataset

    def start(ranks: Ranks, config: TeacherConfig) -> TeacherTrainer:
        torch.manual_seed(derive_seed(config.seed, "initialisation"))
        net = build_network(config.network, f"{where}.network").to(run.device)
        check_shapes(net, dataset, f"{where}.network.kwargs")
        if config.checkpointing:
            checkpoint_blocks(net, f"{where}.checkpointing")
        return TeacherTrainer(config, net, StepBatches(config, dataset, run.device, ranks, where, config.data_order))

    return run.train("teacher", teacher_digest(run.config, dataset.sha256), start, set_aside=set_aside)
