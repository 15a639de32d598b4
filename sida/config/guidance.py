"""Which network can guide another, from their options alone: presets ask before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Options of a network that its guide must share.
SHARED = ("img_resolution", "img_channels", "label_dim")


def misfit(guided: Mapping[str, Any], guide: Mapping[str, Any]) -> str | None:
    """Why one network cannot guide another; None where nothing says so.

    Args:
        guided: Its ``img_resolution``, ``img_channels`` and ``label_dim``; what is not there is not compared.
        guide: The same of the guide, which may have no classes (``label_dim`` 0).
    """
    for name in SHARED:
        wanted, found = guided.get(name), guide.get(name)
        if wanted is None or found is None or wanted == found or (name == "label_dim" and found == 0):
            continue
        more = ", or 0 (a guide without classes)" if name == "label_dim" and wanted else ""
        return f"its {name} is {found}, the guided network's {wanted}; name a guide with {wanted}{more}"
    return None
