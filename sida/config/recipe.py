"""Settings of trainings: of teachers, of students (recipes), and of the evaluations during a training.

Their roles (:mod:`sida.config.roles`) say which of them affect a result. A setting of a recipe that is null takes the
method's value; :func:`sida.methods.registry.resolve_recipe` makes the one object in which all have values.
"""

import dataclasses
import math
from typing import Annotated, Any, Literal

from sida.config.datasets import DatasetConfig
from sida.config.families import WeightNorm, check_guidance
from sida.config.kernels import KernelName
from sida.config.lookup import arguments_of
from sida.config.roles import roles, setting
from sida.config.samplers import GeneratorSteps, InitSigma, StepLevels, StepNoise, check_steps
from sida.config.settings import (
    CheckedAs,
    Count,
    Finite,
    Fraction,
    Natural,
    NotNegative,
    ObjectName,
    Positive,
    Range,
    Settings,
    from_mapping,
)
from sida.errors import SettingError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationPoints:
    """Times of evaluations, and early stopping.

    Attributes:
        every_kimg: Thousands of images between two evaluations; with ``per_decade``, before the first.
        per_decade: Evaluations in each factor of ten of images, for curves over a logarithmic axis; null spaces them
            evenly.
        patience: Evaluations in a row without improvement that end the training, as in algorithm 1 of the paper; those
            in the warm-up, and before the adversarial term joins, do not count. null trains to the end.
        min_improvement: Share of the best value by which a new value must be lower to count as an improvement.
    """

    every_kimg: Positive
    per_decade: Count | None = None
    patience: Count | None = None
    min_improvement: Fraction = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings(EvaluationPoints):
    """Evaluation of a student during its training.

    Attributes:
        monitor: ``module:factory`` of the monitor, which measures the student.
        kwargs: Keyword arguments of the factory.
    """

    monitor: ObjectName
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if (arguments := arguments_of(self.monitor)) is not None:
            from_mapping(arguments, self.kwargs, "kwargs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeEvaluation(EvaluationPoints):
    """Evaluation of a student during its training, by the preset's protocol; its selection rule chooses the result.

    Attributes:
        num_samples: Images of one evaluation.
        trials: Number of trials to average.
    """

    num_samples: Annotated[int, Range(least=2)]
    trials: Count = 1


#: Weights over noise levels of the fake score's and discriminator's losses, see :func:`sida.noise.score_weight`.
Gamma = Literal["edm", "snr", "constant", "min-snr", "velocity"]
#: Distributions of noise levels, and weights of the generator's score term, see :mod:`sida.methods.levels`.
LevelDistribution = Literal["lognormal", "beta"]
ScoreWeight = Literal[
    "error", "one_minus_t", "one_minus_t_squared", "inverse_t", "inverse_t_squared", "snr", "snr_sqrt"
]
#: Images over which the cross-entropy of the logits is averaged before weighting: the batch (as in the paper) or each.
Pool = Literal["batch", "sample"]
Beta = Annotated[float, Range(least=0, below=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of a training: warps for EDM, SiD and SiDA; warps and colours for GDD.

    Attributes:
        p: Probability of each transformation before its multiplier; 0.12 (CIFAR-10) and 0.15 (FFHQ, AFHQv2) in EDM.
    """

    p: Fraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobSettings(Settings):
    """Settings that the workflow gives to every training.

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


#: Most log records of a run: a longer log is not read again.
MOST_RECORDS = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings):
    """Settings of teachers and students that people choose.

    Attributes:
        total_kimg: Length of the run, in thousands of images.
        batch_size: Images per step, over all micro-batches and devices.
        batch_gpu: Images of a micro-batch on a device; null takes all of the device's images at once. A student's
            adversarial scalar is pooled over a micro-batch.
        lr: Adam's learning rate (of a student: the generator's).
        lr_decay_start: Fraction of the run where linear decay of the rates begins.
        lr_final: Factor on the rates at the end of the run.
        sigma_data: Standard deviation of the data that the losses are weighted for.
        ema_rampup_ratio: The half-life is at most this share of the images seen; null is no limit.
        augment: ``{p}``, see :class:`sida.data.AugmentPipe`; of a student, it acts on the fake score's batches.
        tick_kimg: Thousands of images between two log records; a run has at most 100,000 of them.
        snapshot_kimg: Thousands of images between two kept networks; null keeps only the last (or best).
        state_minutes: Minutes between two kept states, the most work that a crash of the machine loses; evaluations,
            snapshots and signals keep one, too. 0 keeps one after each iteration. Does not affect the result.
        pictures: Rows and columns of the picture beside each kept network, always of the same seeds; null is 8, or 0
            (none) for latents, which only a decoder makes visible. Does not affect the result.
        on_divergence: Reaction when a run diverges (:mod:`sida.training.logs`): ``say`` prints one line, ``stop`` ends
            the run with that line. A teacher whose loss has diverged at its end gives no result. ``publish``, for
            studies of settings that diverge, prints the line and gives a result even if every step has NaN gradients or
            an evaluation has no number. Does not affect the result.
        checkpointing: Recompute the activations within a network's blocks in the backward pass: less memory, more time,
            the same result.
    """

    total_kimg: Positive
    batch_size: Count
    batch_gpu: Count | None = None
    lr: Positive
    lr_decay_start: Fraction = 1.0
    lr_final: Fraction = 1.0
    sigma_data: Positive = setting(0.5, some_methods=True, always=True)
    ema_rampup_ratio: NotNegative | None = 0.05
    augment: Annotated[dict[str, Any], CheckedAs(AugmentConfig)] | None = setting(None, some_methods=True, always=True)
    tick_kimg: Positive = 50.0
    snapshot_kimg: Positive | None = None
    state_minutes: NotNegative = setting(5.0, decides=False)
    pictures: Natural | None = setting(None, decides=False)
    on_divergence: Literal["say", "stop", "publish"] = setting("say", decides=False)
    checkpointing: bool = setting(False, decides=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.total_kimg * 1000 < self.batch_size:
            raise SettingError("total_kimg", f"{self.total_kimg} is less than one batch of {self.batch_size} images")
        # An iteration has at most one record.
        records = self.total_kimg / max(self.tick_kimg, self.batch_size / 1000)
        if records > MOST_RECORDS:
            least = math.ceil(self.total_kimg / MOST_RECORDS * 1000) / 1000
            fault = f"{self.tick_kimg} gives {records:,.0f} log records, more than {MOST_RECORDS:,}"
            raise SettingError("tick_kimg", fault, f"set it to {least:g} or more")
        if self.batch_gpu is not None and self.batch_size % self.batch_gpu:
            raise SettingError("batch_gpu", f"must divide batch_size ({self.batch_size}), got {self.batch_gpu}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingSettings, JobSettings):
    """Settings that every training run has, a teacher's and a student's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherTraining(TrainingSettings):
    """Settings of the training of a preset's teacher.

    Attributes:
        loss: Loss of denoised images at log-normal levels (``edm``), or of velocities at uniform times (``velocity``:
            flow matching, as SiT's), for networks of flows and any others.
        betas: Adam's β₁ and β₂.
        eps: Adam's ε.
        P_mean: Mean of ln σ.
        P_std: Standard deviation of ln σ.
        ema_half_life_kimg: Half-life of the average of the weights.
        lr_rampup_kimg: Thousands of images over which the rate rises linearly from 0 (10,000 for the published EDM and
            EDM2 teachers).
        lr_ref_batches: Steps after which the rate falls as one over the square root of their number (35,000 to 70,000
            for EDM2's teachers); 0 keeps it.
        data_order: Order of the images: ``shuffled`` (a new order for each epoch), or EDM2's ``edm2``.
        power_ema: Relative widths of averages with a power-function profile (EDM2: 0.05 and 0.1), instead of the one
            with a half-life; the first is the result. Kept networks have all, and ``sida average`` makes others from
            them.
    """

    loss: Literal["edm", "velocity"] = setting("edm")
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    P_mean: Finite = -1.2
    P_std: Positive = 1.2
    ema_half_life_kimg: Positive = 500.0
    lr_rampup_kimg: NotNegative = setting(0.0)
    lr_ref_batches: NotNegative = setting(0.0)
    data_order: Literal["shuffled", "edm2"] = setting("shuffled")
    power_ema: tuple[Annotated[float, Range(least=1e-6, below=0.28)], ...] = setting(())

    def __post_init__(self) -> None:
        super().__post_init__()
        edm = {"P_mean": -1.2, "P_std": 1.2, "sigma_data": 0.5} if self.loss == "velocity" else {}
        for name, default in edm.items():
            if getattr(self, name) != default:
                raise SettingError(name, "has no effect with the loss 'velocity'", "remove it")
        if len(set(self.power_ema)) < len(self.power_ema):
            raise SettingError("power_ema", f"must be different numbers, got {list(self.power_ema)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A network to build, see :func:`sida.networks.build_network`.

    Attributes:
        class_: Class of :mod:`sida.networks`, or a custom one as ``module:object``.
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


#: Settings that stay null where a copied network keeps its own mode, or has none.
WEIGHT_NORMS = ("weight_norm", "fake_score_weight_norm")
#: Official Adam's β₁ and β₂.
_BETAS = (0.0, 0.999)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(TrainingSettings):
    """Settings of a distillation; the sheet adds method, teacher, start, α and seed.

    A setting that the row's method does not read must keep its default (:attr:`sida.methods.Method.settings`).
    *Official* below is the method's value (:mod:`sida.methods`) for the teacher's network family.

    Attributes:
        fake_score_lr: Learning rate of the fake score, or of the discriminator that replaces it; null takes ``lr``.
        betas: Adam's β₁ and β₂.
        generator_betas: The generator's β₁ and β₂ where they differ; null takes ``betas``.
        eps: Adam's ε; null takes 1e-8, or 1e-6 with float16.
        t_max: Largest generator time, of 1000.
        init_sigma: σ_init of the generator; ``infinite`` is pure noise (flows).
        num_steps: Steps n of the generator. In each iteration their number is drawn uniformly from 1 to n; the fake
            score and the generator learn from the images after that many steps.
        noise: Noise that a step after the first adds: ``fresh``, or ``fixed``: always the first step's.
        gradient: Steps through which the generator learns: the ``last`` of those taken, or ``all``.
        step_levels: Levels of the steps i = 0 … n − 1: ``sigma``: σ_init (1 − i/n); ``time``: t_init (1 − i/n) with a
            flow's time t = σ / (1 + σ), which is 1 for ``infinite``.
        level_distribution: Distribution of the noise levels of both steps: ``lognormal``: ln σ ~ N(P_mean, P_std²), a
            logit-normal time of a flow; ``beta``: a flow's time t = σ / (1 + σ) ~ Beta(a, b). null is the method's own.
        time_beta: a and b of ``beta`` at the beginning, and thousands of images over which both fall to 1 by half a
            cosine (0: never); [1, 1, 0] is a uniform time.
        score_weight: Weight of the generator's score term, and of its adversarial one in SiDA: ``error``: one over the
            teacher's mean error of the image; ``one_minus_t`` (SiD-DiT's), ``one_minus_t_squared``, ``inverse_t``,
            ``inverse_t_squared``, ``snr`` ((1 − t)²/t²), ``snr_sqrt``: functions of a flow's time.
        P_mean: Mean of ln σ in the fake score's loss.
        P_std: Standard deviation of ln σ.
        lambda_sid: Weight of the SiD term.
        lambda_adv: Weight of the generator's adversarial term.
        lambda_d: Weight of the discriminator term.
        discriminator_pixels: Whether ``lambda_d`` has the factor C·H·W, which ``lambda_adv`` always has (SiD-DiT's).
        lambda_fake_score: Weight of the fake score's denoising term.
        warmup_kimg: Thousands of images for which the fake score learns alone.
        adversarial_kimg: Thousands of images after which the adversarial term joins (sida, sid2a, uni-instruct).
        ema_half_life_kimg: Half-life of the average of the generator's weights.
        grad_clip_value: Value clip of the fake score's gradients; 0 is off.
        dropout: Dropout of student and fake score; null keeps the teacher's.
        gamma: Weight over noise levels of the fake score's and discriminator's terms (:func:`sida.noise.score_weight`);
            ``edm`` is the official code's, ``velocity`` that of a square of velocities.
        discriminator_gamma: Weight over noise levels of the discriminator's term; null takes ``gamma``.
        adversarial_pool: ``batch`` (the paper's in-batch fakeness) or ``sample``, see
            :class:`sida.methods.sid.SiDALoss`.
        weight_norm: Forced weight normalisation of an EDM2 student.
        fake_score_weight_norm: Forced weight normalisation of an EDM2 fake score.
        logvar: Whether the losses are divided by the variance that an EDM2 fake score predicts; null is false without
            the head that predicts it.
        guidance: Strength w of the guidance of the teacher's score, ``D_g + w (D − D_g)``; other than 1 it needs a
            guiding network (column ``guide`` of the sheet). The fake score and the generator start from the plain
            teacher.
        max_nan_share: Largest share of samples with NaN within a tick before the run stops.
        evaluation: ``{every_kimg, num_samples, ...}``: measuring during training, which decides the network that is
            kept, and may end the run.
        fp16: Run networks in half precision on CUDA; null keeps what the teacher's file says.
        half: Half precision of ``fp16``: ``float16`` (as the published runs of SiD and SiDA) or ``bfloat16`` (as
            GDD's). The network's file records it for sampling.
        kernels: Kernels of networks and optimizer, which on a GPU are faster and round differently
            (docs/measurements.md): ``fused`` has some for U-Nets, ``compiled`` compiles the blocks of any network; the
            fused optimizer of both is for every network.
        cuda_graphs: On a GPU, record a step's kernels once and replay them; the numbers stay the same.
        network: Network ``{class, kwargs}`` of a method without a teacher, see
            :func:`sida.networks.build_network`.
        network_options: Options of the teacher, fake score and student that replace those of the teacher's file: the
            source of a transformer's discriminator (``logits``, ``encoder_depth``, ``feature_blocks``), on which no
            parameter depends.
        options: Settings that only the method has, see :class:`sida.methods.Method`.
    """

    fake_score_lr: Positive | None = setting(None, some_methods=True, always=True)
    betas: tuple[Beta, Beta] | None = setting(None, official=_BETAS, recorded=_BETAS, always=True)
    generator_betas: tuple[Beta, Beta] | None = setting(None)
    eps: Positive | None = None
    t_max: Annotated[float, Range(above=0, most=1000)] = setting(800.0, some_methods=True, always=True)
    init_sigma: InitSigma | None = setting(None, recorded=2.5, always=True)
    num_steps: Count = setting(1, some_methods=True)
    noise: StepNoise = setting("fresh", some_methods=True)
    gradient: Literal["last", "all"] = setting("last", some_methods=True)
    step_levels: StepLevels = setting("sigma", some_methods=True)
    level_distribution: LevelDistribution | None = setting(None, some_methods=True)
    time_beta: tuple[Positive, Positive, NotNegative] = setting((1.0, 1.0, 0.0), some_methods=True)
    score_weight: ScoreWeight = setting("error", some_methods=True)
    P_mean: Finite | None = setting(None, some_methods=True, official=TeacherTraining.P_mean, always=True)
    P_std: Positive | None = setting(None, some_methods=True, official=TeacherTraining.P_std, always=True)
    lambda_sid: NotNegative = setting(100.0, some_methods=True, always=True)
    lambda_adv: NotNegative = setting(0.01, some_methods=True, always=True)
    lambda_d: NotNegative | None = setting(None, some_methods=True, official=1.0, always=True)
    discriminator_pixels: bool = setting(False, some_methods=True)
    lambda_fake_score: NotNegative = setting(1.0, some_methods=True, always=True)
    warmup_kimg: NotNegative | None = setting(None, official=0.0, always=True)
    adversarial_kimg: NotNegative = setting(200.0, some_methods=True, always=True)
    ema_half_life_kimg: Positive | None = None
    grad_clip_value: NotNegative | None = setting(None, some_methods=True, official=0.0, always=True)
    dropout: Fraction | None = None
    gamma: Gamma = setting("edm", some_methods=True, always=True)
    discriminator_gamma: Gamma | None = setting(None, some_methods=True)
    adversarial_pool: Pool = setting("batch", some_methods=True, always=True)
    weight_norm: WeightNorm | None = setting(None, some_methods=True, always=True)
    fake_score_weight_norm: WeightNorm | None = setting(None, some_methods=True, always=True)
    logvar: bool | None = setting(None, some_methods=True, official=False, always=True)
    guidance: NotNegative = setting(1.0, some_methods=True)
    max_nan_share: Fraction = 0.1
    evaluation: Annotated[dict[str, Any], CheckedAs(RecipeEvaluation)] | None = None
    fp16: bool | None = None
    half: Literal["float16", "bfloat16"] = setting("float16")
    kernels: KernelName = setting("torch", some_methods=True)
    cuda_graphs: bool = setting(True, decides=False)
    network: Annotated[dict[str, Any], CheckedAs(NetworkConfig)] | None = setting(None, some_methods=True)
    network_options: dict[str, Any] = setting(factory=dict)
    options: dict[str, Any] = setting(factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        # A step after the first reads these three settings.
        unread = {"noise": "fresh", "gradient": "last", "step_levels": "sigma"} if self.num_steps == 1 else {}
        for name, default in unread.items():
            if getattr(self, name) != default:
                raise SettingError(name, "has no effect with one step", "set num_steps, or remove it")
        if self.init_sigma is not None:
            check_steps(self.generator_steps)
        if self.level_distribution != "beta" and self.time_beta != (1.0, 1.0, 0.0):
            raise SettingError("time_beta", "has no effect without level_distribution beta", "set that, or remove it")
        if self.level_distribution is not None and self.t_max != 800.0:
            raise SettingError("t_max", "has no effect with level_distribution", "remove one of them")

    @property
    def generator_steps(self) -> GeneratorSteps:
        """Steps of the generator, of a recipe with σ_init."""
        assert self.init_sigma is not None
        return GeneratorSteps(self.num_steps, self.init_sigma, self.noise, self.step_levels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentConfig(Recipe, RunConfig):
    """A generator of one step or a few to distil from a teacher.

    Attributes:
        method: Name in :data:`sida.methods.METHODS` (docs/methods.md), or a custom ``module:object``.
        teacher: The teacher's network, named as for ``sida sample``: file, folder of a run or a pipeline of diffusers,
            id or address; methods without a teacher have none.
        init: Generator to start from, named alike: needed by sid2a and fd-loss, allowed for sid (a *restart*: fresh
            fake score and optimizers without the adversarial term, the control for SiD2A), uni-instruct, realsid and
            realuid, refused by the others.
        guide: Guiding network, named alike, with ``guidance`` other than 1: for as many pixels and channels as the
            teacher, with as many classes or none. ``null``: the teacher itself without a class.
        alpha: α of the SiD term; null takes the official one.
        evaluation: null, or ``{every_kimg, monitor: "module:factory", kwargs, ...}``; decides the network that is kept.
    """

    method: str
    teacher: str | None = None
    init: str | None = setting(None)
    guide: str | None = setting(None)
    alpha: Finite | None = setting(None, some_methods=True, official=1.0, always=True)
    evaluation: Annotated[dict[str, Any], CheckedAs(EvaluationSettings)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_guidance(self.guidance, self.guide)
        if self.kernels != "torch" and not self.device.startswith("cuda"):
            raise SettingError("kernels", f"'{self.kernels}' needs device 'cuda'", "set kernels to torch")
        if self.half == "bfloat16" and (self.fp16 is False or not self.device.startswith("cuda")):
            fault = "has no effect without fp16 on device 'cuda'"
            raise SettingError("half", fault, "set fp16 to true there, or remove it")


#: Settings that only some methods read (:attr:`sida.methods.Method.settings`); every method reads the other settings.
METHOD_SETTINGS = frozenset(name for name, role in roles(StudentConfig).items() if role.some_methods)
#: Settings that do not affect the result of a training.
EXCLUDED_FROM_DIGEST = frozenset(name for name, role in roles(StudentConfig).items() if not role.decides)
#: Official values for methods without their own. Some belong to settings that a method does not read; digests hold them
#: nevertheless.
OFFICIAL = {name: role.official for name, role in roles(StudentConfig).items() if role.official is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResolvedConfig(StudentConfig):
    """A student's configuration whose null settings have the method's values.

    :func:`sida.methods.registry.resolve_recipe` makes it.
    """

    betas: tuple[Beta, Beta]
    eps: Positive
    init_sigma: InitSigma
    P_mean: Finite
    P_std: Positive
    lambda_d: NotNegative
    warmup_kimg: NotNegative
    ema_half_life_kimg: Positive
    grad_clip_value: NotNegative
    logvar: bool
    fp16: bool
    alpha: Finite
