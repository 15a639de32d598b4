"""Averages of the weights: the exponential moving average, and EDM2's averages with a power-function profile.

A power-function average at time t has the profile ``p(τ) = (γ + 1) τ^γ / t^{γ+1}`` on [0, t]: the average ignores the
random start and widens with training. Its relative standard deviation σ_rel identifies it. Any profile can be
reconstructed from a few stored averages.

Source: EDM2 (arXiv:2312.02696), section 4 and appendix C.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sida.networks import build_network
from sida.networks.checkpoint import save_network
from sida.networks.file import build_on_meta, check_network_config
from sida.training.background import NamedTensors
from sida.training.flat import FlatParameters, buffers, load_buffers
from sida.training.optimized_network import OptimizedNetwork
from sida.training.shards import Shards

_Array = npt.NDArray[np.float64]


class Average:
    """Exponential moving average of a network's parameters; buffers are copied once and never change (fact 12).

    Args:
        network: Network to average; the average starts as a copy of its parameters.
    """

    def __init__(self, network: OptimizedNetwork) -> None:
        self._network = network
        self._net = copy.deepcopy(network.net).eval().requires_grad_(False)
        self.flat = FlatParameters(self._net, network.flat.channels_last)
        self._shards: Shards | None = None
        # With shards, this rank's piece of the average and of its source; the whole average exists only while in use.
        self._kept, self._source = self.flat.vector, network.flat.vector

    def shard(self, shards: Shards) -> None:
        """Keeps only this rank's piece of the average; call :meth:`OptimizedNetwork.shard` of its network first."""
        self._shards = shards
        self.flat.pad(shards.padding)
        self._kept, self._source = shards.own(self.flat.padded).clone(), shards.own(self._network.flat.padded)
        self._free()

    @property
    def net(self) -> torch.nn.Module:
        """Averaged network. With shards, all ranks gather it together and keep it until the next update."""
        storage = self.flat.padded.untyped_storage()
        if self._shards is not None and not storage.nbytes():
            storage.resize_(self.flat.padded.numel() * self.flat.padded.element_size())
            self._shards.ranks.all_gather(self.flat.padded, self._kept)
        return self._net

    def _free(self) -> None:
        # The parameters remain views of a storage that takes no memory.
        self.flat.padded.untyped_storage().resize_(0)

    def update(self, beta: float) -> None:
        """``average ← β average + (1 − β) parameters``."""
        self._kept.lerp_(self._source, 1 - beta)
        if self._shards is not None:
            self._free()

    def state(self) -> dict[str, torch.Tensor]:
        """Returns the average as named tensors: references if possible, gathered copies with shards."""
        flat, shards = self.flat, self._shards
        vector = flat.portable(flat.vector) if shards is None else shards.portable(self._kept, flat)
        return {"parameters": vector, **buffers(self._net)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a :meth:`state`."""
        vector = self.flat.arranged(state["parameters"])
        self._kept.copy_(vector if self._shards is None else self._shards.piece_of(vector))
        if self._shards is not None:
            self._free()
        load_buffers(self._net, state)


def ema_half_life(nimg: int, half_life: float, rampup_ratio: float | None) -> float:
    """Half-life in images after ``nimg`` images: at most the share ``rampup_ratio`` of them (None: no ramp-up)."""
    return half_life if rampup_ratio is None else min(half_life, nimg * rampup_ratio)


def ema_beta(nimg: int, batch_size: int, half_life: float, rampup_ratio: float | None = 0.05) -> float:
    """Weight of the old average in ``ema ← β ema + (1 − β) parameters``, in [0, 1].

    Args:
        nimg: Images seen before the iteration; the first iteration with a ramp-up gives 0, a plain copy.
        batch_size: Images of the iteration.
        half_life: In images, above 0.
        rampup_ratio: See :func:`ema_half_life`.

    Source: StyleGAN3 (arXiv:2106.12423); NVlabs/edm:training/training_loop.py.
    """
    return 0.5 ** (batch_size / max(ema_half_life(nimg, half_life, rampup_ratio), 1e-8))


def std_to_exponent(std: npt.ArrayLike) -> _Array:
    """Exponent γ of the profile whose standard deviation is ``std``·t, element-wise, float64; 0 < std < 0.29.

    ``std² = (γ + 1) / ((γ + 2)² (γ + 3))``, that is ``γ³ + 7γ² + (16 − s)γ + (12 − s) = 0`` with s = std⁻²; the
    largest real root is the one that is monotone in std.
    """
    values = np.asarray(std, dtype=np.float64)
    inverse = values.reshape(-1) ** -2.0
    roots = [np.roots([1.0, 7.0, 16.0 - s, 12.0 - s]).real.max() for s in inverse]
    return np.asarray(roots, dtype=np.float64).reshape(values.shape)


def power_beta(std: npt.ArrayLike, t_next: float, t_delta: float) -> _Array:
    """Weight β of the old average in the step that ends at ``t_next``: ``(1 − t_delta / t_next)^{γ+1}``."""
    return np.asarray((1 - t_delta / t_next) ** (std_to_exponent(std) + 1))


def inner_product(t_a: npt.ArrayLike, std_a: npt.ArrayLike, t_b: npt.ArrayLike, std_b: npt.ArrayLike) -> _Array:
    """``∫ p_a p_b`` of two profiles that end at ``t_a`` and ``t_b``, element-wise with broadcasting, float64."""
    end_a, end_b = np.asarray(t_a, dtype=np.float64), np.asarray(t_b, dtype=np.float64)
    gamma_a, gamma_b = std_to_exponent(std_a), std_to_exponent(std_b)
    # The product is zero after the earlier end, where the later profile is smaller by (earlier / later)^γ_later.
    later_gamma = np.where(end_a < end_b, gamma_b, gamma_a)
    fade = (np.minimum(end_a, end_b) / np.maximum(end_a, end_b)) ** later_gamma
    return (gamma_a + 1) * (gamma_b + 1) * fade / ((gamma_a + gamma_b + 1) * np.maximum(end_a, end_b))


def posthoc_coefficients(
    in_times: npt.ArrayLike, in_stds: npt.ArrayLike, out_times: npt.ArrayLike, out_stds: npt.ArrayLike
) -> _Array:
    """Coefficients ``(inputs, outputs)`` that combine stored averages into the requested averages.

    A least-squares fit between profiles. Each column is then scaled to sum 1, so that equal weights stay equal.
    """
    t_in, s_in = (np.asarray(x, dtype=np.float64)[:, None] for x in (in_times, in_stds))
    t_out, s_out = (np.asarray(x, dtype=np.float64)[None, :] for x in (out_times, out_stds))
    gram = inner_product(t_in, s_in, t_in.T, s_in.T)
    solution = np.linalg.solve(gram, inner_product(t_in, s_in, t_out, s_out))
    return solution / solution.sum(axis=0)


#: Smallest number of parameters in a block of a network.
_LEAST_PARAMETERS = 32


def check_architecture(path: Path, metadata: Mapping[str, Any], tensors: NamedTensors) -> None:
    """Refuses a stored state whose architecture is invalid or has more blocks than its parameters allow.

    Args:
        path: Path of the state, without suffix.
        metadata: Metadata as in :func:`write_network`.
        tensors: Tensors as in :func:`write_network`.

    Raises:
        UserError: The architecture cannot be built; detected without building it.
    """
    where = str(path.with_suffix(".json"))
    network = check_network_config(metadata["network"], where)
    build_on_meta(network, tensors["parameters"].numel() // _LEAST_PARAMETERS, where)


def write_network(path: Path, metadata: Mapping[str, Any], tensors: NamedTensors) -> None:
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
