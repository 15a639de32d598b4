"""Training of a diffusion teacher, and EDM2's averages with a power-function profile.

A power-function average at time t has the profile ``p(τ) = (γ + 1) τ^γ / t^{γ+1}`` on [0, t]: the average ignores the
random start and widens with training. Its relative standard deviation σ_rel identifies it. Any profile can be
reconstructed from a few stored averages (post-hoc EMA).

Source of the averages: EDM2 (arXiv:2312.02696), sections 3.2 and 4, and appendix C.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from sida.config.recipe import TeacherConfig, TeacherTraining
from sida.config.samplers import Sampler
from sida.data import AugmentPipe
from sida.errors import UserError, exact
from sida.files.atomic import sha256_file
from sida.networks import architecture, family_of
from sida.networks.file import load_network, read_metadata, save_network
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
from sida.training.batches import Augment, MicroBatch, StepBatches, augmented
from sida.training.iteration import OptimizerStep, StepTrainer
from sida.training.logs import LogRecords, lost
from sida.training.loop import Run
from sida.training.optimizer import Average, OptimizedNetwork
from sida.training.processes import Ranks
from sida.training.run import new_network, teacher_digest
from sida.training.schedule import Schedule, teacher_learning_rate

_Array = npt.NDArray[np.float64]


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
        drawn |= {} if augment is None else augmented(augment, images, None)
        return self.batch_loss(net, MicroBatch(images, class_labels, draws=drawn))

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
        published = teacher_learning_rate(nimg, config.batch_size, 1.0, rampup, config.lr_ref_batches)
        return super().lr_factor(nimg) * published


class TeacherTrainer(StepTrainer):
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

    @property
    def provenance(self) -> dict[str, Any]:
        """See :class:`sida.training.loop.Trainer`."""
        return {"average_std": self.widths[0]} if self.widths else {}

    def lost(self, ticks: LogRecords) -> str | None:
        """See :class:`sida.training.loop.Trainer`."""
        losses = [tick["losses"].get("denoising") for tick in ticks]
        return lost(losses, self._pixels, self.loss.return_logvar)

    @property
    def snapshots(self) -> dict[str, tuple[torch.nn.Module, dict[str, Any]]]:
        """See :class:`sida.training.loop.Trainer`."""
        if not self.widths:
            return super().snapshots
        averages = zip(self.widths, self.averages.values())
        return {f"-{std:g}": (average.net, {"average_std": std}) for std, average in averages}

    def update_averages(self, nimg: int, images: int) -> None:
        """See :meth:`~sida.training.iteration.StepTrainer.update_averages`."""
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
    run = Run.opened(TeacherConfig, config, outdir, where)
    dataset = run.dataset

    def start(ranks: Ranks, config: TeacherConfig) -> TeacherTrainer:
        net = new_network(config.network, config.seed, dataset, run.device, f"{where}.network")
        if config.augment is not None and not family_of(net).augmentation:
            fault = f"{family_of(net).title} networks take no augmentation"
            raise UserError(f"{where}.augment", fault, "set it to null")
        net.drops_labels = True
        if config.checkpointing:
            checkpoint_blocks(net, f"{where}.checkpointing")
        return TeacherTrainer(config, net, StepBatches(config, dataset, run.device, ranks, where, config.data_order))

    return run.train("teacher", teacher_digest(run.config, dataset.sha256), start, set_aside=set_aside)


def std_to_exponent(std: npt.ArrayLike) -> _Array:
    """Exponent γ of the profile whose standard deviation is ``std``·t, element-wise, float64; 0 < std < 0.29.

    ``std² = (γ + 1) / ((γ + 2)² (γ + 3))``, that is ``γ³ + 7γ² + (16 − s)γ + (12 − s) = 0`` with s = std⁻²; the
    largest real root is the one that is monotone in std.
    """
    values = np.asarray(std, dtype=np.float64)
    inverse = values.reshape(-1) ** -2.0
    roots = [np.roots([1.0, 7.0, 16.0 - s, 12.0 - s]).real.max() for s in inverse]
    return np.asarray(roots, dtype=np.float64).reshape(values.shape)


def power_beta(std: npt.ArrayLike, t_next: float, t_delta: float) -> _Array:
    """Weight β of the old average in the step that ends at ``t_next``: ``(1 − t_delta / t_next)^{γ+1}``."""
    return np.asarray((1 - t_delta / t_next) ** (std_to_exponent(std) + 1))


def inner_product(t_a: npt.ArrayLike, std_a: npt.ArrayLike, t_b: npt.ArrayLike, std_b: npt.ArrayLike) -> _Array:
    """``∫ p_a p_b`` of two profiles that end at ``t_a`` and ``t_b``, element-wise with broadcasting, float64."""
    end_a, end_b = np.asarray(t_a, dtype=np.float64), np.asarray(t_b, dtype=np.float64)
    gamma_a, gamma_b = std_to_exponent(std_a), std_to_exponent(std_b)
    # The product is zero after the earlier end, where the later profile is smaller by (earlier / later)^γ_later.
    later_gamma = np.where(end_a < end_b, gamma_b, gamma_a)
    fade = (np.minimum(end_a, end_b) / np.maximum(end_a, end_b)) ** later_gamma
    return (gamma_a + 1) * (gamma_b + 1) * fade / ((gamma_a + gamma_b + 1) * np.maximum(end_a, end_b))


def posthoc_coefficients(
    in_times: npt.ArrayLike, in_stds: npt.ArrayLike, out_times: npt.ArrayLike, out_stds: npt.ArrayLike
) -> _Array:
    """Coefficients ``(inputs, outputs)`` that combine stored averages into the requested averages.

    A least-squares fit between profiles. Each column is then scaled to sum 1, so that equal weights stay equal.
    """
    t_in, s_in = (np.asarray(x, dtype=np.float64)[:, None] for x in (in_times, in_stds))
    t_out, s_out = (np.asarray(x, dtype=np.float64)[None, :] for x in (out_times, out_stds))
    gram = inner_product(t_in, s_in, t_in.T, s_in.T)
    solution = np.linalg.solve(gram, inner_product(t_in, s_in, t_out, s_out))
    return solution / solution.sum(axis=0)


def reconstruct_average(
    sources: Sequence[str | os.PathLike[str]], std: float, target: str | os.PathLike[str], nimg: int | None = None
) -> float:
    """Writes the network of a power-function average with another width.

    Args:
        sources: Stored averages of one run (``power_ema``), at several numbers of images and of one or more widths.
        std: Requested relative width, in (0, 0.28).
        target: Network file to write; its ``parents`` are the sources.
        nimg: Images seen at the end of the requested profile; None takes that of the newest source.

    Returns:
        Relative error of the profile: norm of its difference from the requested profile over the norm of the latter.
        The relative error of the weights is usually of this order, times the distance between averages of the run.

    Raises:
        UserError: A file is not such an average, the files are of several runs, or the profile ends after all of them.
    """
    if not 0 < std < 0.28:
        raise UserError("--std", f"must be above 0 and below 0.28, got {exact(std)}")
    averages = sorted((_read_average(Path(source)) for source in sources), key=lambda average_file: average_file[:2])
    times, stds, paths, records = zip(*averages)
    for (*average, path, record), before in zip(averages, (None, *averages)):
        if record["config_sha256"] != records[0]["config_sha256"]:
            raise UserError(path, f"belongs to another run than {paths[0]}", "give averages of one run")
        if before is not None and average == [*before[:2]]:
            raise UserError(path, f"is the same average as {before[2]}", "give each once")
    end = times[-1] if nimg is None else float(nimg)
    if not 0 < end <= times[-1]:
        fault = f"must be above 0 and at most {exact(times[-1])}, where the newest average ends"
        raise UserError("--nimg", fault, f"got {nimg}")
    weights = posthoc_coefficients(times, stds, [end], [std])[:, 0]
    # Double precision, because the coefficients are large and have both signs.
    combined: dict[str, Any] = {}
    for path, weight in zip(paths, weights.tolist()):
        net, _ = load_network(path)
        for name, value in net.named_parameters():
            combined[name] = combined.get(name, 0) + weight * value.detach().double()
    for name, value in net.named_parameters():
        value.data.copy_(combined[name])
    parents = {f"average {time:.0f} {width:g}": sha256_file(path) for time, width, path, _ in averages}
    save_network(net, target, {**records[-1], "nimg": int(end), "average_std": std, "parents": parents})
    return _distance(np.array(times), np.array(stds), weights, end, std)


def _read_average(path: Path) -> tuple[float, float, Path, dict[str, Any]]:
    """Images seen, relative width, path and metadata of a stored average."""
    record = read_metadata(path)
    if "average_std" not in record:
        raise UserError(path, "is not a power-function average", "train with power_ema and snapshot_kimg")
    return float(record["nimg"]), float(record["average_std"]), path, record


def _distance(times: np.ndarray, stds: np.ndarray, weights: np.ndarray, end: float, std: float) -> float:
    gram = inner_product(times[:, None], stds[:, None], times[None], stds[None])
    target_square = float(inner_product(end, std, end, std))
    cross = weights @ inner_product(times, stds, end, std)
    return float(np.sqrt(max(target_square - 2 * cross + weights @ gram @ weights, 0.0) / target_square))
