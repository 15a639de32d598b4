"""Import of matplotlib without the settings of the working folder."""

from __future__ import annotations

import os
from typing import Any


def import_matplotlib() -> Any:
    """Imports matplotlib; a ``matplotlibrc`` of the working folder, which may be a pipe, is not opened."""
    exists = os.path.exists
    os.path.exists = lambda path: path != "matplotlibrc" and exists(path)
    try:
        import matplotlib
    finally:
        os.path.exists = exists
    return matplotlib
