"""SiD, SiDA and SiD2A: the score identity loss, with an adversarial term in all but SiD.

φ is the teacher, ψ the fake score, which in SiDA is the discriminator, too, and θ the generator.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sida import training
from sida.config.recipe import OFFICIAL, WEIGHT_NORMS, Gamma, Pool, Recipe, TeacherTraining
from sida.late import Tensor, torch
from sida.methods.levels import ERROR_FLOOR, LeveledLoss, level_divisor
from sida.methods.method import SCORE_TRAINING, Exposure, Method, Net, Passes, RawTerms
from sida.noise import Draws, lognormal_sigma, score_weight, sigma_of_t

#: Bound of the logits in the generator's loss; beyond it the gradient is zero. The discriminator's loss has no bound.
LOGIT_LIMIT = 10.0


@dataclasses.dataclass(eq=False)
class SiDLoss(LeveledLoss):
    """Losses of SiD, which needs no real images.

    With images x = G(z), noise n of level σ, f_φ = D_φ(x + n; σ) of the teacher and f_ψ of the fake score:

        denoising = w(σ) (f_ψ − x)²                                                   (fake score)
        sid       = (f_φ − f_ψ) [(f_φ − x) − α (f_φ − f_ψ)] / mean |x − f_φ|          (generator)

    A derived loss may have another :meth:`target` than x and another :meth:`divisor`, in all terms.

    Attributes:
        alpha: α.
        t_max: Largest generator time in thousandths, in (0, 1000].
        P_mean: Mean of ln σ in the fake score's loss.
        P_std: Standard deviation of ln σ in the fake score's loss.
        lambda_sid: Weight of the generator's term.

    Further attributes: :class:`~sida.methods.levels.LeveledLoss` and :class:`~sida.methods.method.ScoreLoss`.

    Source: SiD (arXiv:2404.04057), equation 23 and algorithm 1; facts 1-7 of tests/golden/README.md.
    """

    alpha: float = 1.2
    t_max: float = Recipe.t_max
    P_mean: float = TeacherTraining.P_mean
    P_std: float = TeacherTraining.P_std
    lambda_sid: float = Recipe.lambda_sid

    def weights(self, pixels: int) -> dict[str, float]:
        """See :meth:`~sida.methods.method.ScoreLoss.weights`."""
        return {"sid": self.lambda_sid, "denoising": self.lambda_fake_score}

    def generator_sigma(self, draws: Draws) -> Tensor:
        """Noise levels of the generator's step, float32 ``(N, 1, 1, 1)``: by default t uniform in [0, t_max/1000)."""
        if self.level_distribution is not None:
            return self.chosen_sigma(draws, self.P_mean, self.P_std)
        return sigma_of_t(draws["t"] * self.t_max / 1000)

    def fake_score_sigma(self, draws: Draws) -> Tensor:
        """Noise levels of the fake score's step, float32 ``(N, 1, 1, 1)``: by default log-normal."""
        if self.level_distribution is not None:
            return self.chosen_sigma(draws, self.P_mean, self.P_std)
        return lognormal_sigma(draws["sigma_normal"], self.P_mean, self.P_std)

    def generator_terms(self, true_score: Net, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """Term ``sid``, float32 ``(N', C, H, W)``."""
        x, labels, sigma = batch.images, batch.class_labels, self.generator_sigma(batch.draws)
        assert sigma.shape == (len(x), 1, 1, 1)
        noisy = torch.addcmul(x, sigma, batch.draws["noise"])
        true, fake = true_score(noisy, sigma, labels), fake_score(noisy, sigma, labels)
        target = self.target(x, noisy, sigma)
        (sid,) = batch.drop_nan(self.identity(target, true, fake) / self.divisor(x, true, sigma))
        return {"sid": sid}

    def divisor(self, x: Tensor, true: Tensor, sigma: Tensor) -> Tensor:
        """Divisor of each image's terms of the generator, ``(N, 1, 1, 1)``, without gradient."""
        return mean_error(x, true) if self.score_weight == "error" else level_divisor(self.score_weight, sigma)

    def divided(self, true_score: Net, fake_score: Net, batch: training.MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
        """SiD's term, logits of ψ, and the divisor of the generator's terms, all with NaNs."""
        x, labels, sigma = batch.images, batch.class_labels, self.generator_sigma(batch.draws)
        assert sigma.shape == (len(x), 1, 1, 1)
        noisy = torch.addcmul(x, sigma, batch.draws["noise"])
        true = true_score(noisy, sigma, labels)
        fake, logits, logvar = self.evaluate(fake_score, noisy, sigma, labels)
        divisor = self.divisor(x, true, sigma)
        divisor = divisor if logvar is None else divisor * logvar.exp()
        return self.identity(self.target(x, noisy, sigma), true, fake) / divisor, logits, divisor

    def evaluate(
        self, fake_score: Net, noisy: Tensor, sigma: Tensor, class_labels: Tensor | None, **flags: Any
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """ψ's denoised images, its logits, and u of the denoised images, which EDM networks do not have."""
        return *fake_score(noisy, sigma, class_labels, return_flag="encoder_decoder", **flags), None

    def identity(self, x: Tensor, true: Tensor, fake: Tensor) -> Tensor:
        """(f_φ − f_ψ) [(f_φ − x) − α (f_φ − f_ψ)]."""
        difference = true - fake
        return difference * torch.add(true - x, difference, alpha=-self.alpha)


def mean_error(x: Tensor, true: Tensor) -> Tensor:
    """Mean |x − f_φ| of each sample, ``(N, 1, 1, 1)``, without gradient."""
    with torch.no_grad():
        return sample_means((x - true).abs()).clamp_min(ERROR_FLOOR)


@dataclasses.dataclass(eq=False)
class SiDALoss(SiDLoss):
    """SiD with an adversarial term; logits are the channel means of ψ's last encoder activation.

    The cross-entropies are averaged over the whole batch and all positions into *one* scalar ('in-batch fakeness'),
    which is then weighted per sample like the score terms:

        discriminator = w(σ) [BCE(logits_real, 1) + BCE(logits_fake, 0)] / 2
        adversarial   = BCE(clamp(logits_fake), 1) / mean |x − f_φ|

    Attributes:
        alpha: α; 1.0 in SiDA, 1.0 or 1.2 in SiD2A. The others of :class:`SiDLoss` are the same.
        pool: ``batch``: one scalar for all samples, as above; ``sample``: each sample's weight multiplies the sample's
            own mean.
        lambda_adv: Weight of the adversarial term, before the factor C·H·W.
        lambda_d: Weight of the discriminator term.
        discriminator_pixels: Whether that weight has the factor C·H·W, too, as in SiD-DiT's code.
        discriminator_gamma: Weight w(σ) of the discriminator term; None takes ``gamma``.

    Source: SiDA (arXiv:2410.14919), equations 6-10 as the official code has them (mingyuanzhou/SiD, branch sida).
    """

    uses_real_images = True
    #: Whether the generator's scalar leaves out samples with a NaN in their logits.
    drops_logits = False

    alpha: float = OFFICIAL["alpha"]
    pool: Pool = Recipe.adversarial_pool
    lambda_adv: float = Recipe.lambda_adv
    lambda_d: float = OFFICIAL["lambda_d"]
    discriminator_pixels: bool = False
    discriminator_gamma: Gamma | None = None

    def weights(self, pixels: int) -> dict[str, float]:
        """See :meth:`~sida.methods.method.ScoreLoss.weights`; the adversarial scalar has the factor C·H·W."""
        lambda_d = self.lambda_d * (pixels if self.discriminator_pixels else 1)
        return super().weights(pixels) | {"adversarial": self.lambda_adv * pixels, "discriminator": lambda_d}

    def generator_terms(self, true_score: Net, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """Terms ``sid`` and ``adversarial``, float32 ``(N', C, H, W)`` and ``(N', 1, 1, 1)``.

        On EDM networks a NaN in one sample's logits makes the whole adversarial term NaN, as in the official code (fact
        7): the batch's scalar pools all logits. Pooled per sample, or on EDM2 networks, the sample is dropped.
        """
        sid, logits, divisor = self.divided(true_score, fake_score, batch)
        if self.pool == "batch" and not self.drops_logits:
            # Fact 7: the mean is over the logits of all samples, also of those that the SiD term drops.
            sid, divisor = batch.drop_nan(sid, divisor)
            adversarial = fooling(logits).mean() / divisor
        else:
            sid, divisor, logits = batch.drop_nan(sid, divisor, logits)
            adversarial = self.averaged(fooling(logits), batch) / divisor
        return {"sid": sid, "adversarial": adversarial, **self.further_terms(sid, adversarial, logits, batch)}

    def further_terms(self, sid: Tensor, adversarial: Tensor, logits: Tensor, batch: training.MicroBatch) -> RawTerms:
        """Terms of the generator in addition to ``sid`` and ``adversarial``, for losses derived from this one; none.

        Args:
            sid: The SiD term ``(N', C, H, W)``.
            adversarial: The adversarial term ``(N', 1, 1, 1)``.
            logits: ``(N, 1, h, w)``, of all samples.
            batch: The micro-batch.
        """
        return {}

    def fake_score_terms(self, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """Terms ``denoising`` ``(N', C, H, W)`` and, with real images, ``discriminator`` ``(N', 1, 1, 1)``, float32.

        Fake and real image of a position share σ, noise and label, but not the augmentation. Both halves pass the
        encoder together, and only the fake half passes the decoder, which is exact because samples never interact. A
        NaN from either of the two images drops the position.
        """
        if batch.real_images is None:
            return super().fake_score_terms(fake_score, batch)
        (clean, clean_labels), (real, real_labels) = batch.clean, batch.real
        assert real.shape == clean.shape
        sigma = self.fake_score_sigma(batch.draws)
        noise = sigma * batch.draws["noise"]
        noisy = clean + noise
        denoised, logits, logvar = self.evaluate(
            fake_score,
            torch.cat([noisy, real + noise]),
            torch.cat([sigma, sigma]),
            both_labels(batch.class_labels, batch.class_labels),
            augment_labels=both_labels(clean_labels, real_labels),
            decode=len(clean),
        )
        weights = [self.weight(sigma), self.discriminator_weight(sigma)]
        weights = weights if logvar is None else [weight / logvar.exp() for weight in weights]
        error = denoised - self.target(clean, noisy, sigma)
        error, weight, judging, fake_logits, real_logits = batch.drop_nan(error, *weights, *logits.chunk(2))
        denoising = weight * error.square()
        denoising = denoising if logvar is None else denoising + batch.select_valid(logvar)[0]
        return {"denoising": denoising, "discriminator": judging * self.cross_entropy(fake_logits, real_logits, batch)}

    def discriminator_weight(self, sigma: Tensor) -> Tensor:
        """w(σ) of the discriminator's term, the shape of ``sigma``."""
        gamma = self.discriminator_gamma
        return self.weight(sigma) if gamma is None else score_weight(sigma, self.sigma_data, gamma)

    def cross_entropy(self, fake_logits: Tensor, real_logits: Tensor, batch: training.MicroBatch) -> Tensor:
        """Mean of the cross-entropies of fake logits against 'fake' and of real ones against 'real', as averaged."""
        softplus = torch.nn.functional.softplus
        return (self.averaged(softplus(fake_logits), batch) + self.averaged(softplus(-real_logits), batch)) / 2

    def averaged(self, entropies: Tensor, batch: training.MicroBatch) -> Tensor:
        """Mean of cross-entropies over the batch, ``()``, or over each sample, ``(N', 1, 1, 1)``."""
        return batch.mean(entropies) if self.pool == "batch" else sample_means(entropies)


def both_labels(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Labels of two halves of a batch; None for networks without labels."""
    return None if first is None or second is None else torch.cat([first, second])


def fooling(logits: Tensor) -> Tensor:
    """Cross-entropies of the generator's clamped logits against 'real', of their shape."""
    return torch.nn.functional.softplus(-logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT))


def sample_means(values: Tensor) -> Tensor:
    """Mean of each sample, ``(N, 1, 1, 1)``."""
    return values.mean(dim=(1, 2, 3), keepdim=True)


@dataclasses.dataclass(eq=False)
class EDM2SiDLoss(SiDLoss):
    """SiD on EDM2 networks; with u(σ) = ψ's logvar:

        denoising     = w e^{−u} (f_ψ − x)² + u          sid           = e^{−u} · SiD's

    Attributes:
        alpha: α. The others of :class:`SiDLoss` are the same.
        P_mean: Mean of ln σ in the fake score's loss.
        P_std: Standard deviation of ln σ in the fake score's loss.
        return_logvar: Whether ψ predicts u; without it u = 0.

    Source: SiDA (arXiv:2410.14919) as the official EDM2 code has it; fact 14 of tests/golden/README.md.
    """

    alpha: float = 1.0
    P_mean: float = -0.4
    P_std: float = 1.0
    return_logvar: bool = True

    def generator_terms(self, true_score: Net, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """See :meth:`SiDLoss.generator_terms`."""
        (sid,) = batch.drop_nan(self.divided(true_score, fake_score, batch)[0])
        return {"sid": sid}

    def fake_score_terms(self, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """Term ``denoising``, float32 ``(N', C, H, W)``."""
        x, sigma = batch.images, self.fake_score_sigma(batch.draws)
        noisy = x + sigma * batch.draws["noise"]
        # With ``decode`` the network takes the same path as in SiDA's step, so that both round alike.
        denoised, _, logvar = self.evaluate(fake_score, noisy, sigma, batch.class_labels, decode=len(x))
        error = denoised - self.target(x, noisy, sigma)
        error, weight = batch.drop_nan(error, self.weight(sigma) / logvar.exp())
        return {"denoising": weight * error.square() + batch.select_valid(logvar)[0]}

    def evaluate(
        self, fake_score: Net, noisy: Tensor, sigma: Tensor, class_labels: Tensor | None, **flags: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`SiDLoss.evaluate`; u is 0 without a logvar head."""
        flags |= {"return_flag": "encoder_decoder", "return_logvar": self.return_logvar}
        denoised, logits, *rest = fake_score(noisy, sigma, class_labels, **flags)
        shape = (len(denoised), 1, 1, 1)
        return denoised, logits, rest[0][: len(denoised)].expand(shape) if rest else denoised.new_zeros(shape)


@dataclasses.dataclass(eq=False)
class EDM2SiDALoss(SiDALoss, EDM2SiDLoss):
    """SiDA on EDM2 networks: the terms of :class:`EDM2SiDLoss`, and e^{−u} times SiDA's two adversarial terms.

    Forced weight normalisation rewrites weights in a forward pass, so real and fake images go through in one pass.

    Attributes:
        lambda_d: Weight of the discriminator term. The others of :class:`SiDALoss` and :class:`EDM2SiDLoss` are the
            same.
    """

    drops_logits = True

    P_mean: float = EDM2SiDLoss.P_mean
    P_std: float = EDM2SiDLoss.P_std
    lambda_d: float = 100.0


# Source of the official settings: mingyuanzhou/SiD, branches main and sida: training scripts and their options.
_EDM: dict[str, Any] = {"init_sigma": 2.5, "ema_half_life_kimg": 500.0}
_EDM2: dict[str, Any] = {"init_sigma": 2.5, "ema_half_life_kimg": 2000.0}
SIDA_EDM = {**_EDM, "grad_clip_value": 1.0, "warmup_kimg": 100.0}
_SIDA_EDM2 = {**_EDM2, "warmup_kimg": 100.0, "weight_norm": "pre_hook", "fake_score_weight_norm": "off"}
_SID_READS = (*SCORE_TRAINING, "augment", "fake_score_weight_norm", "grad_clip_value")

SID = Method(
    name="sid",
    title="SiD",
    about="score identity distillation; no real images",
    start="either",
    loss={"edm": SiDLoss, "edm2": EDM2SiDLoss},
    saw=Exposure(choice=("inception",)),
    reads=_SID_READS,
    official={
        "edm": _EDM,
        # λ_D is not read; digests record it.
        "edm2": {**_EDM2, **dict.fromkeys(WEIGHT_NORMS, "in_forward"), "lambda_d": EDM2SiDALoss.lambda_d},
    },
)

SIDA = Method(
    name="sida",
    title="SiDA",
    about="with the adversarial term; starts from the teacher",
    real_images=True,
    saw=Exposure(choice=("inception",)),
    loss={"edm": SiDALoss, "edm2": EDM2SiDALoss},
    reads=_SID_READS,
    official={
        "edm": SIDA_EDM,
        "edm2": _SIDA_EDM2,
        "edm2-s": {**_SIDA_EDM2, "weight_norm": "off", "logvar": False},
    },
    passes=Passes(fake_score_encoder=3),
)
SID2A = dataclasses.replace(
    SIDA,
    name="sid2a",
    title="SiD²A",
    about="the same from a distilled generator (init)",
    start="generator",
    saw=SIDA.exposure,
)
