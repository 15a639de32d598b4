"""What trainings are told, with what a recipe leaves out; what decides a result says :mod:`sida.training.identity`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from sida.config.augmentation import AugmentConfig
from sida.config.datasets import DatasetConfig
from sida.config.evaluation import Evaluation, RecipeEvaluation
from sida.config.families import Family
from sida.config.mapping import Settings
from sida.config.ranges import As, Count, Finite, Fraction, Natural, NotNegative, OneOf, Positive, Range
from sida.errors import UserError
from sida.methods.defaults import BETAS
from sida.methods.registry import METHODS, find_method

#: When stored weights of an EDM2 network are replaced by normalised ones, see :class:`sida.networks.EDM2Precond`.
WeightNorm = Literal["off", "in_forward", "pre_hook", "always"]
#: Adam's ε in float32 and in float16.
EPS, EPS_FP16 = 1e-8, 1e-6
#: Settings that do not decide the result.
BESIDE = {"state_minutes", "pictures", "tensorboard", "on_divergence", "shard"}
BESIDE |= {"checkpointing", "recompute", "cuda_graphs"}
#: Null where a copy of a network does as the network, or knows nothing of the kind.
_NORMS = ("weight_norm", "fake_score_weight_norm")
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
    dataset: Annotated[dict[str, Any], As(DatasetConfig)]
    seed: Natural = 0
    threads: Count = 1
    device: str = "cpu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """What people choose for teachers and students alike.

    Attributes:
        total_kimg: Length of the run, in thousands of images.
        batch_size: Images per step, over all rounds and devices.
        batch_gpu: Images per accumulation round on a device; null takes all of the device's at once. A student's
            adversarial scalar is pooled over it.
        lr: Adam's learning rate (of a student: the generator's).
        lr_decay_start: Fraction of the run where linear decay of the rates begins; 1 keeps them constant.
        lr_final: Factor on the rates at the end of the run.
        sigma_data: Standard deviation of the data the losses are weighted for.
        ema_rampup_ratio: The half-life is at most this share of the images seen; null is no limit.
        augment: null, or ``{p, flags}``, see :meth:`sida.data.AugmentPipe.from_config`; of a student, it acts on the
            fake score's batches.
        tick_kimg: Thousands of images between two log records.
        snapshot_kimg: Thousands of images between two kept networks; null keeps only the last (or best).
        state_minutes: Minutes of work that may be lost when the machine dies: time between two kept states, beside
            those at evaluations, snapshots and signals. 0 keeps one after each iteration, however long that takes.
            Decides nothing about the result.
        pictures: Rows and columns of the picture beside each kept network, always of the same seeds; 0 draws none, null
            takes 8, and 0 of latents, which only a decoder makes visible. Decides nothing about the result.
        tensorboard: Write TensorBoard's files beside the logs; needs its package. Decides nothing about the result.
        on_divergence: What follows when a run diverges by the rules of :mod:`sida.training.divergence`: ``say`` it in
            one line, or ``stop`` with that line. A teacher whose loss has diverged at its end is no result, unless
            this is ``publish``, which otherwise says it, and takes a run from which nothing is left to learn (every
            step has NaN gradients) or an evaluation that gives no number for part of the result: what shall show that
            settings diverge. Decides nothing about the result.
        checkpointing: Keep only what stands between a network's blocks for the backward pass and compute the rest
            again: less memory, more time, the same result.
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
    augment: Annotated[dict[str, Any], As(AugmentConfig)] | None = None
    tick_kimg: Positive = 50.0
    snapshot_kimg: Positive | None = None
    state_minutes: NotNegative = 5.0
    pictures: Natural | None = None
    tensorboard: bool = False
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
        data_order: In which order images are visited: ``shuffled`` (ours), or the official one of ``edm`` or ``edm2``.
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
class TeacherConfig(TeacherTraining, JobSettings):
    """A diffusion teacher to train.

    Attributes:
        network: ``{class, kwargs}``, see :func:`sida.networks.build_network`.
    """

    network: Annotated[dict[str, Any], As(NetworkConfig)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(TrainingSettings):
    """Settings of a distillation; the sheet adds method, teacher, start, α and seed.

    *Official* below is the value in the method's ``defaults`` (:mod:`sida.methods.registry`) for the teacher's network family.

    Attributes:
        fake_score_lr: Learning rate of the fake score, or of the discriminator in its place; null takes ``lr``.
        betas: Adam's β₁ and β₂; null takes the official ones.
        generator_betas: The generator's β₁ and β₂ where they differ; null takes ``betas``.
        eps: Adam's ε; null takes 1e-8, or 1e-6 with float16.
        t_max: Largest generator time, of 1000.
        init_sigma: σ_init of the generator; null takes the official one.
        P_mean: Mean of ln σ in the fake score's loss; null takes the official one.
        P_std: Standard deviation of ln σ; null takes the official one.
        lambda_sid: Weight of the SiD term.
        lambda_adv: Weight of the generator's adversarial term.
        lambda_d: Weight of the discriminator term; null takes the official one.
        lambda_fake_score: Weight of the fake score's denoising term.
        warmup_kimg: Thousands of images for which the fake score learns alone; null takes the official number.
        adversarial_kimg: Thousands of images after which the adversarial term joins (sida, sid2a).
        ema_half_life_kimg: Half-life of the average of the generator's weights; null takes the official one.
        grad_clip_value: Value clip of the fake score's gradients; 0 is off, null takes the official value.
        dropout: Dropout of student and fake score; null keeps the teacher's.
        gamma: Weight over noise levels of the fake score's and discriminator's terms: ``edm`` (the official code),
            ``snr``, ``constant`` or ``min-snr``, see :func:`sida.losses.noise.score_weight`.
        adversarial_pool: ``batch`` (the paper's in-batch fakeness) or ``sample``, see :class:`sida.losses.SiDALoss`.
        real_source: ``data``, or a run of the sheet or path of a one-step generator whose samples play the real images:
            a control in which the adversarial term runs but brings no data in (only classes are drawn from the data).
        weight_norm: Forced weight normalisation of an EDM2 student; null takes the official mode.
        fake_score_weight_norm: The same of its fake score.
        logvar: Whether the losses are divided by the variance that an EDM2 fake score predicts; null takes the
            official choice, which is false without the head that predicts it.
        guidance: Strength w of the guidance of the teacher's score, ``D_g + w (D − D_g)``: the student learns from the
            teacher as a sampler with this guidance uses it; other than 1 it needs a guiding network (column ``guide``
            of the sheet). The fake score and the start stay the plain teacher's.
        max_nan_share: Largest share of samples with NaN within a tick before the run stops.
        evaluation: null, or ``{every_kimg, num_samples, ...}``: measuring during training, which decides the network
            that is kept, and may end the run.
        compile: Run through torch.compile (changes rounding).
        fp16: Run networks in half precision on CUDA; null keeps what the teacher's file says.
        half: That half precision: ``float16`` (as the published runs of SiD and SiDA) or ``bfloat16`` (as GDD's). The
            network's file says it, so the network is drawn from in it.
        kernels: ``torch``, or ``fused``: several times faster on a GPU, with other rounding (docs/measurements.md);
            not for gdd, gdd-i and instance.
        recompute: With fused kernels, make the activations before convolutions again where gradients pass, instead of
            keeping them: less memory, a few per cent more time, the same result.
        cuda_graphs: On a GPU, record a step's kernels once and replay them; the numbers stay the same.
        options: Settings that only the method has, see :class:`sida.methods.method.Method`.
    """

    fake_score_lr: Positive | None = None
    betas: tuple[Beta, Beta] | None = None
    generator_betas: tuple[Beta, Beta] | None = None
    eps: Positive | None = None
    t_max: Annotated[float, Range(above=0, most=1000)] = 800.0
    init_sigma: Positive | None = None
    P_mean: Finite | None = None
    P_std: Positive | None = None
    lambda_sid: NotNegative = 100.0
    lambda_adv: NotNegative = 0.01
    lambda_d: NotNegative | None = None
    lambda_fake_score: NotNegative = 1.0
    warmup_kimg: NotNegative | None = None
    adversarial_kimg: NotNegative = 200.0
    ema_half_life_kimg: Positive | None = None
    grad_clip_value: NotNegative | None = None
    dropout: Fraction | None = None
    gamma: Literal["edm", "snr", "constant", "min-snr"] = "edm"
    adversarial_pool: Literal["batch", "sample"] = "batch"
    real_source: str = "data"
    weight_norm: WeightNorm | None = None
    fake_score_weight_norm: WeightNorm | None = None
    logvar: bool | None = None
    guidance: NotNegative = 1.0
    max_nan_share: Fraction = 0.1
    evaluation: Annotated[dict[str, Any], As(RecipeEvaluation)] | None = None
    compile: bool = False
    fp16: bool | None = None
    half: Literal["float16", "bfloat16"] = "float16"
    kernels: Literal["torch", "fused"] = "torch"
    recompute: bool = False
    cuda_graphs: bool = True
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig(Recipe, JobSettings):
    """A one-step generator to distil from a teacher.

    Attributes:
        method: Name in :data:`sida.methods.registry.METHODS`: ``sid`` (no real images), ``sida`` (with the adversarial term),
            ``sid2a`` (sida from a distilled generator), ``gdd`` (a discriminator alone), ``gdd-i`` (most of the
            generator frozen), ``instance`` (the teacher's images of the same latents); or ``module:object`` of one's
            own.
        teacher: Path of the teacher's network.
        init: Path of the generator to start from: needed by sid2a, allowed for sid (a *restart*: fresh fake score and
            optimisers without the adversarial term, the control for SiD2A), refused by sida.
        guide: Path of the guiding network, with ``guidance`` other than 1: for as many pixels and channels as the
            teacher, with as many classes or none.
        alpha: α of the SiD term; null takes the official one.
        evaluation: null, or ``{every_kimg, monitor: "module:factory", kwargs, ...}``; decides the network that is kept.
    """

    method: Annotated[str, OneOf(METHODS.keys, or_object=True)]
    teacher: str
    init: str | None = None
    guide: str | None = None
    alpha: Finite | None = None
    evaluation: Annotated[dict[str, Any], As(Evaluation)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method in METHODS:
            METHODS[self.method].check(self.init, self.real_source, self.guidance, self.kernels)
        if self.guidance != 1 and self.guide is None:
            raise ValueError(f"guidance: {self.guidance:g} needs a guiding network; give its file as guide, or set 1")
        if self.guidance == 1 and self.guide is not None:
            raise ValueError("guide: guides nothing with a guidance of 1; set guidance, or remove the guide")
        if self.kernels == "fused" and not self.device.startswith("cuda"):
            raise ValueError("kernels: 'fused' needs device 'cuda'; set kernels to torch")
        if self.recompute and self.kernels != "fused":
            raise ValueError("recompute: is for kernels 'fused'; without them take checkpointing")
        if self.half == "bfloat16" and (self.fp16 is False or not self.device.startswith("cuda")):
            fault = "says which half precision, and there is none without fp16 on device 'cuda'"
            raise ValueError(f"half: {fault}; set fp16 to true there, or remove it")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SettledConfig(DistillConfig):
    """A configuration in which every setting has its value; see :func:`settled`."""

    alpha: float
    betas: tuple[Beta, Beta]
    init_sigma: float
    P_mean: float
    P_std: float
    lambda_d: float
    grad_clip_value: float
    warmup_kimg: float
    ema_half_life_kimg: float
    weight_norm: WeightNorm | None
    fake_score_weight_norm: WeightNorm | None
    logvar: bool
    eps: float
    fp16: bool


def settled(config: DistillConfig, network: Mapping[str, Any], where: str = "student") -> SettledConfig:
    """The configuration with official values for all that it leaves out.

    Args:
        config: Settings; those that are null are filled in.
        network: ``{class, kwargs}`` of the teacher.
        where: Place named in errors.

    Raises:
        UserError: A setting that the teacher's family does not have, a start, guidance or kernels that the method does
            not have, or a setting that neither configuration nor method give.
    """
    from sida.networks import family_of

    method = find_method(config.method, f"{where}.method")
    try:
        method.check(config.init, config.real_source, config.guidance, config.kernels)
    except ValueError as error:
        raise UserError(f"{where}.{error}") from None
    family, kwargs = family_of(network, f"{where}.teacher: {config.teacher}"), network["kwargs"]
    _check(config, family, family.has_variance_head(network), where)
    values = {"betas": BETAS, **method.settings_of(family, f"{where}.teacher: {config.teacher}")}
    values["logvar"] = family.has_variance_head(network) and values.get("logvar")
    on_gpu = config.device.startswith("cuda")
    # Float16 is a GPU's affair; elsewhere the flag of a network does nothing.
    values["fp16"] = on_gpu and bool(kwargs.get("use_fp16", family.fp16))
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(DistillConfig)}
    given = {name: value for name, value in fields.items() if value is not None}
    fp16 = {**values, **given}["fp16"]
    values = {**fields, **values, "eps": EPS_FP16 if fp16 else EPS, **given}
    left = [name for name in SettledConfig.__annotations__ if values[name] is None and name not in _NORMS]
    if left:
        raise UserError(
            f"{where}.method: '{method.name}' has no default for {', '.join(left)} with {family.title} networks; "
            "add it to the method's defaults, or set it"
        )
    try:
        return SettledConfig(**values)
    except ValueError as error:
        raise UserError(f"{where}.{error}") from None


def _check(config: DistillConfig, family: Family, head: bool, where: str) -> None:
    if config.augment is not None and not family.augmentation:
        raise UserError(f"{where}.augment: {family.title} networks take no augmentation; set it to null")
    for key in _NORMS:
        if getattr(config, key) and not family.weight_norm:
            raise UserError(f"{where}.{key}: {family.title} networks do not have it ({config.teacher}); remove it")
    if config.logvar and not head:
        raise UserError(f"{where}.logvar: {config.teacher} has no log-variance head; set it to false")
