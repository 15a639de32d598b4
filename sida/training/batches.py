"""Images and random tensors of a step, as functions of the seed, the purpose and the image's number only.

A loss gets them as a :class:`MicroBatch`.
Image k of a run (images seen before the step, plus the position in its batch) gets the same noise for any number of
devices. Draws per micro-batch (augmentation, dropout) depend on the position of the micro-batch's first image.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from sida.config.recipe import RunConfig
from sida.data.dataset import Dataset
from sida.data.order import ORDERS, InfiniteSampler
from sida.errors import UserError
from sida.machine import derive_seed, generator, to_device
from sida.noise import Draw, Draws
from sida.training.processes import ALONE, Ranks

#: ``(images (N, C, H, W), class_labels (N, label_dim) or None)``.
Batch = tuple[torch.Tensor, torch.Tensor | None]
Shape = Sequence[int]


class StepBatches:
    """Micro-batches of a step, on the device, in network units.

    Args:
        config: Settings of a teacher or a student.
        dataset: Data set.
        device: Device of the batches.
        ranks: Processes that share the batches.
        where: Place named in errors.
        order: Order of the images, a name in :data:`sida.data.order.ORDERS`.

    Attributes:
        per_device: Images per step on this device; a trainer divides its losses by this number.

    Raises:
        UserError: The number of processes does not divide the batch or its micro-batches.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        device: torch.device,
        ranks: Ranks = ALONE,
        where: str = "spec",
        order: str = "shuffled",
    ) -> None:
        size, batch_gpu, number = config.batch_size, config.batch_gpu, ranks.world_size
        if size % (number * (batch_gpu or 1)):
            in_micro_batches = f" in micro-batches of {batch_gpu}" if batch_gpu else ""
            fault = f"{size} images{in_micro_batches} cannot be shared by {number} processes"
            raise UserError(f"{where}.batch_size", fault, "start a number that divides them, or change batch_gpu")
        self.dataset, self.seed, self.device, self.order = dataset, config.seed, device, order
        self.rank, self.world_size, self.per_device = ranks.rank, number, size // number
        self.micro_batch = batch_gpu or self.per_device
        self._orders: dict[str, InfiniteSampler] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="data")
        # By purpose: images seen before the step whose images are read ahead, and those images.
        self._ahead: dict[str, tuple[int, Future[torch.Tensor]]] = {}

    def __call__(self, purpose: str, nimg: int, with_images: bool = True) -> list[Batch]:
        """Returns the micro-batches of one step.

        Args:
            purpose: Separates independent streams, e.g. ``"psi"`` and ``"generator"``.
            nimg: Images seen before the step, over all devices.
            with_images: Whether the step sees images.

        Returns:
            Pairs of images float32 ``(N, C, H, W)`` and labels ``(N, label_dim)``. For a step without images they are
            on the meta device: they have a shape and no values.
        """
        indices = self._indices(purpose, nimg)
        labels = to_device(self.dataset.labels(indices), self.device)
        if with_images:
            images = to_device(self._images(purpose, nimg, indices), self.device)
        else:
            images = torch.empty((len(indices), *self.dataset.network_shape), device="meta")
        return list(zip(images.split(self.micro_batch), labels.split(self.micro_batch)))

    def _indices(self, purpose: str, nimg: int) -> np.ndarray:
        if purpose not in self._orders:
            self._orders[purpose] = ORDERS[self.order](len(self.dataset), self.seed, f"order-{purpose}")
        return self._orders[purpose].indices(nimg + self.rank * self.per_device, self.per_device)

    def _images(self, purpose: str, nimg: int, indices: np.ndarray) -> torch.Tensor:
        """Network input of a step on the CPU; one thread reads files during the step before.

        Raises:
            UserError: The data cannot be read.
        """
        if self.dataset.in_memory:
            return self._read(purpose, nimg, indices)
        # A step that is not taken in each iteration leaves its images unused.
        ahead, future = self._ahead.pop(purpose, (None, None))
        if future is None or ahead != nimg:
            future = self._pool.submit(self._read, purpose, nimg, indices)
        try:
            images = future.result()
        except (OSError, UserError) as error:
            remedy = "the last kept state is intact: make the data available, then run the same command to resume"
            raise UserError(f"data set {self.dataset.name}", error, remedy) from None
        next_nimg = nimg + self.per_device * self.world_size
        # Taken here, because an order is not safe in several threads.
        following = self._indices(purpose, next_nimg)
        self._ahead[purpose] = next_nimg, self._pool.submit(self._read, purpose, next_nimg, following)
        return images

    def _read(self, purpose: str, nimg: int, indices: np.ndarray) -> torch.Tensor:
        # Only latent data sets draw noise here.
        source = generator(self.seed, f"data-{purpose}", nimg, 0)
        noise = lambda x: _share(torch.randn, x.shape, source, self.rank, self.world_size)
        images = self.dataset.network_input(self.dataset.images(indices), noise)
        # Pinned in this thread, which releases Python's global lock while it copies.
        return images.pin_memory() if self.device.type == "cuda" and not self.dataset.in_memory else images


def step_draws(
    seed: int,
    purpose: str,
    nimg: int,
    shapes: Sequence[Shape],
    device: torch.device,
    draws: Mapping[str, Draw],
    ranks: Ranks = ALONE,
) -> list[dict[str, torch.Tensor]]:
    """Returns the draws of all micro-batches of one step, one mapping per micro-batch.

    Every device draws for all images of the step and then takes its part, so that the draws depend neither on the size
    of the micro-batches nor on the number of devices.

    Args:
        seed: Run seed.
        purpose: Name of the step, e.g. ``"psi"`` or ``"generator"``.
        nimg: Images seen before the iteration.
        shapes: ``(N, C, H, W)`` of each micro-batch on this device, with equal C, H and W, equal on all devices.
        device: Device of the tensors.
        draws: Kind of each draw by its name, in the order of drawing.
        ranks: Processes that share the step.
    """
    source = generator(seed, purpose, nimg, 0, device=device)
    counts = [shape[0] for shape in shapes]
    full_shape = (sum(counts), *shapes[0][1:])
    parts = {name: _share(draw, full_shape, source, ranks.rank, ranks.world_size) for name, draw in draws.items()}
    split = [part.split(counts) for part in parts.values()]
    return [dict(zip(parts, micro_batch)) for micro_batch in zip(*split)]


def _share(draw: Draw, shape: Shape, source: torch.Generator, rank: int, world_size: int) -> torch.Tensor:
    """Draws for the images of all devices and returns this device's part, which has the given shape."""
    count = shape[0]
    all_draws = draw((count * world_size, *shape[1:]), generator=source, device=source.device)
    # A copy of the part frees the memory of the other parts.
    return all_draws if world_size == 1 else all_draws[rank * count : (rank + 1) * count].clone()


def seed_layers(seed: int, purpose: str, nimg: int, position: int, device: torch.device) -> None:
    """Seeds torch's global generator, the source of dropout, for one micro-batch.

    Args:
        seed: Run seed.
        purpose: Name of the step.
        nimg: Images seen before the iteration.
        position: Position of the micro-batch's first image in the batch of all devices.
        device: Device of the networks.
    """
    value = derive_seed(seed, f"{purpose}-layers", nimg, position)
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)


#: ``images -> (images, augment_labels)``, with its own random draws.
Augment = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
#: Devices on which synchronising is costly: samples with NaN are neutralised instead of removed.
ASYNC_DEVICES = {"cuda"}


@dataclasses.dataclass
class MicroBatch:
    """Images and draws of one micro-batch, and which of its samples are free of NaN.

    Attributes:
        images: The generator's images ``(N, C, H, W)``; with a gradient in the generator's step.
        class_labels: ``(N, label_dim)`` or None.
        real_images: Images of the data ``(N, C, H, W)``, or None.
        draws: Raw tensors by name; with augmentation also those of :func:`augmented`.
        mask: Samples to keep, bool ``(N,)``; None is all.
    """

    images: torch.Tensor
    class_labels: torch.Tensor | None
    real_images: torch.Tensor | None = None
    draws: Draws = dataclasses.field(default_factory=dict)
    mask: torch.Tensor | None = None

    def __post_init__(self) -> None:
        assert self.class_labels is None or len(self.class_labels) == len(self.images)
        assert self.real_images is None or self.real_images.shape == self.images.shape

    @property
    def clean(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images that the fake score denoises, and their augmentation labels; without augmentation the images."""
        return self.draws.get("augmented images", self.images), self.draws.get("labels of images")

    @property
    def real(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As :attr:`clean`, of the data."""
        assert self.real_images is not None
        return self.draws.get("augmented real images", self.real_images), self.draws.get("labels of real images")

    @property
    def _in_place(self) -> bool:
        """Whether dropped samples stay with other values."""
        return self.mask is not None and self.mask.device.type in ASYNC_DEVICES

    def drop_nan(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Drops the samples for which one of the tensors ``(N, ...)`` has a NaN; returns the tensors without them."""
        assert len({len(tensor) for tensor in tensors}) == 1
        self.mask = finite_mask(*tensors)
        return self.select_valid(*tensors)

    def select_valid(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Selects the valid samples of :meth:`drop_nan`; on :data:`ASYNC_DEVICES` invalid ones become ones instead."""
        if self.mask is None:
            return tensors
        return tuple(_filled(self.mask, tensor, 1.0) if self._in_place else tensor[self.mask] for tensor in tensors)

    def zero_invalid(self, values: torch.Tensor) -> torch.Tensor:
        """Sets the samples that :meth:`select_valid` filled with ones on :data:`ASYNC_DEVICES` to zero.

        Args:
            values: Results of :meth:`select_valid`, ``(N', ...)``.
        """
        return _filled(self.mask, values, 0.0) if self._in_place else values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean of a result of :meth:`select_valid` over the valid samples; 0-dim."""
        if self.mask is None or not self._in_place:
            return values.mean()
        count = self.mask.sum() * (values.numel() // len(values))
        return self.zero_invalid(values).sum() / count.clamp_min(1)

    def finalize(self, terms: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Terms of a loss without the dropped samples."""
        return {name: term if term.ndim == 0 else self.zero_invalid(term) for name, term in terms.items()}

    @property
    def dropped(self) -> torch.Tensor | int:
        """Number of samples left out; a 0-dim tensor where there is a mask."""
        return 0 if self.mask is None else (~self.mask).sum()


def augmented(augment: Augment, images: torch.Tensor, real_images: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Augments the images of a micro-batch, and then its real ones; returns them and their labels by name."""
    by_name = {}
    for name, pictures in (("images", images), ("real images", real_images)):
        if pictures is not None:
            by_name[f"augmented {name}"], by_name[f"labels of {name}"] = augment(pictures)
    return by_name


def finite_mask(*tensors: torch.Tensor) -> torch.Tensor | None:
    """Mask of the samples without NaN in any of the tensors, bool ``(N,)``; None if there is no NaN (the usual case).

    Args:
        *tensors: ``(N, ...)`` each.
    """
    flat = [tensor.detach().flatten(1) for tensor in tensors]
    # A sum is cheaper than a test of every element; infinities of both signs give a NaN sum, too.
    if flat[0].device.type not in ASYNC_DEVICES and not any(bool(values.sum().isnan()) for values in flat):
        return None
    return ~torch.stack([values.isnan().any(1) for values in flat]).any(0)


def _filled(mask: torch.Tensor | None, tensor: torch.Tensor, value: float) -> torch.Tensor:
    # torch.where, not a product: NaN · 0 is NaN, in the value and in its gradient.
    assert mask is not None
    assert len(mask) == len(tensor)
    return torch.where(mask.view(-1, *[1] * (tensor.ndim - 1)), tensor, value)
