"""Easy consistency tuning (ECT): the teacher's weights, tuned on real data to give one image at all noise levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sida.config.settings import NotNegative, Positive, Range, Settings
from sida.methods.method import Method, Passes

if TYPE_CHECKING:
    from sida.methods.build import Parts
    from sida.training.student_trainer import StudentTrainer


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


def stage_at(nimg: int, batch_size: int, stage_kimg: float) -> int:
    """Stage of the iteration that begins after ``nimg`` images; a stage begins one iteration late.

    Source: locuslab/ect:training/ct_training_loop.py, whose first tick is one iteration long.
    """
    return int(max(nimg - batch_size, 0) // (stage_kimg * 1000))


def consistency_trainer(
    parts: Parts, network: str, loss: Any, level: str, begin: Callable[[int], None] = lambda nimg: None
) -> StudentTrainer:
    """Returns a trainer of the generator alone on real images.

    Args:
        parts: Of the run.
        network: Class of the generator's preconditioning.
        loss: Object with ``generator_loss``, see :class:`sida.losses.consistency.ECTLoss`.
        level: Draw that decides the noise level, see :class:`sida.training.iteration.OptimizerStep`.
        begin: Called before each iteration with the number of images seen so far.
    """
    from sida.training.flat import RAdam
    from sida.training.iteration import OptimizerStep
    from sida.training.optimized_network import OptimizedNetwork
    from sida.training.student_trainer import StudentTrainer

    config = parts.config

    class ConsistencyTrainer(StudentTrainer):
        def iteration(self, nimg: int, *args: Any, **kwargs: Any) -> Any:
            begin(nimg)
            return super().iteration(nimg, *args, **kwargs)

    betas = config.generator_betas or config.betas
    source = parts.copy(parts.initial_as(network), None)
    net = OptimizedNetwork(source, config.lr, betas, config.eps, compile=config.compile, optimizer=RAdam)
    step = OptimizerStep(
        "generator",
        net,
        lambda given: loss.generator_loss(net.call, given.images, given.class_labels, given.draws),
        lambda pixels: {"consistency": 1.0},
        "generator",
        level,
        real_images=True,
        generates=False,
    )
    # Both evaluations need the same dropout mask, which a CUDA graph cannot repeat.
    return ConsistencyTrainer([step], parts.schedule(), config, graphs=False)


def make_ect(parts: Parts) -> StudentTrainer:
    """Returns the trainer of a configuration."""
    loss: Any = parts.method.loss(parts)

    def begin(nimg: int) -> None:
        loss.stage = stage_at(nimg, parts.config.batch_size, parts.options.stage_kimg)

    return consistency_trainer(parts, "ECTPrecond", loss, "sigma_normal", begin)


def _loss(parts: Parts) -> Any:
    from sida.losses.consistency import ECTLoss

    options = parts.options
    own = {name: getattr(options, name) for name in ("q", "k", "b", "c", "weighting")}
    return parts.make(ECTLoss, **own)


ECT = Method(
    name="ect",
    title="ECT",
    about="consistency tuning on real images alone; starts from the teacher",
    start="teacher",
    real_images=True,
    loss=_loss,
    options=ECTOptions,
    trainer=make_ect,
    reads=frozenset({"P_mean", "P_std", "real_source", "sigma_data"}),
    psi_steps=0,
    passes=Passes(generator=4),
    defaults={
        "edm": {
            "betas": (0.9, 0.999),
            "init_sigma": 80.0,
            "P_mean": -1.1,
            "P_std": 2.0,
            "dropout": 0.2,
            "ema_half_life_kimg": 887.0,
            "warmup_kimg": 0.0,
            "weight_norm": None,
            "fake_score_weight_norm": None,
        },
    },
)
