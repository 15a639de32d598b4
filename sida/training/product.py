"""The network that a run publishes, made of the state of an average."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sida.networks import build_network
from sida.networks.checkpoint import save_network
from sida.networks.file import build_on_meta, check_network_config
from sida.training.background import Tensors
from sida.training.flat import FlatParameters
from sida.training.resumable import load_buffers

#: No block of a network has fewer.
_LEAST_PARAMETERS = 32


def check_architecture(path: Path, metadata: Mapping[str, Any], tensors: Tensors) -> None:
    """Refuses a kept state's architecture that is none, or has more blocks than the parameters can be of.

    Args:
        path: Of the state, without suffix.
        metadata: As for :func:`write_network`.
        tensors: As there.

    Raises:
        UserError: It cannot be built; said without building it.
    """
    where = str(path.with_suffix(".json"))
    network = check_network_config(metadata["network"], where)
    build_on_meta(network, tensors["parameters"].numel() // _LEAST_PARAMETERS, where)


def write_network(path: Path, metadata: Mapping[str, Any], tensors: Tensors) -> None:
    """Writes a network from the state of an average.

    Args:
        path: Target.
        metadata: Provenance; ``network`` is the architecture.
        tensors: ``parameters`` (one vector) and ``buffers/<name>``, see :meth:`sida.training.averages.Average.state`.
    """
    net = build_network(metadata["network"])
    FlatParameters(net).vector.copy_(tensors["parameters"])
    load_buffers(net, tensors)
    save_network(net, path, metadata)
