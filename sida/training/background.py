"""Background writing during training: copies of changing tensors, and one thread that writes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from types import TracebackType

import torch

NamedTensors = dict[str, torch.Tensor]


def copied_to_cpu(tensors: Mapping[str, torch.Tensor]) -> Callable[[], NamedTensors]:
    """Starts to copy the present values of tensors to the CPU, without waiting for a GPU.

    A GPU copies to pinned memory in the order of its work, so that later steps may change the tensors at once.

    Args:
        tensors: Tensors on any device.

    Returns:
        A function that waits until the copies are complete and returns them; any thread may call it.
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
    """Does jobs one after the other in a separate thread, and stops at the first job that fails.

        with BackgroundWriter() as writer:
            writer.do(job)
            writer.check()

    The context waits for all jobs at its end, except after an interruption (Ctrl-C).
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
        """Whether jobs are pending."""
        return self._pending > 0

    def do(self, job: Callable[[], None]) -> None:
        """Adds a job.

        Raises:
            Exception: Error of an earlier job.
        """
        self.check()
        if self._thread is None:
            # A daemon thread does not delay the end of the process.
            self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
            self._thread.start()
        with self._changed:
            self._pending += 1
        self._jobs.put(job)

    def check(self) -> None:
        """Raises the error of the job that failed, if any."""
        if self._fault is not None:
            raise self._fault

    def wait(self, pending: int = 0) -> None:
        """Waits until at most ``pending`` jobs are pending.

        Raises:
            Exception: Error of a job.
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
            # Frees the job's memory (copies of a state) before waiting for the next job.
            del job
            with self._changed:
                self._pending -= 1
                self._changed.notify_all()
