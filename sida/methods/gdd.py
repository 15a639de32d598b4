"""GDD and GDD-I: adversarial training of a generator that starts from the teacher's weights.

Source: Zheng & Yang, *Diffusion models are innate one-step generators* (arXiv:2405.20750); Zyriix/GDD:training/loss.py,
training_loop.py. Differences from that code: docs/differences.tsv.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from sida import networks, training
from sida.config.feature_networks import BACKBONES
from sida.config.registries import Registry
from sida.config.settings import Count, NotNegative, OneOf, Positive, Settings
from sida.errors import SettingError, say
from sida.late import Tensor, torch
from sida.methods.method import Exposure, Method, Parts, Passes

BackboneName = Annotated[str, OneOf(BACKBONES.keys, missing=Registry("backbones", "backbone").missing)]
#: Official pairs: up to 32×32 pixels, and above.
SMALL, LARGE = ("vgg16_bn", "efficientnet_lite0"), ("deit_base_distilled", "efficientnet_lite0")


def official_backbones(resolution: int) -> tuple[str, ...]:
    """The official pair for images of a size (Zyriix/GDD:train.sh)."""
    return SMALL if resolution <= 32 else LARGE


#: Parameters that GDD-I freezes: convolutions and the attention's last layer in the blocks of a U-Net, with biases.
INNATE = re.compile(r"model\.(enc|dec)\.\w+_(block\d+|in\d+|up|down)\.(conv\d|proj)\.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GDDOptions(Settings):
    """Settings of GDD's discriminator and its training; defaults are the official values.

    Attributes:
        backbones: Frozen feature networks; null takes VGG16-BN and EfficientNet-lite0 up to 32×32 pixels, DeiT-base
            (distilled) and EfficientNet-lite0 above.
        form: Non-saturating (``ns``) or ``hinge``.
        r1_gamma: γ of the R1 penalty on real images; 0 leaves it out.
        r1_interval: Iterations between two penalties; each counts this many times.
        loss_images: Factor on the adversarial terms, not on R1; the official code sums over the images of a device, 64,
            instead of averaging.
    """

    backbones: tuple[BackboneName, ...] | None = None
    form: Literal["ns", "hinge"] = "ns"
    r1_gamma: NotNegative = 1e-4
    r1_interval: Count = 16
    loss_images: Positive = 64.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbones is not None and not self.backbones:
            raise SettingError("backbones", "must name at least one", "null takes the official ones")

    @staticmethod
    def recorded(options: Mapping[str, Any]) -> dict[str, Any]:
        """Options as they enter a run's digest; without ``former`` it is of the discriminator before 2026-11-22."""
        return {**options, "former": False}

    def assets(self, resolution: int) -> list[str]:
        """Registered downloads of a training on images of a size."""
        return [asset for name in self.backbones or official_backbones(resolution) if (asset := BACKBONES[name].asset)]

    def loss_networks(self, resolution: int) -> list[str]:
        """Networks whose gradients train the generator."""
        names = self.backbones or official_backbones(resolution)
        return [BACKBONES[name].network for name in names]

    def feature_gflop(self, resolution: int) -> float:
        """Operations of an iteration in the backbones and their heads, in GFLOP per image."""
        return sum(BACKBONES[name].gflop for name in self.backbones or official_backbones(resolution))


def freeze_innate(generator: torch.nn.Module) -> float:
    """Freezes the parameters that GDD-I does not train; returns their share of all parameters."""
    frozen = [value for name, value in generator.named_parameters() if INNATE.match(name)]
    for value in frozen:
        value.requires_grad_(False)
    return sum(value.numel() for value in frozen) / sum(value.numel() for value in generator.parameters())


#: Flags of GDD's discriminator (Zyriix/GDD:train.py), whose augmentation has no labels.
GDD_FLAGS: Mapping[str, float] = dict.fromkeys(
    (
        "xflip", "rotate_int", "translate_int", "scale", "rotate_frac", "aniso", "translate_frac",
        "brightness", "contrast", "lumaflip", "hue", "saturation",
    ), 1,
)  # fmt: skip
#: ``discriminator(images, class_labels) -> [logits per head]``, each of any shape.
Discriminator = Callable[["Tensor", "Tensor | None"], Sequence["Tensor"]]


@dataclasses.dataclass(eq=False)
class GDDLoss:
    """Non-saturating or hinge loss of a discriminator with several heads, with R1 on real images.

    No noise is added, a head's loss is the mean over its logits, and the heads' losses are summed.

    Attributes:
        form: ``"ns"`` (non-saturating) or ``"hinge"``.
        r1_gamma: γ of the R1 penalty.

    Source: GDD (arXiv:2405.20750); R1: arXiv:1801.04406, equation 9; fact 22 of tests/golden/README.md.
    """

    form: Literal["ns", "hinge"] = GDDOptions.form
    r1_gamma: float = GDDOptions.r1_gamma

    def generator_loss(self, discriminator: Discriminator, images: Tensor, class_labels: Tensor | None) -> Tensor:
        """Loss of the generator, shape ``()``, of its images ``(N, C, H, W)`` with gradient."""
        penalise = torch.nn.functional.softplus if self.form == "ns" else torch.Tensor.clone
        return torch.stack([penalise(-logits).mean() for logits in discriminator(images, class_labels)]).sum()

    def discriminator_loss(
        self, discriminator: Discriminator, images: Tensor, real_images: Tensor, class_labels: Tensor | None
    ) -> Tensor:
        """Loss of the discriminator, shape ``()``, of generated and real images ``(N, C, H, W)``."""
        functional = torch.nn.functional
        penalise = functional.softplus if self.form == "ns" else lambda logits: functional.relu(1 + logits)
        fake, real = discriminator(images, class_labels), discriminator(real_images, class_labels)
        parts = [penalise(logits).mean() for logits in fake] + [penalise(-logits).mean() for logits in real]
        return torch.stack(parts).sum()

    def r1_penalty(self, discriminator: Discriminator, real_images: Tensor, class_labels: Tensor | None) -> Tensor:
        """γ/2 · ‖∇_y Σ logits‖² per real image, float32 ``(N,)``, differentiable."""
        images = real_images.detach().requires_grad_()
        total = torch.stack([logits.sum() for logits in discriminator(images, class_labels)]).sum()
        (gradient,) = torch.autograd.grad(total, images, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)) * (self.r1_gamma / 2)


def lazy_regularisation(interval: int, beta2: float) -> tuple[float, float]:
    """Factor on Adam's learning rate, and β₂, for a penalty that is computed every ``interval`` steps only.

    Source: StyleGAN2 (arXiv:1912.04958), appendix B.
    """
    ratio = interval / (interval + 1)
    return ratio, beta2**ratio


def make_gdd(parts: Parts) -> training.StudentTrainer:
    """Returns the trainer of a configuration, with steps of the discriminator, its penalty and the generator.

    Raises:
        UserError: The teacher has another class, or a backbone does not fit or is not available.
    """
    config, options = parts.config, parts.options
    net = parts.copy(parts.initial_as("GDDPrecond"))
    if config.method == "gdd-i":
        share = freeze_innate(net)
        say(f"{config.method}: {100 * share:.1f} % of the generator's parameters stay equal to the teacher's")
    generator = parts.optimized(net)
    # With lazy regularisation the discriminator has a slightly smaller learning rate and a larger β₂. The official code
    # uses both even without a penalty.
    ratio, beta2 = lazy_regularisation(options.r1_interval, config.betas[1])
    critic = training.OptimizedNetwork(
        make_discriminator(parts), ratio * (config.fake_score_lr or config.lr), (config.betas[0], beta2), config.eps,
        always_training=True,
    )  # fmt: skip
    loss, pipe = GDDLoss(options.form, options.r1_gamma), parts.augment(GDD_FLAGS)

    def augmented(images: Tensor, labels: Tensor | None) -> list[Tensor]:
        logits: list[Tensor] = critic.net(images if pipe is None else pipe(images)[0], labels)
        return logits

    def discriminator_loss(batch: training.MicroBatch) -> dict[str, Tensor]:
        value = loss.discriminator_loss(augmented, batch.images, batch.real[0], batch.class_labels)
        return {"real_or_fake": _sum_over_images(value, batch)}

    def penalty(batch: training.MicroBatch) -> dict[str, Tensor]:
        return {"r1": loss.r1_penalty(critic.net, batch.real[0], batch.class_labels)}

    def generator_loss(batch: training.MicroBatch) -> dict[str, Tensor]:
        return {"fooling": _sum_over_images(loss.generator_loss(augmented, batch.images, batch.class_labels), batch)}

    weights = {"real_or_fake": options.loss_images, "r1": float(options.r1_interval), "fooling": options.loss_images}
    step = functools.partial(training.OptimizerStep, weights=lambda pixels: weights)
    judge = functools.partial(step, "discriminator", critic, stream="discriminator", real_images=True)
    steps = [judge(loss=discriminator_loss)]
    if options.r1_gamma:
        # The penalty is a step of its own, on the same images.
        steps.append(judge(loss=penalty, every=options.r1_interval))
    steps.append(step("generator", generator, generator_loss, stream="generator"))
    # `_sum_over_images` reads a value on the CPU, which a recorded CUDA graph cannot.
    return training.StudentTrainer(steps, parts.schedule(), config, graphs=False)


def _sum_over_images(value: Tensor, batch: training.MicroBatch) -> Tensor:
    """Converts a mean over a micro-batch to a sum over its images; after a NaN, all images count as dropped."""
    count = len(batch.images)
    if bool(value.isnan()):
        batch.mask = value.new_zeros(count, dtype=torch.bool)
    return value * count


def make_discriminator(parts: Parts) -> torch.nn.Module:
    """Returns the discriminator of a configuration on its device; the run's seed alone decides its random weights."""
    options, teacher = parts.options, cast(networks.Precond, parts.teacher)
    image_format = teacher.img_channels, teacher.img_resolution, f"{parts.where}.options"
    with parts.seeded("discriminator"):
        names = options.backbones or official_backbones(teacher.img_resolution)
        backbones = [networks.make_backbone(name, *image_format) for name in names]
        return networks.ProjectedDiscriminator(backbones, teacher.label_dim).to(parts.device)


#: Settings for a generator without noise levels and α.
GDD_OFFICIAL = {"edm": {"betas": (0.0, 0.99), "init_sigma": 80.0, "dropout": 0.0, "ema_half_life_kimg": 500.0}}
GDD = Method(
    name="gdd",
    title="GDD (D2O)",
    about="a discriminator on frozen features, no score; starts from the teacher",
    real_images=True,
    saw=Exposure(loss=tuple(dict.fromkeys((*SMALL, *LARGE))), choice=("inception",)),
    options=GDDOptions,
    passes=Passes(fake_score=1, generator=3),
    reads=("augment", "fake_score_lr"),
    trainer=make_gdd,
    official=GDD_OFFICIAL,
)
GDD_I = dataclasses.replace(
    GDD,
    name="gdd-i",
    title="GDD-I (D2O-F)",
    about="the same with most of the generator's convolutions frozen",
    saw=GDD.exposure,
)
