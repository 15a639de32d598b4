"""What trainings are told, with what a recipe leaves out; what decides a result says :mod:`sida.training.identity`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from sida.config.augmentation import AugmentConfig
from sida.config.datasets import DatasetConfig
from sida.config.mapping import Settings
from sida.config.ranges import CheckedAs, Count, Finite, Fraction, Natural, NotNegative, Positive, Range

#: Settings that do not decide the result.
EXCLUDED_FROM_DIGEST = {
    "state_minutes", "pictures", "loggers", "on_divergence", "shard", "checkpointing", "recompute", "cuda_graphs",
}  # fmt: skip
Beta = Annotated[float, Range(least=0, below=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobSettings(Settings):
    """What the workflow gives to every training.

    Attributes:
        name: Name for records and progress lines.
        dataset: Data-set spec, see :class:`sida.data.DatasetConfig`.
        seed: Seed of initialisation, order and noise.
        threads: CPU threads.
        device: ``cpu`` or ``cuda``.
    """

    name: str
    dataset: Annotated[dict[str, Any], CheckedAs(DatasetConfig)]
    seed: Natural = 0
    threads: Count = 1
    device: str = "cpu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """What people choose for teachers and students alike.

    Attributes:
        total_kimg: Length of the run, in thousands of images.
        batch_size: Images per step, over all micro-batches and devices.
        batch_gpu: Images of a micro-batch on a device; null takes all of the device's images at once. A student's
            adversarial scalar is pooled over a micro-batch.
        lr: Adam's learning rate (of a student: the generator's).
        lr_decay_start: Fraction of the run where linear decay of the rates begins; 1 keeps them constant.
        lr_final: Factor on the rates at the end of the run.
        sigma_data: Standard deviation of the data the losses are weighted for.
        ema_rampup_ratio: The half-life is at most this share of the images seen; null is no limit.
        augment: null, or ``{p, flags}``, see :meth:`sida.data.AugmentPipe.from_config`; of a student, it acts on the
            fake score's batches.
        tick_kimg: Thousands of images between two log records.
        snapshot_kimg: Thousands of images between two kept networks; null keeps only the last (or best).
        state_minutes: Minutes between two kept states, and so the work that a crash of the machine may lose. Further
            states are kept at evaluations, snapshots and signals. 0 keeps one after each iteration.
            Decides nothing about the result.
        pictures: Rows and columns of the picture beside each kept network, always of the same seeds; 0 draws none, null
            takes 8, and 0 of latents, which only a decoder makes visible. Decides nothing about the result.
        loggers: Trackers that get the numbers of the logs: ``tensorboard``, ``wandb`` (offline, unless ``WANDB_MODE``
            says otherwise); each needs its package. Decides nothing about the result.
        on_divergence: Reaction when a run diverges by the rules of :mod:`sida.training.plan`: ``say`` prints one
            line, ``stop`` ends the run with that line. A teacher whose loss has diverged at its end gives no result.
            ``publish`` prints the line and gives a result all the same, also of a run whose every step has NaN
            gradients or whose evaluation has no number, for studies of settings that diverge. Decides nothing about
            the result.
        checkpointing: Keep only the activations between a network's blocks for the backward pass and recompute the
            others: less memory, more time, the same result.
        shard: ``optimizer`` cuts Adam's moments, gradients and average into one piece per process that trains
            (``torchrun``), for networks that do not fit otherwise; decides nothing about the result but rounding.
    """

    total_kimg: Positive
    batch_size: Count
    batch_gpu: Count | None = None
    lr: Positive
    lr_decay_start: Fraction = 1.0
    lr_final: Fraction = 1.0
    sigma_data: Positive = 0.5
    ema_rampup_ratio: NotNegative | None = 0.05
    augment: Annotated[dict[str, Any], CheckedAs(AugmentConfig)] | None = None
    tick_kimg: Positive = 50.0
    snapshot_kimg: Positive | None = None
    state_minutes: NotNegative = 5.0
    pictures: Natural | None = None
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    on_divergence: Literal["say", "stop", "publish"] = "say"
    checkpointing: bool = False
    shard: Literal["none", "optimizer"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.total_kimg * 1000 < self.batch_size:
            raise ValueError(f"total_kimg: {self.total_kimg} is less than one batch of {self.batch_size} images")
        if self.batch_gpu is not None and self.batch_size % self.batch_gpu:
            raise ValueError(f"batch_gpu: must divide batch_size ({self.batch_size}), got {self.batch_gpu}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingSettings, JobSettings):
    """Settings that every training run has, a teacher's and a student's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherTraining(TrainingSettings):
    """How a preset's teacher is trained.

    Attributes:
        betas: Adam's β₁ and β₂.
        eps: Adam's ε.
        P_mean: Mean of ln σ.
        P_std: Standard deviation of ln σ.
        ema_half_life_kimg: Half-life of the average of the weights.
        lr_rampup_kimg: Thousands of images over which the rate rises linearly from 0 (10,000 for the published EDM and
            EDM2 teachers); 0 is none.
        lr_ref_batches: Steps after which the rate falls as one over the square root of their number (35,000 to 70,000
            for EDM2's teachers); 0 keeps it.
        data_order: Order in which images are visited: ``shuffled`` (ours), or the official one of ``edm`` or ``edm2``.
        power_ema: Relative widths of averages with a power-function profile (EDM2: 0.05 and 0.1), in place of the one
            with a half-life. Each is in the kept networks, from which ``sida average`` makes others; the first is the
            result.
    """

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    P_mean: Finite = -1.2
    P_std: Positive = 1.2
    ema_half_life_kimg: Positive = 500.0
    lr_rampup_kimg: NotNegative = 0.0
    lr_ref_batches: NotNegative = 0.0
    data_order: Literal["shuffled", "edm", "edm2"] = "shuffled"
    power_ema: tuple[Annotated[float, Range(above=0, below=0.28)], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.power_ema)) < len(self.power_ema):
            raise ValueError(f"power_ema: must be different numbers, got {list(self.power_ema)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A network to build, see :func:`sida.networks.build_network`.

    Attributes:
        class_: Class of :mod:`sida.networks`, or your own as ``module:object``.
        kwargs: Keyword arguments as in the official networks.
    """

    class_: str
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherConfig(TeacherTraining, RunConfig):
    """A diffusion teacher to train.

    Attributes:
        network: ``{class, kwargs}``, see :func:`sida.networks.build_network`.
    """

    network: Annotated[dict[str, Any], CheckedAs(NetworkConfig)]
