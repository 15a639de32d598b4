"""RealUID and RealSiD: a fake score that learns from real images, too, without a discriminator.

RealSiD is SiD with such a fake score. For a noisy image y = x + n, n of level σ, the fake score's target is not x but

    c(x; κ) = κ x + (1 − κ) a,        a = y / (1 + σ) (velocity), 0 (image) or y (noise)

with κ_g = β/α for generated and κ_d = (1 − β)/(1 − α) for real images. RealUID scales targets in a *space*: of
velocities, of images or of noise. The spaces are equal for α = β only. α and β are not SiD's α.

Source: RealUID (arXiv:2509.22459); David-cripto/RealUID:src/losses.py, train_distil.py, whose teachers are of flow
matching. A flow's time t, image t x + (1 − t) n and velocity are y = x + σ n, σ = (1 − t)/t, and a denoiser, so its
losses need no other network than EDM's. Differences from that code: docs/differences.tsv.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from sida import networks, training
from sida.config.settings import Count, Fraction, NotNegative, Range, Settings
from sida.errors import SettingError
from sida.late import Tensor, torch
from sida.methods.method import SCORE_TRAINING, Exposure, Method, Net, Parts, Passes, RawTerms
from sida.methods.sid import SiDLoss, both_labels
from sida.noise import SIGMA_MAX, SIGMA_MIN, Draws, score_weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealUIDOptions(Settings):
    """Real images in the fake score's loss, and the two optimizers. Defaults are those of RealUID's CIFAR-10 recipe.

    Attributes:
        uid_alpha: α: weight of generated images in the fake score's loss; real images have 1 − α. 1 is SiD without
            real images.
        uid_beta: β: as α, of the targets.
        space: Space in which targets are scaled; ``velocity`` is the released code's.
        fake_score_steps: Steps of the fake score for each step of the generator.
        fake_score_start: Start of the fake score: ``random``, as in the released distillations, or ``teacher``, as in
            their fine-tuning and in SiD.
        clip_norm: Largest norm of the gradients of fake score and generator; 0 is off.
        lr_rampup_kimg: Thousands of images over which the rates rise linearly from 0 (500 steps of 256 in the released
            code).
    """

    uid_alpha: Annotated[float, Range(above=0, most=1)] = 0.92
    uid_beta: Fraction = 0.94
    space: Literal["velocity", "image", "noise"] = "velocity"
    fake_score_steps: Count = 5
    fake_score_start: Literal["random", "teacher"] = "random"
    clip_norm: NotNegative = 1.0
    lr_rampup_kimg: NotNegative = 128.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.uid_alpha == 1 and self.uid_beta != 1:
            raise SettingError("uid_beta", "must be 1 where uid_alpha is 1", "real images have no weight there")

    @property
    def scales(self) -> tuple[float, float]:
        """κ of generated and of real images."""
        alpha, beta = self.uid_alpha, self.uid_beta
        return beta / alpha, (1 - beta) / (1 - alpha) if alpha < 1 else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealSiDOptions(RealUIDOptions):
    """As :class:`RealUIDOptions`; steps, start and optimizers are SiD's by default."""

    fake_score_steps: Count = 1
    fake_score_start: Literal["random", "teacher"] = "teacher"
    clip_norm: NotNegative = 0.0
    lr_rampup_kimg: NotNegative = 0.0


@dataclasses.dataclass(eq=False)
class RealSiDLoss(SiDLoss):
    """SiD's losses with real images r: SiD's levels, weights and α_SiD, and c instead of x (ours).

        denoising = α w(σ) (f_ψ(x + n) − c(x; κ_g))²                                          (fake score)
        real      = (1 − α) w(σ) (f_ψ(r + n) − c(r; κ_d))²                                    (fake score)
        sid       = (f_φ − f_ψ) [(f_φ − c(x; κ_g)) − α_SiD (f_φ − f_ψ)] / mean |x − f_φ|      (generator)

    Real and generated images of a position have the same level, noise and label. With α = β = 1 the losses are SiD's.

    Attributes:
        options: α, β and the space.
    """

    uses_real_images = True

    options: RealUIDOptions = dataclasses.field(default_factory=RealSiDOptions)

    def weights(self, pixels: int) -> dict[str, float]:
        """See :meth:`~sida.methods.method.ScoreLoss.weights`."""
        alpha = self.options.uid_alpha
        parts = {"denoising": alpha * self.lambda_fake_score, "real": (1 - alpha) * self.lambda_fake_score}
        return super().weights(pixels) | parts

    def target(self, x: Tensor, noisy: Tensor, sigma: Tensor, scale: float | None = None) -> Tensor:
        """Denoised image c(x; κ) that ψ should return, ``(N, C, H, W)``, with the gradients of ``x`` and ``noisy``.

        Args:
            x: Images ``(N, C, H, W)``.
            noisy: The images with noise.
            sigma: Noise levels ``(N, 1, 1, 1)``.
            scale: κ; None takes κ_g, of generated images.
        """
        scale = self.options.scales[0] if scale is None else scale
        if self.options.space == "image":
            return scale * x
        anchor = noisy / (1 + sigma) if self.options.space == "velocity" else noisy
        return scale * x + (1 - scale) * anchor

    def fake_score_terms(self, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """Terms ``denoising`` and ``real``, float32 ``(N', C, H, W)`` each; both halves pass ψ together.

        Without real images, or with α = 1, there is no term ``real``.
        """
        sigma, sides = self.fake_score_sigma(batch.draws), [batch.images]
        if batch.real_images is not None and self.options.uid_alpha < 1:
            sides.append(batch.real_images)
        noisy = [torch.addcmul(images, sigma, batch.draws["noise"]) for images in sides]
        targets = [self.target(x, y, sigma, scale) for x, y, scale in zip(sides, noisy, self.options.scales)]
        labels = batch.class_labels if len(sides) == 1 else both_labels(batch.class_labels, batch.class_labels)
        error = fake_score(torch.cat(noisy), torch.cat([sigma] * len(sides)), labels) - torch.cat(targets)
        weight, *errors = batch.drop_nan(self.weight(sigma), *error.chunk(len(sides)))
        return dict(zip(("denoising", "real"), (weight * element_error.square() for element_error in errors)))


@dataclasses.dataclass(eq=False)
class RealUIDLoss(RealSiDLoss):
    """RealUID's losses: those of :class:`RealSiDLoss` at α_SiD = ½, with other levels and weights, not normalised.

        sid = 2 α w(σ) (f_φ − f_ψ) [(f_φ − c) − ½ (f_φ − f_ψ)] = α w(σ) [(f_φ − c)² − (f_ψ − c)²]

    With t uniform, σ = (1 − t)/t; w = (1 + σ)²/σ² is a plain square of velocities (in ``noise`` 1/σ²,
    a plain square of the noise). The generator's steepest descent lowers the fake score's best value, which SiD's at α
    = 1 does not.

    Attributes:
        options: α, β and the space.
    """

    alpha: float = dataclasses.field(default=0.5, init=False)
    t_max: float = dataclasses.field(default=SiDLoss.t_max, init=False)
    P_mean: float = dataclasses.field(default=SiDLoss.P_mean, init=False)
    P_std: float = dataclasses.field(default=SiDLoss.P_std, init=False)
    gamma: Any = dataclasses.field(default=SiDLoss.gamma, init=False)
    sigma_data: float = dataclasses.field(default=SiDLoss.sigma_data, init=False)
    level_distribution: Any = dataclasses.field(default=None, init=False)
    time_beta: Any = dataclasses.field(default=SiDLoss.time_beta, init=False)
    score_weight: Any = dataclasses.field(default=SiDLoss.score_weight, init=False)
    lambda_sid: float = 1.0
    options: RealUIDOptions = dataclasses.field(default_factory=RealUIDOptions)

    def weights(self, pixels: int) -> dict[str, float]:
        """See :meth:`~sida.methods.method.ScoreLoss.weights`."""
        return super().weights(pixels) | {"sid": 2 * self.options.uid_alpha * self.lambda_sid}

    fake_score_draws = RealSiDLoss.generator_draws

    def generator_sigma(self, draws: Draws) -> Tensor:
        """Noise levels of both steps, float32 ``(N, 1, 1, 1)``: (1 − t)/t, within the range of EDM's levels."""
        t = draws["t"].clamp(1 / (1 + SIGMA_MAX), 1 / (1 + SIGMA_MIN))
        return (1 - t) / t

    fake_score_sigma = generator_sigma

    def weight(self, sigma: Tensor) -> Tensor:
        """w(σ), the shape of ``sigma``."""
        return sigma**-2 if self.options.space == "noise" else score_weight(sigma, self.sigma_data, "velocity")

    def divisor(self, x: Tensor, true: Tensor, sigma: Tensor) -> Tensor:
        """See :meth:`~sida.methods.sid.SiDLoss.divisor`; 1/w."""
        return 1 / self.weight(sigma)


def make_realuid(parts: Parts) -> training.Distiller:
    """Returns the trainer of teacher, fake score and generator; the run's seed decides a random fake score."""
    options = parts.options
    score = parts.copy(parts.teacher, parts.config.fake_score_weight_norm)
    if options.fake_score_start == "random":
        with parts.seeded("fake score"):
            score.load_state_dict(networks.build_network(networks.architecture(score)).state_dict())
    clips = dict.fromkeys(("clip_norm", "fake_score_clip_norm"), options.clip_norm)
    return parts.distiller(fake_score=score, schedule=parts.schedule(lr_rampup_kimg=options.lr_rampup_kimg), **clips)


REALSID = Method(
    name="realsid",
    title="RealSiD",
    about="SiD whose fake score learns from real images, too; no discriminator",
    start="either",
    real_images=True,
    saw=Exposure(choice=("inception",)),
    loss=RealSiDLoss,
    options=RealSiDOptions,
    reads=(*SCORE_TRAINING, "fake_score_weight_norm", "grad_clip_value"),
    trainer=make_realuid,
    passes=Passes(fake_score=7),
    official={"edm": {"init_sigma": 2.5, "ema_half_life_kimg": 500.0}},
)
#: The average's decay is 0.999 in each step of 256 images, from the first step on (``ema_rampup_ratio`` null).
REALUID = dataclasses.replace(
    REALSID,
    name="realuid",
    title="RealUID",
    about="the same with the losses, levels and optimizers of RealUID's code",
    saw=Exposure(choice=("inception",)),
    loss=RealUIDLoss,
    options=RealUIDOptions,
    reads=(*SCORE_TRAINING, "fake_score_weight_norm"),
    official={"edm": {"init_sigma": 2.5, "dropout": 0.0, "ema_half_life_kimg": 177.4}},
)
