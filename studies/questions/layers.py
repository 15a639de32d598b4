"""Profiles of a network's residual blocks: change of the output without a block, by noise level.

    change(b, σ) = E‖F_b(y + σ n; σ) − F(y + σ n; σ)‖² / E‖F(y + σ n; σ)‖²

F is the raw output of the U-Net. In F_b the residual branches of block b are zero, so that its shortcut alone is left.
Images y and noise n are equal for all blocks and noise levels. The denoiser D = c_skip x + c_out F would hide the
layers: at low noise D tends to its input x, while EDM's preconditioning gives the target of F unit variance at every
noise level.

A block's profile may vary with the noise by the form of the network alone, so that files of teachers also have the
profile of the same network before any training.

A student is trained at σ_init with latents alone, so its profile is of σ_init, with y = 0.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from eval.effects.contrast import Interval, mean_interval
from eval.results.analyses import Analysis, Fact, Found, Inputs
from sida.config.settings import Count, Positive, Range
from sida.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Column of noise levels; the other columns are the changes by block.
SIGMA = "sigma"
#: Start of the columns of the network before any training.
UNTRAINED = "untrained "
#: Last layers of a block's residual branches (convolutions, attention) in the blocks of both families.
_ENDS = ("conv1", "proj", "conv_res1", "attn_proj")


@dataclass(frozen=True, kw_only=True)
class LayerSettings:
    """Noise levels and number of images of a profile.

    Attributes:
        sigma_min: Lowest noise level σ of a teacher.
        sigma_max: Highest noise level σ of a teacher; the network's own range limits both.
        levels: Number of noise levels, in equal steps of ln σ.
        num_images: Number of data images in one repeat, drawn with replacement; one batch.
        repeats: Number of repeats, each with other images and noise, for the sampling error.
        factor: Least ratio of a block's largest change to its smallest for which the block varies.
    """

    sigma_min: Positive = 0.02
    sigma_max: Positive = 80.0
    levels: Annotated[int, Range(least=2, most=100)] = 8
    num_images: Count = 250
    repeats: Annotated[int, Range(least=4, most=1000)] = 8
    factor: Positive = 2.0


def compute(inputs: Inputs, options: LayerSettings) -> Found:
    """Computes the changes by block, noise level and repeat.

    Raises:
        UserError: A missing file, data that are no pixels, or a network without residual blocks.
    """
    from sida.networks.build import architecture
    from sida.networks.checkpoint import load_network

    if not inputs.network or not inputs.dataset:
        raise UserError("--spec", "needs network and dataset", "name rows of teachers or students")
    net, metadata = load_network(inputs.network, inputs.device)
    # Generators of one step see no data.
    init_sigma = (metadata.get("sampler") or {}).get("init_sigma")
    curves = profile_of(net, inputs, options, init_sigma)
    if init_sigma is None:
        fresh = profile_of(untrained(architecture(net), inputs.device), inputs, options)
        curves |= {f"{UNTRAINED}{name}": changes for name, changes in fresh.items() if name != SIGMA}
    return Found(facts(curves, options.factor), curves)


def profiles(curves: Mapping[str, Sequence[float]], untrained: bool = False) -> dict[str, dict[float, list[float]]]:
    """Changes of the repeats by noise level, by block, from the columns of a file.

    Args:
        curves: Columns of the file.
        untrained: Whether to give those of the network before any training; empty if the file has none.
    """
    start = UNTRAINED if untrained else ""
    chosen = {name: values for name, values in curves.items() if name.startswith(UNTRAINED) == untrained}
    found: dict[str, dict[float, list[float]]] = {}
    for name, values in chosen.items():
        if name != SIGMA:
            levels = found.setdefault(name.removeprefix(start), {})
            for sigma, change in zip(curves[SIGMA], values):
                levels.setdefault(sigma, []).append(change)
    return found


def _ratio(levels: Mapping[float, Sequence[float]]) -> float:
    """Largest by smallest mean change over noise levels; 1 for a block that does nothing."""
    means = [statistics.fmean(changes) for changes in levels.values()]
    return max(means) / min(means) if min(means) > 0 else 1.0


def facts(curves: Mapping[str, Sequence[float]], factor: float) -> dict[str, Fact]:
    """Share of the blocks that vary over noise levels, and whether two blocks peak at different levels.

    A block varies if its largest change is ``factor`` times its smallest, beyond the ratio that the network has before
    any training; without a profile from before the training there are no facts.
    Every other repeat finds the levels of a block's largest and smallest change, and the rest compare them by 95 %
    intervals, so that the choice does not count as a difference. A share lies between the blocks that surely vary and
    those that surely do not; ``apart`` is 1 if two blocks surely differ, 0 if all peak at one level, else open.
    """
    blocks, null = profiles(curves), profiles(curves, untrained=True)
    if not null:
        return {"varying_share": None, "apart": None}
    before = {block: max(1.0, _ratio(levels)) for block, levels in null.items()}
    sums = {block: {sigma: sum(found[::2]) for sigma, found in levels.items()} for block, levels in blocks.items()}
    peaks = {block: max(by_level, key=by_level.__getitem__) for block, by_level in sums.items()}
    lowest = {block: min(by_level, key=by_level.__getitem__) for block, by_level in sums.items()}

    def gain(block: str, high: float, low: float, factor: float = 1.0) -> Interval:
        pairs = zip(*(blocks[block][sigma][1::2] for sigma in (high, low)))
        return mean_interval({"": [a - factor * b for a, b in pairs]})

    gains = [gain(block, peaks[block], lowest[block], factor * before[block]) for block in blocks]
    varying, steady = sum(one.low > 0 for one in gains), sum(one.high <= 0 for one in gains)
    apart = any(
        gain(a, peaks[a], peaks[b]).low > 0 and gain(b, peaks[b], peaks[a]).low > 0 for a, b in combinations(blocks, 2)
    )
    one_level = len(set(peaks.values())) == 1
    count = len(blocks)
    return {
        "varying_share": (varying / count, varying / count, 1 - steady / count),
        "apart": (float(apart), float(apart), float(apart or not one_level)),
    }


LAYERS = Analysis(
    compute,
    {
        "varying_share": "share of the blocks whose change over noise levels varies more than before any training",
        "apart": "whether two blocks change the output most at different noise levels",
    },
    LayerSettings,
)


def untrained(config: Mapping[str, Any], device: str = "cpu") -> nn.Module:
    """The network of a configuration before any training, with weights of seed 0, for evaluation."""
    import torch

    from sida.networks.build import build_network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(config).to(device).eval()


def profile_of(
    net: nn.Module, inputs: Inputs, options: LayerSettings, init_sigma: float | None = None
) -> dict[str, list[float]]:
    """Changes of a network's output without each block, by noise level and repeat.

    Args:
        net: The network, in evaluation mode.
        inputs: Data set and device.
        options: Noise levels and images.
        init_sigma: Noise level of a generator of one step, whose profile has this level alone.

    Raises:
        UserError: Data that are no pixels, or a network without residual blocks.
    """
    import torch

    from sida.data import load_dataset
    from sida.errors import Progress
    from sida.machine import generator
    from sida.networks.edm2_unet import EDM2Block
    from sida.networks.layers import UNetBlock

    data = load_dataset(inputs.dataset or {}, "--spec.dataset")
    modules = [(name, module) for name, module in net.named_modules() if isinstance(module, (UNetBlock, EDM2Block))]
    # Files sort their keys, so that names begin with the place in the network.
    blocks = {f"{place:02d} {name.partition('.')[2]}": block for place, (name, block) in enumerate(modules, 1)}
    if not blocks or not data.is_pixels:
        raise UserError("--spec", "needs a U-Net with residual blocks as network, and pixels as dataset")
    low, high = (float(getattr(net, name)) for name in ("sigma_min", "sigma_max"))
    levels = np.geomspace(max(low, options.sigma_min), min(high, options.sigma_max), options.levels)
    curves: dict[str, list[float]] = {name: [] for name in (SIGMA, *blocks)}
    progress = Progress(f"layers {inputs.run}", options.repeats, "repeats")
    for repeat in range(options.repeats):
        source = generator(0, "layers", repeat)
        indices = torch.randint(len(data), (options.num_images,), generator=source).numpy()
        images, labels = data.images(indices).float() / 127.5 - 1, data.labels(indices).to(inputs.device)
        noise = torch.randn(images.shape, generator=source)
        for sigma in [float(f"{level:.4g}") for level in levels] if init_sigma is None else [init_sigma]:
            noisy = (sigma * noise + (images if init_sigma is None else 0)).to(inputs.device)
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
    from sida.networks.unet import UNet

    found: list[Tensor] = []
    (unet,) = (module for module in net.modules() if isinstance(module, UNet))
    with _hooked([unet], lambda module, given, output: found.append(output.double())):
        net(noisy, sigma, labels)
    return found[0]


def skipped(block: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Context in which a block's residual branches are zero."""
    ends = [layer for name in _ENDS if (layer := getattr(block, name, None)) is not None]
    return _hooked(ends, lambda layer, given, output: output.new_zeros(output.shape))


@contextlib.contextmanager
def _hooked(modules: list[nn.Module], hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
