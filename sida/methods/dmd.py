"""Diff-Instruct, DMD (without regression), DMD2 and f-distill: the generator follows the difference of two scores.

φ is the teacher, ψ the fake score, θ the generator. Scores carry no gradients. DMD divides the difference by the
teacher's error of each image. DMD2 adds heads that discriminate noisy images, on the fake score's encoder or on the
teacher's. f-distill weighs the images by a function of the density ratio, which these heads estimate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

from sida import networks, training
from sida.config.recipe import StudentConfig
from sida.config.settings import Count, Fraction, NotNegative, Positive, Range, Settings
from sida.errors import SettingError
from sida.late import Tensor, torch
from sida.methods.levels import LeveledLoss, level_divisor
from sida.methods.method import SCORE_TRAINING, Method, Net, Parts, Passes, RawTerms, Saw, ScoreLoss
from sida.methods.sid import RATIO_RANGE, SiDLoss, both_labels, density_ratio, of_each
from sida.noise import SIGMA_MAX, SIGMA_MIN, Draw, Draws, indexed_sigma, lognormal_sigma, unit_noise


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

    def generator_terms(self, true_score: Net, fake_score: Net, given: training.MicroBatch) -> RawTerms:
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
    saw=Saw(),
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
        clip_norm: Largest norm of the generator's gradient; 0 means no clipping.
        fake_score_clip_norm: Largest norm of the gradient of the fake score and its heads; 0 means no clipping.
        lr_rampup_kimg: Thousands of images over which the rates rise linearly from 0 (500 steps in the official code);
            0 means no ramp-up.
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
        """Refuses indices of levels beside another distribution of levels."""
        given = {"generator_levels", "fake_score_levels"} & config.options.keys()
        if config.level_distribution is not None and given:
            raise SettingError(f"options.{min(given)}", "has no effect with level_distribution", "remove one of them")

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

    def generator_terms(self, true_score: Net, fake_score: Net, given: training.MicroBatch) -> RawTerms:
        """Term ``kl``, float32 ``(N', C, H, W)``."""
        x, sigma = given.images, self.generator_sigma(given.draws)
        with torch.no_grad():
            noisy = torch.addcmul(x, sigma, given.draws["noise"])
        direction, x = given.whole(self.direction(true_score, fake_score, given, noisy, sigma), x)
        return {"kl": halved_square(x, direction)}

    def direction(
        self, true_score: Net, fake_score: Net, given: training.MicroBatch, noisy: Tensor, sigma: Tensor
    ) -> Tensor:
        """Direction g at noisy images and their levels, float32 ``(N, C, H, W)``, without gradient."""
        with torch.no_grad():
            true = true_score(noisy, sigma, given.class_labels)
            fake = fake_score(noisy, sigma, given.class_labels)
            if self.score_weight != "error":
                return (fake - true) / level_divisor(self.score_weight, sigma)
            return (fake - true) / (of_each((given.images - true).abs()) + self.options.error_eps)


def halved_square(images: Tensor, direction: Tensor) -> Tensor:
    """½ (x − stopgrad[x − g])² of images x and directions g, whose gradient is g at x."""
    return (images - (images - direction).detach()).square() / 2


def make_dmd(parts: Parts, **ways: Any) -> training.Distiller:
    """Returns the trainer of teacher, fake score and generator, with decoupled weight decay (AdamW) of both.

    ``ways`` are further arguments of :meth:`~sida.methods.method.Parts.distiller`.
    """
    options = parts.options
    return parts.distiller(
        schedule=parts.schedule(options.lr_rampup_kimg),
        weight_decay=0.01,
        clip_norm=options.clip_norm,
        fake_score_clip_norm=options.fake_score_clip_norm,
        **ways,
    )


DMD = Method(
    name="dmd",
    title="DMD without regression",
    about="the difference of the two scores, normalised for each image; no real images; starts from the teacher",
    saw=Saw(),
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
    """Discriminator of DMD2, beside levels and optimizer. Values left out are official (ImageNet 64).

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

    @property
    def unread(self) -> frozenset[str]:
        """Settings that a method with these options does not read."""
        return frozenset() if self.weighted else frozenset({"gamma", "sigma_data"})

    @property
    def passes(self) -> Passes:
        """Work of a method with these options: the encoder judges a generated and a real image, and R1's."""
        images, each = 3 if self.r1_weight else 2, 1 if self.features == "teacher" else 3
        return Passes(generator=5, generator_encoder=2, fake_score_encoder=images * each)


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

    options: DMD2Options = dataclasses.field(default_factory=DMD2Options)

    @property
    def seen(self) -> tuple[str, str]:
        """Prefixes of the names of the draws with which generated and real images are judged."""
        fake = "fake_" if self.options.own_draws else ""
        return fake, fake if self.options.same_noise else "real_"

    def generator_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.generator_draws`."""
        prefixes = ("", self.seen[0]) if self.options.noisy else ("",)
        return {f"{of}{name}": kind for of in prefixes for name, kind in self.level_draws().items()}

    def fake_score_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.fake_score_draws`."""
        real = {f"{self.seen[1]}{name}": kind for name, kind in self.level_draws().items()}
        of_real = real if self.options.noisy else {}
        return self.generator_draws() | of_real | ({"r1_noise": unit_noise} if self.options.r1_weight else {})

    def judged(self, images: Tensor, of: str, sigma: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Images as the discriminator sees them, and their levels ``(N, 1, 1, 1)``.

        ``of`` says by which draws (:attr:`seen`); without a name by those of the scores, at their levels ``sigma``.
        """
        if not self.options.noisy:
            return images, images.new_full((len(images), 1, 1, 1), SIGMA_MIN)
        own = {name.removeprefix(of): draw for name, draw in draws.items() if name.startswith(of)}
        level = self.fake_score_sigma(own) if of else sigma
        return torch.addcmul(images, level, draws[f"{of}noise"]), level

    def weights(self, pixels: int) -> dict[str, float]:
        """See :meth:`~sida.methods.method.ScoreLoss.weights`."""
        options = self.options
        more = {"gan": options.gan_weight, "discriminator": options.discriminator_weight, "r1": options.r1_weight}
        return super().weights(pixels) | more

    def weight(self, sigma: Tensor) -> Tensor:
        """w(σ), the shape of ``sigma``."""
        return super().weight(sigma) if self.options.weighted else torch.ones_like(sigma)

    def generator_terms(self, true_score: Net, fake_score: Net, given: training.MicroBatch) -> RawTerms:
        """Terms ``kl``, float32 ``(N', C, H, W)``, and ``gan``, float32 ``(N',)``."""
        x, sigma = given.images, self.generator_sigma(given.draws)
        noisy = torch.addcmul(x, sigma, given.draws["noise"]).detach()
        direction = self.direction(true_score, fake_score, given, noisy, sigma)
        seen = self.judged(x, self.seen[0], sigma, given.draws)
        logits = fake_score(*seen, given.class_labels, return_flag="logits")
        direction, logits, x, sigma = given.whole(direction, logits, x, sigma)
        direction = direction * self.image_weights(logits.detach(), sigma, given)
        return {"kl": halved_square(x, direction), "gan": torch.nn.functional.softplus(-logits).mean(1)}

    def image_weights(self, logits: Tensor, sigma: Tensor, given: training.MicroBatch) -> Tensor | float:
        """Weight of each image's ``kl``, ``(N', 1, 1, 1)``: 1."""
        return 1.0

    def fake_score_terms(self, fake_score: Net, given: training.MicroBatch) -> RawTerms:
        """Terms ``denoising`` ``(N', C, H, W)``, ``discriminator`` ``(N',)`` and, if weighted, ``r1`` ``(N',)``.

        Real and generated images pass the encoder together, which is exact because samples never interact.
        """
        x, labels, real, draws = given.images, given.class_labels, given.real_images, given.draws
        assert real is not None
        sigma, softplus = self.fake_score_sigma(draws), torch.nn.functional.softplus
        noisy = torch.addcmul(x, sigma, draws["noise"])
        error = fake_score(noisy, sigma, labels) - self.target(x, noisy, sigma)
        sides = [self.judged(images, of, sigma, draws) for images, of in zip((x, real), self.seen)]
        seen, levels = (torch.cat(both) for both in zip(*sides))
        logits = fake_score(seen, levels, both_labels(labels, labels), return_flag="logits")
        unmasked = logits.chunk(2)
        error, of_fake, of_real, weight = given.whole(error, *unmasked, self.weight(sigma))
        discriminator = (softplus(of_fake) + softplus(-of_real)).mean(1)
        terms = {"denoising": weight * error.square(), "discriminator": discriminator}
        if self.options.r1_weight:
            near = real + self.options.r1_alpha * draws["r1_noise"]
            change = unmasked[1] - fake_score(near, sides[1][1], labels, return_flag="logits")
            terms["r1"] = given.kept(change.square().mean(1))[0]
        return terms


def make_dmd2(parts: Parts, bins: int = 0) -> training.Distiller:
    """Returns the trainer with heads beside the fake score, and a buffer ``ratios`` of this length; 0 is none."""
    options = parts.options
    teacher = parts.teacher if options.features == "teacher" else None
    with parts.seeded("discriminator"):
        score = networks.FakeScoreWithHeads(parts.copy(parts.teacher), teacher, options.heads == "all", bins)
    # Ratios are added up over processes within a step, which a recorded graph should not do.
    return make_dmd(parts, fake_score=score, graphs=not bins)


DMD2 = dataclasses.replace(
    DMD,
    name="dmd2",
    title="DMD2",
    about="distribution matching and a discriminator on the fake score's encoder; starts from the teacher",
    real_images=True,
    saw=Saw(),
    loss=DMD2Loss,
    options=DMD2Options,
    reads=SCORE_TRAINING,
    trainer=make_dmd2,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FDistillOptions(DMD2Options):
    """Divergence and ratios of f-distill, in addition to DMD2's options. Defaults are those of FastGen (CIFAR-10).

    Attributes:
        divergence: ``rkl`` (reverse KL, which is DMD2), ``kl``, ``js`` (Jensen-Shannon), ``sf`` (softened reverse KL),
            ``sh`` (squared Hellinger), ``neyman`` or ``jf`` (Jeffreys).
        normalised: Whether to divide ratios by their running mean at similar noise levels.
        bins: Number of intervals of noise levels, each with its own running mean.
        decay: Share that a running mean keeps in a step; 0 takes the batch's mean.
        ratio_range: Smallest and largest ratio, before the division.
    """

    features: Literal["fake-score", "teacher"] = "teacher"
    heads: Literal["last", "all"] = "all"
    generator_levels: tuple[Level, Level] = (2, 998)
    fake_score_levels: tuple[Level, Level] = (2, 998)
    gan_weight: NotNegative = 1e-3
    discriminator_weight: NotNegative = 1.0
    fake_score_steps: Count = 4
    fake_score_clip_norm: NotNegative = 0.0
    weighted: bool = False
    own_draws: bool = False
    error_eps: NotNegative = 1e-6
    divergence: Literal["rkl", "kl", "js", "sf", "sh", "neyman", "jf"] = "kl"
    normalised: bool = True
    bins: Count = 10
    decay: Fraction = 0.0
    ratio_range: tuple[Positive, Positive] = RATIO_RANGE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.own_draws or not self.noisy:
            fault = "f-distill weighs the noisy images that the scores denoise"
            raise SettingError("own_draws", fault, "set it to false, and noisy to true")


#: Added to what ratios and their weights are divided by.
_EPS = 1e-6


def divergence_weight(ratio: Tensor, divergence: str) -> Tensor:
    """Weight ``h = r² f''(r)``, up to a factor, of the direction of the reverse KL in f-distill.

    Args:
        ratio: r = p_data / p_generator, above 0, any shape.
        divergence: Name of the f-divergence.

    Source: f-distill (arXiv:2502.15681), Table 1; NVlabs/FastGen:fastgen/methods/distribution_matching/f_distill.py.
    """
    return {
        "rkl": lambda: torch.ones_like(ratio),
        "kl": lambda: ratio,
        "js": lambda: ratio / (1 + ratio),
        "sf": lambda: 1 / (1 + ratio),
        "sh": lambda: ratio.sqrt(),
        "neyman": lambda: 1 / ratio.clamp_min(1e-8),
        "jf": lambda: 1 + ratio,
    }[divergence]()


@dataclasses.dataclass(eq=False)
class FDistillLoss(DMD2Loss):
    """DMD2's losses with ``kl`` of each image multiplied by h(r) / mean h, r = exp(mean logit of the noisy image).

    First r is divided by its running mean over images of similar noise levels: level σ belongs to one of ``len(means)``
    equal intervals of [0.002, 80], and the mean v of an interval follows ``v ← ρ v + (1 − ρ) mean r``.

    Attributes:
        options: Divergence, ρ (``decay``), least and largest r (``ratio_range``), and whether r is divided
            (``normalised``).
        means: The running means v, changed in place, float32 ``(bins,)``.
        add_up: Function that sums a tensor over devices, in place; None for one device.

    Source: see :func:`divergence_weight`.
    """

    options: FDistillOptions = dataclasses.field(default_factory=FDistillOptions)
    means: Tensor = dataclasses.field(default_factory=lambda: torch.ones(10))
    add_up: Callable[[Tensor], object] | None = None

    def image_weights(self, logits: Tensor, sigma: Tensor, given: training.MicroBatch) -> Tensor:
        """Weight h / mean h of each image, float32 ``(N', 1, 1, 1)``; updates the running means."""
        with torch.no_grad():
            ratio = density_ratio(logits.mean(1), self.options.ratio_range)
            if self.options.normalised:
                ratio = ratio / (self._running_means(ratio, sigma.flatten(), given) + _EPS)
            weight = divergence_weight(ratio, self.options.divergence)
            return (weight / (given.mean(weight) + _EPS)).view(-1, 1, 1, 1)

    def _running_means(self, ratio: Tensor, sigma: Tensor, given: training.MicroBatch) -> Tensor:
        """Updates the running means; returns each image's mean ``(N',)``."""
        bins = len(self.means)
        places = ((sigma - SIGMA_MIN) * (bins / (SIGMA_MAX - SIGMA_MIN))).long().clamp(0, bins - 1)
        # A product gives the same sums in each run, index_add_ on a GPU does not.
        inside = (places[:, None] == torch.arange(bins, device=places.device)).to(ratio.dtype)
        sums = torch.stack([given.zeroed(ratio), given.zeroed(torch.ones_like(ratio))]) @ inside
        if self.add_up is not None:
            self.add_up(sums)
        moved = self.means * self.options.decay + (sums[0] / (sums[1] + _EPS)) * (1 - self.options.decay)
        self.means.copy_(torch.where(sums[1] > 0, moved, self.means))
        return self.means[places]


def make_f_distill(parts: Parts) -> training.Distiller:
    """Returns DMD2's trainer with running means of the density ratios, which are a buffer of the fake score."""
    distiller = make_dmd2(parts, parts.options.bins)
    loss, network = distiller.loss, distiller.fake_score
    loss.means, loss.add_up = network.net.get_buffer("ratios"), lambda values: network.ranks.add_up(values)
    return distiller


F_DISTILL = dataclasses.replace(
    DMD2,
    name="f-distill",
    title="f-distill",
    about="DMD2 whose discriminator weighs the images for an f-divergence; starts from the teacher",
    saw=Saw(),
    loss=FDistillLoss,
    options=FDistillOptions,
    trainer=make_f_distill,
)
