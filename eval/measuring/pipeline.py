"""The pass of a measurement: batches of images go through all extractors into the sums of a trial.

On a GPU the source runs ahead in a thread and on a separate stream, so that decoding, drawing latents on the CPU and
sampling overlap with feature extraction. On a CPU a thread reads image files ahead; networks draw without one, since
sampling and feature extraction share the cores.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch

from eval.features.base import Extractor
from eval.features.registry import extract
from eval.measuring.metric import Metric
from eval.measuring.protocol import Protocol
from eval.measuring.trial import TrialSums
from sida.errors import UserError
from sida.runtime.devices import tf32

T = TypeVar("T")


class ImageBatch(NamedTuple):
    """Images of consecutive seeds.

    Attributes:
        images: uint8 (N, C, H, W).
        classes: Requested classes, int64 (N,), or None.
    """

    images: torch.Tensor
    classes: torch.Tensor | None


def run_pass(
    batches: Iterable[ImageBatch],
    extractors: Mapping[str, Extractor],
    sums: TrialSums,
    first: int = 0,
    prefetched: int = 0,
    progress: Callable[[int], None] | None = None,
) -> TrialSums:
    """Adds batches to ``sums`` and returns ``sums``.

    Args:
        batches: Images in the order of their seeds.
        extractors: Networks by name.
        sums: Sums of the trial.
        first: Index of the first image within the trial.
        prefetched: Number of batches that the source may prepare in advance (0: no thread).
        progress: Called after each batch with the number of finished images.
    """
    position = first
    # The last layer of Inception is a product of 2048 × 1008; only kinds with sums of their own look at it.
    classes = {metric.extractor for metric in sums.metrics if type(metric).update is not Metric.update}
    with tf32(sums.protocol.allow_tf32):
        for batch in prefetch(batches, prefetched, sums.device) if prefetched else batches:
            sums.update(extract(batch.images, extractors, classes), batch.classes, position)
            position += len(batch.images)
            if progress is not None:
                progress(position - first)
    return sums


def sized(items: Iterator[ImageBatch], protocol: Protocol, origin: str) -> Iterator[ImageBatch]:
    """Yields the batches after a check that the first one has the image size of the protocol.

    Raises:
        UserError: The size differs; ``origin`` names the images.
    """
    for number, batch in enumerate(items):
        if number == 0:
            channels, height, width = batch.images.shape[1:]
            size = protocol.resolution
            # Feature networks repeat grey images to three channels, as the official tools do.
            fits = protocol.channels in (None, channels) or (channels, protocol.channels) == (1, 3)
            if not fits or (size is not None and (height, width) != (size, size)):
                plural = "" if protocol.channels == 1 else "s"
                expected = f"{protocol.channels or 'any'} channel{plural} of {size or 'any'}×{size or 'any'}"
                raise UserError(
                    origin,
                    f"images have {channels} channel{'s' * (channels > 1)} of {height}×{width}, protocol "
                    f"'{protocol.name}' measures {expected}",
                    "generate images of that size, or choose the protocol "
                    "of this data set (nothing is resized here, since that changes the numbers)",
                )
        yield batch


def prefetch(items: Iterable[T], count: int, device: str | torch.device = "cpu") -> Iterator[T]:
    """Yields ``items`` in order while a thread prepares up to ``count`` of them; raises the exceptions of the thread.

    On a CUDA ``device`` the thread works on a separate stream; the consumer's stream waits for the event of each item.
    """
    device = torch.device(device)
    channel: queue.Queue[_Ready[T]] = queue.Queue(maxsize=count)
    stopped = threading.Event()

    def put(ready: _Ready[T]) -> bool:
        while not stopped.is_set():
            try:
                channel.put(ready, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            stream = torch.cuda.Stream(device) if device.type == "cuda" else None
            with torch.cuda.stream(stream):
                for item in items:
                    if not put(_Ready(item, stream.record_event() if stream is not None else None)):
                        return
            put(_Ready(last=True))
        except BaseException as error:
            put(_Ready(error=error))

    # A daemon: an interrupted run must not wait for the batch in preparation.
    thread = threading.Thread(target=produce, name="image source", daemon=True)
    thread.start()
    try:
        while not (ready := channel.get()).last:
            if ready.error is not None:
                raise ready.error
            ready.wait()
            yield ready.item  # type: ignore[misc]  # only the last one and errors have none
    finally:
        stopped.set()
        thread.join(timeout=5)


@dataclass(frozen=True)
class _Ready(Generic[T]):
    """Message of the thread: an item with the event after which it may be read, an error, or the end."""

    item: T | None = None
    event: torch.cuda.Event | None = None
    error: BaseException | None = None
    last: bool = False

    def wait(self) -> None:
        """Makes the current stream wait for the item, and keeps the item's memory until that stream has read it."""
        if self.event is None:
            return
        stream = torch.cuda.current_stream(self.event.device)
        stream.wait_event(self.event)
        for part in self.item if isinstance(self.item, tuple) else (self.item,):
            if isinstance(part, torch.Tensor) and part.is_cuda:
                part.record_stream(stream)
