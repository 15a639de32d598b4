"""Images and random tensors of a step: functions of the seed, the purpose and the image's number, never of history.

Image k of a run (images seen before the step, plus the position in its batch) gets the same noise however many devices
share the batch. Draws per micro-batch (augmentation, dropout) depend on the position of the micro-batch's first image.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import torch

from sida.data.dataset import Dataset
from sida.data.order import ORDERS, Order
from sida.data.transfer import sent
from sida.errors import UserError
from sida.runtime.randomness import derive_seed, generator
from sida.training.config import RunConfig
from sida.training.ranks import Ranks

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Reads the data of the next step in one background thread, in the order of the requests.

    Reading and decoding release Python's lock, so that other threads compute meanwhile.

    Args:
        name: Of the data, for errors.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="data")
        self._prefetched: dict[Hashable, Future[T]] = {}

    def __call__(self, key: Hashable, read: Callable[[], T]) -> T:
        """Result of ``read``, or the prefetched result of this key, which is returned once.

        Raises:
            UserError: The data cannot be read.
        """
        future = self._prefetched.pop(key, None) or self._pool.submit(read)
        try:
            return future.result()
        except (OSError, UserError) as error:
            raise UserError(
                f"data set {self.name}: {error}; the last kept state is intact: make the data available, then run the "
                "same command to resume"
            ) from None

    def prefetch(self, key: Hashable, read: Callable[[], T]) -> None:
        """Starts to read the data of a key in the background."""
        self._prefetched[key] = self._pool.submit(read)


#: ``(images (N, C, H, W), class_labels (N, label_dim) or None)``.
Batch = tuple[torch.Tensor, torch.Tensor | None]
Shape = Sequence[int]
#: ``draw(shape, generator=, device=)``.
Draw = Callable[..., torch.Tensor]


class StepBatches:
    """Micro-batches of a step, on the device, in network units.

    Args:
        dataset: Data set.
        seed: Run seed.
        batch_size: Images per step over all devices.
        batch_gpu: Images per micro-batch on a device; None takes all of the device's at once.
        device: Where batches are put.
        rank: Number of this device.
        world_size: Number of devices; divides ``batch_size``.
        order: In which order images are visited, of :data:`sida.data.order.ORDERS`.

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
        order: str = "shuffled",
    ) -> None:
        if batch_size % world_size:
            raise ValueError(f"batch size {batch_size} cannot be shared by {world_size} devices")
        self.dataset, self.seed, self.device = dataset, seed, device
        self.rank, self.world_size, self.order = rank, world_size, order
        self.per_device = batch_size // world_size
        self.micro_batch = min(batch_gpu or self.per_device, self.per_device)
        self._orders: dict[str, Order] = {}
        self._prefetcher: Prefetcher[torch.Tensor] = Prefetcher(dataset.name)

    def __call__(self, purpose: str, nimg: int, with_images: bool = True) -> list[Batch]:
        """The micro-batches of one step.

        Args:
            purpose: Separates independent streams, e.g. ``"psi"`` and ``"generator"``.
            nimg: Images seen before the step, over all devices.
            with_images: False gives placeholders that have only a shape, when labels are all that is wanted.

        Returns:
            Pairs of images float32 ``(N, C, H, W)`` and labels ``(N, label_dim)``.
        """
        indices = self._indices(purpose, nimg)
        labels = sent(self.dataset.labels(indices), self.device)
        if with_images:
            images = sent(self._images(purpose, nimg, indices), self.device)
        else:
            images = torch.empty((), device=self.device).expand(len(indices), *self.dataset.network_shape)
        return list(zip(images.split(self.micro_batch), labels.split(self.micro_batch)))

    def _indices(self, purpose: str, nimg: int) -> np.ndarray:
        if purpose not in self._orders:
            self._orders[purpose] = ORDERS[self.order](len(self.dataset), self.seed, f"order-{purpose}")
        return self._orders[purpose].indices(nimg + self.rank * self.per_device, self.per_device)

    def _images(self, purpose: str, nimg: int, indices: np.ndarray) -> torch.Tensor:
        """Network input of a step on the CPU; what has to be read is read while the step before is computed."""
        if self.dataset.in_memory:
            return self._read(purpose, nimg, indices)
        images = self._prefetcher((purpose, nimg), lambda: self._read_ahead(purpose, nimg, indices))
        next_nimg = nimg + self.per_device * self.world_size
        following = self._indices(purpose, next_nimg)
        self._prefetcher.prefetch((purpose, next_nimg), lambda: self._read_ahead(purpose, next_nimg, following))
        return images

    def _read(self, purpose: str, nimg: int, indices: np.ndarray) -> torch.Tensor:
        # Only latent data sets draw here; pixels take no noise.
        source = generator(self.seed, f"data-{purpose}", nimg, 0)
        noise = lambda x: _share(torch.randn, x.shape, source, self.rank, self.world_size)
        return self.dataset.network_input(self.dataset.images(indices), noise)

    def _read_ahead(self, purpose: str, nimg: int, indices: np.ndarray) -> torch.Tensor:
        images = self._read(purpose, nimg, indices)
        return images.pin_memory() if self.device.type == "cuda" else images


def step_batches(
    config: RunConfig,
    dataset: Dataset,
    device: torch.device,
    ranks: Ranks,
    where: str,
    order: str = "shuffled",
) -> StepBatches:
    """One rank's batches of a configuration.

    Args:
        config: Settings of a teacher or a student.
        dataset: Data set.
        device: Where batches are put.
        ranks: Who shares them.
        where: Place named in errors.
        order: See :class:`StepBatches`.

    Raises:
        UserError: The batch, or its micro-batches, cannot be shared by so many processes.
    """
    size, batch_gpu, number = config.batch_size, config.batch_gpu, ranks.world_size
    if size % number:
        raise UserError(
            f"{where}.batch_size: {size} images cannot be shared by {number} processes; start fewer or more"
        )
    if batch_gpu is not None and (size // number) % batch_gpu:
        raise UserError(
            f"{where}.batch_gpu: {size // batch_gpu} micro-batches of {batch_gpu} images cannot be shared by "
            f"{number} processes; start a number that divides them"
        )
    return StepBatches(dataset, config.seed, size, batch_gpu, device, ranks.rank, number, order)


def step_draws(
    seed: int,
    purpose: str,
    nimg: int,
    rank: int,
    shapes: Sequence[Shape],
    device: torch.device,
    level: str,
    world_size: int = 1,
    more: Sequence[str] = (),
) -> list[dict[str, torch.Tensor]]:
    """Draws of all micro-batches of one step.

    They are drawn for the whole step on all devices and then cut, so that neither the size of the micro-batches nor the
    number of devices changes them.

    Args:
        seed: Run seed.
        purpose: ``"psi"`` or ``"generator"``.
        nimg: Images seen before the iteration.
        rank: Device number.
        shapes: ``(N, C, H, W)`` of each micro-batch on this device; all micro-batches agree in C, H, W.
        device: Where the tensors are made.
        level: Name of the draw that decides σ: ``"sigma_normal"`` (normal) or ``"t"`` (uniform in [0, 1)).
        world_size: Number of devices.
        more: Names of further draws. Those that end in ``noise`` are like ``noise``, those in ``t`` like the level
            ``t``.

    Returns:
        Per micro-batch: ``z`` and ``noise`` ``(N, C, H, W)``, ``level`` ``(N, 1, 1, 1)``, and the further ones.
    """
    source = generator(seed, purpose, nimg, 0, device=device)
    item = tuple(shapes[0][1:])
    kinds: dict[str, tuple[Draw, Shape]] = {
        "t": (torch.rand, (1, 1, 1)),
        "normal": (torch.randn, (1, 1, 1)),
        "noise": (torch.randn, item),
    }
    wanted = {"z": kinds["noise"], **{name: kinds[name.split("_")[-1]] for name in (level, "noise", *more)}}
    return share_of_draws(source, [shape[0] for shape in shapes], wanted, rank, world_size)


def share_of_draws(
    source: torch.Generator,
    counts: Sequence[int],
    wanted: Mapping[str, tuple[Draw, Shape]],
    rank: int = 0,
    world_size: int = 1,
) -> list[dict[str, torch.Tensor]]:
    """One device's part of draws that are made for the images of all devices, one mapping per micro-batch.

    Args:
        source: Where they come from, and the device they are made on.
        counts: Images of this device's micro-batches; all devices have as many.
        wanted: Function that draws and shape of one image's part, by name, in the order of drawing.
        rank: Device number.
        world_size: Number of devices.
    """
    count = sum(counts)
    parts = {
        name: _share(draw, (count, *item), source, rank, world_size).split(list(counts))
        for name, (draw, item) in wanted.items()
    }
    return [{name: micro_batches[number] for name, micro_batches in parts.items()} for number in range(len(counts))]


def _share(draw: Draw, shape: Shape, source: torch.Generator, rank: int, world_size: int) -> torch.Tensor:
    """One device's part, of the given shape, of what is drawn for the images of all devices."""
    count = shape[0]
    everyones = draw((count * world_size, *shape[1:]), generator=source, device=source.device)
    # A copy, where it is a part: the others' must not stay in memory.
    return everyones if world_size == 1 else everyones[rank * count : (rank + 1) * count].clone()


def seed_layers(seed: int, purpose: str, nimg: int, position: int, device: torch.device) -> None:
    """Seeds torch's global generator, which dropout draws from, for one micro-batch.

    Args:
        seed: Run seed.
        purpose: Names the step.
        nimg: Images seen before the iteration.
        position: Of the micro-batch's first image in the batch of all devices.
        device: Where the networks are.
    """
    value = derive_seed(seed, f"{purpose}-layers", nimg, position)
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
