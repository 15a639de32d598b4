"""Reading ahead: a thread reads and decodes the images of the next step while this one is computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from sida.errors import UserError

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """What was read is given once; what was foreseen is read in one thread, in the order in which it was foreseen.

    Reading and decoding let other threads compute (Python's lock is not held), so that a step finds its images ready.

    Args:
        name: Of the data, for errors.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="data")
        self._foreseen: dict[Hashable, Future[T]] = {}

    def __call__(self, key: Hashable, read: Callable[[], T]) -> T:
        """What ``read`` gives; what was foreseen under this key is not read again.

        Raises:
            UserError: The data cannot be read (any more).
        """
        future = self._foreseen.pop(key, None) or self._pool.submit(read)
        try:
            return future.result()
        except (OSError, UserError) as error:
            raise UserError(
                f"data set {self.name}: {error}; the last kept state is intact: when the data are back, the same "
                "command goes on"
            ) from None

    def foresee(self, key: Hashable, read: Callable[[], T]) -> None:
        """Starts to read what will be asked for under a key."""
        self._foreseen[key] = self._pool.submit(read)
