"""Consistency (ECT, CD): a diffusion network learns one output for all noise levels of a path; losses and trainers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from sida.losses.terms import (
    MicroBatch,
    Net,
    Terms,
    dropped_count,
    edm_weight,
    finite_mask,
    keep,
    lognormal_sigma,
    sigma_normal,
    sigma_of_t,
    uniform,
    unit_noise,
)
from sida.methods.cd import CDOptions
from sida.methods.distiller import Parts
from sida.methods.ect import ECTOptions
from sida.training.iteration import OptimizerStep
from sida.training.logs import IterationRecord
from sida.training.optimizer import RAdam
from sida.training.student_trainer import StudentTrainer


@dataclasses.dataclass(eq=False)
class ECTLoss:
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

    options: ECTOptions
    P_mean: float
    P_std: float
    sigma_data: float
    stage: int = 0

    def lower_level(self, t: torch.Tensor) -> torch.Tensor:
        """Level r(t), with the shape and dtype of t."""
        options = self.options
        step = options.q ** -(self.stage + 1) * (1 + options.k * torch.sigmoid(-options.b * t))
        return (t * (1 - step)).clamp_min(0)

    def __call__(self, net: Net, given: MicroBatch) -> Terms:
        """Term ``consistency``, float32 ``(N', 1, 1, 1)``.

        Args:
            net: The generator, in training mode.
            given: Real images as ``images``; its draws ``sigma_normal`` ``(N, 1, 1, 1)`` and ``noise``
                ``(N, C, H, W)`` replace the random ones.
        """
        real_images, class_labels, draws = given.images, given.class_labels, given.draws
        t = lognormal_sigma(sigma_normal(draws, real_images), self.P_mean, self.P_std)
        r = self.lower_level(t)
        noise = unit_noise(draws, real_images)
        # A network has no level 0; its output there is not used.
        above = torch.addcmul(real_images, t, noise), t
        below = torch.addcmul(real_images, r, noise), torch.where(r > 0, r, t)
        denoised, target = _outputs(net, above, below, class_labels)
        target = torch.where(r > 0, target, real_images)
        distance = (denoised - target).square().sum(dim=(1, 2, 3), keepdim=True)
        weight = 1 / (t - r) if self.options.weighting == "step" else edm_weight(t, self.sigma_data)
        value = ((distance + self.options.c**2).sqrt() - self.options.c) * weight
        return _finite(value)


@dataclasses.dataclass(eq=False)
class CDLoss:
    """``w(t) mean |D(y + t n; t) − stopgrad D(x_r; r)|²`` at neighbouring levels t > r of a Karras grid.

    x_r is reached from y + t n by one step of the teacher's Heun sampler. Both evaluations of D have the same dropout
    mask. The target is the trained network itself.

    Attributes:
        teacher: Denoiser that the path follows, ``net(x, sigma, class_labels)``.
        options: Levels of the grid, from 80 down to 0.002, distance and weight.

    Source: consistency models (arXiv:2303.01469, algorithm 2); openai/consistency_models:cm/karras_diffusion.py, and
    for the target openai/consistency_models_cifar10:jcm/losses.py.
    """

    teacher: Net
    options: CDOptions

    def pair(self, draw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels t and r < t of a draw, uniform in [0, 1), with its shape and dtype."""
        steps = self.options.levels - 1
        index = (draw * steps).floor().clamp(max=steps - 1)
        return sigma_of_t(1 - index / steps), sigma_of_t(1 - (index + 1) / steps)

    def __call__(self, net: Net, given: MicroBatch) -> Terms:
        """Term ``consistency``, as :class:`ECTLoss`, but that the draw ``t`` decides the level."""
        real_images, class_labels, draws = given.images, given.class_labels, given.draws
        t, r = self.pair(uniform(draws, real_images))
        x = torch.addcmul(real_images, t, unit_noise(draws, real_images))
        with torch.no_grad():
            slope = (x - self.teacher(x, t, class_labels)) / t
            euler = x + (r - t) * slope
            below = x + (r - t) * (slope + (euler - self.teacher(euler, r, class_labels)) / r) / 2
        denoised, target = _outputs(net, (x, t), (below, r), class_labels)
        difference = denoised - target
        error = difference.square() if self.options.distance == "l2" else difference.abs()
        weight = 1 / t.square() + 1 if self.options.weighting == "snr+1" else 1.0
        return _finite(error.mean(dim=(1, 2, 3), keepdim=True) * weight)


def _outputs(
    net: Net,
    above: tuple[torch.Tensor, torch.Tensor],
    below: tuple[torch.Tensor, torch.Tensor],
    class_labels: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs for two noisy images and levels with one dropout mask; the second one without gradient."""
    rewind = _rewind(above[0].device)
    denoised = net(*above, class_labels)
    rewind()
    with torch.no_grad():
        return denoised, net(*below, class_labels)


def _finite(value: torch.Tensor) -> Terms:
    mask = finite_mask(value)
    return Terms({"consistency": keep(mask, value)[0]}, dropped_count(mask))


def _rewind(device: torch.device) -> Callable[[], object]:
    """Returns a function that restores the present state of a device's global torch generator."""
    cuda = device.type == "cuda"
    source = torch.cuda.default_generators[device.index or 0] if cuda else torch.default_generator
    state = source.get_state()
    return lambda: source.set_state(state)


def stage_at(nimg: int, batch_size: int, stage_kimg: float) -> int:
    """Stage of the iteration that begins after ``nimg`` images; a stage begins one iteration late.

    Source: locuslab/ect:training/ct_training_loop.py, whose first tick is one iteration long.
    """
    return int(max(nimg - batch_size, 0) // (stage_kimg * 1000))


def make_ect(parts: Parts) -> StudentTrainer:
    """Returns ECT's trainer, which advances the loss's stage."""
    config, stage_kimg = parts.config, parts.options.stage_kimg
    loss = ECTLoss(parts.options, config.P_mean, config.P_std, config.sigma_data)

    def begin(nimg: int) -> None:
        loss.stage = stage_at(nimg, config.batch_size, stage_kimg)

    return _trainer(parts, "ECTPrecond", loss, "sigma_normal", begin)


def make_cd(parts: Parts) -> StudentTrainer:
    """Returns CD's trainer; its network is the identity at σ = 0.002, as GDD's."""
    return _trainer(parts, "GDDPrecond", CDLoss(parts.true_score, parts.options), "t")


def _trainer(
    parts: Parts,
    network: str,
    loss: ECTLoss | CDLoss,
    level: str,
    begin: Callable[[int], None] = lambda nimg: None,
) -> StudentTrainer:
    """Returns a trainer of the generator alone on real images.

    Args:
        parts: Of the run.
        network: Class of the generator's preconditioning.
        loss: The loss.
        level: Draw that decides the noise level, see :class:`sida.training.iteration.OptimizerStep`.
        begin: Called before each iteration with the number of images seen so far.
    """

    class ConsistencyTrainer(StudentTrainer):
        def iteration(self, nimg: int, *args: Any, **kwargs: Any) -> IterationRecord:
            begin(nimg)
            return super().iteration(nimg, *args, **kwargs)

    net = parts.optimized(parts.copy(parts.initial_as(network), None), optimizer=RAdam)
    step = OptimizerStep(
        "generator",
        net,
        lambda given: loss(net.call, given),
        lambda pixels: {"consistency": 1.0},
        "generator",
        level,
        real_images=True,
        generates=False,
    )
    # Both evaluations need the same dropout mask, which a CUDA graph cannot repeat.
    return ConsistencyTrainer([step], parts.schedule(), parts.config, graphs=False)
