"""Score distillation: a teacher, a fake score that follows the generator, and the generator that learns from both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from sida.data.augment import AugmentPipe
from sida.errors import UserError
from sida.losses import Draws, SiDLoss
from sida.networks.fused import Kernels, use_fused_kernels
from sida.training.compilation import compiled
from sida.training.iteration import Turns
from sida.training.learner import Learner, Reduce
from sida.training.meter import IterationRecord
from sida.training.player import Batch, Player
from sida.training.schedule import Schedule

Item = TypeVar("Item")


class Distiller(Turns):
    """Teacher φ, fake score ψ, generator θ and θ's average, and how one iteration changes them.

        distiller = Distiller(phi, psi, theta, SiDALoss(), Schedule(), lr=1e-5)
        record = distiller.iteration(nimg, [(images, labels)], [(images, labels)])

    An iteration is a ψ step (or several) on images of the current θ, then a θ step through the new ψ, then the average:
    algorithm 1 of SiDA (arXiv:2410.14919) with the official code's order, modes and scales (golden facts 5-13).

    Args:
        true_score: φ; frozen here.
        fake_score: ψ; usually a copy of φ.
        generator: θ; a copy of φ, or for SiD2A of a distilled generator.
        loss: The method's losses: SiD's or one derived from it; ``loss.uses_real_images`` says whether ψ also judges
            real images, ``loss.weights`` what its terms are multiplied by.
        schedule: Phases by images seen.
        lr: θ's learning rate.
        fake_score_lr: ψ's; None for the same.
        betas: Adam's β₁ and β₂.
        generator_betas: θ's, where they differ; None for the same.
        eps: Adam's ε: 1e-8 in float32, 1e-6 with float16.
        init_sigma: σ_init of the generator.
        lambda_sid: Weight of the SiD term.
        lambda_adv: Weight of the adversarial term (which is also multiplied by C·H·W).
        lambda_d: Weight of the discriminator term: 1 for EDM, 100 for EDM2 in the paper.
        lambda_fake_score: Weight of ψ's denoising term.
        grad_clip_value: Value clip of ψ's gradients (1 in SiDA on EDM networks); None is off. θ is never clipped.
        augment: Augmentation of ψ's batches; None is off. θ's are never augmented.
        ema_half_life: Half-life of the average, in images.
        ema_rampup_ratio: The half-life is at most this share of the images seen; None is no limit.
        seed: Run seed of all draws.
        rank: Number of this device.
        world_size: Number of devices; the average's step counts the images of all of them.
        reduce: Averages a gradient vector over devices, in place; losses are means over this device's images, of
            which all devices bring equally many (:data:`sida.training.learner.Reduce`).
        compile: Run the networks through ``torch.compile``.
        kernels: ``torch``, or ``fused``: the networks and steps of :mod:`sida.kernels` (a GPU's; other rounding).
        recompute: With fused kernels, make the activations before convolutions again where gradients pass.
        cuda_graphs: On a GPU, record each round's kernels once and replay them.
        psi_steps: ψ's steps in an iteration.
        others: Further players, which step between ψ and θ.
    """

    def __init__(
        self,
        true_score: torch.nn.Module,
        fake_score: torch.nn.Module,
        generator: torch.nn.Module,
        loss: SiDLoss,
        schedule: Schedule,
        *,
        lr: float,
        fake_score_lr: float | None = None,
        betas: tuple[float, float] = (0.0, 0.999),
        generator_betas: tuple[float, float] | None = None,
        eps: float = 1e-8,
        init_sigma: float = 2.5,
        lambda_sid: float = 100.0,
        lambda_adv: float = 0.01,
        lambda_d: float = 1.0,
        lambda_fake_score: float = 1.0,
        grad_clip_value: float | None = None,
        augment: AugmentPipe | None = None,
        ema_half_life: float = 500_000,
        ema_rampup_ratio: float | None = 0.05,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        reduce: Reduce | None = None,
        compile: bool = False,
        kernels: Kernels = "torch",
        recompute: bool = False,
        cuda_graphs: bool = True,
        psi_steps: int = 1,
        others: Sequence[Player] = (),
    ) -> None:
        if not isinstance(loss, SiDLoss):
            kind = type(loss).__name__
            raise UserError(
                f"loss: {kind} has no fake score, which this loop trains; take SiDLoss or one derived from it"
            )
        self.loss = loss
        self.lambdas = {
            "lambda_sid": lambda_sid,
            "lambda_adv": lambda_adv,
            "lambda_d": lambda_d,
            "lambda_fake_score": lambda_fake_score,
        }
        self.true_score = true_score.eval().requires_grad_(False)
        fused = kernels == "fused"
        for net in (true_score, fake_score, generator) if fused else ():
            use_fused_kernels(net, again=recompute)
        if fused:
            # As learners lay theirs out: the weights of convolutions are converted in each call.
            true_score.to(memory_format=torch.channels_last)
        phi = compiled(true_score) if compile else true_score
        psi_lr = lr if fake_score_lr is None else fake_score_lr
        self.fake_score = psi = Learner(fake_score, psi_lr, betas, eps, grad_clip_value, compile=compile, fused=fused)
        theta = Learner(generator, lr, generator_betas or betas, eps, compile=compile, fused=fused)
        weights = lambda pixels: loss.weights(self.lambdas, pixels)
        players = [
            Player(
                "fake_score",
                psi,
                lambda given: loss.fake_score_loss(psi.call, *given),
                weights,
                "psi",
                "sigma_normal",
                real_images=loss.uses_real_images,
                augment=augment,
                steps=psi_steps,
            ),
            *others,
            Player(
                "generator",
                theta,
                lambda given: loss.generator_loss(phi, psi.call, given.images, given.class_labels, given.draws),
                weights,
                "generator",
            ),
        ]
        super().__init__(
            players,
            schedule,
            init_sigma=init_sigma,
            ema_half_life=ema_half_life,
            ema_rampup_ratio=ema_rampup_ratio,
            seed=seed,
            rank=rank,
            world_size=world_size,
            reduce=reduce,
            cuda_graphs=cuda_graphs,
        )

    def iteration(
        self,
        nimg: int,
        psi_batches: Sequence[Batch],
        generator_batches: Sequence[Batch],
        draws: Sequence[Draws] | None = None,
    ) -> IterationRecord:
        """ψ's steps, one θ step (if the schedule wants it), one step of the average.

        Args:
            nimg: Images seen before this iteration, over all devices.
            psi_batches: One pair per accumulation round: real images (only their shape counts for SiD) and labels. The
                rounds of several ψ steps follow each other; the method's other players see the same.
            generator_batches: The same for θ; of the images only the shape counts, of a separate batch the labels.
            draws: Replace the random tensors: one mapping per round, ψ's rounds first. A round may have ``z``,
                ``noise`` and ``sigma_normal`` (ψ) or ``t`` (θ), see :func:`sida.training.batches.step_draws`; what it
                leaves out is drawn as without it.
        """
        rounds = len(psi_batches)
        if draws is not None and len(draws) != rounds + len(generator_batches):
            raise ValueError(f"{len(draws)} mappings of draws for {rounds} + {len(generator_batches)} rounds")
        psi = self.players[0].streams()
        batches = {**_shared_out(psi_batches, psi), "generator": generator_batches}
        given = {} if draws is None else {**_shared_out(draws[:rounds], psi), "generator": draws[rounds:]}
        return self.take(nimg, lambda stream, _: batches.get(stream, batches["psi"]), given)


def _shared_out(items: Sequence[Item], streams: Sequence[str]) -> dict[str, Sequence[Item]]:
    """As many items for each stream, in their order."""
    if len(items) % len(streams):
        raise ValueError(f"{len(items)} rounds cannot be shared by {len(streams)} steps of the fake score")
    size = len(items) // len(streams)
    return {stream: items[n * size : (n + 1) * size] for n, stream in enumerate(streams)}
