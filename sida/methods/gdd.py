"""GDD and GDD-I: a generator and a discriminator take turns; the teacher is where the generator starts, no more.

Source: Zheng & Yang, *Diffusion models are innate one-step generators* (arXiv:2405.20750); Zyriix/GDD:training/loss.py,
training_loop.py. What differs from that code stands in docs/differences.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

import torch

from sida.config.augmentation import GDD_FLAGS
from sida.config.discriminator import GDDOptions, official_backbones
from sida.discriminator import AdaptiveAugment, ProjectedDiscriminator, make_backbone
from sida.errors import UserError
from sida.losses import GDDLoss, Round, Terms
from sida.losses.gdd import lazy_regularisation
from sida.networks import Precond, architecture, build_network
from sida.progress import say
from sida.runtime.randomness import derive_seed
from sida.training.learner import Learner
from sida.training.player import Player

if TYPE_CHECKING:
    from sida.methods.build import Parts
    from sida.training.iteration import Turns

#: What GDD-I freezes: convolutions and the attention's last layer within the blocks of a U-Net, with their biases.
INNATE = re.compile(r"model\.(enc|dec)\.\w+_(block\d+|in\d+|up|down)\.(conv\d|proj)\.")
_STREAM = "discriminator"


def make_gdd(parts: Parts) -> Turns:
    """The players of a configuration: discriminator, its penalty, generator.

    Raises:
        UserError: A teacher of another kind, no real images, or a backbone that does not fit or cannot be had.
    """
    config, options = parts.config, parts.options
    if config.real_source != "data":
        raise UserError(f"{parts.where}.real_source: {config.method} learns from real images alone; set it to 'data'")
    generator = parts.copy(_from_teacher(parts), None)
    if config.method == "gdd-i":
        share = freeze_innate(generator)
        say(f"{config.method}: {100 * share:.1f} % of the generator's parameters stay as the teacher's")
    # The penalty is rare, so the discriminator takes its steps a little smaller and forgets a little more slowly; the
    # official code keeps both without a penalty.
    ratio, beta2 = lazy_regularisation(options.r1_interval, config.betas[1])
    judge = Learner(
        make_discriminator(parts), ratio * (config.fake_score_lr or config.lr), (config.betas[0], beta2), config.eps,
        always_training=not options.former,
    )  # fmt: skip
    betas = config.generator_betas or config.betas
    player = Learner(generator, config.lr, betas, config.eps, compile=config.compile)
    return parts.turns(_players(cast(GDDLoss, parts.method.loss(parts)), judge, player, options, config.batch_size))


def make_discriminator(parts: Parts) -> ProjectedDiscriminator:
    """The discriminator of a configuration, on its device; its random parts follow from the run's seed alone."""
    config, options, teacher = parts.config, parts.options, cast(Precond, parts.teacher)
    names = options.backbones or official_backbones(teacher.img_resolution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "discriminator"))
        backbones = [
            make_backbone(name, options.weights, teacher.img_channels, teacher.img_resolution, f"{parts.where}.options")
            for name in names
        ]
        net = ProjectedDiscriminator(backbones, teacher.label_dim, options.diffaug, _augment(parts), options.former)
    return net.to(parts.device)


def freeze_innate(generator: torch.nn.Module) -> float:
    """Freezes what GDD-I does not train; returns its share of all parameters."""
    frozen = [value for name, value in generator.named_parameters() if INNATE.match(name)]
    for value in frozen:
        value.requires_grad_(False)
    return _count(frozen) / _count(generator.parameters())


def _count(parameters: Iterable[torch.nn.Parameter]) -> int:
    return sum(value.numel() for value in parameters)


def _from_teacher(parts: Parts) -> torch.nn.Module:
    """The teacher's weights in GDD's preconditioning."""
    network = architecture(parts.teacher)
    if network["class"] not in ("EDMPrecond", "GDDPrecond"):
        raise UserError(
            f"{parts.where}.teacher: {parts.config.method} starts from a network of class EDMPrecond, not "
            f"{network['class']} ({parts.config.teacher}); choose another teacher"
        )
    generator = build_network({**network, "class": "GDDPrecond"}).to(parts.device)
    generator.load_state_dict(parts.teacher.state_dict())
    return generator


def _augment(parts: Parts) -> AdaptiveAugment | None:
    config, options = parts.config, parts.options
    pipe = parts.augment(GDD_FLAGS)
    if options.ada_target is None:
        return None if pipe is None else AdaptiveAugment(pipe)
    if pipe is None:
        raise UserError(
            f"{parts.where}.options.ada_target: there is no augmentation whose probability could move; give augment, "
            "{p: 0} for the official transformations, or set it to null"
        )
    move = config.batch_size * options.ada_interval / (options.ada_kimg * 1000)
    return AdaptiveAugment(pipe, options.ada_target, options.ada_interval, move)


def _players(loss: GDDLoss, judge: Learner, generator: Learner, options: GDDOptions, batch_size: int) -> list[Player]:
    """Discriminator, its penalty on the same images, generator; terms are sums over a round's images."""
    augment = cast(ProjectedDiscriminator, judge.net).augment

    def seen(images: torch.Tensor) -> torch.Tensor:
        return images if augment is None else augment(images)

    def tell_apart(given: Round) -> Terms:
        assert given.real_images is not None
        logits = []

        def judged(images: torch.Tensor, labels: torch.Tensor | None) -> list[torch.Tensor]:
            logits.append(judge.call(seen(images), labels))
            return logits[-1]

        value = loss.fake_score_terms(judged, given).discriminator
        if augment is not None:
            # The loss judges real images last.
            augment.observe(logits[-1], len(given.images) / batch_size, judge.ranks.add_up)
        return _summed("real_or_fake", value, given)

    def penalty(given: Round) -> Terms:
        assert given.real_images is not None
        return Terms({"r1": loss.r1_penalty(judge.call, given.real_images, given.class_labels)})

    def fool(given: Round) -> Terms:
        judged = lambda images, labels: judge.call(seen(images), labels)
        return _summed("fooling", loss.generator_terms(None, judged, given).adversarial, given)

    adversarial, lazy = options.loss_images, float(options.r1_interval)
    players = [
        Player(
            "discriminator", judge, tell_apart, lambda pixels: {"real_or_fake": adversarial}, _STREAM, real_images=True
        ),
        Player(
            "discriminator", judge, penalty, lambda pixels: {"r1": lazy}, _STREAM, real_images=True,
            every=options.r1_interval,
        ),
        Player("generator", generator, fool, lambda pixels: {"fooling": adversarial}, "generator"),
    ]  # fmt: skip
    return players if options.r1_gamma else [players[0], players[2]]


def _summed(name: str, value: torch.Tensor | None, given: Round) -> Terms:
    """A mean over a round as a sum over its images; NaN in one spreads over the batch, so that all count as dropped."""
    assert value is not None
    count = len(given.images)
    return Terms({name: value * count}, count if bool(value.isnan()) else 0)
