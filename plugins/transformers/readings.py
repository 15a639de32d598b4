"""Whether the class and the arguments by which a state dict is read make a denoiser of it.

Files of SiT, REPA and DiT have tensors of the same names, and none says in which direction its time runs or what it
predicts. No shape depends on the number of heads either. A wrong class gives no error, only noise; wrong heads change
images a little: on the same images, noise and classes, a trained network has the least error with its own number.
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
from sida.networks.file import NETWORKS, architecture, build_on_meta
from sida.sampling.job import open_device
from sida.training.run_folder import check_shapes

#: Classes whose state dicts have the same names, so that a file does not say which it is.
SAME_NAMES = ("SiTPrecond", "REPAPrecond", "DiTPrecond")
#: Levels, and at each the share of the noise from which on an output is not a denoised image. With the exact denoiser
#: the share is the error's variance over σ²: below 1/(1 + σ²) for data of unit variance. At σ = 1 the times of SiT and
#: REPA are equal and their denoised images add up to the input, so that the wrong class leaves what the right one takes
#: away; a new network, whose output is zero, leaves half.
LEVELS = ((1.0, 0.45), (4.0, 0.25))
#: Shares at σ = 1 above and below which a file is refused in favour of another class.
CLEARLY_NOISE, CLEARLY_IMAGE = 0.65, 0.35
#: Share at σ = 4 up to which a class is not compared with others: a trained network leaves about 0.02.
LITTLE = 0.05
#: Numbers in all test images together: the share's random error is about 0.01.
_NUMBERS, _MAX_COUNT = 8192, 128


@torch.no_grad()
def noise_left(net: Any, sigma: float) -> float:
    """Share of the noise that is left in denoised images: about 0 for a denoiser, 1 where all of it is left.

    The images are smooth fields and a unit normal noise, from a fixed seed, so that no data are needed.

    Args:
        net: Network in evaluation mode.
        sigma: Level.
    """
    channels, side = net.img_channels, net.img_resolution
    count = min(_MAX_COUNT, max(2, -(-_NUMBERS // (channels * side**2))))
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, channels, 2, 2, generator=rng) / 2
    clean = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)
    noise = torch.randn(clean.shape, generator=rng)
    labels = torch.eye(net.label_dim)[torch.arange(count) % net.label_dim] if net.label_dim else None
    error = net(clean + sigma * noise, sigma, labels) - clean
    return float((error * noise).sum() / (sigma * noise.square().sum()))


def check_state(
    path: Path,
    network: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    named: Mapping[str, Any],
    images: Dataset | None,
) -> None:
    """Checks the class by two steps, and the number of heads by a user's images; see `Precond.state_check`.

    Raises:
        UserError: Another class, or another number of heads, clearly makes the better denoiser.
    """
    if network["class"] in SAME_NAMES:
        check_class(path, network, state)
    if images is not None:
        compare_heads(images, path, network, named, state)


def check_class(path: Path, network: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> None:
    """Draws one step at two levels with a network whose class the user chose, and reports when its output is not a
    denoised image.

    Args:
        path: File named in messages.
        network: ``{class, kwargs}``, which fits the tensors.
        state: Its state dict.

    Raises:
        UserError: The output is noise, and that of another class with the same tensors is not.
    """
    own, others = shares_left(network, state), {}
    denoises = all(share < most for share, (_, most) in zip(own, LEVELS))
    if denoises and own[1] < LITTLE:
        return
    for name in (name for name in SAME_NAMES if name != network["class"]):
        # Options that only one of the classes has keep their defaults.
        options = NETWORKS[name].options_of({})
        kwargs = {key: value for key, value in network["kwargs"].items() if key in options}
        others[name] = shares_left({"class": name, "kwargs": kwargs}, state)
    best = min(others, key=lambda name: abs(others[name][1]))
    better = others[best][0] < own[0] and abs(others[best][1]) < own[1] / 2
    if denoises and not better:
        return
    word = "hardly" if denoises else "not"
    fault = f"read as {network['class']}, its output is {word} a denoised image: {percent(own)} of the noise are left"
    remedy = "check the class, and that its weights are trained"
    if better:
        remedy = f"read it as {best} (--network-class), which leaves {percent(others[best])}"
    if better and own[0] > CLEARLY_NOISE and others[best][0] < CLEARLY_IMAGE:
        raise UserError(path, fault, remedy)
    say(f"{path}: {fault}; {remedy}")


def percent(shares: list[float]) -> str:
    """Shares of the noise at each level, for people."""
    return " and ".join(f"{share:.0%} at σ = {sigma:g}" for share, (sigma, _) in zip(shares, LEVELS))


def shares_left(network: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> list[float]:
    """:func:`noise_left` of a network ``{class, kwargs}`` with a state dict, at each of the levels."""
    net = network_of(network, state)
    return [noise_left(net, sigma) for sigma, _ in LEVELS]


def network_of(network: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A network ``{class, kwargs}`` in evaluation mode that has the tensors of a state dict, without a copy."""
    net = build_on_meta(network, "network")
    net.load_state_dict(dict(state), assign=True)
    return net.eval()


#: Levels at which each image of the user is denoised.
HEAD_LEVELS = (0.5, 1.0, 2.0)
#: Most images, images at a time, and fewest images whose scatter decides.
_MOST, _AT_ONCE, _LEAST = 256, 32, 16
#: Standard errors of a mean difference of two networks from which on it decides.
CLEAR = 4.0


def compare_heads(
    dataset: Dataset,
    path: Path,
    network: Mapping[str, Any],
    named: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
) -> None:
    """Compares a network with those of other numbers of heads, of 16 to 128 channels each, which fit its tensors, too.

    A denoiser that only scales its input takes part: weights that denoise no better decide nothing.

    Args:
        dataset: Images. Their classes are used if the network has as many, else no class.
        path: File named in messages.
        network: ``{class, kwargs}``, which fits the tensors.
        named: Arguments that the user names.
        state: Its state dict.

    Raises:
        UserError: Other heads clearly denoise better, or the images do not fit.
    """
    network = architecture(build_on_meta(network, str(path)))
    changes = [{"num_heads": number} for number in other_heads(network["kwargs"])]
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


def other_heads(kwargs: Mapping[str, Any]) -> list[int]:
    """Numbers of heads, of 16 to 128 channels each, with which the same tensors fit."""
    width = kwargs["hidden_size"]
    numbers = (heads for heads in range(1, 65) if width % heads == 0 and 16 <= width // heads <= 128)
    return [heads for heads in numbers if heads != kwargs["num_heads"]]


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
    total, done = len(indices) * len(HEAD_LEVELS) * len(nets), 0
    say(f"{path.name}: {len(nets)} networks fit its tensors; at most {total:,} evaluations compare them")
    progress, source = Progress("convert", total, "evaluations"), generator(0, "readings")
    normal = lambda like: torch.randn(like.shape, generator=source)
    errors, best, margins = torch.empty(len(nets) + 1, 0), 0, list[float]()
    for part in np.array_split(indices, -(-len(indices) // _AT_ONCE)):
        clean = dataset.network_input(dataset.images(part), normal)
        noisy = [(sigma, (clean + sigma * normal(clean)).to(device)) for sigma in HEAD_LEVELS]
        clean, rows = clean.to(device), []
        labels = dataset.labels(part).to(device) if dataset.label_dim == nets[0].label_dim else None
        power = clean.square().mean()
        for net in (*nets, lambda x, sigma, _, power=power: x * power / (power + sigma**2)):
            shares = [((net(x, sigma, labels) - clean) / sigma).square().flatten(1).mean(1) for sigma, x in noisy]
            rows.append(torch.stack(shares).mean(0).cpu())
            progress.update(done := min(done + len(part) * len(HEAD_LEVELS), total))
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
