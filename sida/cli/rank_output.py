"""Who speaks for processes that train together: the first, and of those that fail the one that fails first."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from sida.training import ranks


@contextlib.contextmanager
def rank_0_output() -> Iterator[None]:
    """Within it the first rank speaks; of ranks that fail only the one that fails first does, and all exit as it does.

    Raises:
        SystemExit: In the place of an error, in ranks that shall be silent.
    """
    rank, world_size, _ = ranks.place()
    if world_size == 1:
        yield
        return
    streams = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        if rank:
            sys.stdout = sys.stderr = nowhere
        try:
            yield
        except BaseException as error:
            status = _spoken_for(rank, _status(error))
            if status is not None:
                raise SystemExit(status) from None
            raise
        finally:
            sys.stdout, sys.stderr = streams


def _status(error: BaseException) -> int:
    """The exit status that the command lines give to an error."""
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    return int(getattr(error, "status", 130 if isinstance(error, KeyboardInterrupt) else 1))


def _spoken_for(rank: int, status: int) -> int | None:
    """The exit status of the rank that failed before this one; None if this is the first."""
    if ranks.STORE is None:
        return status if rank else None
    with contextlib.suppress(RuntimeError):
        if ranks.STORE.add("failures", 1) > 1:
            return int(ranks.STORE.get("status"))
        ranks.STORE.set("status", str(status))
    return None
