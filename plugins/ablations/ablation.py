"""SiDA with one part replaced: the discriminator's encoder, its optimizer steps, or its real images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
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
        self.uses_real_images = self.options.is_joint and self.options.real == "data"
        #: The network of the discriminator where that is not the fake score.
        self.discriminator: Net | None = None
        #: Function of latents and labels that draws the generator's images, for ``real: generated``.
        self.generated: Callable[[Tensor, Tensor | None], Tensor] | None = None

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

    def with_real_images(self, batch: training.MicroBatch) -> training.MicroBatch:
        """The batch with the images that the discriminator learns to call real."""
        if self.options.real == "data":
            return batch
        assert self.generated is not None
        with torch.no_grad():
            images = self.generated(batch.draws["z of real images"], batch.class_labels)
        return dataclasses.replace(batch, real_images=images)

    def fake_score_terms(self, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """See :meth:`~sida.methods.sid.SiDALoss.fake_score_terms`; ``denoising`` alone where the step is separate."""
        return super().fake_score_terms(fake_score, self.with_real_images(batch) if self.options.is_joint else batch)

    def discriminator_terms(self, discriminator: Net, batch: training.MicroBatch) -> RawTerms:
        """Term ``discriminator`` of :meth:`~sida.methods.sid.SiDALoss.fake_score_terms`, alone."""
        batch = self.with_real_images(batch)
        (clean, _), (real, _) = batch.clean, batch.real
        sigma = self.fake_score_sigma(batch.draws)
        noise = sigma * batch.draws["noise"]
        noisy = torch.cat([clean + noise, real + noise])
        labels = both_labels(batch.class_labels, batch.class_labels)
        logits = discriminator(noisy, torch.cat([sigma, sigma]), labels, return_flag="encoder")
        weight, fake_logits, real_logits = batch.drop_nan(self.discriminator_weight(sigma), *logits.chunk(2))
        return {"discriminator": weight * self.cross_entropy(fake_logits, real_logits, batch)}


def make_ablation(parts: Parts) -> training.Distiller:
    """Returns the trainer, with a step of the discriminator where it has its own."""
    config, options, loss = parts.config, parts.options, parts.loss()

    def discriminator_steps(score: training.OptimizedNetwork) -> list[training.OptimizerStep]:
        """The separate step, of the fake score or of a network of its own."""
        if options.is_joint:
            return []
        name, network = "fake_score", score
        if options.discriminator == "own":
            copied = parts.copy(parts.teacher, config.fake_score_weight_norm)
            rate, clip = config.fake_score_lr or config.lr, config.grad_clip_value
            name = "discriminator"
            network = training.OptimizedNetwork(copied, rate, config.betas, config.eps, clip_value=clip)
            loss.discriminator = network.net
        terms = functools.partial(loss.discriminator_terms, network.net)
        draws, sees_data = {"z": unit_noise, **loss.fake_score_draws()}, options.real == "data"
        return [
            training.OptimizerStep(name, network, terms, "discriminator", loss.weights, draws, real_images=sees_data)
        ]

    trainer = parts.distiller(loss, further_steps=discriminator_steps, graphs=False)
    loss.generated = functools.partial(sampling.one_step, trainer.generator.net, init_sigma=config.init_sigma)
    return trainer


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
