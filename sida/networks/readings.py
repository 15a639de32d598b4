"""Whether the class by which a state dict is read makes a denoiser of it.

Files of SiT, REPA and DiT have tensors of the same names, and none says in which direction its time runs or what it
predicts. A wrong class gives no error, only noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sida.errors import UserError, say
from sida.networks.file import NETWORKS, build_on_meta

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


def check_reading(path: Path, network: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> None:
    """Draws one step at two levels with a network whose class the user chose, and reports when its output is not a
    denoised image.

    Networks whose tensors have names of their own need no check.

    Args:
        path: File named in messages.
        network: ``{class, kwargs}``, which fits the tensors.
        state: Its state dict.

    Raises:
        UserError: The output is noise, and that of another class with the same tensors is not.
    """
    cls = NETWORKS.get(network["class"])
    if cls is None or not cls.same_names:
        return
    own, others = shares_left(network, state), {}
    denoises = all(share < most for share, (_, most) in zip(own, LEVELS))
    if denoises and own[1] < LITTLE:
        return
    for name in cls.same_names:
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
