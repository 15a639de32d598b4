"""SiDA with one part replaced: the discriminator's encoder, its optimizer steps, or its real images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

from sida import sampling, training
from sida.config.settings import Settings
from sida.late import Tensor, torch
from sida.methods.method import SCORE_TRAINING, STEPS, Exposure, Net, Parts, Passes, RawTerms
from sida.methods.sid import SIDA, SIDA_EDM, SiDALoss, both_labels
from sida.noise import Draw, unit_noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblationOptions(Settings):
    """Parts of SiDA's discriminator; the defaults are SiDA's.

    Attributes:
        discriminator: ``shared``: the encoder of the fake score; ``own``: a copy of that network with its own
            parameters and optimizer, whose decoder is not used.
        steps: ``joint``: the terms ``denoising`` and ``discriminator`` are one loss; ``separate``: a step of the fake
            score for each, the second on images and noise of its own. An ``own`` discriminator has a separate step.
        real: Images that the discriminator learns to call real: of the ``data``, or ``generated``, the generator's
            images of other noise and the same classes.
    """

    discriminator: Literal["shared", "own"] = "shared"
    steps: Literal["joint", "separate"] = "joint"
    real: Literal["data", "generated"] = "data"

    @property
    def is_joint(self) -> bool:
        """Whether one step has both terms of the fake score."""
        return self.discriminator == "shared" and self.steps == "joint"

    @property
    def passes(self) -> Passes:
        """Work of an iteration."""
        images = 1 + (self.real == "generated")
        own = self.discriminator == "own"
        if self.is_joint:
            return Passes(fake_score=3 + images, fake_score_encoder=3)
        return Passes(fake_score=4 + images, fake_score_encoder=6, generator_encoder=2 * own)


@dataclasses.dataclass(eq=False)
class AblationLoss(SiDALoss):
    """SiDA's terms, of which the discriminator's can be a step of its own.

    Attributes:
        options: The parts.
    """

    options: AblationOptions = dataclasses.field(default_factory=AblationOptions)

    def __post_init__(self) -> None:
        #: The network of the discriminator where that is not the fake score.
        self.discriminator: Net | None = None

    def fake_score_draws(self) -> dict[str, Draw]:
        """See :meth:`~sida.methods.method.ScoreLoss.fake_score_draws`; ``z of real images`` is last."""
        further = {"z of real images": unit_noise} if self.options.real == "generated" else {}
        return {**super().fake_score_draws(), **further}

    def evaluate(
        self, fake_score: Net, noisy: Tensor, sigma: Tensor, class_labels: Tensor | None, **flags: Any
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See :meth:`~sida.methods.sid.SiDLoss.evaluate`."""
        if self.discriminator is None:
            return super().evaluate(fake_score, noisy, sigma, class_labels, **flags)
        logits = self.discriminator(noisy, sigma, class_labels, return_flag="encoder")
        return fake_score(noisy, sigma, class_labels), logits, None

    def discriminator_terms(self, discriminator: Net, batch: training.MicroBatch) -> RawTerms:
        """Term ``discriminator`` of :meth:`~sida.methods.sid.SiDALoss.fake_score_terms`, alone."""
        (clean, _), (real, _) = batch.clean, batch.real
        sigma = self.fake_score_sigma(batch.draws)
        noise = sigma * batch.draws["noise"]
        noisy = torch.cat([clean + noise, real + noise])
        labels = both_labels(batch.class_labels, batch.class_labels)
        logits = discriminator(noisy, torch.cat([sigma, sigma]), labels, return_flag="encoder")
        weight, fake_logits, real_logits = batch.drop_nan(self.discriminator_weight(sigma), *logits.chunk(2))
        return {"discriminator": weight * self.cross_entropy(fake_logits, real_logits, batch)}


def make_ablation(parts: Parts) -> training.StudentTrainer:
    """Returns the trainer: steps of the fake score, of the discriminator where it has its own, and of the generator."""
    config, options, loss = parts.config, parts.options, parts.loss()
    optimized = functools.partial(
        training.OptimizedNetwork, lr=config.fake_score_lr or config.lr, betas=config.betas, eps=config.eps,
        clip_value=config.grad_clip_value,
    )  # fmt: skip
    copied = lambda: parts.copy(parts.teacher, config.fake_score_weight_norm)
    score, generator = optimized(copied()), parts.optimized(parts.copy(parts.initial, config.weight_norm))
    true_score = parts.true_score.eval().requires_grad_(False)

    def with_generated(batch: training.MicroBatch) -> training.MicroBatch:
        """The batch with the generator's images of other noise as real ones."""
        if options.real == "data":
            return batch
        with torch.no_grad():
            z = batch.draws["z of real images"]
            images = sampling.one_step(generator.net, z, batch.class_labels, config.init_sigma)
        return dataclasses.replace(batch, real_images=images)

    def judged(step: training.OptimizerStep, terms: Any, network: training.OptimizedNetwork) -> training.OptimizerStep:
        """The step with real images."""
        evaluated = lambda batch: terms(network.net, with_generated(batch))
        return dataclasses.replace(step, network=network, loss=evaluated, real_images=options.real == "data")

    def fake_score_terms(batch: training.MicroBatch) -> Mapping[str, Tensor]:
        return loss.fake_score_terms(score.net, batch)

    draws = {"z": unit_noise, **loss.fake_score_draws()}
    step = training.OptimizerStep("fake_score", score, fake_score_terms, "psi", loss.weights, draws)
    if options.is_joint:
        steps = [judged(step, loss.fake_score_terms, score)]
    else:
        # Without real images a step of the fake score has SiD's term alone.
        name = "fake_score"
        judge = score
        if options.discriminator == "own":
            name, judge = "discriminator", optimized(copied())
            loss.discriminator = judge.net
        further = dataclasses.replace(step, name=name, stream="discriminator")
        steps = [step, judged(further, loss.discriminator_terms, judge)]
    generator_terms = functools.partial(loss.generator_terms, true_score, score.net)
    generator_draws = {"z": unit_noise, **loss.generator_draws()}
    steps.append(
        training.OptimizerStep("generator", generator, generator_terms, "generator", loss.weights, generator_draws)
    )
    return training.StudentTrainer(steps, parts.schedule(), config, graphs=False)


ABLATION = dataclasses.replace(
    SIDA,
    name="ablation",
    title="SiDA, one part replaced",
    about="SiDA with another discriminator, other steps of it, or generated images in place of real ones",
    loss=AblationLoss,
    options=AblationOptions,
    reads=(
        *(name for name in SCORE_TRAINING if name not in ("kernels", *STEPS)),
        "fake_score_weight_norm",
        "grad_clip_value",
    ),
    saw=Exposure(choice=("inception",)),
    official={"edm": SIDA_EDM},
    trainer=make_ablation,
)
