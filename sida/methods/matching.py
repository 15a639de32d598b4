"""Losses of Diff-Instruct, DMD, DMD2, f-distill and Uni-Instruct, and trainers: matching of two scores.

Scores carry no gradients. DMD2 adds a discriminator of noisy images on the fake score's features. f-distill matches by
any f-divergence: images are weighted by a function of the density ratio, which the discriminator estimates.
Uni-Instruct weights SiDA's term in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch.nn.functional import softplus

from sida.config.recipe import EDM_P_MEAN, EDM_P_STD, ResolvedConfig
from sida.discriminator.backbones import FakeScoreWithHeads
from sida.losses.sid import SiDLoss
from sida.losses.sida import LOGIT_LIMIT, SiDALoss
from sida.losses.terms import (
    SIGMA_MAX,
    SIGMA_MIN,
    Draws,
    MicroBatch,
    Net,
    ScoreLoss,
    Terms,
    dropped_count,
    finite_mask,
    indexed_sigma,
    keep,
    lognormal_sigma,
    mean_of_kept,
    sigma_normal,
    uniform,
    unit_noise,
)
from sida.machine import derive_seed
from sida.methods.distiller import Distiller, Parts, make_score_distiller
from sida.methods.dmd import DMD2Options, DMDOptions
from sida.methods.f_distill import Divergence, FDistillOptions


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

    P_mean: float = EDM_P_MEAN
    P_std: float = EDM_P_STD

    @classmethod
    def of(cls, recipe: ResolvedConfig, options: Any = None, /, **own: Any) -> Self:
        """See :meth:`~sida.losses.terms.ScoreLoss.of`."""
        return super().of(recipe, **{"P_mean": recipe.P_mean, "P_std": recipe.P_std, **own})

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """See :meth:`~sida.losses.terms.ScoreLoss.weights`; as in SiD, terms are sums over the elements of an image."""
        return {"kl": 1.0, "denoising": settings["lambda_fake_score"]}

    def generator_draws(self) -> tuple[str, ...]:
        """See :meth:`~sida.losses.terms.ScoreLoss.generator_draws`."""
        return ("sigma_normal",)

    def generator_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of both steps, float32 ``(N, 1, 1, 1)``: log-normal."""
        return lognormal_sigma(sigma_normal(draws, images), self.P_mean, self.P_std)

    fake_score_sigma = generator_sigma

    def generator_terms(self, true_score: Net, fake_score: Net, given: MicroBatch) -> Terms:
        """Term ``kl``, float32 ``(N', C, H, W)``."""
        images, class_labels, draws = given.images, given.class_labels, given.draws
        sigma = self.generator_sigma(images, draws)
        with torch.no_grad():
            noisy = torch.addcmul(images, sigma, unit_noise(draws, images))
            difference = fake_score(noisy, sigma, class_labels) - true_score(noisy, sigma, class_labels)
        mask = finite_mask(difference)
        images, difference = keep(mask, images, difference)
        return Terms({"kl": images * difference}, dropped_count(mask))


@dataclasses.dataclass(eq=False)
class DMDLoss(ScoreLoss):
    """Losses of DMD without its regression term. With images x = G(z) and noise n of level σ:

        kl = ½ (x − stopgrad[x − g])²,    g = (f_ψ − f_φ) / mean |x − f_φ|              (generator)

    The gradient of ``kl`` is g; the fake score's ``denoising`` is SiD's at other levels. σ is one of 1000 Karras levels
    (:func:`sida.losses.terms.indexed_sigma`), and both terms are means over the elements of an image.

    Attributes:
        options: Noise levels.

    Source: DMD (arXiv:2311.18828), algorithms 1 and 2; the levels of tianweiy/DMD2:main/edm/edm_guidance.py.
    """

    options: DMDOptions = dataclasses.field(default_factory=DMDOptions)

    @classmethod
    def of(cls, recipe: ResolvedConfig, options: Any = None, /, **own: Any) -> Self:
        """See :meth:`~sida.losses.terms.ScoreLoss.of`."""
        return super().of(recipe, **{"options": options, **own})

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """See :meth:`~sida.losses.terms.ScoreLoss.weights`."""
        return {"kl": 1 / pixels, "denoising": settings["lambda_fake_score"] / pixels}

    def fake_score_draws(self) -> tuple[str, ...]:
        """See :meth:`~sida.losses.terms.ScoreLoss.fake_score_draws`."""
        return ("t",)

    def generator_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of the generator's step, float32 ``(N, 1, 1, 1)``."""
        return indexed_sigma(uniform(draws, images), *self.options.generator_levels)

    def fake_score_sigma(self, images: torch.Tensor, draws: Draws | None = None) -> torch.Tensor:
        """Noise levels of the fake score's step, float32 ``(N, 1, 1, 1)``."""
        return indexed_sigma(uniform(draws, images), *self.options.fake_score_levels)

    def generator_terms(self, true_score: Net, fake_score: Net, given: MicroBatch) -> Terms:
        """Term ``kl``, float32 ``(N', C, H, W)``."""
        images, draws = given.images, given.draws
        sigma = self.generator_sigma(images, draws)
        with torch.no_grad():
            noisy = torch.addcmul(images, sigma, unit_noise(draws, images))
        direction = self.direction(true_score, fake_score, given, noisy, sigma)
        mask = finite_mask(direction)
        return Terms({"kl": halved_square(*keep(mask, images, direction))}, dropped_count(mask))

    @property
    def error_eps(self) -> float:
        """Constant added to the divisor of g."""
        return 0.0

    def direction(
        self, true_score: Net, fake_score: Net, given: MicroBatch, noisy: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
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


def halved_square(images: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """``½ (x − stopgrad[x − g])²`` per element, with value ½ g² and gradient g at x."""
    return (images - (images - direction).detach()).square() / 2


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
    def error_eps(self) -> float:
        """See :attr:`DMDLoss.error_eps`."""
        return self.options.error_eps

    def generator_draws(self) -> tuple[str, ...]:
        """See :meth:`~sida.losses.terms.ScoreLoss.generator_draws`."""
        return ("t", "fake_t", "fake_noise") if self.options.own_draws and self.options.noisy else ("t",)

    def fake_score_draws(self) -> tuple[str, ...]:
        """See :meth:`~sida.losses.terms.ScoreLoss.fake_score_draws`."""
        real = ("real_t", "real_noise") if self.options.noisy and not self.options.same_noise else ()
        return (*self.generator_draws(), *real, *(("r1_noise",) if self.options.r1_weight else ()))

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """See :meth:`~sida.losses.terms.ScoreLoss.weights`."""
        more = {"gan": self.options.gan_weight, "discriminator": self.options.discriminator_weight}
        return (
            super().weights(settings, pixels)
            | more
            | ({"r1": self.options.r1_weight} if self.options.r1_weight else {})
        )

    def weight(self, sigma: torch.Tensor) -> torch.Tensor:
        """w(σ), the shape of ``sigma``."""
        return super().weight(sigma) if self.options.weighted else torch.ones_like(sigma)

    def generator_terms(self, true_score: Net, fake_score: Net, given: MicroBatch) -> Terms:
        """Terms ``kl``, float32 ``(N', C, H, W)``, and ``gan``, float32 ``(N',)``."""
        images, class_labels, draws = given.images, given.class_labels, given.draws
        sigma = self.generator_sigma(images, draws)
        noisy = torch.addcmul(images, sigma, unit_noise(draws, images))
        direction = self.direction(true_score, fake_score, given, noisy.detach(), sigma)
        logits = fake_score(*self._judged(images, draws, noisy, sigma), class_labels, return_flag="logits")
        direction = direction * self.image_weights(logits.detach(), sigma)
        mask = finite_mask(direction, logits)
        images, direction, logits = keep(mask, images, direction, softplus(-logits))
        return Terms({"kl": halved_square(images, direction), "gan": logits.mean(1)}, dropped_count(mask))

    def image_weights(self, logits: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor | float:
        """Weight of each image's ``kl``, ``(N, 1, 1, 1)``: 1."""
        return 1.0

    def fake_score_terms(self, fake_score: Net, given: MicroBatch) -> Terms:
        """Terms ``denoising`` ``(N', C, H, W)``, ``discriminator`` ``(N',)`` and, if weighted, ``r1`` ``(N',)``.

        Real and generated images pass the encoder together, which is exact because samples never interact.
        """
        images, class_labels, real_images, _, draws = given
        assert real_images is not None
        sigma = self.fake_score_sigma(images, draws)
        noise = unit_noise(draws, images)
        noisy = torch.addcmul(images, sigma, noise)
        error = fake_score(noisy, sigma, class_labels) - images
        fake_side = self._judged(images, draws, noisy, sigma)
        real_side = (
            (torch.addcmul(real_images, sigma, noise), sigma)
            if self.options.same_noise
            else self._noised(real_images, draws, "real")
        )
        logits = fake_score(
            torch.cat([fake_side[0], real_side[0]]),
            torch.cat([fake_side[1], real_side[1]]),
            None if class_labels is None else torch.cat([class_labels, class_labels]),
            return_flag="logits",
        )
        of_fake, of_real = logits.chunk(2)
        mask = finite_mask(error, of_fake, of_real)
        judged = (softplus(of_fake) + softplus(-of_real)).mean(1)
        error, weight, judged = keep(mask, error, self.weight(sigma), judged)
        terms = {"denoising": weight * error.square(), "discriminator": judged}
        if self.options.r1_weight:
            near = real_images + self.options.r1_alpha * unit_noise(draws, real_images, "r1_noise")
            change = of_real - fake_score(near, real_side[1], class_labels, return_flag="logits")
            terms["r1"] = keep(mask, change.square().mean(1))[0]
        return Terms(terms, dropped_count(mask))

    def _judged(
        self, images: torch.Tensor, draws: Draws | None, noisy: torch.Tensor, sigma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Generated images as the discriminator sees them, and their levels."""
        return self._noised(images, draws, "fake") if self.options.own_draws else (noisy, sigma)

    def _noised(self, images: torch.Tensor, draws: Draws | None, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Images with the noise of the draws of this name, and their levels ``(N, 1, 1, 1)``."""
        if not self.options.noisy:
            return images, images.new_full((len(images), 1, 1, 1), SIGMA_MIN)
        sigma = indexed_sigma(uniform(draws, images, f"{name}_t"), *self.options.fake_score_levels)
        return torch.addcmul(images, sigma, unit_noise(draws, images, f"{name}_noise")), sigma


_EPS = 1e-6


def divergence_weight(ratio: torch.Tensor, divergence: Divergence) -> torch.Tensor:
    """Weight ``h = r² f''(r)``, up to a factor, of the direction of the reverse KL in f-distill.

    Args:
        ratio: r = p_data / p_generator, above 0, any shape.
        divergence: Name of the f-divergence.

    Source: f-distill (arXiv:2502.15681), Table 1; NVlabs/FastGen:fastgen/methods/distribution_matching/f_distill.py.
    """
    weights: dict[str, Callable[[], torch.Tensor]] = {
        "rkl": lambda: torch.ones_like(ratio),
        "kl": lambda: ratio,
        "js": lambda: ratio / (1 + ratio),
        "sf": lambda: 1 / (1 + ratio),
        "sh": ratio.sqrt,
        "neyman": lambda: 1 / ratio.clamp_min(1e-8),
        "jf": lambda: 1 + ratio,
    }
    return weights[divergence]()


def density_ratio(logits: torch.Tensor, bounds: tuple[float, float]) -> torch.Tensor:
    """p_data / p_generator by a discriminator's logits, of their shape, within ``bounds``."""
    # The first clamp keeps exp finite.
    return logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT).exp().clamp(*bounds)


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
    means: torch.Tensor = dataclasses.field(default_factory=lambda: torch.ones(10))
    add_up: Callable[[torch.Tensor], object] | None = None

    @torch.no_grad()
    def image_weights(self, logits: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Weight h / mean h of each image, float32 ``(N, 1, 1, 1)``; updates the running means."""
        ratio = density_ratio(logits.mean(1), self.options.ratio_range)
        # Images with NaN are dropped later; they must change neither the other images nor the running means.
        whole = ratio.isfinite().to(ratio.dtype)
        ratio = ratio.nan_to_num(1.0)
        if self.options.normalised:
            ratio = ratio / (self._running_means(ratio, whole, sigma.flatten()) + _EPS)
        weight = divergence_weight(ratio, self.options.divergence)
        mean = (weight * whole).sum() / whole.sum().clamp_min(1)
        return (weight / (mean + _EPS)).view(-1, 1, 1, 1)

    def _running_means(self, ratio: torch.Tensor, whole: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Updates the running means by the images with ``whole`` = 1; returns each image's mean ``(N,)``."""
        bins = len(self.means)
        places = ((sigma - SIGMA_MIN) * (bins / (SIGMA_MAX - SIGMA_MIN))).long().clamp(0, bins - 1)
        # A product gives the same sums in each run, index_add_ on a GPU does not.
        inside = (places[:, None] == torch.arange(bins, device=places.device)).to(ratio.dtype)
        sums = torch.stack([ratio * whole, whole]) @ inside
        if self.add_up is not None:
            self.add_up(sums)
        moved = self.means * self.options.decay + (sums[0] / (sums[1] + _EPS)) * (1 - self.options.decay)
        self.means.copy_(torch.where(sums[1] > 0, moved, self.means))
        return self.means[places]


def make_dmd2(parts: Parts, bins: int = 0) -> Distiller:
    """Teacher, fake score with heads, and generator of a configuration.

    Args:
        parts: Settings and networks.
        bins: Length of the buffer ``ratios`` beside the heads; 0 is none.
    """
    options = parts.options
    teacher = parts.teacher if options.features == "teacher" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(parts.config.seed, "discriminator"))
        score = FakeScoreWithHeads(parts.copy(parts.teacher, None), teacher, options.heads == "all", bins)
    # Ratios are added up over processes within a step, which a recorded graph should not do.
    return make_score_distiller(parts, fake_score=score, psi_steps=options.fake_score_steps, graphs=not bins)


def make_f_distill(parts: Parts) -> Distiller:
    """Returns DMD2's trainer with running means of the density ratios, which are a buffer of the fake score."""
    distiller = make_dmd2(parts, parts.options.bins)
    loss: Any = distiller.loss
    network = distiller.fake_score
    loss.means = network.net.get_buffer("ratios")
    loss.add_up = lambda values: network.ranks.add_up(values)
    return distiller


def expansion_weight(ratio: torch.Tensor, divergence: str) -> torch.Tensor:
    """Weight ``w = r² f''(r)`` of the SiD term; for ``jeffreys`` the mixture 0.6 + 0.4 r of the released code.

    Args:
        ratio: r = p_data / p_generator, any shape.
        divergence: Name of the f-divergence.

    Source: Uni-Instruct (arXiv:2505.20755), theorem 3.1; a-little-hoof/Uni_Instruct:fsim_training
        (commit 3cdf92e8).
    """
    weights: dict[str, Callable[[], torch.Tensor]] = {
        "forward-kl": lambda: ratio,
        "reverse-kl": lambda: torch.ones_like(ratio),
        "jeffreys": lambda: 0.6 + 0.4 * ratio,
        "chi-square": lambda: 2 * ratio.square(),
        "jensen-shannon": lambda: ratio / (1 + ratio),
    }
    return weights[divergence]()


@dataclasses.dataclass(eq=False)
class UniInstructLoss(SiDALoss):
    """SiDA's losses with a further term ``weighted_sid = w(r) sid``, which replaces ``sid`` in the adversarial phase.

    With the adversarial term L of an image, times C·H·W, and its logits l, averaged over positions:

        released   r = L / (L − 1), without gradient          (−log D in the place of D: r is 1 unless D is above 0.999)
        logits     r = clamp(exp l) / mean, then w / mean     (ours: means over the images, as in f-distill)

    Attributes:
        divergence: Name of the f-divergence, see :func:`expansion_weight`.
        ratio: Estimate of the density ratio.
        variance_reduction: Whether a ``released`` ratio is divided by the sum over the micro-batch.

    Source: a-little-hoof/Uni_Instruct:fsim_training/fsim_training_loop.py (``released``); docs/differences.md.
    """

    divergence: str = "forward-kl"
    ratio: str = "released"
    variance_reduction: bool = False

    @classmethod
    def of(cls, recipe: ResolvedConfig, options: Any = None, /, **own: Any) -> Self:
        """See :meth:`~sida.losses.terms.ScoreLoss.of`."""
        # Neither α, which is 1, nor the pool of the logits, which is the batch, is a setting of the method.
        shared = {"t_max": recipe.t_max, "P_mean": recipe.P_mean, "P_std": recipe.P_std}
        return super(SiDLoss, cls).of(recipe, **shared, **({} if options is None else vars(options)), **own)

    def weights(self, settings: Mapping[str, float], pixels: int) -> dict[str, float]:
        """See :meth:`~sida.losses.terms.ScoreLoss.weights`; ``weighted_sid`` has the factor of ``sid``."""
        return super().weights(settings, pixels) | {"weighted_sid": settings["lambda_sid"]}

    def further_terms(
        self, sid: torch.Tensor, adversarial: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """See :meth:`SiDALoss.further_terms`."""
        if self.ratio == "released":
            weight = expansion_weight(self.released_ratio(adversarial * sid[0].numel()), self.divergence)
        else:
            (ratio,) = keep(mask, logits.detach().mean(dim=(1, 2, 3), keepdim=True))
            ratio = density_ratio(ratio, FDistillOptions.ratio_range)
            weight = expansion_weight(ratio / mean_of_kept(mask, ratio), self.divergence)
            weight = weight / mean_of_kept(mask, weight)
        return {"weighted_sid": weight * sid}

    def released_ratio(self, adversarial: torch.Tensor) -> torch.Tensor:
        """The released code's ratio, from the adversarial term times C·H·W; any shape."""
        loss = adversarial.detach()
        ratio = loss / (loss - 1)
        return ratio / (ratio.sum() + 1e-8) if self.variance_reduction else ratio


def make_uni_instruct(parts: Parts) -> Distiller:
    """Returns SiDA's trainer with both terms in full in the adversarial phase."""
    distiller = make_score_distiller(parts)
    distiller.schedule = dataclasses.replace(distiller.schedule, sid_share=0.0)
    return distiller
