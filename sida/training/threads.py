"""Threads of the numerical libraries, to be limited before they are loaded."""

from __future__ import annotations

import os

_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def limit_library_threads(threads: int) -> None:
    """Makes numpy, scipy and torch use as many threads as configured; call it before importing them.

    Two students side by side on two cores must not each spread an eigendecomposition over both: waiting for each
    other costs more than the second thread gives.
    """
    for variable in _VARIABLES:
        os.environ[variable] = str(threads)
