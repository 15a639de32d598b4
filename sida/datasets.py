"""The table of data sets, ``config/datasets.yaml``."""

from __future__ import annotations

import functools
from typing import Any

from sida.config import load_yaml
from sida.errors import UserError, suggestion
from sida.sheet import ROOT


@functools.cache
def _datasets() -> dict[str, Any]:
    return load_yaml(ROOT / "config" / "datasets.yaml")


def dataset_spec(name: str, where: str) -> dict[str, Any]:
    """Looks a data set up in ``config/datasets.yaml``; its spec carries its ``name``.

    Raises:
        UserError: No data set of that name.
    """
    known = _datasets()
    if name not in known:
        raise UserError(f"{where}: no data set '{name}' in config/datasets.yaml{suggestion(name, known)}")
    return {"name": name, **known[name]}
