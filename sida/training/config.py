"""What ``sida train-teacher`` and ``sida distill`` are told: frozen, checked, and everything that decides a result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

#: When stored weights of an EDM2 network are replaced by normalised ones, see :class:`sida.networks.EDM2Precond`.
WeightNorm = Literal["off", "in_forward", "pre_hook", "always"]


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """A diffusion teacher to train.

    Attributes:
        name: Name for records and progress lines.
        dataset: Data-set spec, see :class:`sida.data.DatasetConfig`.
        network: ``{class, kwargs}``, see :func:`sida.networks.build_network`.
        total_kimg: Length of the run, in thousands of images.
        batch_size: Images per step.
        lr: Adam's learning rate.
        seed: Seed of initialisation, order and noise.
        lr_decay_start: Fraction of the run where linear decay of the rate begins; 1 keeps it constant.
        lr_final: Factor on the rate at the end of the run.
        betas: Adam's β₁ and β₂.
        eps: Adam's ε.
        P_mean: Mean of ln σ.
        P_std: Standard deviation of ln σ.
        sigma_data: Standard deviation of the data the loss is weighted for.
        ema_half_life_kimg: Half-life of the average of the weights.
        ema_rampup_ratio: The half-life is at most this share of the images seen; null is no limit.
        augment: null, or ``{p, flags}``, see :meth:`sida.data.AugmentPipe.from_config`.
        tick_kimg: Images between two log records.
        snapshot_kimg: Images between two kept networks; null keeps only the last.
        threads: CPU threads.
        device: ``cpu`` or ``cuda``.
    """

    name: str
    dataset: dict[str, Any]
    network: dict[str, Any]
    total_kimg: float
    batch_size: int
    lr: float
    seed: int = 0
    lr_decay_start: float = 1.0
    lr_final: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    P_mean: float = -1.2
    P_std: float = 1.2
    sigma_data: float = 0.5
    ema_half_life_kimg: float = 500.0
    ema_rampup_ratio: float | None = 0.05
    augment: dict[str, Any] | None = None
    tick_kimg: float = 50.0
    snapshot_kimg: float | None = None
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        _check(self)


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """A one-step generator to distil from a teacher.

    *Official* below is the value in :data:`sida.training.defaults.OFFICIAL` for the method and the teacher's family.

    Attributes:
        name: Name for records and progress lines.
        method: ``sid`` (no real images), ``sida`` (with the adversarial term), ``sid2a`` (sida from a distilled
            generator).
        dataset: Data-set spec, see :class:`sida.data.DatasetConfig`.
        teacher: Path of the teacher's network.
        total_kimg: Length of the run, in thousands of images.
        batch_size: Images per iteration, over all rounds and devices.
        lr: Adam's learning rate of the generator.
        init: Path of the generator to start from: needed by sid2a, allowed for sid (a *restart*: fresh fake score and
            optimisers without the adversarial term, the control for SiD2A), refused by sida.
        seed: Seed of order and noise.
        batch_gpu: Images per accumulation round; null takes all at once. The adversarial scalar is pooled over it.
        fake_score_lr: Learning rate of the fake score; null takes ``lr``.
        lr_decay_start: Fraction of the run where linear decay of the rates begins; 1 keeps them constant.
        lr_final: Factor on the rates at the end of the run.
        betas: Adam's β₁ and β₂.
        eps: Adam's ε; null takes 1e-8, or 1e-6 with float16.
        alpha: α of the SiD term; null takes the official one.
        t_max: Largest generator time, of 1000.
        init_sigma: σ_init of the generator.
        P_mean: Mean of ln σ in the fake score's loss; null takes the official one.
        P_std: Standard deviation of ln σ; null takes the official one.
        sigma_data: Standard deviation of the data the losses are weighted for.
        lambda_sid: Weight of the SiD term.
        lambda_adv: Weight of the generator's adversarial term.
        lambda_d: Weight of the discriminator term; null takes the official one.
        lambda_fake_score: Weight of the fake score's denoising term.
        warmup_kimg: Thousands of images for which the fake score learns alone; null takes the official number.
        adversarial_kimg: Thousands of images after which the adversarial term joins (sida, sid2a).
        ema_half_life_kimg: Half-life of the average of the generator's weights; null takes the official one.
        ema_rampup_ratio: The half-life is at most this share of the images seen; null is no limit.
        grad_clip_value: Value clip of the fake score's gradients; 0 is off, null takes the official value.
        augment: null, or ``{p, flags}``; acts on the fake score's batches.
        dropout: Dropout of student and fake score; null keeps the teacher's.
        gamma: Weight over noise levels of the fake score's and discriminator's terms: ``edm`` (the official code),
            ``snr``, ``constant`` or ``min-snr``, see :func:`sida.losses.noise.score_weight`.
        adversarial_pool: ``batch`` (the paper's in-batch fakeness) or ``sample``, see :class:`sida.losses.SiDALoss`.
        real_source: ``data``, or the path of a one-step generator whose samples play the real images: a control in
            which the adversarial term runs but brings no data in (only classes are drawn from the data set).
        weight_norm: Forced weight normalisation of an EDM2 student; null takes the official mode.
        fake_score_weight_norm: The same of its fake score.
        logvar: Whether the losses are divided by the variance that an EDM2 fake score predicts; null takes the
            official choice, which is false without the head that predicts it.
        max_nan_share: Largest share of samples with NaN within a tick before the run stops.
        tick_kimg: Images between two log records.
        snapshot_kimg: Images between two kept networks; null keeps only the best.
        evaluation: null, or ``{every_kimg, monitor: "module:factory", kwargs}``; decides the network that is kept.
        compile: Run through torch.compile (changes rounding).
        fp16: Run networks in float16 on CUDA; null keeps what the teacher's file says.
        threads: CPU threads.
        device: ``cpu`` or ``cuda``.
    """

    name: str
    method: Literal["sid", "sida", "sid2a"]
    dataset: dict[str, Any]
    teacher: str
    total_kimg: float
    batch_size: int
    lr: float
    init: str | None = None
    seed: int = 0
    batch_gpu: int | None = None
    fake_score_lr: float | None = None
    lr_decay_start: float = 1.0
    lr_final: float = 1.0
    betas: tuple[float, float] = (0.0, 0.999)
    eps: float | None = None
    alpha: float | None = None
    t_max: float = 800.0
    init_sigma: float = 2.5
    P_mean: float | None = None
    P_std: float | None = None
    sigma_data: float = 0.5
    lambda_sid: float = 100.0
    lambda_adv: float = 0.01
    lambda_d: float | None = None
    lambda_fake_score: float = 1.0
    warmup_kimg: float | None = None
    adversarial_kimg: float = 200.0
    ema_half_life_kimg: float | None = None
    ema_rampup_ratio: float | None = 0.05
    grad_clip_value: float | None = None
    augment: dict[str, Any] | None = None
    dropout: float | None = None
    gamma: Literal["edm", "snr", "constant", "min-snr"] = "edm"
    adversarial_pool: Literal["batch", "sample"] = "batch"
    real_source: str = "data"
    weight_norm: WeightNorm | None = None
    fake_score_weight_norm: WeightNorm | None = None
    logvar: bool | None = None
    max_nan_share: float = 0.1
    tick_kimg: float = 50.0
    snapshot_kimg: float | None = None
    evaluation: dict[str, Any] | None = None
    compile: bool = False
    fp16: bool | None = None
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        _check(self)
        if self.method == "sid2a" and self.init is None:
            raise ValueError("init: sid2a starts from a distilled generator; give its network file")
        if self.method == "sida" and self.init is not None:
            raise ValueError("init: 'sida' starts from the teacher; remove it, or choose sid2a (or sid: a restart)")
        if self.method == "sid" and self.real_source != "data":
            raise ValueError("real_source: 'sid' sees no real images; remove it")
        if self.batch_gpu is not None and self.batch_size % self.batch_gpu:
            raise ValueError(f"batch_gpu: must divide batch_size ({self.batch_size}), got {self.batch_gpu}")
        if not self.t_max <= 1000:
            raise ValueError(f"t_max: must be at most 1000, got {self.t_max}")
        if self.evaluation is not None:
            _check_evaluation(self.evaluation)

    @property
    def adversarial(self) -> bool:
        """Whether real images and a discriminator take part."""
        return self.method != "sid"


_POSITIVE = (
    "total_kimg", "batch_size", "batch_gpu", "lr", "fake_score_lr", "eps", "t_max", "init_sigma", "P_std",
    "sigma_data", "ema_half_life_kimg", "tick_kimg", "snapshot_kimg", "threads",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed", "lambda_sid", "lambda_adv", "lambda_d", "lambda_fake_score", "warmup_kimg", "adversarial_kimg",
    "ema_rampup_ratio", "grad_clip_value",
)  # fmt: skip
_FRACTIONS = ("lr_decay_start", "lr_final", "dropout", "max_nan_share")


def _check(config: TeacherConfig | DistillConfig) -> None:
    """Ranges of all fields; raises ``ValueError("key: what is wrong")``."""
    for field in dataclasses.fields(config):
        key, value = field.name, getattr(config, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}: must be a finite number, got {value}")
        if value is None:
            continue
        if key in _POSITIVE and not value > 0:
            raise ValueError(f"{key}: must be above 0, got {value}")
        if key in _NOT_NEGATIVE and value < 0:
            raise ValueError(f"{key}: must be 0 or more, got {value}")
        if key in _FRACTIONS and not 0 <= value <= 1:
            raise ValueError(f"{key}: must be between 0 and 1, got {value}")
    if not all(0 <= beta < 1 for beta in config.betas):
        raise ValueError(f"betas: both must be at least 0 and below 1, got {list(config.betas)}")
    if config.total_kimg * 1000 < config.batch_size:
        raise ValueError(f"total_kimg: {config.total_kimg} is less than one batch of {config.batch_size} images")


def _check_evaluation(evaluation: Mapping[str, Any]) -> None:
    for key in ("every_kimg", "monitor"):
        if key not in evaluation:
            raise ValueError(f"evaluation: key '{key}' is missing; add it")
    for key in evaluation:
        if key not in ("every_kimg", "monitor", "kwargs"):
            raise ValueError(f"evaluation: unknown key '{key}' (known: every_kimg, kwargs, monitor)")
    every, monitor, kwargs = evaluation["every_kimg"], evaluation["monitor"], evaluation.get("kwargs", {})
    if not isinstance(every, (int, float)) or isinstance(every, bool) or not every > 0:
        raise ValueError(f"evaluation: every_kimg must be a number above 0, got {every!r}")
    if not isinstance(monitor, str) or monitor.count(":") != 1:
        raise ValueError(f"evaluation: monitor must be a text 'module:factory', got {monitor!r}")
    if not isinstance(kwargs, Mapping):
        raise ValueError(f"evaluation: kwargs must be a mapping, got {kwargs!r}")
