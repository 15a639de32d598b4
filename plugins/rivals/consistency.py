"""Consistency tuning (ECT) and consistency distillation (CD).

The generator starts from the teacher's weights and is the only optimized network. Real images tune it to one output for
all levels of a path.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any, Literal

from sida import training
from sida.config.settings import NotNegative, Positive, Range, Settings
from sida.late import Tensor, torch
from sida.methods.method import Exposure, Loss, Method, Net, Parts, Passes
from sida.noise import edm_weight, lognormal_sigma, normal, sigma_of_t, uniform, unit_noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class ECTOptions(Settings):
    """Levels and distance of ECT. Defaults are official (CIFAR-10).

    Attributes:
        q: Factor by which the step between the two levels shrinks from stage to stage.
        stage_kimg: Thousands of images of a stage.
        k: Enlargement of the step at low levels.
        b: Speed at which the enlargement decreases with the level.
        c: Constant of the pseudo-Huber distance; 0 gives the Euclidean distance.
        weighting: ``step``: one over the step between the levels; ``edm``: 1/t² + 1/σ_data².
    """

    q: Annotated[float, Range(above=1)] = 2.0
    stage_kimg: Positive = 3200.0
    k: NotNegative = 8.0
    b: NotNegative = 1.0
    c: NotNegative = 0.0
    weighting: Literal["step", "edm"] = "step"

    @property
    def unread(self) -> frozenset[str]:
        """Settings that a method with these options does not read."""
        return frozenset() if self.weighting == "edm" else frozenset({"sigma_data"})


@dataclasses.dataclass(eq=False)
class ECTLoss(Loss):
    """``w(t, r) (√(‖D(y + t n; t) − T‖² + c²) − c)`` with ``T = stopgrad D(y + r n; r)``, or y itself where r = 0.

    Both evaluations have the same noise n and the same dropout mask; ``ln t ~ N(P_mean, P_std²)`` and

        r = max(0, t (1 − q^{−(s+1)} (1 + k sigmoid(−b t))))         in stage s.

    Attributes:
        options: Levels and distance.
        P_mean: Mean of ln t.
        P_std: Standard deviation of ln t.
        sigma_data: Standard deviation of the data, for the weight ``edm``.
        stage: s, counted from 0; the trainer advances it.

    Source: ECT (arXiv:2406.14548); locuslab/ect:training/loss.py.
    """

    draws = {"sigma_normal": normal, "noise": unit_noise}

    options: ECTOptions = dataclasses.field(default_factory=ECTOptions)
    P_mean: float = -1.1
    P_std: float = 2.0
    sigma_data: float = 0.5
    stage: int = 0

    def lower_level(self, t: Tensor) -> Tensor:
        """Level r(t), with the shape and dtype of t."""
        options = self.options
        step = options.q ** -(self.stage + 1) * (1 + options.k * torch.sigmoid(-options.b * t))
        return (t * (1 - step)).clamp_min(0)

    def __call__(self, net: Net, batch: training.MicroBatch) -> dict[str, Tensor]:
        """Term ``consistency``, float32 ``(N', 1, 1, 1)``.

        Args:
            net: The generator, in training mode.
            batch: Real images as ``images``; draws ``sigma_normal`` ``(N, 1, 1, 1)`` and ``noise`` ``(N, C, H, W)``.
        """
        y, draws = batch.images, batch.draws
        t = lognormal_sigma(draws["sigma_normal"], self.P_mean, self.P_std)
        r = self.lower_level(t)
        assert t.shape == r.shape == (len(y), 1, 1, 1)
        # A network has no level 0; where r = 0, its output is replaced by y below.
        above = torch.addcmul(y, t, draws["noise"]), t
        below = torch.addcmul(y, r, draws["noise"]), torch.where(r > 0, r, t)
        denoised, target = _outputs(net, above, below, batch.class_labels)
        target = torch.where(r > 0, target, y)
        distance = (denoised - target).square().sum(dim=(1, 2, 3), keepdim=True)
        weight = 1 / (t - r) if self.options.weighting == "step" else edm_weight(t, self.sigma_data)
        (value,) = batch.drop_nan(((distance + self.options.c**2).sqrt() - self.options.c) * weight)
        return {"consistency": value}


def _outputs(
    net: Net, above: tuple[Tensor, Tensor], below: tuple[Tensor, Tensor], class_labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs for two noisy images and levels with one dropout mask; the second one without gradient."""
    with torch.random.fork_rng(devices=[above[0].device] if above[0].is_cuda else []):
        denoised = net(*above, class_labels)
    with torch.no_grad():
        return denoised, net(*below, class_labels)


def _step(parts: Parts, network: str, loss: ECTLoss | CDLoss) -> training.OptimizerStep:
    """Returns the step of the generator alone on real images, in the preconditioning ``network``."""
    net = parts.optimized(parts.copy(parts.initial_as(network)), optimizer=training.RAdam)
    # z is not used. Recorded runs drew it first, so the other draws of a step depend on it.
    draws = {"z": unit_noise, **loss.draws}
    batch_loss = functools.partial(loss, net.net)
    return training.OptimizerStep(
        "generator", net, batch_loss, "generator", draws=draws, real_images=True, generates=False
    )


def stage_at(nimg: int, batch_size: int, stage_kimg: float) -> int:
    """Stage of the iteration that begins after ``nimg`` images; a stage begins one iteration late.

    Source: locuslab/ect:training/ct_training_loop.py, whose first tick is one iteration long.
    """
    return int(max(nimg - batch_size, 0) // (stage_kimg * 1000))


def make_ect(parts: Parts) -> training.StudentTrainer:
    """Returns ECT's trainer, which advances the loss's stage."""
    loss, stage_kimg = parts.loss(), parts.options.stage_kimg

    class ECTTrainer(training.StudentTrainer):
        def iteration(self, nimg: int, *args: Any, **kwargs: Any) -> Any:
            loss.stage = stage_at(nimg, self.config.batch_size, stage_kimg)
            return super().iteration(nimg, *args, **kwargs)

    # Both evaluations need the same dropout mask; a CUDA graph cannot rewind its generator in between (nor in CD).
    return ECTTrainer([_step(parts, "ECTPrecond", loss)], parts.schedule(), parts.config, graphs=False)


_OFFICIAL: dict[str, Any] = {"betas": (0.9, 0.999), "init_sigma": 80.0}
ECT = Method(
    name="ect",
    title="ECT",
    about="consistency tuning on real images alone; starts from the teacher",
    real_images=True,
    saw=Exposure(),
    options=ECTOptions,
    trainer=make_ect,
    loss=ECTLoss,
    reads=(),
    psi_steps=0,
    passes=Passes(generator=4),
    official={"edm": {**_OFFICIAL, "dropout": 0.2, "ema_half_life_kimg": 887.0}},
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CDOptions(Settings):
    """Levels and distance of CD. Defaults are official (CIFAR-10), but for its distance, LPIPS.

    Attributes:
        levels: Noise levels of the sampler whose paths the generator learns.
        distance: ``l2``: mean of squares; ``l1``: mean of magnitudes.
        weighting: Weight of a level t; ``uniform``: 1; ``snr+1``: 1/t² + 1.
    """

    levels: Annotated[int, Range(least=2)] = 18
    distance: Literal["l2", "l1"] = "l2"
    weighting: Literal["uniform", "snr+1"] = "uniform"


@dataclasses.dataclass(eq=False)
class CDLoss(Loss):
    """``w(t) mean |D(y + t n; t) − stopgrad D(x_r; r)|²`` at neighbouring levels t > r of a Karras grid.

    x_r is reached from y + t n by one step of the teacher's Heun sampler. Both evaluations of D have the same dropout
    mask. The target is the trained network itself.

    Attributes:
        true_score: Denoiser that the path follows, ``net(x, sigma, class_labels)``.
        options: Levels of the grid, from 80 down to 0.002, distance and weight.

    Source: consistency models (arXiv:2303.01469, algorithm 2); openai/consistency_models:cm/karras_diffusion.py, and
    for the target openai/consistency_models_cifar10:jcm/losses.py.
    """

    draws = {"t": uniform, "noise": unit_noise}

    true_score: Net
    options: CDOptions

    def pair(self, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Levels t and r < t of a draw, uniform in [0, 1), with its shape and dtype."""
        steps = self.options.levels - 1
        index = (draw * steps).floor().clamp(max=steps - 1)
        return sigma_of_t(1 - index / steps), sigma_of_t(1 - (index + 1) / steps)

    def __call__(self, net: Net, batch: training.MicroBatch) -> dict[str, Tensor]:
        """Term ``consistency``, as :class:`ECTLoss`, but that the draw ``t`` decides the level."""
        labels, (t, r) = batch.class_labels, self.pair(batch.draws["t"])
        assert t.shape == (len(batch.images), 1, 1, 1)
        x = torch.addcmul(batch.images, t, batch.draws["noise"])
        with torch.no_grad():
            slope = (x - self.true_score(x, t, labels)) / t
            euler = x + (r - t) * slope
            below = x + (r - t) * (slope + (euler - self.true_score(euler, r, labels)) / r) / 2
        denoised, target = _outputs(net, (x, t), (below, r), labels)
        difference = denoised - target
        error = difference.square() if self.options.distance == "l2" else difference.abs()
        weight = 1 / t.square() + 1 if self.options.weighting == "snr+1" else 1.0
        (value,) = batch.drop_nan(error.mean(dim=(1, 2, 3), keepdim=True) * weight)
        return {"consistency": value}


def make_cd(parts: Parts) -> training.StudentTrainer:
    """Returns CD's trainer; its network is the identity at σ = 0.002, as GDD's."""
    step = _step(parts, "GDDPrecond", parts.loss(true_score=parts.true_score))
    return training.StudentTrainer([step], parts.schedule(), parts.config, graphs=False)


CD = dataclasses.replace(
    ECT,
    name="cd",
    title="CD without LPIPS",
    about="consistency distillation along the teacher's sampler, on real images; starts from the teacher",
    options=CDOptions,
    saw=Exposure(),
    trainer=make_cd,
    loss=CDLoss,
    passes=Passes(generator=6),
    official={"edm": {**_OFFICIAL, "dropout": 0.0, "ema_half_life_kimg": 3549.0}},
)
