"""EDM2's averages with a power-function profile, also those made after a training (post-hoc EMA).

A power-function average at time t has the profile ``p(τ) = (γ + 1) τ^γ / t^{γ+1}`` on [0, t]: the average ignores the
random start and widens with training. Its relative standard deviation σ_rel identifies it. Any profile can be
reconstructed from a few stored averages.

Source: EDM2 (arXiv:2312.02696), sections 3.2 and 4, and appendix C.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sida.errors import UserError, exact
from sida.files.atomic import sha256_file
from sida.networks.file import load_network, read_metadata, save_network

_Array = npt.NDArray[np.float64]


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
    t_in, s_in = (np.asarray(x)[:, None] for x in (in_times, in_stds))
    t_out, s_out = (np.asarray(x)[None, :] for x in (out_times, out_stds))
    gram = inner_product(t_in, s_in, t_in.T, s_in.T)
    solution = np.linalg.solve(gram, inner_product(t_in, s_in, t_out, s_out))
    return solution / solution.sum(axis=0)


def reconstruct_average(sources: Sequence[str | os.PathLike[str]], std: float, target: str | os.PathLike[str]) -> float:
    """Writes the network of a power-function average with another width, at the images of the newest source.

    Args:
        sources: Stored averages of one run (``power_ema``), at several numbers of images and of one or more widths.
        std: Requested relative width, at least 10⁻⁶ and below 0.28.
        target: Network file to write; its ``parents`` are the sources.

    Returns:
        Relative error of the profile: norm of its difference from the requested profile over the norm of the latter.
        The relative error of the weights is usually of this order, times the distance between averages of the run.

    Raises:
        UserError: A file is not such an average, or the files are of several runs.
    """
    # Narrower profiles are less than an image wide, and far narrower ones have no finite exponent.
    if not 1e-6 <= std < 0.28:
        raise UserError("--std", f"must be at least 1e-06 and below 0.28, got {exact(std)}")
    averages = sorted((_read_average(Path(source)) for source in sources), key=lambda average_file: average_file[:2])
    times, stds, paths, records = zip(*averages)
    for (*average, path, record), before in zip(averages, (None, *averages)):
        if record["config_sha256"] != records[0]["config_sha256"]:
            raise UserError(path, f"belongs to another run than {paths[0]}", "give averages of one run")
        if before is not None and average == [*before[:2]]:
            raise UserError(path, f"is the same average as {before[2]}", "give each once")
    end = times[-1]
    weights = posthoc_coefficients(times, stds, [end], [std])[:, 0]
    # Double precision, because the coefficients are large and have both signs.
    sums: dict[str, Any] = {}
    for path, weight in zip(paths, weights.tolist()):
        net, _ = load_network(path)
        for name, value in net.named_parameters():
            sums[name] = sums.get(name, 0) + weight * value.detach().double()
    for name, value in net.named_parameters():
        value.data.copy_(sums[name])
    parents = {f"average {time:.0f} {width:g}": sha256_file(path) for time, width, path, _ in averages}
    save_network(net, target, {**records[-1], "nimg": int(end), "average_std": std, "parents": parents})
    return _distance(np.array(times), np.array(stds), weights, end, std)


def _read_average(path: Path) -> tuple[float, float, Path, dict[str, Any]]:
    """Images seen, relative width, path and metadata of a stored average."""
    record = read_metadata(path)
    if "average_std" not in record:
        raise UserError(path, "is not a power-function average", "train with power_ema and snapshot_kimg")
    return float(record["nimg"]), float(record["average_std"]), path, record


def _distance(times: np.ndarray, stds: np.ndarray, weights: np.ndarray, end: float, std: float) -> float:
    gram = inner_product(times[:, None], stds[:, None], times[None], stds[None])
    target_square = float(inner_product(end, std, end, std))
    cross = weights @ inner_product(times, stds, end, std)
    return float(np.sqrt(max(target_square - 2 * cross + weights @ gram @ weights, 0.0) / target_square))
