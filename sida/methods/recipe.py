"""Settings of a distillation."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from sida.config.evaluation import EvaluationSettings, RecipeEvaluation
from sida.config.families import WeightNorm
from sida.config.ranges import CheckedAs, Finite, Fraction, NotNegative, Positive, Range
from sida.training.config import Beta, RunConfig, TrainingSettings

#: Settings that stay null where a copied network keeps its own mode, or has none.
WEIGHT_NORMS = ("weight_norm", "fake_score_weight_norm")
#: Settings that only some methods read (:attr:`sida.methods.Method.settings`); every method reads the others. First the
#: settings of score distillation, then what real images add.
SCORE_SETTINGS = frozenset({
    "P_mean", "P_std", "alpha", "augment", "fake_score_lr", "fake_score_weight_norm", "gamma", "grad_clip_value",
    "guidance", "kernels", "lambda_fake_score", "lambda_sid", "logvar", "recompute", "sigma_data", "t_max",
    "weight_norm",
})  # fmt: skip
ADVERSARIAL_SETTINGS = frozenset({"adversarial_kimg", "adversarial_pool", "lambda_adv", "lambda_d", "real_source"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(TrainingSettings):
    """Settings of a distillation; the sheet adds method, teacher, start, α and seed.

    A setting that the row's method does not read must keep its default (:attr:`sida.methods.Method.settings`).
    *Official* below is the value in the method's ``defaults`` (:mod:`sida.methods`) for the teacher's network family.

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
            ``snr``, ``constant`` or ``min-snr``, see :func:`sida.losses.terms.score_weight`.
        adversarial_pool: ``batch`` (the paper's in-batch fakeness) or ``sample``, see :class:`sida.losses.SiDALoss`.
        real_source: ``data``, or a run of the sheet or path of a one-step generator whose samples play the real images:
            a control in which the adversarial term runs but brings no data in (only classes are drawn from the data).
        weight_norm: Forced weight normalisation of an EDM2 student; null takes the official mode.
        fake_score_weight_norm: Forced weight normalisation of an EDM2 fake score; null takes the official mode.
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
        half: Half precision of ``fp16``: ``float16`` (as the published runs of SiD and SiDA) or ``bfloat16`` (as
            GDD's). The network's file records it, and sampling uses it.
        kernels: ``torch``, or ``fused``: several times faster on a GPU, with other rounding (docs/measurements.md).
        recompute: With fused kernels, recompute the activations before convolutions in the backward pass instead of
            keeping them: less memory, a few per cent more time, the same result.
        cuda_graphs: On a GPU, record a step's kernels once and replay them; the numbers stay the same.
        options: Settings that only the method has, see :class:`sida.methods.Method`.
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
    evaluation: Annotated[dict[str, Any], CheckedAs(RecipeEvaluation)] | None = None
    compile: bool = False
    fp16: bool | None = None
    half: Literal["float16", "bfloat16"] = "float16"
    kernels: Literal["torch", "fused"] = "torch"
    recompute: bool = False
    cuda_graphs: bool = True
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentConfig(Recipe, RunConfig):
    """A one-step generator to distil from a teacher.

    Attributes:
        method: Name in :data:`sida.methods.METHODS`: ``sid`` (no real images), ``sida`` (with the adversarial term),
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

    method: str
    teacher: str
    init: str | None = None
    guide: str | None = None
    alpha: Finite | None = None
    evaluation: Annotated[dict[str, Any], CheckedAs(EvaluationSettings)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
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
class ResolvedConfig(StudentConfig):
    """A student's configuration in which every setting has its value; :func:`sida.methods.resolve.resolve_recipe`."""

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
