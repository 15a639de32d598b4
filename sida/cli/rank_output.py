"""Output of processes that train together: only rank 0 prints; on failure only the first failing rank reports."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from sida.training import ranks


@contextlib.contextmanager
def rank_0_output() -> Iterator[None]:
    """Context in which only rank 0 prints; the first rank that fails reports, and all ranks exit with its status.

    Raises:
        SystemExit: Replaces the error in ranks that do not report.
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
    """Exit status of the command line for an error."""
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    return int(getattr(error, "status", 130 if isinstance(error, KeyboardInterrupt) else 1))


def _spoken_for(rank: int, status: int) -> int | None:
    """Exit status of the rank that failed before this rank; None if this rank fails first."""
    if ranks.STORE is None:
        return status if rank else None
    with contextlib.suppress(RuntimeError):
        if ranks.STORE.add("failures", 1) > 1:
            return int(ranks.STORE.get("status"))
        ranks.STORE.set("status", str(status))
    return None
