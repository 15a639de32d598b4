"""Measures start-up and work of each command in a workflow, for the benchmark."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Iterator

# Libraries that verbs need; loaded before the work begins, so that the measured start-up contains them.
_HEAVY = {
    "torch": ("train-teacher", "distill", "measure", "figure"),
    "scipy.linalg": ("distill", "measure"),
    "matplotlib.pyplot": ("figure",),
}


@contextlib.contextmanager
def timed(verb: str) -> Iterator[None]:
    """With ``SIDA_TIMING_LOG`` set, records the times at which the process starts, is ready to work, and ends."""
    log = os.environ.get("SIDA_TIMING_LOG")
    if not log:
        yield
        return
    import psutil

    for library, verbs in _HEAVY.items():
        if verb in verbs:
            importlib.import_module(library)
    record = {"verb": verb, "start": psutil.Process().create_time(), "ready": time.time()}
    try:
        yield
    finally:
        from sida.files.atomic import append_jsonl

        append_jsonl(log, {**record, "end": time.time()})
