"""Averages of the weights: the exponential moving average, and EDM2's averages with a power-function profile.

A power-function average at time t has the profile ``p(τ) = (γ + 1) τ^γ / t^{γ+1}`` on [0, t]: the average ignores the
random start and widens with training. Its relative standard deviation σ_rel identifies it. Any profile can be
reconstructed from a few stored averages (post-hoc EMA).

Source: EDM2 (arXiv:2312.02696), sections 3.2 and 4, and appendix C.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from sida.errors import UserError
from sida.files.atomic import sha256_file
from sida.files.tensors import iterate_tensors, read_tensor_header
from sida.networks import build_network
from sida.networks.file import fitting_network, read_metadata, save_network, write_state_dict
from sida.training.optimizer import FlatParameters, NamedTensors, OptimizedNetwork, buffers, load_buffers

_Array = npt.NDArray[np.float64]


class Average:
    """Exponential moving average of a network's parameters; buffers are copied once and never change (fact 12).

    Args:
        network: Network to average; the average starts as a copy of its parameters.

    Attributes:
        net: Averaged network.
    """

    def __init__(self, network: OptimizedNetwork) -> None:
        self.net = copy.deepcopy(network.net).eval().requires_grad_(False)
        self.flat = FlatParameters(self.net, network.flat.channels_last)
        self._source = network.flat.vector

    def update(self, beta: float) -> None:
        """``average ← β average + (1 − β) parameters``."""
        self.flat.vector.lerp_(self._source, 1 - beta)

    def state(self) -> dict[str, torch.Tensor]:
        """Returns the average as named tensors: references if possible."""
        return {"parameters": self.flat.portable(self.flat.vector), **buffers(self.net)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restores a :meth:`state`."""
        self.flat.vector.copy_(self.flat.arranged(state["parameters"]))
        load_buffers(self.net, state)


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


class Kept(NamedTuple):
    """A stored average.

    Attributes:
        nimg: Images seen.
        std: Relative width.
        path: File of the average.
        metadata: Metadata in its header.
    """

    nimg: float
    std: float
    path: Path
    metadata: dict[str, Any]


def reconstruct_average(
    sources: Sequence[str | os.PathLike[str]], std: float, target: str | os.PathLike[str], nimg: int | None = None
) -> float:
    """Writes the network of a power-function average with another width.

    Args:
        sources: Stored averages of one run (``power_ema``), at several numbers of images and of one or more widths.
        std: Requested relative width, in (0, 0.28).
        target: Network file to write; its ``parents`` are the sources.
        nimg: Images seen at the end of the requested profile; None takes that of the newest source.

    Returns:
        Relative error of the profile: norm of its difference from the requested profile over the norm of the latter.
        The relative error of the weights is usually of this order, times the distance between averages of the run.

    Raises:
        UserError: A file is not such an average, the files are of several runs, or the profile ends after all of them.
    """
    if not 0 < std < 0.28:
        raise UserError("--std", f"must be above 0 and below 0.28, got {std:g}")
    kept = sorted((_open(Path(source)) for source in sources), key=lambda one: (one.nimg, one.std))
    newest = kept[-1]
    end = newest.nimg if nimg is None else float(nimg)
    if not 0 < end <= newest.nimg:
        fault = f"must be above 0 and at most {newest.nimg:,.0f}, where the newest average ends"
        raise UserError("--nimg", fault, f"got {nimg}")
    net = _network_of(kept)
    times, stds = np.array([one.nimg for one in kept]), np.array([one.std for one in kept])
    weights = posthoc_coefficients(times, stds, [end], [std])[:, 0]
    learned, combined = {name for name, _ in net.named_parameters()}, {}
    for group in zip(*(iterate_tensors(one.path, read_tensor_header(one.path)) for one in kept)):
        name, value = group[-1]
        if name in learned:
            # Double precision, because the coefficients are large and have both signs.
            value = sum(weight * tensor.double() for weight, (_, tensor) in zip(weights.tolist(), group)).float()
        combined[name] = value
    parents = {f"average {one.nimg:.0f} {one.std:g}": sha256_file(one.path) for one in kept}
    metadata = {**newest.metadata, "nimg": int(end), "average_std": std, "parents": parents}
    write_state_dict({name: combined[name] for name in net.state_dict()}, target, metadata)
    return _distance(times, stds, weights, end, std)


def _open(path: Path) -> Kept:
    metadata = read_metadata(path)
    if "average_std" not in metadata:
        raise UserError(path, "is not a power-function average", "train with power_ema and snapshot_kimg")
    return Kept(float(metadata["nimg"]), float(metadata["average_std"]), path, metadata)


def _network_of(kept: Sequence[Kept]) -> torch.nn.Module:
    """Returns the network of averages, without values.

    Raises:
        UserError: The averages are of several runs, one occurs twice, or a file has other tensors than its network.
    """
    first = kept[0]
    for one, before in zip(kept, (None, *kept)):
        if one.metadata["config_sha256"] != first.metadata["config_sha256"]:
            raise UserError(one.path, f"belongs to another run than {first.path}", "give averages of one run")
        if before is not None and one[:2] == before[:2]:
            raise UserError(one.path, f"is the same average as {before.path}", "give each once")
        shapes = read_tensor_header(one.path).shapes
        net = fitting_network(one.path, first.metadata["network"], shapes)
    return net


def _distance(times: np.ndarray, stds: np.ndarray, weights: np.ndarray, end: float, std: float) -> float:
    gram = inner_product(times[:, None], stds[:, None], times[None], stds[None])
    wanted = float(inner_product(end, std, end, std))
    cross = weights @ inner_product(times, stds, end, std)
    return float(np.sqrt(max(wanted - 2 * cross + weights @ gram @ weights, 0.0) / wanted))
