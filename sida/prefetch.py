"""Items that a thread prepares while the caller works on earlier ones."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


def prefetch(items: Iterable[T], count: int = 1, device: str | torch.device = "cpu") -> Iterator[T]:
    """Yields items in order while a thread prepares the following ones; raises the exceptions of the thread.

    Args:
        items: Items; only the thread iterates over them.
        count: Largest number of items in preparation or prepared, besides the one that the caller works on.
        device: On a CUDA device the thread works on a separate stream; the caller's stream waits for each item's event.
    """
    device = torch.device(device)
    channel: queue.SimpleQueue[_Ready[T]] = queue.SimpleQueue()
    free, stopped = threading.Semaphore(count), threading.Event()

    def slots() -> Iterator[None]:
        while free.acquire() and not stopped.is_set():
            yield

    def produce() -> None:
        try:
            stream = torch.cuda.Stream(device) if device.type == "cuda" else None
            with torch.cuda.stream(stream):
                # A slot first: `zip` asks for an item once there is room for it.
                for _, item in zip(slots(), items):
                    channel.put(_Ready(item, stream.record_event() if stream is not None else None))
            channel.put(_Ready(last=True))
        except BaseException as error:
            channel.put(_Ready(error=error))

    # A daemon: an interrupted run must not wait for the item in preparation.
    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while not (ready := channel.get()).last:
            if ready.error is not None:
                raise ready.error
            free.release()
            ready.wait()
            yield ready.item  # type: ignore[misc]  # only the last one and errors have none
    finally:
        stopped.set()
        free.release()
        thread.join(timeout=5)


@dataclasses.dataclass(frozen=True)
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
