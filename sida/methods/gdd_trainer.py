"""Trainer of GDD and GDD-I: steps of the discriminator, its penalty and the generator."""

from __future__ import annotations

import functools
from typing import cast

import torch

from sida.config.augmentation import GDD_FLAGS
from sida.config.families import official_backbones
from sida.discriminator import AdaptiveAugment, ProjectedDiscriminator, make_backbone
from sida.errors import UserError, say
from sida.losses import GDDLoss, MicroBatch, Terms
from sida.losses.gdd import lazy_regularisation
from sida.machine import derive_seed
from sida.methods.distiller import Parts
from sida.methods.gdd import GDDOptions, freeze_innate
from sida.networks import Precond
from sida.training.iteration import OptimizerStep
from sida.training.optimizer import OptimizedNetwork
from sida.training.student_trainer import StudentTrainer


def make_gdd(parts: Parts) -> StudentTrainer:
    """Returns the trainer of a configuration, with steps of the discriminator, its penalty and the generator.

    Raises:
        UserError: The teacher has another class, or a backbone does not fit or is not available.
    """
    config, options = parts.config, parts.options
    generator = parts.copy(parts.initial_as("GDDPrecond"), None)
    if config.method == "gdd-i":
        share = freeze_innate(generator)
        say(f"{config.method}: {100 * share:.1f} % of the generator's parameters stay as the teacher's")
    # With lazy regularisation the discriminator has a slightly smaller learning rate and a larger β₂. The official code
    # uses both even without a penalty.
    ratio, beta2 = lazy_regularisation(options.r1_interval, config.betas[1])
    discriminator = OptimizedNetwork(
        make_discriminator(parts), ratio * (config.fake_score_lr or config.lr), (config.betas[0], beta2), config.eps,
        always_training=True,
    )  # fmt: skip
    loss = GDDLoss(options.form, options.r1_gamma)
    return parts.trainer(_steps(loss, discriminator, parts.optimized(generator), options, config.batch_size))


def make_discriminator(parts: Parts) -> ProjectedDiscriminator:
    """Returns the discriminator of a configuration on its device; the run's seed alone decides its random weights."""
    config, options, teacher = parts.config, parts.options, cast(Precond, parts.teacher)
    names = options.backbones or official_backbones(teacher.img_resolution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "discriminator"))
        backbones = [
            make_backbone(name, options.weights, teacher.img_channels, teacher.img_resolution, f"{parts.where}.options")
            for name in names
        ]
        net = ProjectedDiscriminator(backbones, teacher.label_dim, options.diffaug, _augment(parts))
    return net.to(parts.device)


def _augment(parts: Parts) -> AdaptiveAugment | None:
    config, options = parts.config, parts.options
    pipe = parts.augment(GDD_FLAGS)
    if options.ada_target is None:
        return None if pipe is None else AdaptiveAugment(pipe)
    if pipe is None:
        raise UserError(
            f"{parts.where}.options.ada_target",
            "there is no augmentation whose probability could move",
            "give augment, {p: 0} for the official transformations, or set it to null",
        )
    move = config.batch_size * options.ada_interval / (options.ada_kimg * 1000)
    return AdaptiveAugment(pipe, options.ada_target, options.ada_interval, move)


def _steps(
    loss: GDDLoss, critic: OptimizedNetwork, generator: OptimizedNetwork, options: GDDOptions, batch_size: int
) -> list[OptimizerStep]:
    """Returns the steps of discriminator, penalty (on the same images) and generator; terms are sums over images."""
    augment = cast(ProjectedDiscriminator, critic.net).augment

    def augmented(images: torch.Tensor) -> torch.Tensor:
        return images if augment is None else augment(images)

    def discriminator_loss(given: MicroBatch) -> Terms:
        assert given.real_images is not None
        logits = []

        def discriminator(images: torch.Tensor, labels: torch.Tensor | None) -> list[torch.Tensor]:
            logits.append(critic.call(augmented(images), labels))
            return logits[-1]

        value = loss.fake_score_loss(discriminator, *given).discriminator
        if augment is not None:
            # The loss evaluates real images last.
            augment.observe(logits[-1], len(given.images) / batch_size, critic.ranks.add_up)
        return _summed("real_or_fake", value, given)

    def penalty(given: MicroBatch) -> Terms:
        assert given.real_images is not None
        return Terms({"r1": loss.r1_penalty(critic.call, given.real_images, given.class_labels)})

    def generator_loss(given: MicroBatch) -> Terms:
        discriminator = lambda images, labels: critic.call(augmented(images), labels)
        terms = loss.generator_loss(None, discriminator, given.images, given.class_labels)
        return _summed("fooling", terms.adversarial, given)

    adversarial, lazy = options.loss_images, float(options.r1_interval)
    step = functools.partial(OptimizerStep, "discriminator", critic, stream="discriminator", real_images=True)
    steps = [
        step(discriminator_loss, lambda pixels: {"real_or_fake": adversarial}),
        step(penalty, lambda pixels: {"r1": lazy}, every=options.r1_interval),
        OptimizerStep("generator", generator, generator_loss, lambda pixels: {"fooling": adversarial}, "generator"),
    ]
    return steps if options.r1_gamma else [steps[0], steps[2]]


def _summed(name: str, value: torch.Tensor, given: MicroBatch) -> Terms:
    """Converts a mean over a micro-batch to a sum over its images; after a NaN, all images count as dropped."""
    count = len(given.images)
    return Terms({name: value * count}, count if bool(value.isnan()) else 0)
