"""Training of a diffusion teacher."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from sida.config.recipe import TeacherConfig, TeacherTraining
from sida.config.samplers import Sampler
from sida.data import AugmentPipe, load_dataset
from sida.machine import derive_seed, generator, prepare_process
from sida.networks import architecture, build_network, family_of
from sida.networks.unet import checkpoint_blocks
from sida.noise import Draw, Draws, complete_draws, edm_weight, lognormal_sigma, normal, unit_noise
from sida.sampling.store import Pictures
from sida.training.averages import Average, ema_beta, power_beta
from sida.training.batches import Batch, StepBatches, seed_layers, share_of_draws, step_batches
from sida.training.identity import check_shapes, common_facts, read_config, run_folder, run_metadata, teacher_digest
from sida.training.logs import IterationRecord, check_loggers, lost
from sida.training.loop import Plan, TrainingLoop
from sida.training.micro_batches import Augment, MemoryRelief, has_dropout
from sida.training.optimizer import NamedTensors, OptimizedNetwork, Resumable, joint_state, load_joint_state
from sida.training.processes import Ranks, joined, own_device
from sida.training.run import RunFiles
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


class TeacherTrainer:
    """Trains a denoiser and averages its weights.

    Args:
        config: Settings.
        net: Network on its device.
        batches: Batches of this device.

    Attributes:
        averages: Averages of the weights by relative width (EDM2); the average with a half-life has the key None.
    """

    def __init__(self, config: TeacherConfig, net: torch.nn.Module, batches: StepBatches) -> None:
        self.config, self.batches = config, batches
        # Networks with a log-variance head are trained with the head.
        family = family_of(net)
        has_logvar = family.has_variance_head(architecture(net))
        self.loss = EDMLoss(config.P_mean, config.P_std, config.sigma_data, return_logvar=has_logvar)
        self.augment = None if config.augment is None else AugmentPipe.from_config(config.augment, "augment")
        infinity = family.infinite_gradient
        self.network = OptimizedNetwork(net, config.lr, config.betas, config.eps, infinity=infinity)
        widths: tuple[float | None, ...] = config.power_ema or (None,)
        self.averages = {std: Average(self.network) for std in widths}
        self._memory = MemoryRelief(config.name)
        self._parts: dict[str, Resumable] = {"teacher": self.network}
        self._parts |= {"ema" if std is None else f"ema-{std}": kept for std, kept in self.averages.items()}

    @property
    def ema(self) -> Average:
        """Average that is the run's result."""
        return next(iter(self.averages.values()))

    @property
    def snapshots(self) -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
        """See :class:`sida.training.loop.Trainer`."""
        if None in self.averages:
            return {"": (self.ema.net, {})}
        return {f"-{std:g}": (average.net, {"average_std": std}) for std, average in self.averages.items()}

    def join(self, ranks: Ranks) -> None:
        """See :meth:`sida.training.iteration.StudentTrainer.join`."""
        self.network.ranks = ranks

    def iteration(self, nimg: int) -> IterationRecord:
        """Does one step of the denoiser and its averages."""
        record, micro_batches = IterationRecord(), self.batches("teacher", nimg)
        pairs = list(zip(micro_batches, self._draws(nimg, micro_batches)))
        losses = None
        with contextlib.suppress(torch.OutOfMemoryError):
            losses = self._losses(nimg, pairs)
        if losses is None:
            divisible = self.augment is None and not has_dropout(self.network.net)
            self._memory.relieve([self.network], len(micro_batches[0][0]), divisible, nimg)
            losses = self._losses(nimg, pairs)
        for loss in losses:
            record.add_loss("denoising", loss)
        record.samples += self.batches.per_device
        record.add_step("teacher", self.network.step(self._lr_factor(nimg)))
        for std, average in self.averages.items():
            average.update(self._beta(std, nimg))
        return record

    def _losses(self, nimg: int, pairs: Sequence[tuple[Batch, Draws]]) -> list[torch.Tensor]:
        """Losses of a step's micro-batches, whose gradients are added to the network's."""
        net, losses, position = self.network.train(), [], self.batches.rank * self.batches.per_device
        for (images, labels), given in [part for pair in pairs for part in self._memory.parts(*pair)]:
            seed_layers(self.config.seed, "teacher", nimg, position, self.batches.device)
            augment = self._augment(nimg, position)
            loss = self.loss(net, images, labels, augment, given).sum() / self.batches.per_device
            loss.backward()
            losses.append(loss.detach())
            position += len(images)
        return losses

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

    def _draws(self, nimg: int, micro_batches: Sequence[Batch]) -> list[dict[str, torch.Tensor]]:
        batches = self.batches
        source = generator(self.config.seed, "teacher", nimg, 0, device=batches.device)
        shapes = [images.shape for images, _ in micro_batches]
        return share_of_draws(source, shapes, EDMLoss.DRAWS, batches.rank, batches.world_size)

    def _augment(self, nimg: int, position: int) -> Augment | None:
        if self.augment is None:
            return None
        pipe, source = self.augment, generator(self.config.seed, "augment", nimg, position)
        return lambda images: pipe(images, generator=source)

    def weight_rms(self) -> dict[str, float | None]:
        """See :class:`sida.training.loop.Trainer`."""
        return {"teacher": self.network.weight_rms()}

    def state(self) -> NamedTensors:
        """Returns everything that a resumed run needs, as references."""
        return joint_state(self._parts)

    def load(self, state: NamedTensors) -> None:
        """Restores a :meth:`state`."""
        load_joint_state(self._parts, state)


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
    config, outdir = read_config(TeacherConfig, config, outdir, where)
    device = own_device(config.device, where)
    check_loggers(config.loggers, where)
    prepare_process(config.threads)
    dataset = load_dataset(config.dataset, f"{where}.dataset")
    digest = teacher_digest(config, dataset.sha256)
    stage = f"teacher {config.name}"
    folder = run_folder(outdir, "teachers", config.name)
    facts = common_facts(config, digest, dataset.sha256, {})
    with (
        joined(device, facts) as ranks,
        RunFiles(folder, digest, set_aside, ranks, config.loggers) as files,
    ):
        if files.finished:
            files.publish_again(stage)
            return files.network
        torch.manual_seed(derive_seed(config.seed, "initialisation"))
        net = build_network(config.network, f"{where}.network").to(device)
        check_shapes(net, dataset, f"{where}.network.kwargs")
        if config.checkpointing:
            checkpoint_blocks(net, f"{where}.checkpointing")
        trainer = TeacherTrainer(config, net, step_batches(config, dataset, device, ranks, where, config.data_order))
        trainer.join(ranks)
        metadata = run_metadata("teacher", config, digest, dataset, net, {})
        if config.power_ema:
            metadata["average_std"] = config.power_ema[0]
        picture = Pictures(Sampler(kind="heun"), config.pictures, config.device)
        plan = Plan.from_config(config, stage)
        values = math.prod(dataset.network_shape)

        def diverged(ticks: Sequence[Mapping[str, Any]]) -> str | None:
            losses = [tick["losses"].get("denoising") for tick in ticks]
            return lost(losses, values, trainer.loss.return_logvar)

        check = None if config.on_divergence == "publish" else diverged
        TrainingLoop(plan, trainer, files, metadata, ranks=ranks, picture=picture, lost=check).run()
    return files.network
