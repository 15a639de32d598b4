"""Diff-Instruct, DMD (without regression) and DMD2: the generator follows the difference of two scores.

φ is the teacher, ψ the fake score, θ the generator. Scores carry no gradients. DMD divides the difference by the
teacher's error of each image. DMD2 adds heads that discriminate noisy images, on the fake score's encoder or on the
teacher's.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from sida import networks, training
from sida.config.recipe import StudentConfig
from sida.config.settings import Count, NotNegative, Positive, Range, Settings
from sida.errors import SettingError
from sida.late import Tensor, torch
from sida.methods.levels import LeveledLoss, level_divisor
from sida.methods.method import SCORE_TRAINING, Exposure, Method, Net, Parts, Passes, RawTerms, ScoreLoss
from sida.methods.sid import SiDLoss, both_labels, sample_means
from sida.noise import SIGMA_MIN, Draw, Draws, indexed_sigma, lognormal_sigma, unit_noise


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
        """See :meth:`~sida.methods.method.ScoreLoss.weights`; terms are sums over the elements of an image."""
        return {"kl": 1.0, "denoising": self.lambda_fake_score}

    generator_draws = ScoreLoss.fake_score_draws

    def generator_sigma(self, draws: Draws) -> Tensor:
        """Noise levels of both steps, float32 ``(N, 1, 1, 1)``: log-normal."""
        return lognormal_sigma(draws["sigma_normal"], self.P_mean, self.P_std)

    fake_score_sigma = generator_sigma

    def generator_terms(self, true_score: Net, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """Term ``kl``, float32 ``(N', C, H, W)``."""
        x, labels, sigma = batch.images, batch.class_labels, self.generator_sigma(batch.draws)
        with torch.no_grad():
            noisy = torch.addcmul(x, sigma, batch.draws["noise"])
            difference = fake_score(noisy, sigma, labels) - true_score(noisy, sigma, labels)
        difference, x = batch.drop_nan(difference, x)
        return {"kl": x * difference}


DIFF_INSTRUCT = Method(
    name="diff-instruct",
    title="Diff-Instruct",
    about="the plain difference of the two scores; no real images; starts from the teacher",
    saw=Exposure(),
    loss=DiffInstructLoss,
    reads=(*SCORE_TRAINING, "augment", "fake_score_weight_norm", "grad_clip_value"),
    passes=Passes(generator=5),
    official={"edm": {"init_sigma": 1.0, "ema_half_life_kimg": 500.0}},
)

Level = Annotated[int, Range(least=0, most=999)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMDOptions(Settings):
    """Levels and optimizer of distribution matching. Defaults are official (DMD2's code for ImageNet 64).

    Attributes:
        generator_levels: Smallest and largest index of the generator's noise levels, of 1000 Karras levels from 0.002
            to 80.
        fake_score_levels: Smallest and largest index of the fake score's noise levels.
        fake_score_steps: Steps of the fake score (and of DMD2's heads) for each step of the generator.
        clip_norm: Largest norm of the generator's gradient; 0 is off.
        fake_score_clip_norm: Largest norm of the gradient of the fake score and its heads; 0 is off.
        lr_rampup_kimg: Thousands of images over which the rates rise linearly from 0 (500 steps in the official code).
        error_eps: Added to the teacher's error that the difference of the scores is divided by.
    """

    generator_levels: tuple[Level, Level] = (20, 980)
    fake_score_levels: tuple[Level, Level] = (0, 999)
    fake_score_steps: Count = 1
    clip_norm: NotNegative = 10.0
    fake_score_clip_norm: NotNegative = 10.0
    lr_rampup_kimg: NotNegative = 0.0
    error_eps: NotNegative = 0.0

    def check(self, config: StudentConfig) -> None:
        """Refuses indices of levels together with another distribution of levels, and settings of one without it."""
        indices = {"generator_levels", "fake_score_levels"} & config.options.keys()
        if config.level_distribution is not None and indices:
            raise SettingError(f"options.{min(indices)}", "has no effect with level_distribution", "remove one of them")
        for name in ("P_mean", "P_std"):
            if config.level_distribution is None and getattr(config, name) is not None:
                remedy = "set level_distribution: lognormal, or remove it"
                raise SettingError(name, "has no effect on levels by indices", remedy)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in vars(self).items():
            if isinstance(value, tuple) and value[0] > value[1]:
                raise SettingError(name, f"the first number must not be above the second, got {list(value)}")


@dataclasses.dataclass(eq=False)
class DMDLoss(LeveledLoss):
    """Losses of DMD without its regression term. With images x = G(z) and noise n of level σ:

        kl = ½ (x − stopgrad[x − g])²,    g = (f_ψ − f_φ) / mean |x − f_φ|              (generator)

    The gradient of ``kl`` is g; the fake score's ``denoising`` is SiD's at other levels. σ is one of 1000 Karras levels
    (:func:`sida.noise.indexed_sigma`), and both terms are means over the elements of an image.

    Attributes:
        options: Noise levels.
        P_mean, P_std: Mean and standard deviation of ln σ of log-normal levels.

    Source: DMD (arXiv:2311.18828), algorithms 1 and 2; the levels of tianweiy/DMD2:main/edm/edm_guidance.py.
    """

    options: DMDOptions = dataclasses.field(default_factory=DMDOptions)
    P_mean: float = dataclasses.field(default=SiDLoss.P_mean, kw_only=True)
    P_std: float = dataclasses.field(default=SiDLoss.P_std, kw_only=True)

    def weights(self, pixels: int) -> dict[str, float]:
        """See :meth:`~sida.methods.method.ScoreLoss.weights`."""
        return {"kl": 1 / pixels, "denoising": self.lambda_fake_score / pixels}

    fake_score_draws = generator_draws = LeveledLoss.level_draws

    def generator_sigma(self, draws: Draws) -> Tensor:
        """Noise levels of the generator's step, float32 ``(N, 1, 1, 1)``."""
        return self._sigma(draws, self.options.generator_levels)

    def fake_score_sigma(self, draws: Draws) -> Tensor:
        """Noise levels of the fake score's step, float32 ``(N, 1, 1, 1)``."""
        return self._sigma(draws, self.options.fake_score_levels)

    def _sigma(self, draws: Draws, indices: tuple[int, int]) -> Tensor:
        if self.level_distribution is None:
            return indexed_sigma(draws["t"], *indices)
        return self.chosen_sigma(draws, self.P_mean, self.P_std)

    def generator_terms(self, true_score: Net, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """Term ``kl``, float32 ``(N', C, H, W)``."""
        x, sigma = batch.images, self.generator_sigma(batch.draws)
        with torch.no_grad():
            noisy = torch.addcmul(x, sigma, batch.draws["noise"])
        direction, x = batch.drop_nan(self.direction(true_score, fake_score, batch, noisy, sigma), x)
        return {"kl": halved_square(x, direction)}

    def direction(
        self, true_score: Net, fake_score: Net, batch: training.MicroBatch, noisy: Tensor, sigma: Tensor
    ) -> Tensor:
        """Direction g at noisy images and their levels, float32 ``(N, C, H, W)``, without gradient."""
        with torch.no_grad():
            true = true_score(noisy, sigma, batch.class_labels)
            fake = fake_score(noisy, sigma, batch.class_labels)
            if self.score_weight != "error":
                return (fake - true) / level_divisor(self.score_weight, sigma)
            return (fake - true) / (sample_means((batch.images - true).abs()) + self.options.error_eps)


def halved_square(images: Tensor, direction: Tensor) -> Tensor:
    """½ (x − stopgrad[x − g])² of images x and directions g, whose gradient is g at x."""
    return (images - (images - direction).detach()).square() / 2


def make_dmd(parts: Parts, **arguments: Any) -> training.Distiller:
    """Returns the trainer of teacher, fake score and generator, with decoupled weight decay (AdamW) of both.

    ``arguments`` are further arguments of :meth:`~sida.methods.method.Parts.distiller`.
    """
    options = parts.options
    return parts.distiller(
        schedule=parts.schedule(lr_rampup_kimg=options.lr_rampup_kimg),
        weight_decay=0.01,
        clip_norm=options.clip_norm,
        fake_score_clip_norm=options.fake_score_clip_norm,
        **arguments,
    )


DMD = Method(
    name="dmd",
    title="DMD without regression",
    about="the difference of the two scores, normalised for each image; no real images; starts from the teacher",
    saw=Exposure(),
    loss=DMDLoss,
    options=DMDOptions,
    reads=(*SCORE_TRAINING, "augment", "fake_score_weight_norm"),
    trainer=make_dmd,
    passes=Passes(generator=5),
    # The half-life of the average is short, because the official code has no average.
    official={"edm": {"betas": (0.9, 0.999), "init_sigma": 80.0, "dropout": 0.0, "ema_half_life_kimg": 500.0}},
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DMD2Options(DMDOptions):
    """Discriminator of DMD2, in addition to levels and optimizer. Defaults are official (ImageNet 64).

    Attributes:
        features: ``fake-score``: heads judge by the fake score's encoder, which learns from them, too; ``teacher``: by
            the frozen teacher's, and the heads alone learn.
        heads: ``last``: one head on the encoder's last block; ``all``: one on the last block of each resolution.
        gan_weight: Weight of the generator's adversarial term.
        discriminator_weight: Weight of the discriminator's term.
        weighted: Whether the fake score's loss is weighted over noise levels (``gamma``); else all levels weigh 1.
        own_draws: Whether generated images are judged at levels and with noise of their own; else as the two scores
            denoise them.
        same_noise: Whether real images get levels and noise of the generated ones; else their own.
        noisy: Whether images are judged with noise; else without, at the least level.
        r1_weight: Weight of the approximate R1 penalty; 0 leaves it out.
        r1_alpha: Standard deviation of that penalty's noise.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.r1_weight and self.r1_alpha != DMD2Options.r1_alpha:
            raise SettingError("r1_alpha", "has no effect without r1_weight", "set that, or remove it")

    @property
    def unread(self) -> frozenset[str]:
        """Settings that a method with these options does not read."""
        return frozenset() if self.weighted else frozenset({"gamma", "sigma_data"})

    @property
    def passes(self) -> Passes:
        """Work of a method with these options: the encoder judges a generated and a real image, and R1's."""
        # A frozen teacher's encoder has no backward pass, which counts as two more.
        images, passes = 3 if self.r1_weight else 2, 1 if self.features == "teacher" else 3
        return Passes(generator=5, generator_encoder=2, fake_score_encoder=images * passes)


@dataclasses.dataclass(eq=False)
class DMD2Loss(DMDLoss):
    """Losses of DMD2, whose fake score also gives logits ℓ of noisy images (``return_flag="logits"``, one per head).

        gan           = mean softplus(−ℓ(x_σ))                                         (generator)
        discriminator = mean [softplus(ℓ(x_σ)) + softplus(−ℓ(y_σ))]                    (with the fake score)
        r1            = mean (ℓ(y_σ) − ℓ(y + α n))²                                    (with the fake score, optional)

    The other terms, ``kl`` and ``denoising``, are as in :class:`DMDLoss`; means are over an image's heads.

    Attributes:
        options: Weights of the terms, and the discriminator's inputs.

    Source: DMD2 (arXiv:2405.14867), equation 5; tianweiy/DMD2:main/edm/edm_guidance.py. Shared draws and the penalty:
    NVlabs/FastGen:fastgen/methods/distribution_matching/dmd2.py.
    """

    uses_real_images = True

    options: DMD2Options = dataclasses.field(default_factory=DMD2Options)

    @property
    def draw_prefixes(self) -> tuple[str, str]:
        """Prefixes of the discriminator's draws for generated and for real images, e.g. ``fake_`` of ``fake_noise``."""
        fake = "fake_" if self.options.own_draws else ""
        return fake, fake if self.options.same_noise else "real_"

    def generator_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.generator_draws`."""
        prefixes = ("", self.draw_prefixes[0]) if self.options.noisy else ("",)
        return {f"{prefix}{name}": kind for prefix in prefixes for name, kind in self.level_draws().items()}

    def fake_score_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.fake_score_draws`."""
        real = {f"{self.draw_prefixes[1]}{name}": kind for name, kind in self.level_draws().items()}
        real = real if self.options.noisy else {}
        return self.generator_draws() | real | ({"r1_noise": unit_noise} if self.options.r1_weight else {})

    def discriminator_input(self, images: Tensor, prefix: str, sigma: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Noisy images for the discriminator ``(N, C, H, W)``, and their levels ``(N, 1, 1, 1)``.

        Args:
            images: Generated or real images ``(N, C, H, W)``.
            prefix: One of :attr:`draw_prefixes`; ``""`` takes the level and noise of the scores.
            sigma: Levels of the scores ``(N, 1, 1, 1)``.
            draws: All draws of the micro-batch.
        """
        if not self.options.noisy:
            return images, images.new_full((len(images), 1, 1, 1), SIGMA_MIN)
        own_draws = {name.removeprefix(prefix): draw for name, draw in draws.items() if name.startswith(prefix)}
        level = self.fake_score_sigma(own_draws) if prefix else sigma
        return torch.addcmul(images, level, draws[f"{prefix}noise"]), level

    def weights(self, pixels: int) -> dict[str, float]:
        """See :meth:`~sida.methods.method.ScoreLoss.weights`."""
        options = self.options
        extra_weights = {
            "gan": options.gan_weight,
            "discriminator": options.discriminator_weight,
            "r1": options.r1_weight,
        }
        return super().weights(pixels) | extra_weights

    def weight(self, sigma: Tensor) -> Tensor:
        """w(σ), the shape of ``sigma``."""
        return super().weight(sigma) if self.options.weighted else torch.ones_like(sigma)

    def generator_terms(self, true_score: Net, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """Terms ``kl``, float32 ``(N', C, H, W)``, and ``gan``, float32 ``(N',)``."""
        x, sigma = batch.images, self.generator_sigma(batch.draws)
        noisy = torch.addcmul(
            x, sigma, batch.draws["noise"]
        ).detach()  # the discriminator's input below keeps its gradient
        direction = self.direction(true_score, fake_score, batch, noisy, sigma)
        views = self.discriminator_input(x, self.draw_prefixes[0], sigma, batch.draws)
        logits = fake_score(*views, batch.class_labels, return_flag="logits")
        direction, logits, x, sigma = batch.drop_nan(direction, logits, x, sigma)
        direction = direction * self.image_weights(logits.detach(), sigma, batch)
        return {"kl": halved_square(x, direction), "gan": torch.nn.functional.softplus(-logits).mean(1)}

    def image_weights(self, logits: Tensor, sigma: Tensor, batch: training.MicroBatch) -> Tensor | float:
        """Weight of each image's ``kl``, ``(N', 1, 1, 1)``: 1."""
        return 1.0

    def fake_score_terms(self, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """Terms ``denoising`` ``(N', C, H, W)``, ``discriminator`` ``(N',)`` and, if weighted, ``r1`` ``(N',)``.

        Real and generated images pass the encoder together, which is exact because samples never interact.
        """
        x, labels, real, draws = batch.images, batch.class_labels, batch.real_images, batch.draws
        assert real is not None
        sigma, softplus = self.fake_score_sigma(draws), torch.nn.functional.softplus
        noisy = torch.addcmul(x, sigma, draws["noise"])
        assert real.shape == x.shape
        error = fake_score(noisy, sigma, labels) - self.target(x, noisy, sigma)
        sides = [
            self.discriminator_input(images, prefix, sigma, draws)
            for images, prefix in zip((x, real), self.draw_prefixes)
        ]
        views, levels = (torch.cat(both) for both in zip(*sides))
        logits = fake_score(views, levels, both_labels(labels, labels), return_flag="logits")
        unmasked = logits.chunk(2)
        error, fake_logits, real_logits, weight = batch.drop_nan(error, *unmasked, self.weight(sigma))
        discriminator = (softplus(fake_logits) + softplus(-real_logits)).mean(1)
        terms = {"denoising": weight * error.square(), "discriminator": discriminator}
        if self.options.r1_weight:
            noisy_real = real + self.options.r1_alpha * draws["r1_noise"]
            change = unmasked[1] - fake_score(noisy_real, sides[1][1], labels, return_flag="logits")
            terms["r1"] = batch.select_valid(change.square().mean(1))[0]
        return terms


def make_dmd2(parts: Parts, bins: int = 0) -> training.Distiller:
    """Returns the trainer whose fake score has heads, and a buffer ``ratios`` of length ``bins`` (0: no buffer)."""
    options = parts.options
    teacher = parts.teacher if options.features == "teacher" else None
    with parts.seeded("discriminator"):
        score = networks.FakeScoreWithHeads(parts.copy(parts.teacher), teacher, options.heads == "all", bins)
    # Ratios are summed over processes inside the loss; a recorded CUDA graph must not contain that communication.
    return make_dmd(parts, fake_score=score, graphs=not bins)


DMD2 = dataclasses.replace(
    DMD,
    name="dmd2",
    title="DMD2",
    about="distribution matching and a discriminator on the fake score's encoder; starts from the teacher",
    real_images=True,
    saw=Exposure(),
    loss=DMD2Loss,
    options=DMD2Options,
    reads=SCORE_TRAINING,
    trainer=make_dmd2,
)
