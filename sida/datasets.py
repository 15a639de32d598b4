"""Data sets by name: those of ``config/datasets.yaml``, and those that a preset brings along."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.config import load_yaml
from sida.errors import UserError, suggestion
from sida.resources import find, there


@functools.cache
def _shared(path: Path) -> dict[str, Any]:
    return load_yaml(path)


def dataset_spec(name: str, where: str, brought: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Looks a data set up; its spec carries its ``name``.

    Args:
        name: Key of ``brought``, or of ``config/datasets.yaml``.
        where: File and key named in errors.
        brought: Data sets of a preset; they come first.

    Raises:
        UserError: No data set of that name.
    """
    known = {**_shared(find("", "datasets").absolute()), **(brought or {})}
    if name not in known:
        raise UserError(f"{where}: no data set '{name}' in config/datasets.yaml{suggestion(name, known)}")
    spec = {"name": name, **known[name]}
    return spec | ({"path": there(spec["path"])} if "path" in spec else {})
