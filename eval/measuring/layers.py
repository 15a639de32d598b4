"""Computes the profiles of a network's blocks over noise levels (:mod:`eval.results.layers`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eval.measuring.weight_study import StudySpec, write_study
from eval.results.layers import SIGMA, UNTRAINED, ProfileSize
from sida.config.mapping import from_mapping
from sida.data import load_dataset
from sida.errors import UserError
from sida.networks.blocks import UNetBlock
from sida.networks.build import architecture, build_network
from sida.networks.checkpoint import load_network
from sida.networks.edm2_unet import EDM2Block
from sida.networks.unet import UNet
from sida.progress import Progress
from sida.runtime.randomness import generator

#: Last layers of a block's residual branches (convolutions, attention) in the blocks of both families.
_ENDS = ("conv1", "proj", "conv_res1", "attn_proj")


@dataclass(frozen=True, kw_only=True)
class LayersSpec(StudySpec, ProfileSize):
    """Settings of a profile: a row's network, noise levels and images."""

    network: str


def measure_layers(spec: Mapping[str, Any], out: str | os.PathLike[str], where: str = "--spec") -> dict[str, Any]:
    """Computes the changes by block, noise level and repeat, and writes them; returns the record.

    Args:
        spec: See :class:`LayersSpec`.
        out: The ``.json`` to write.
        where: Place named in errors.

    Raises:
        UserError: Bad spec, a missing file, data that are no pixels, or a network without residual blocks.
    """
    settings = from_mapping(LayersSpec, spec, where)

    def compute() -> dict[str, Any]:
        return {"curves": _profiles(settings, where)}

    return write_study("layers", settings, settings.network, compute, out, where)


def _profiles(spec: LayersSpec, where: str) -> dict[str, list[float]]:
    net, metadata = load_network(spec.network, spec.device)
    # Generators of one step see no data.
    init_sigma = (metadata.get("sampler") or {}).get("init_sigma")
    curves = profile_of(net, spec, where, init_sigma)
    if init_sigma is None:
        fresh = profile_of(untrained(architecture(net), spec.device), spec, where)
        curves |= {f"{UNTRAINED}{name}": changes for name, changes in fresh.items() if name != SIGMA}
    return curves


def untrained(config: Mapping[str, Any], device: str = "cpu") -> nn.Module:
    """The network of a configuration before any training, with weights of seed 0, for evaluation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(config).to(device).eval()


def profile_of(net: nn.Module, spec: LayersSpec, where: str, init_sigma: float | None = None) -> dict[str, list[float]]:
    """Changes of a network's output without each block, by noise level and repeat.

    Args:
        net: The network, in evaluation mode.
        spec: Noise levels, images and data set.
        where: Place named in errors.
        init_sigma: Noise level of a generator of one step, whose profile has this level alone.

    Raises:
        UserError: Data that are no pixels, or a network without residual blocks.
    """
    data = load_dataset(spec.dataset, f"{where}.dataset")
    modules = [(name, module) for name, module in net.named_modules() if isinstance(module, (UNetBlock, EDM2Block))]
    # Files sort their keys, so that names begin with the place in the network.
    blocks = {f"{place:02d} {name.partition('.')[2]}": block for place, (name, block) in enumerate(modules, 1)}
    if not blocks or not data.is_pixels:
        raise UserError(f"{where}: needs a U-Net with residual blocks as network, and pixels as dataset")
    low, high = (float(getattr(net, name)) for name in ("sigma_min", "sigma_max"))
    levels = np.geomspace(max(low, spec.sigma_min), min(high, spec.sigma_max), spec.levels)
    curves: dict[str, list[float]] = {name: [] for name in (SIGMA, *blocks)}
    progress = Progress(f"layers {spec.run}", spec.repeats, "repeats")
    for repeat in range(spec.repeats):
        source = generator(0, "layers", repeat)
        indices = torch.randint(len(data), (spec.num_images,), generator=source).numpy()
        images, labels = data.images(indices).float() / 127.5 - 1, data.labels(indices).to(spec.device)
        noise = torch.randn(images.shape, generator=source)
        for sigma in [float(f"{level:.4g}") for level in levels] if init_sigma is None else [init_sigma]:
            noisy = (sigma * noise + (images if init_sigma is None else 0)).to(spec.device)
            whole = raw_output(net, noisy, sigma, labels)
            curves[SIGMA].append(sigma)
            for name, block in blocks.items():
                with skipped(block):
                    change = raw_output(net, noisy, sigma, labels) - whole
                curves[name].append(float(change.square().sum() / whole.square().sum()))
        progress.update(repeat + 1)
    return curves


def raw_output(net: nn.Module, noisy: Tensor, sigma: float, labels: Tensor) -> Tensor:
    """Raw output F of a network's U-Net, float64 ``(N, C, H, W)``, before c_skip and c_out."""
    found: list[Tensor] = []
    (unet,) = (module for module in net.modules() if isinstance(module, UNet))
    with _hooked([unet], lambda module, given, output: found.append(output.double())):
        net(noisy, sigma, labels)
    return found[0]


def skipped(block: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Context in which a block's residual branches are zero."""
    ends = [layer for name in _ENDS if (layer := getattr(block, name, None)) is not None]
    return _hooked(ends, lambda layer, given, output: torch.zeros_like(output))


@contextlib.contextmanager
def _hooked(modules: list[nn.Module], hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
