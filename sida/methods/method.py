"""Definition of a distillation method, its losses, and the parts from which it builds its trainer."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from sida import data, networks, sampling, training
from sida.config.families import Family, WeightNorm
from sida.config.kernels import require_kernels
from sida.config.recipe import METHOD_SETTINGS, Gamma, Recipe, ResolvedConfig, StudentConfig
from sida.config.roles import own_settings, with_own_settings
from sida.config.settings import Settings, from_mapping
from sida.errors import SettingError, UserError
from sida.late import Tensor, torch
from sida.machine import derive_seed
from sida.noise import Draw, Draws, complete_draws, normal, score_weight, uniform, unit_noise

#: A network, or a function that calls one.
Net = Callable[..., Any]
#: Terms of a loss per element and unscaled, by name.
RawTerms = Mapping[str, Tensor]


class Terms(dict[str, Any]):
    """Terms of a loss by name, per element and unscaled, and the number of dropped samples, ``nan_count``.

    A term is also an attribute, which is None if the loss has no such term in this call. The trainer sums each term's
    elements, multiplies by the term's weight (:meth:`ScoreLoss.weights`) and divides by the number of images of the
    step.

    Args:
        terms: Tensor by name.
        batch: The micro-batch that they were computed on.
    """

    def __init__(self, terms: RawTerms, batch: training.MicroBatch) -> None:
        super().__init__(batch.finalize(terms))
        self.nan_count = batch.dropped

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


#: Fields of losses that are settings under another name.
_NAMES = {"pool": "adversarial_pool", "return_logvar": "logvar"}


@dataclasses.dataclass(eq=False)
class Loss:
    """A loss of a method. Its fields are the settings that it reads, and ``options``.

    A field that :func:`sida.config.roles.setting` writes is the loss's own setting, a key of a recipe's ``options``.
    """

    @classmethod
    def settings(cls) -> dict[str, dataclasses.Field[Any]]:
        """Returns the fields that are settings of a recipe, by the setting's name."""
        fields = {_NAMES.get(field.name, field.name): field for field in dataclasses.fields(cls) if field.init}
        return {name: field for name, field in fields.items() if name in METHOD_SETTINGS}


@dataclasses.dataclass(eq=False, kw_only=True)
class ScoreLoss(Loss):
    """Losses with a fake score, which learns to denoise the generator's images x, with noise n of level σ:

        denoising = w(σ) (f_ψ(x + n; σ) − x)²

    A loss may have another target than x (:meth:`target`). A derived loss defines terms, their weights, levels and
    draws, and removes the samples with NaN by ``batch.drop_nan(...)``.

    Attributes:
        sigma_data: Standard deviation of the data, for the weight.
        gamma: The weight w(σ), see :func:`sida.noise.score_weight`; the official code's is ``edm``.
        lambda_fake_score: Weight of the term.
    """

    #: Whether the fake score is also a discriminator, so that its step needs real images.
    uses_real_images = False

    sigma_data: float = Recipe.sigma_data
    gamma: Gamma = Recipe.gamma
    lambda_fake_score: float = Recipe.lambda_fake_score

    def begin(self, nimg: int) -> None:
        """Prepares for the iteration after ``nimg`` images, by this number alone, so that a resumed run is equal."""

    def target(self, x: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Image that ψ should return for noisy images of the generator, ``(N, C, H, W)``: x."""
        return x

    def weights(self, pixels: int) -> dict[str, float]:
        """Factor of each term before it is averaged over the images, by the term's name.

        Args:
            pixels: C·H·W.
        """
        raise NotImplementedError

    def generator_draws(self) -> dict[str, Draw]:
        """Kind of each draw of the generator's step, in the order of drawing."""
        return {"t": uniform, "noise": unit_noise}

    def fake_score_draws(self) -> dict[str, Draw]:
        """Kind of each draw of the fake score's step, in the order of drawing."""
        return {"sigma_normal": normal, "noise": unit_noise}

    def fake_score_labels(self, class_labels: Tensor, draws: Draws) -> Tensor:
        """Labels of the fake score's step, which its images have, too, ``(N, label_dim)``: those of the data."""
        return class_labels

    def generator_sigma(self, draws: Draws) -> Tensor:
        """Noise levels of the generator's step, float32 ``(N, 1, 1, 1)``."""
        raise NotImplementedError

    def fake_score_sigma(self, draws: Draws) -> Tensor:
        """Noise levels of the fake score's step, float32 ``(N, 1, 1, 1)``."""
        raise NotImplementedError

    def weight(self, sigma: Tensor) -> Tensor:
        """w(σ) of the fake score's (and discriminator's) terms, the shape of ``sigma``."""
        return score_weight(sigma, self.sigma_data, self.gamma)

    def fake_score_terms(self, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """Term ``denoising``, float32 ``(N', C, H, W)``; N' leaves out the samples with NaN."""
        sigma = self.fake_score_sigma(batch.draws)
        clean, augment_labels = batch.clean
        assert sigma.shape == (len(clean), 1, 1, 1)
        noisy = torch.addcmul(clean, sigma, batch.draws["noise"])
        denoised = fake_score(noisy, sigma, batch.class_labels, augment_labels=augment_labels)
        error = denoised - self.target(clean, noisy, sigma)
        error, weight = batch.drop_nan(error, self.weight(sigma))
        return {"denoising": weight * error.square()}

    def generator_terms(self, true_score: Net, fake_score: Net, batch: training.MicroBatch) -> RawTerms:
        """Terms of the generator; gradients flow through both networks into ``batch.images``."""
        raise NotImplementedError

    def fake_score_loss(
        self,
        fake_score: Net,
        images: Tensor,
        class_labels: Tensor | None,
        real_images: Tensor | None = None,
        augment: training.Augment | None = None,
        draws: Draws | None = None,
    ) -> Terms:
        """Terms ``denoising`` ``(N', C, H, W)`` and ``discriminator`` ``(N', 1, 1, 1)``, float32; N' ≤ N.

        N' leaves out the samples with NaN; on a GPU they stay, as zeros.

        Args:
            fake_score: ψ in training mode.
            images: The generator's images ``(N, C, H, W)``, without gradient.
            class_labels: ``(N, label_dim)`` or None.
            real_images: ``(N, C, H, W)``; None leaves the discriminator term out. Losses without that
                term ignore it.
            augment: ``images -> (images, augment_labels)``, with its own random draws.
            draws: Raw tensors that replace random ones: ``sigma_normal`` ``(N, 1, 1, 1)`` and ``noise``
                ``(N, C, H, W)``, both unit normal; see :meth:`fake_score_draws`.
        """
        all_draws = complete_draws(self.fake_score_draws(), draws, images)
        all_draws |= {} if augment is None else training.augmented(augment, images, real_images)
        batch = training.MicroBatch(images, class_labels, real_images, all_draws)
        return Terms(self.fake_score_terms(fake_score, batch), batch)

    def generator_loss(
        self,
        true_score: Net,
        fake_score: Net,
        images: Tensor,
        class_labels: Tensor | None,
        draws: Draws | None = None,
    ) -> Terms:
        """Terms ``sid`` ``(N', C, H, W)`` and ``adversarial`` ``(N', 1, 1, 1)``, before the factor C·H·W, float32.

        Gradients flow through both networks into ``images``. N' is as in :meth:`fake_score_loss`.

        Args:
            true_score: The teacher φ, frozen; not used by losses without a score term.
            fake_score: ψ, frozen for this step.
            images: The generator's images ``(N, C, H, W)``, with gradient.
            class_labels: ``(N, label_dim)`` or None.
            draws: Raw tensors that replace random ones: ``t`` uniform in [0, 1) (before ``t_max``) and ``noise`` unit
                normal; see :meth:`generator_draws`.
        """
        batch = training.MicroBatch(images, class_labels, draws=complete_draws(self.generator_draws(), draws, images))
        return Terms(self.generator_terms(true_score, fake_score, batch), batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passes:
    """Work of a step per image, in forward passes of the teacher's network and of its encoder.

    A backward pass counts as two forward passes, or as one through a frozen network. The defaults are those of score
    distillation.

    Attributes:
        fake_score: Passes of a step of the fake score, with the generator's image.
        fake_score_encoder: Passes of the encoder alone in that step.
        generator: Passes of a step of the generator.
        generator_encoder: Passes of the encoder alone in that step.
    """

    fake_score: float = 4.0
    fake_score_encoder: float = 0.0
    generator: float = 7.0
    generator_encoder: float = 0.0


#: Settings of a generator of several steps.
STEPS = ("num_steps", "noise", "gradient", "step_levels")
#: Settings that every trainer of a fake score reads.
SCORE_TRAINING = ("fake_score_lr", "guidance", "kernels", "weight_norm", *STEPS)


@dataclasses.dataclass(frozen=True)
class Exposure:
    """Networks that a generator was exposed to before it was measured: its values on such a network are not neutral.

    Each is a key of :data:`sida.config.feature_networks.LABELS`, a variant of one (``vgg16_bn``), or ``other``.

    Attributes:
        loss: Networks whose gradients trained the generator: a discriminator on its features, LPIPS, a distance.
        start: Networks that the generator, its teacher or its latents start from, or are aligned with.
        choice: Networks of the metrics that chose the checkpoint, seed or guidance (``inception``: by FID).
        data: Whether held-out images were among the generator's training images: ``none`` or ``held-out``.
    """

    loss: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    choice: tuple[str, ...] = ()
    data: tuple[str, ...] = ()

    def __or__(self, other: Exposure) -> Exposure:
        pairs = zip(vars(self).values(), vars(other).values())
        return Exposure(*(tuple(dict.fromkeys(mine + theirs)) for mine, theirs in pairs))

    def __str__(self) -> str:
        return " ".join(f"{role}:{name}" for role, names in vars(self).items() for name in names) or "none"

    @property
    def words(self) -> str:
        """The networks as text for readers, e.g. ``loss vgg16, deit; choice inception``."""
        exposures = (f"{role} {', '.join(names)}" for role, names in vars(self).items() if names and role != "data")
        return "; ".join(exposures) or "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A method that distils a teacher into a one-step generator.

    ``dataclasses.replace(SID, name="mine", loss=MyLoss, saw=Exposure())`` differs from SiD in its loss, which has no
    feature network. Each method states ``saw`` itself: ``dataclasses.replace`` without it raises an error, since
    another loss or trainer may have other judges.

    Attributes:
        name: Name in sheets and specs.
        title: Name in tables.
        about: Line of help.
        official: Official values, by name of the network family (:mod:`sida.config.families`). The method does not
            support families without an entry.
        start: Start of the generator: a copy of the ``teacher``, another distilled ``generator`` that the run must name
            (``init``), ``either``, or ``scratch``: a new ``network`` of the recipe, without a teacher.
        real_images: Whether the method uses real images.
        loss: Class of the loss, or its classes by name of the network family. The values of its fields are official,
            too.
        reads: Settings that the method reads besides those of its loss, of
            :data:`sida.config.recipe.METHOD_SETTINGS`; every method reads the other settings.
        psi_steps: Steps of the fake score per step of the generator, without the option ``fake_score_steps``.
        passes: Work of these steps, for plans; without the property ``passes`` of the options.
        options: Dataclass of settings that only this method has (``options`` of a recipe), with other names than those
            that it reads; the loss may have further ones. Of its methods, ``assets(resolution)`` names downloads before
            a training; ``recorded(given)`` returns the options as they enter a digest; ``check(config)`` refuses
            settings of a run; ``unread`` names settings that the method does not read with these options;
            ``loss_networks(resolution)`` names the networks whose gradients train the generator, and
            ``feature_gflop(resolution)`` gives their operations.
        trainer: Makes the trainer from the parts: networks with their optimizers, losses and order. None makes
            :class:`sida.methods.Distiller` with teacher, fake score and generator.
        saw: Argument that becomes :attr:`exposure`.
        exposure: Networks that its official training is exposed to besides its own: judges of the generator, and the
            network whose metric chose the released files. None is unknown; ``Exposure()`` is none.
    """

    name: str
    title: str
    about: str
    official: Mapping[str, Mapping[str, Any]]
    start: Literal["teacher", "generator", "either", "scratch"] = "teacher"
    real_images: bool = False
    loss: type[Loss] | Mapping[str, type[Loss]] | None = None
    reads: Sequence[str] = SCORE_TRAINING
    psi_steps: int = 1
    passes: Passes = Passes()
    options: type = Settings
    trainer: Callable[[Parts], training.StudentTrainer] | None = None
    saw: dataclasses.InitVar[Exposure | None]
    exposure: Exposure | None = dataclasses.field(init=False)

    def __post_init__(self, saw: Exposure | None) -> None:
        object.__setattr__(self, "exposure", saw)
        for loss in self.losses:
            fields, own = vars(loss).get("__annotations__"), "__dataclass_fields__" in vars(loss)
            if not dataclasses.is_dataclass(loss) or (fields and not own):
                raise TypeError(f"loss {loss.__name__} is not a dataclass: write @dataclasses.dataclass above it")

    @property
    def has_judges(self) -> bool:
        """Whether the options name networks whose gradients train the generator."""
        return hasattr(self.options, "loss_networks")

    @property
    def losses(self) -> tuple[type[Loss], ...]:
        """The classes of the loss, of all network families."""
        return tuple(self.loss.values()) if isinstance(self.loss, Mapping) else (self.loss or Loss,)

    @property
    def option_class(self) -> type[Any]:
        """Dataclass of a recipe's ``options``: :attr:`options` and the own settings of the losses."""
        return with_own_settings(self.options, self.losses)

    def loss_of(self, family: Family) -> type[Loss] | None:
        """Returns the class of the loss for networks of a family."""
        return family.choose(self.loss) if isinstance(self.loss, Mapping) else self.loss

    def settings_of(self, family: Family, where: str) -> dict[str, Any]:
        """Returns the official settings of a family, or else of the family that it resembles.

        Raises:
            UserError: The method has no settings for the family.
        """
        official = family.choose(self.official)
        if official is None:
            families = ", ".join(self.official)
            raise UserError(where, f"method '{self.name}' supports networks of {families}, not of {family.name}")
        loss = self.loss_of(family) or Loss
        return {**{name: field.default for name, field in loss.settings().items()}, **official}

    def read_options(self, options: Mapping[str, Any], where: str) -> Any:
        """Returns the ``options`` of a recipe in the method's dataclass.

        Raises:
            UserError: An option does not exist or has a wrong value.
        """
        return from_mapping(self.option_class, options, where)

    def work(self, options: Any) -> tuple[int, Passes]:
        """Returns the steps of the fake score per step of the generator, and the work of both, with these options."""
        return getattr(options, "fake_score_steps", self.psi_steps), getattr(options, "passes", self.passes)

    @property
    def settings(self) -> frozenset[str]:
        """Settings that this method reads, of those that only some methods read."""
        names = frozenset(self.reads).union(*(loss.settings() for loss in self.losses))
        # A recipe with an adversarial term says when the term begins; no loss reads that setting, the schedule does.
        return names | {"adversarial_kimg"} if "lambda_adv" in names else names

    def check(self, config: StudentConfig) -> None:
        """Checks the start of a run, and that the method reads all settings of the run.

        Raises:
            SettingError: The first fault.
        """
        options = self.read_options(config.options, "options")
        if hasattr(options, "check"):
            options.check(config)
        if self.start == "scratch":
            if config.teacher is not None:
                raise SettingError("teacher", f"method '{self.name}' has no teacher", "remove it")
            if config.network is None:
                raise SettingError("network", f"is missing: '{self.name}' trains a new one", "add its class and kwargs")
        elif config.teacher is None:
            raise SettingError("teacher", f"is missing: '{self.name}' distils one", "name its network")
        if self.start == "generator" and config.init is None:
            raise SettingError("init", f"{self.name} starts from a distilled generator", "name one")
        if self.start in ("teacher", "scratch") and config.init is not None:
            alternatives, start = "sid2a (or sid: a restart)", "the teacher" if self.start == "teacher" else "scratch"
            raise SettingError("init", f"'{self.name}' starts from {start}", f"remove it, or choose {alternatives}")
        for name in ("P_mean", "P_std"):
            if config.level_distribution == "beta" and getattr(config, name) is not None:
                raise SettingError(name, "has no effect with level_distribution beta", "remove one of them")
        unread = (METHOD_SETTINGS - self.settings) | getattr(options, "unread", frozenset())
        defaults = {field.name: field.default for field in dataclasses.fields(config) if field.name in unread}
        if ignored := sorted(name for name, default in defaults.items() if getattr(config, name) != default):
            raise SettingError(ignored[0], f"method '{self.name}' does not read {', '.join(ignored)}", "remove it")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Parts from which a method builds its trainer.

    Attributes:
        method: Method of the configuration.
        config: Settings with all defaults resolved.
        options: Options of the method in its dataclass.
        family: Family of the teacher's network.
        teacher: Teacher, on the device; of a method without one, ``initial``.
        initial: Network from which the generator starts.
        device: Device of the networks.
        where: Place named in errors.
        guide: Guiding network, on the device; None without guidance.
    """

    method: Method
    config: ResolvedConfig
    options: Any
    family: Family
    teacher: torch.nn.Module
    initial: torch.nn.Module
    device: torch.device
    where: str
    guide: torch.nn.Module | None = None

    @property
    def true_score(self) -> torch.nn.Module:
        """The network φ of the generator's loss: the teacher, with guidance if the recipe has it."""
        if self.guide is None:
            return self.teacher
        return sampling.GuidedDenoiser(self.teacher, self.guide, self.config.guidance)

    def copy(self, source: torch.nn.Module, weight_norm: WeightNorm | None = None) -> torch.nn.Module:
        """Returns a trainable copy of a network with the configured dropout, precision and weight normalisation."""
        fp16 = self.config.fp16 if self.device.type == "cuda" else None
        overrides = {"dropout": self.config.dropout, "use_fp16": fp16, "weight_norm": weight_norm}
        network = copy.deepcopy(networks.architecture(source))
        if not networks.has_option(network, "dropout"):
            # The network's class has no dropout; `resolve_recipe` refuses a recipe that asks for some.
            del overrides["dropout"]
        network["kwargs"] |= {name: value for name, value in overrides.items() if value is not None}
        net = networks.build_network(network).to(self.device)
        net.load_state_dict(source.state_dict())
        if self.config.checkpointing:
            networks.checkpoint_blocks(net, f"{self.where}.checkpointing")
        net.half_dtype = getattr(torch, self.config.half)
        return net.requires_grad_(True)

    @contextlib.contextmanager
    def seeded(self, purpose: str) -> Iterator[None]:
        """Context whose CPU draws depend on the run's seed and a purpose; later draws are as without the context."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.config.seed, purpose))
            yield

    def initial_as(self, cls: str) -> torch.nn.Module:
        """Returns a network with the initial network's weights and another preconditioning of EDM's networks.

        Args:
            cls: Name of the class.

        Raises:
            UserError: The initial network is not of class EDMPrecond.
        """
        network = networks.architecture(self.initial)
        if network["class"] not in ("EDMPrecond", cls):
            fault = f"{self.config.method} starts from a network of class EDMPrecond, not {network['class']}"
            raise UserError(f"{self.where}.teacher", f"{fault} ({self.config.teacher})", "choose another teacher")
        net = networks.build_network({**network, "class": cls}).to(self.device)
        net.load_state_dict(self.initial.state_dict())
        return net

    def loss(self, **fields: Any) -> Any:
        """Returns the method's loss; ``fields`` are the values of fields that are neither settings nor ``options``."""
        cls: Any = self.method.loss_of(self.family)
        fields |= {field.name: getattr(self.config, name) for name, field in cls.settings().items()}
        fields |= {"options": self.options} if "options" in cls.__dataclass_fields__ else {}
        fields |= {name: getattr(self.options, name) for name in own_settings(cls)}
        return cls(**fields)

    def optimized(self, net: torch.nn.Module, **arguments: Any) -> training.OptimizedNetwork:
        """Returns a generator with the configured optimizer and kernels; ``arguments`` are others of the class."""
        config, kernels = self.config, require_kernels(self.config.kernels)
        betas = config.generator_betas or config.betas
        return training.OptimizedNetwork(net, config.lr, betas, config.eps, kernels=kernels, **arguments)

    def schedule(self, **changes: float) -> training.Schedule:
        """Returns the configured phases and rates; the adversarial phase is for methods that read its setting.

        Args:
            **changes: Further attributes of :class:`~sida.training.schedule.Schedule`.
        """
        config = self.config
        adversarial_kimg = config.adversarial_kimg if "adversarial_kimg" in self.method.settings else None
        lengths = {name: getattr(config, name) for name in ("total_kimg", "lr_decay_start", "lr_final")}
        return training.Schedule(config.warmup_kimg, adversarial_kimg, **lengths, **changes)

    def augment(self, *flags: Mapping[str, float]) -> data.AugmentPipe | None:
        """Returns the configured augmentation, with the method's flags where they differ from EDM's."""
        settings = self.config.augment
        return None if settings is None else data.AugmentPipe.from_config(settings, f"{self.where}.augment", *flags)

    def distiller(
        self, loss: Any = None, schedule: training.Schedule | None = None, fake_score: Any = None, **arguments: Any
    ) -> training.Distiller:
        """Returns the trainer of teacher, fake score and generator.

        Args:
            loss: Loss; None takes the configured one, as for ``schedule``.
            schedule: Phases and rates.
            fake_score: Fake score; None copies the teacher.
            **arguments: Further arguments of :class:`sida.methods.Distiller`.
        """
        method, config = self.method, self.config
        augment = self.augment() if "augment" in method.settings else None
        score = fake_score or self.copy(self.teacher, config.fake_score_weight_norm)
        nets = self.true_score, score, self.copy(self.initial, config.weight_norm)
        arguments = {"augment": augment, "psi_steps": method.work(self.options)[0]} | arguments
        return training.Distiller(*nets, loss or self.loss(), schedule or self.schedule(), config, **arguments)
