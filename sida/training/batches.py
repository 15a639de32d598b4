"""Images and random tensors of a step: functions of (seed, purpose, images seen, rank) alone, never of history."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sida.data.dataset import Dataset
from sida.data.order import InfiniteSampler
from sida.randomness import derive_seed, generator
from sida.sampling.networks import settled
from sida.sampling.one_step import one_step
from sida.sampling.quantise import to_uint8

Batch = tuple[torch.Tensor, torch.Tensor]
Shape = Sequence[int]


class StepBatches:
    """Accumulation rounds of a step, on the device, in network units.

    Args:
        dataset: Data set.
        seed: Run seed.
        batch_size: Images per step over all devices.
        batch_gpu: Images per round on a device; None takes all of the device's at once.
        device: Where batches are put.
        rank: Number of this device.
        world_size: Number of devices; divides ``batch_size``.

    Attributes:
        per_device: Images per step on this device; a trainer divides its losses by them.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        batch_size: int,
        batch_gpu: int | None,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(f"batch size {batch_size} cannot be shared by {world_size} devices")
        self.dataset, self.seed, self.device, self.rank = dataset, seed, device, rank
        self.per_device = batch_size // world_size
        self.round = min(batch_gpu or self.per_device, self.per_device)
        self._samplers: dict[str, InfiniteSampler] = {}

    def __call__(self, purpose: str, nimg: int, with_images: bool = True) -> list[Batch]:
        """The rounds of one step.

        Args:
            purpose: Separates independent streams, e.g. ``"psi"`` and ``"generator"``.
            nimg: Images seen before the step, over all devices.
            with_images: False gives placeholders that have only a shape, when labels are all that is wanted.

        Returns:
            Pairs of images float32 ``(N, C, H, W)`` and labels ``(N, label_dim)``.
        """
        if purpose not in self._samplers:
            self._samplers[purpose] = InfiniteSampler(len(self.dataset), self.seed, f"order-{purpose}")
        indices = self._samplers[purpose].indices(nimg + self.rank * self.per_device, self.per_device)
        labels = self.dataset.labels(indices).to(self.device)
        if with_images:
            # Only latent data sets draw here; pixels take no noise.
            source = generator(self.seed, f"data-{purpose}", nimg, self.rank)
            noise = lambda x: torch.randn(x.shape, generator=source)
            images = self.dataset.network_input(self.dataset.images(indices), noise).to(self.device)
        else:
            images = torch.empty((), device=self.device).expand(len(indices), *self.dataset.network_shape)
        return list(zip(images.split(self.round), labels.split(self.round)))


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
        device = self.batches.device
        source = generator(self.batches.seed, f"real-source-{purpose}", nimg, self.batches.rank, device=device)
        result = []
        for like, labels in rounds:
            z = torch.randn(like.shape, generator=source, device=device)
            with torch.no_grad():
                images = to_uint8(one_step(self.net, z, labels, self.init_sigma))
            result.append((images.float() / 127.5 - 1, labels))
        return result


def step_draws(
    seed: int, purpose: str, nimg: int, rank: int, shapes: Sequence[Shape], device: torch.device, level: str
) -> list[dict[str, torch.Tensor]]:
    """Draws of all accumulation rounds of one step.

    They are drawn for the whole step and then cut, so that the size of the rounds does not change them.

    Args:
        seed: Run seed.
        purpose: ``"psi"`` or ``"generator"``.
        nimg: Images seen before the iteration.
        rank: Device number.
        shapes: ``(N, C, H, W)`` of each round; all rounds agree in C, H, W.
        device: Where the tensors are made.
        level: Name of the draw that decides σ: ``"sigma_normal"`` (normal) or ``"t"`` (uniform in [0, 1)).

    Returns:
        Per round: ``z`` and ``noise`` ``(N, C, H, W)``, and ``level`` ``(N, 1, 1, 1)``.
    """
    source = generator(seed, purpose, nimg, rank, device=device)
    counts = [shape[0] for shape in shapes]
    total, item = sum(counts), tuple(shapes[0][1:])
    z = torch.randn((total, *item), generator=source, device=device)
    draw = torch.rand if level == "t" else torch.randn
    levels = draw((total, 1, 1, 1), generator=source, device=device)
    noise = torch.randn((total, *item), generator=source, device=device)
    parts = zip(z.split(counts), levels.split(counts), noise.split(counts))
    return [{"z": a, level: b, "noise": c} for a, b, c in parts]


def seed_layers(seed: int, purpose: str, nimg: int, rank: int, device: torch.device) -> None:
    """Seeds torch's global generator, which dropout draws from, for one step."""
    value = derive_seed(seed, f"{purpose}-layers", nimg, rank)
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
