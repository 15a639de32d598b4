"""Diff-Instruct, DMD (without regression) and DMD2: the generator follows the difference of two scores.

φ is the teacher, ψ the fake score, θ the generator. Scores carry no gradients. DMD divides the difference by the
teacher's error of each image. DMD2 adds heads that discriminate noisy images, on the fake score's encoder or on the
teacher's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sida import networks
from sida.config.saw import Saw
from sida.config.settings import Count, NotNegative, Positive, Range, Settings
from sida.errors import SettingError
from sida.late import torch
from sida.methods.method import SCORE_TRAINING, Method, Net, Parts, Passes, RawTerms, ScoreLoss
from sida.methods.sid import SiDLoss, both_labels
from sida.noise import SIGMA_MIN, Draw, Draws, indexed_sigma, lognormal_sigma, normal, uniform, unit_noise

if TYPE_CHECKING:
    from torch import Tensor

    from sida.training import Distiller
    from sida.training.micro_batches import MicroBatch


@dataclasses.dataclass(eq=False)
class DiffInstructLoss(ScoreLoss):
    """Losses of Diff-Instruct. With images x = G(z), noise n of level σ and ``ln σ ~ N(P_mean, P_std²)``:

        kl = x · stopgrad[f_ψ − f_φ]                (generator; f_ψ and f_φ denoise x + n)

    The fake score's term ``denoising`` is SiD's. The gradient of ``kl`` equals that of the integral over σ of
    KL(generator ‖ teacher) of noisy images, with weight σ².

    Attributes:
        P_mean: Mean of ln σ, of both sides.
        P_std: Standard deviation of ln σ, of both sides.

    Source: Diff-Instruct (arXiv:2305.18455); pkulwj1994/diff_instruct:training/di_loss.py.
    """

    P_mean: float = SiDLoss.P_mean
    P_std: float = SiDLoss.P_std

    def weights(self, pixels: int) -> dict[str, float]:
        """See :meth:`~sida.methods.method.Loss.weights`; as in SiD, terms are sums over the elements of an image."""
        return {"kl": 1.0, "denoising": self.lambda_fake_score}

    def generator_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.generator_draws`."""
        return {"sigma_normal": normal, "noise": unit_noise}

    def generator_sigma(self, draws: Draws) -> Tensor:
        """Noise levels of both steps, float32 ``(N, 1, 1, 1)``: log-normal."""
        return lognormal_sigma(draws["sigma_normal"], self.P_mean, self.P_std)

    fake_score_sigma = generator_sigma

    def generator_terms(self, true_score: Net, fake_score: Net, given: MicroBatch) -> RawTerms:
        """Term ``kl``, float32 ``(N', C, H, W)``."""
        x, labels, sigma = given.images, given.class_labels, self.generator_sigma(given.draws)
        with torch.no_grad():
            noisy = torch.addcmul(x, sigma, given.draws["noise"])
            difference = fake_score(noisy, sigma, labels) - true_score(noisy, sigma, labels)
        difference, x = given.whole(difference, x)
        return {"kl": x * difference}


DIFF_INSTRUCT = Method(
    name="diff-instruct",
    title="Diff-Instruct",
    about="the plain difference of the two scores; no real images; starts from the teacher",
    start="teacher",
    real_images=False,
    saw=Saw(),
    loss=DiffInstructLoss,
    reads=(*SCORE_TRAINING, "augment", "fake_score_weight_norm", "grad_clip_value"),
    passes=Passes(generator=5),
    official={
        "edm": {"init_sigma": 1.0, "ema_half_life_kimg": 500.0, "grad_clip_value": 0.0, "warmup_kimg": 0.0},
    },
)

Level = Annotated[int, Range(least=0, most=999)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMDOptions(Settings):
    """Levels and optimizer of distribution matching. Defaults are official (DMD2's code for ImageNet 64).

    Attributes:
        generator_levels: Smallest and largest index of the generator's noise levels, of 1000 Karras levels from 0.002
            to 80.
        fake_score_levels: Smallest and largest index of the fake score's noise levels.
        fake_score_clip_norm: Largest norm of the gradient of the fake score and its heads; 0 means no clipping.
        lr_rampup_kimg: Thousands of images over which the rates rise linearly from 0 (500 steps in the official code);
            0 means no ramp-up.
    """

    generator_levels: tuple[Level, Level] = (20, 980)
    fake_score_levels: tuple[Level, Level] = (0, 999)
    fake_score_clip_norm: NotNegative = 10.0
    lr_rampup_kimg: NotNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("generator_levels", "fake_score_levels"):
            low, high = getattr(self, name)
            if low > high:
                raise SettingError(name, f"the first index must not be above the second, got {low} and {high}")


@dataclasses.dataclass(eq=False)
class DMDLoss(ScoreLoss):
    """Losses of DMD without its regression term. With images x = G(z) and noise n of level σ:

        kl = ½ (x − stopgrad[x − g])²,    g = (f_ψ − f_φ) / mean |x − f_φ|              (generator)

    The gradient of ``kl`` is g; the fake score's ``denoising`` is SiD's at other levels. σ is one of 1000 Karras levels
    (:func:`sida.noise.indexed_sigma`), and both terms are means over the elements of an image.

    Attributes:
        options: Noise levels.

    Source: DMD (arXiv:2311.18828), algorithms 1 and 2; the levels of tianweiy/DMD2:main/edm/edm_guidance.py.
    """

    options: DMDOptions = dataclasses.field(default_factory=lambda: DMDOptions())

    def weights(self, pixels: int) -> dict[str, float]:
        """See :meth:`~sida.methods.method.Loss.weights`."""
        return {"kl": 1 / pixels, "denoising": self.lambda_fake_score / pixels}

    def fake_score_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.fake_score_draws`."""
        return {"t": uniform, "noise": unit_noise}

    def generator_sigma(self, draws: Draws) -> Tensor:
        """Noise levels of the generator's step, float32 ``(N, 1, 1, 1)``."""
        return indexed_sigma(draws["t"], *self.options.generator_levels)

    def fake_score_sigma(self, draws: Draws) -> Tensor:
        """Noise levels of the fake score's step, float32 ``(N, 1, 1, 1)``."""
        return indexed_sigma(draws["t"], *self.options.fake_score_levels)

    def generator_terms(self, true_score: Net, fake_score: Net, given: MicroBatch) -> RawTerms:
        """Term ``kl``, float32 ``(N', C, H, W)``."""
        x, sigma = given.images, self.generator_sigma(given.draws)
        with torch.no_grad():
            noisy = torch.addcmul(x, sigma, given.draws["noise"])
        direction, x = given.whole(self.direction(true_score, fake_score, given, noisy, sigma), x)
        return {"kl": halved_square(x, direction)}

    @property
    def error_eps(self) -> float:
        """Constant added to the divisor of g."""
        return 0.0

    def direction(self, true_score: Net, fake_score: Net, given: MicroBatch, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Direction g, float32 ``(N, C, H, W)``, without gradient.

        Args:
            true_score: The teacher φ.
            fake_score: ψ.
            given: The generator's images.
            noisy: The images with noise, ``(N, C, H, W)``.
            sigma: Its levels, ``(N, 1, 1, 1)``.
        """
        with torch.no_grad():
            true = true_score(noisy, sigma, given.class_labels)
            fake = fake_score(noisy, sigma, given.class_labels)
            return (fake - true) / ((given.images - true).abs().mean(dim=(1, 2, 3), keepdim=True) + self.error_eps)


def halved_square(images: Tensor, direction: Tensor) -> Tensor:
    """½ (x − stopgrad[x − g])² of images x and directions g, whose gradient is g at x."""
    return (images - (images - direction).detach()).square() / 2


#: Official settings. The half-life of the average is short, because the official code has no average.
_OFFICIAL = {
    "edm": {
        "betas": (0.9, 0.999), "init_sigma": 80.0, "dropout": 0.0, "ema_half_life_kimg": 500.0, "warmup_kimg": 0.0,
    },
}  # fmt: skip


def _ways(options: DMDOptions) -> dict[str, Any]:
    """Settings of the two optimizers: decoupled weight decay (AdamW) of both, largest norms of their gradients."""
    return {"weight_decay": 0.01, "clip_norm": 10.0, "fake_score_clip_norm": options.fake_score_clip_norm}


def make_dmd(parts: Parts) -> Distiller:
    """Returns the trainer of teacher, fake score and generator."""
    options = parts.options
    return parts.distiller(schedule=parts.schedule(options.lr_rampup_kimg), **_ways(options))


DMD = Method(
    name="dmd",
    title="DMD without regression",
    about="the difference of the two scores, normalised for each image; no real images; starts from the teacher",
    start="teacher",
    real_images=False,
    saw=Saw(),
    loss=DMDLoss,
    options=DMDOptions,
    reads=(*SCORE_TRAINING, "augment", "fake_score_weight_norm"),
    trainer=make_dmd,
    passes=Passes(generator=5),
    official=_OFFICIAL,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMD2Options(DMDOptions):
    """Discriminator of DMD2, beside levels and optimizer. Values left out are official (ImageNet 64).

    Attributes:
        features: ``fake-score``: heads judge by the fake score's encoder, which learns from them, too; ``teacher``: by
            the frozen teacher's, and the heads alone learn.
        heads: ``last``: one head on the encoder's last block; ``all``: one on the last block of each resolution.
        gan_weight: Weight of the generator's adversarial term.
        discriminator_weight: Weight of the discriminator's term.
        fake_score_steps: Steps of fake score and heads for each step of the generator.
        weighted: Whether the fake score's loss is weighted over noise levels (``gamma``); else all levels weigh 1.
        own_draws: Whether generated images are judged at levels and with noise of their own; else as the two scores
            denoise them.
        same_noise: Whether real images get levels and noise of the generated ones; else their own.
        noisy: Whether images are judged with noise; else without, at the least level.
        r1_weight: Weight of the approximate R1 penalty; 0 leaves it out.
        r1_alpha: Standard deviation of that penalty's noise.
        error_eps: Added to the teacher's error that the difference of the scores is divided by.
    """

    features: Literal["fake-score", "teacher"] = "fake-score"
    heads: Literal["last", "all"] = "last"
    gan_weight: NotNegative = 3e-3
    discriminator_weight: NotNegative = 1e-2
    fake_score_steps: Count = 5
    weighted: bool = True
    own_draws: bool = True
    same_noise: bool = False
    noisy: bool = True
    r1_weight: NotNegative = 0.0
    r1_alpha: Positive = 0.1
    error_eps: NotNegative = 0.0

    @property
    def unread(self) -> frozenset[str]:
        """Settings that a method with these options does not read."""
        return frozenset() if self.weighted else frozenset({"gamma", "sigma_data"})

    @property
    def passes(self) -> Passes:
        """Work of a method with these options: the encoder judges a generated and a real image, and R1's."""
        images, each = 3 if self.r1_weight else 2, 1 if self.features == "teacher" else 3
        return Passes(generator=5, generator_encoder=2, fake_score_encoder=images * each)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.own_draws and self.same_noise:
            fault = "needs generated images that are judged as they are denoised"
            raise SettingError("same_noise", fault, "set own_draws to false")
        if not (self.noisy or self.own_draws):
            fault = "generated images are judged as they are denoised, with noise"
            raise SettingError("noisy", fault, "set own_draws to true")


@dataclasses.dataclass(eq=False)
class DMD2Loss(DMDLoss):
    """Losses of DMD2, whose fake score also gives logits ℓ of noisy images (``return_flag="logits"``, one per head).

        gan           = mean softplus(−ℓ(x_σ))                                         (generator)
        discriminator = mean [softplus(ℓ(x_σ)) + softplus(−ℓ(y_σ))]                    (with the fake score)
        r1            = mean (ℓ(y_σ) − ℓ(y + α n))²                                    (with the fake score, optional)

    The other terms, ``kl`` and ``denoising``, are those of :class:`DMDLoss`; means are over an
    image's heads.

    Attributes:
        options: Weights of the terms, and what the discriminator sees.

    Source: DMD2 (arXiv:2405.14867), equation 5; tianweiy/DMD2:main/edm/edm_guidance.py. Shared draws and the penalty:
    NVlabs/FastGen:fastgen/methods/distribution_matching/dmd2.py.
    """

    uses_real_images = True

    options: DMD2Options = dataclasses.field(default_factory=lambda: DMD2Options())

    @property
    def error_eps(self) -> float:
        """See :attr:`DMDLoss.error_eps`."""
        return self.options.error_eps

    def generator_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.generator_draws`."""
        own = {"fake_t": uniform, "fake_noise": unit_noise}
        return super().generator_draws() | (own if self.options.own_draws and self.options.noisy else {})

    def fake_score_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.fake_score_draws`."""
        draws, options = self.generator_draws(), self.options
        if options.noisy and not options.same_noise:
            draws |= {"real_t": uniform, "real_noise": unit_noise}
        return draws | ({"r1_noise": unit_noise} if options.r1_weight else {})

    def weights(self, pixels: int) -> dict[str, float]:
        """See :meth:`~sida.methods.method.Loss.weights`."""
        options = self.options
        more = {"gan": options.gan_weight, "discriminator": options.discriminator_weight}
        return super().weights(pixels) | more | ({"r1": options.r1_weight} if options.r1_weight else {})

    def weight(self, sigma: Tensor) -> Tensor:
        """w(σ), the shape of ``sigma``."""
        return super().weight(sigma) if self.options.weighted else torch.ones_like(sigma)

    def generator_terms(self, true_score: Net, fake_score: Net, given: MicroBatch) -> RawTerms:
        """Terms ``kl``, float32 ``(N', C, H, W)``, and ``gan``, float32 ``(N',)``."""
        x, sigma = given.images, self.generator_sigma(given.draws)
        noisy = torch.addcmul(x, sigma, given.draws["noise"])
        direction = self.direction(true_score, fake_score, given, noisy.detach(), sigma)
        seen = self._seen(x, noisy, sigma, given.draws)
        logits = fake_score(*seen, given.class_labels, return_flag="logits")
        direction, logits, x, sigma = given.whole(direction, logits, x, sigma)
        direction = direction * self.image_weights(logits.detach(), sigma, given)
        return {"kl": halved_square(x, direction), "gan": torch.nn.functional.softplus(-logits).mean(1)}

    def image_weights(self, logits: Tensor, sigma: Tensor, given: MicroBatch) -> Tensor | float:
        """Weight of each image's ``kl``, ``(N', 1, 1, 1)``: 1."""
        return 1.0

    def fake_score_terms(self, fake_score: Net, given: MicroBatch) -> RawTerms:
        """Terms ``denoising`` ``(N', C, H, W)``, ``discriminator`` ``(N',)`` and, if weighted, ``r1`` ``(N',)``.

        Real and generated images pass the encoder together, which is exact because samples never interact.
        """
        x, labels, real, draws = given.images, given.class_labels, given.real_images, given.draws
        assert real is not None
        sigma, softplus = self.fake_score_sigma(draws), torch.nn.functional.softplus
        noisy = torch.addcmul(x, sigma, draws["noise"])
        error = fake_score(noisy, sigma, labels) - x
        same = self.options.same_noise
        real_side = (torch.addcmul(real, sigma, draws["noise"]), sigma) if same else self._noised(real, draws, "real")
        sides = self._seen(x, noisy, sigma, draws), real_side
        logits = fake_score(
            torch.cat([images for images, _ in sides]),
            torch.cat([level for _, level in sides]),
            both_labels(labels, labels),
            return_flag="logits",
        )
        unmasked = logits.chunk(2)
        error, of_fake, of_real, weight = given.whole(error, *unmasked, self.weight(sigma))
        discriminator = (softplus(of_fake) + softplus(-of_real)).mean(1)
        terms = {"denoising": weight * error.square(), "discriminator": discriminator}
        if self.options.r1_weight:
            near = real + self.options.r1_alpha * draws["r1_noise"]
            change = unmasked[1] - fake_score(near, sides[1][1], labels, return_flag="logits")
            terms["r1"] = given.kept(change.square().mean(1))[0]
        return terms

    def _seen(self, x: Tensor, noisy: Tensor, sigma: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Generated images as the discriminator sees them, and their levels."""
        return self._noised(x, draws, "fake") if self.options.own_draws else (noisy, sigma)

    def _noised(self, images: Tensor, draws: Draws, name: str) -> tuple[Tensor, Tensor]:
        """Images with the noise of the draws of this name, and their levels ``(N, 1, 1, 1)``."""
        if not self.options.noisy:
            return images, images.new_full((len(images), 1, 1, 1), SIGMA_MIN)
        sigma = indexed_sigma(draws[f"{name}_t"], *self.options.fake_score_levels)
        return torch.addcmul(images, sigma, draws[f"{name}_noise"]), sigma


def make_dmd2(parts: Parts, bins: int = 0) -> Distiller:
    """Teacher, fake score with heads, and generator of a configuration.

    Args:
        parts: Settings and networks.
        bins: Length of the buffer ``ratios`` beside the heads; 0 is none.
    """
    options = parts.options
    teacher = parts.teacher if options.features == "teacher" else None
    with parts.seeded("discriminator"):
        score = networks.FakeScoreWithHeads(parts.copy(parts.teacher), teacher, options.heads == "all", bins)
    return parts.distiller(
        fake_score=score,
        schedule=parts.schedule(options.lr_rampup_kimg),
        # Ratios are added up over processes within a step, which a recorded graph should not do.
        graphs=not bins,
        **_ways(options),
    )


DMD2 = Method(
    name="dmd2",
    title="DMD2",
    about="distribution matching and a discriminator on the fake score's encoder; starts from the teacher",
    start="teacher",
    real_images=True,
    saw=Saw(),
    loss=DMD2Loss,
    options=DMD2Options,
    trainer=make_dmd2,
    official=_OFFICIAL,
)
