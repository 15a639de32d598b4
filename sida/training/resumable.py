"""What a run keeps of its parts: states by name, joined and put back, and the buffers of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch


class Resumable(Protocol):
    """What a run keeps to go on: a learner, an average."""

    def state(self) -> dict[str, torch.Tensor]:
        """Named tensors (references, not copies)."""

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Puts a state back."""


def joint_state(parts: Mapping[str, Resumable]) -> dict[str, torch.Tensor]:
    """States of several parts in one, as ``part/name``."""
    return {f"{part}/{name}": value for part, owner in parts.items() for name, value in owner.state().items()}


def load_joint_state(parts: Mapping[str, Resumable], state: Mapping[str, torch.Tensor]) -> None:
    """Puts a :func:`joint_state` back."""
    for part, owner in parts.items():
        prefix = f"{part}/"
        owner.load({name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)})


def buffers(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Persistent buffers as ``buffers/<name>``."""
    parameters = dict(net.named_parameters())
    return {f"buffers/{name}": value for name, value in net.state_dict().items() if name not in parameters}


def load_buffers(net: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Puts :func:`buffers` back."""
    for name, value in buffers(net).items():
        value.copy_(state[name])
