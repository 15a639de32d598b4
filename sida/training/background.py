"""Writing while training goes on: copies of what changes, and one thread that writes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from types import TracebackType

import torch

NamedTensors = dict[str, torch.Tensor]


def copied_to_cpu(tensors: Mapping[str, torch.Tensor]) -> Callable[[], NamedTensors]:
    """Starts to copy tensors to the CPU, as they are now; a GPU is not waited for.

    From a GPU they go to pinned memory, in the order of its work: what is computed next may change them at once.

    Args:
        tensors: Of any device.

    Returns:
        A function that waits until the copies are whole and returns them; for any thread.
    """
    copies = {
        name: torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor, non_blocking=True)
        for name, tensor in tensors.items()
    }
    copied = []
    for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
        copied.append(torch.cuda.Event(blocking=True))
        copied[-1].record(torch.cuda.current_stream(device))

    def ready() -> NamedTensors:
        for event in copied:
            event.synchronize()
        return copies

    return ready


class BackgroundWriter:
    """Does jobs one after the other in a thread of its own. The first that fails is the last.

        with BackgroundWriter() as writer:
            writer.do(job)
            writer.check()

    Leaving it waits for all jobs, except when something that is no fault (a Ctrl-C) ends the process at once.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._pending = 0
        self._fault: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        self._jobs.put(None)
        if kind is not None and not issubclass(kind, Exception):
            return
        self._thread.join()
        if self._fault is not None and error is not self._fault:
            raise self._fault

    @property
    def busy(self) -> bool:
        """Whether there is anything left to do."""
        return self._pending > 0

    def do(self, job: Callable[[], None]) -> None:
        """Adds a job.

        Raises:
            Exception: What an earlier job failed with.
        """
        self.check()
        if self._thread is None:
            # A daemon, so that nothing keeps a process that is to end at once.
            self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
            self._thread.start()
        with self._changed:
            self._pending += 1
        self._jobs.put(job)

    def check(self) -> None:
        """Raises what a job failed with, if one did."""
        if self._fault is not None:
            raise self._fault

    def wait(self, pending: int = 0) -> None:
        """Returns when at most so many jobs are left.

        Raises:
            Exception: What a job failed with.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._pending <= pending)
        self.check()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._fault is None:
                try:
                    job()
                except BaseException as error:
                    self._fault = error
            # What it holds (copies of a state) is free before the next one waits.
            del job
            with self._changed:
                self._pending -= 1
                self._changed.notify_all()
