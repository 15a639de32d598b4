"""Which of the networks with the same tensors denoises a user's images best.

No shape of a transformer depends on its number of heads, and a wrong number changes images a little. On the same
images, noise and classes, a trained network has the least error with its own number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sida.data import Dataset
from sida.errors import Progress, UserError, counted, say
from sida.machine import generator
from sida.networks.described import check_null_label
from sida.networks.file import network_class
from sida.networks.readings import network_of
from sida.sampling.job import open_device
from sida.training.run import check_shapes

#: Levels at which each image is denoised.
LEVELS = (0.5, 1.0, 2.0)
#: Most images, images at a time, and fewest images whose scatter decides.
_MOST, _AT_ONCE, _LEAST = 256, 32, 16
#: Standard errors of a mean difference of two networks from which on it decides.
CLEAR = 4.0


def compare_readings(
    dataset: Dataset,
    path: Path,
    network: Mapping[str, Any],
    named: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
) -> None:
    """Compares a network with those of other arguments that fit its tensors (`Precond.same_tensors`).

    A denoiser that only scales its input takes part: weights that denoise no better decide nothing.

    Args:
        dataset: Images. Their classes are used if the network has as many, else no class.
        path: File named in messages.
        network: ``{class, kwargs}`` with all arguments.
        named: Arguments that the user names.
        state: Its state dict.

    Raises:
        UserError: Other arguments clearly denoise better, the tensors fit no others, or the images do not fit.
    """
    changes = network_class(network).same_tensors(network["kwargs"])
    if not changes:
        raise UserError("--data", f"the tensors of {network['class']} say all its arguments", "leave it out")
    device = open_device(None)
    tensors = {name: tensor.to(device) for name, tensor in state.items()}
    kwargs = [{**network["kwargs"], **change} for change in ({}, *changes)]
    nets: list[Any] = [network_of({**network, "kwargs": each}, tensors).to(device) for each in kwargs]
    check_shapes(nets[0], dataset, "--data:", classes=not _takes_no_class(network))
    errors, best, margins = _errors(nets, dataset, path, device)
    words = [", ".join(f"{name} {each[name]}" for name in changes[0]) for each in kwargs] + ["a scaling of the input"]
    other = best or min(range(1, len(margins)), key=lambda number: margins[number])
    left = [f"{words[number]} leaves {errors[number].mean():.2%}" for number in (0, other)]
    fault = f"{left[0]} of the noise of {counted(errors.shape[1], 'image')}, {left[1]}"
    if 0 < best < len(nets) and min(margins[0], margins[-1]) > CLEAR:
        command = json.dumps({"class": network["class"], "kwargs": {**named, **changes[best - 1]}})
        raise UserError(path, f"{fault} ({margins[0]:.0f} standard errors less)", f"name it: --network '{command}'")
    decided = best == 0 and margins[other] > CLEAR
    why = f"{CLEAR:.0f} standard errors of at least {_LEAST} images would"
    if best == len(nets):
        why = "check that the weights are trained, and on such images"
    verdict = f"{margins[other]:.0f} standard errors more: confirmed" if decided else f"that decides nothing ({why})"
    say(f"{path.name}: {fault}; {verdict}")


def _takes_no_class(network: Mapping[str, Any]) -> bool:
    """Whether a network ``{class, kwargs}`` can denoise without a class."""
    try:
        check_null_label(network, "")
    except UserError:
        return not network["kwargs"]["label_dim"]
    return True


@torch.no_grad()
def _errors(nets: list[Any], dataset: Dataset, path: Path, device: str) -> tuple[torch.Tensor, int, list[float]]:
    """Squared errors of networks over σ², means over the levels, for more images until one network is clearly the best.

    Returns:
        Errors (networks, images), those of a scaling of the input last; and the result of :func:`_margins`.
    """
    indices = np.linspace(0, len(dataset) - 1, min(len(dataset), _MOST)).astype(np.int64)
    total, done = len(indices) * len(LEVELS) * len(nets), 0
    say(f"{path.name}: {len(nets)} networks fit its tensors; at most {total:,} evaluations compare them")
    progress, source = Progress("convert", total, "evaluations"), generator(0, "readings")
    normal = lambda like: torch.randn(like.shape, generator=source)
    errors, best, margins = torch.empty(len(nets) + 1, 0), 0, list[float]()
    for part in np.array_split(indices, -(-len(indices) // _AT_ONCE)):
        clean = dataset.network_input(dataset.images(part), normal)
        noisy = [(sigma, (clean + sigma * normal(clean)).to(device)) for sigma in LEVELS]
        clean, rows = clean.to(device), []
        labels = dataset.labels(part).to(device) if dataset.label_dim == nets[0].label_dim else None
        power = clean.square().mean()
        for net in (*nets, lambda x, sigma, _, power=power: x * power / (power + sigma**2)):
            shares = [((net(x, sigma, labels) - clean) / sigma).square().flatten(1).mean(1) for sigma, x in noisy]
            rows.append(torch.stack(shares).mean(0).cpu())
            progress.update(done := min(done + len(part) * len(LEVELS), total))
        errors = torch.cat([errors, torch.stack(rows)], 1)
        best, margins = _margins(errors)
        if min(margins[:best] + margins[best + 1 :]) > CLEAR:
            break
    return errors, best, margins


def _margins(errors: torch.Tensor) -> tuple[int, list[float]]:
    """Number of the least mean error, and the others' excess in standard errors; 0 where the scatter is unknown.

    Args:
        errors: (networks, images).
    """
    best = int(errors.mean(1).argmin())
    if errors.shape[1] < _LEAST:
        return best, [0.0] * len(errors)
    excess = errors - errors[best]
    ratios = excess.mean(1) / excess.std(1) * math.sqrt(errors.shape[1])
    return best, ratios.nan_to_num(0.0, posinf=0.0).tolist()
