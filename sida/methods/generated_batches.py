"""Batches of a one-step generator's images in place of real images."""

from __future__ import annotations

import torch

from sida.runtime.randomness import generator
from sida.sampling.networks import settled
from sida.sampling.one_step import one_step
from sida.sampling.quantise import to_uint8
from sida.training.batches import Batch, StepBatches


class GeneratedBatches:
    """Batches in which a one-step generator's samples play the real images: a control without data.

    The samples go through the same bytes as stored images, so that rounding does not give them away. Of the data set
    only the labels are used.

    Args:
        batches: Gives shapes and labels.
        net: The generator.
        init_sigma: Its σ_init.
    """

    def __init__(self, batches: StepBatches, net: torch.nn.Module, init_sigma: float) -> None:
        self.batches, self.init_sigma = batches, init_sigma
        self.net = settled(net).eval().requires_grad_(False)

    def __call__(self, purpose: str, nimg: int, with_images: bool = True) -> list[Batch]:
        """The rounds of one step, see :meth:`StepBatches.__call__`."""
        rounds = self.batches(purpose, nimg, with_images=False)
        if not with_images:
            return rounds
        device, rank = self.batches.device, self.batches.rank
        source = generator(self.batches.seed, f"real-source-{purpose}", nimg, 0, device=device)
        result = []
        # One device draws round by round, so several do too, and pass over the rounds of those before them.
        for _ in range(rank):
            for like, _ in rounds:
                torch.randn(like.shape, generator=source, device=device)
        for like, labels in rounds:
            z = torch.randn(like.shape, generator=source, device=device)
            with torch.no_grad():
                images = to_uint8(one_step(self.net, z, labels, self.init_sigma))
            result.append((images.float() / 127.5 - 1, labels))
        return result
