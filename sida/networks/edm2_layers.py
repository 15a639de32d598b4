"""Magnitude-preserving layers (Karras et al. 2024, "EDM2", section 2 and appendix B)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sida.networks.unet import Concat, plain_concat

NORM_EPS = 1e-4
# SiLU of a unit normal variable has this root mean square, as the paper rounds it (equation 81).
SILU_RMS = 0.596


def normalize(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Scales vectors to root mean square one.

    Args:
        x: Any tensor.
        dim: Dimensions of a vector; None = all except the first.

    Returns:
        x / (rms + 1e-4) in the dtype of x; the norm is taken in float32.
    """
    dims = tuple(range(1, x.ndim)) if dim is None else dim
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32)
    root = math.sqrt(x.numel() / norm.numel())
    return x / (norm / root + NORM_EPS).to(x.dtype)


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Mixes two uncorrelated unit-variance tensors, share ``t`` of the second, to unit variance (equation 88)."""
    first, second = sum_weights(t)
    return torch.add(a * first, b, alpha=second)


def sum_weights(t: float) -> tuple[float, float]:
    """The two factors of `mp_sum`."""
    norm = math.hypot(1 - t, t)
    return (1 - t) / norm, t / norm


def mp_cat(a: Tensor, b: Tensor, t: float, concat: Concat = plain_concat) -> Tensor:
    """Concatenates channels so that the second input contributes a share ``t`` (equation 103)."""
    total = a.shape[1] + b.shape[1]
    norm = math.sqrt(total) / math.hypot(1 - t, t)
    return concat(a, b, norm * (1 - t) / math.sqrt(a.shape[1]), norm * t / math.sqrt(b.shape[1]))


def mp_silu(x: Tensor) -> Tensor:
    """SiLU scaled to keep unit variance (equation 81)."""
    return F.silu(x) / SILU_RMS


def resample(x: Tensor, mode: str, taps: tuple[int, ...]) -> Tensor:
    """Returns (``keep``), halves (``down``) or doubles (``up``) the resolution with a separable filter."""
    if mode == "keep":
        return x
    if tuple(taps) == (1, 1):
        return F.avg_pool2d(x, 2) if mode == "down" else F.interpolate(x, scale_factor=2, mode="nearest")
    line = torch.tensor(taps, dtype=torch.float32, device=x.device)
    line = line / line.sum()
    kernel = torch.outer(line, line).to(x.dtype).expand(x.shape[1], 1, -1, -1)
    pad = (len(taps) - 1) // 2
    if mode == "down":
        return F.conv2d(x, kernel, groups=x.shape[1], stride=2, padding=pad)
    return F.conv_transpose2d(x, kernel * 4, groups=x.shape[1], stride=2, padding=pad)


class MPFourier(nn.Module):
    """Fourier features of unit variance: sqrt(2)·cos(freqs·x + phases) (equation 75).

    Args:
        num_channels: Width.
        bandwidth: Standard deviation of the frequencies in cycles.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, num_channels: int, bandwidth: float = 1.0):
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(num_channels) * bandwidth)
        self.register_buffer("phases", 2 * math.pi * torch.rand(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Embeds (N,) as (N, num_channels)."""
        angle = torch.outer(x.float(), self.freqs.float()) + self.phases.float()
        return (angle.cos() * math.sqrt(2)).to(x.dtype)


class MPConv(nn.Module):
    """Convolution or linear map without bias whose weights act as unit vectors per output (equations 47 and 66).

    Args:
        in_channels: Channels or width of the input.
        out_channels: Channels or width of the output.
        kernel: Odd kernel size, or 0 for a linear map.

    Attributes:
        rewrite: Whether a forward pass also stores the normalised weights ("forced weight normalisation"): ``never``,
            in ``training`` mode, or ``always``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 0):
        super().__init__()
        self.kernel = kernel
        shape = (out_channels, in_channels) + ((kernel, kernel) if kernel else ())
        self.weight = nn.Parameter(torch.randn(shape))
        self.rewrite: Literal["never", "training", "always"] = "training"

    @torch.no_grad()
    def normalize_weight(self) -> None:
        """Stores the weights with root mean square one per output (less 1e-4: see `normalize`)."""
        self.weight.copy_(normalize(self.weight.float()))

    def rewrite_weight(self) -> None:
        """Stores normalised weights if ``rewrite`` demands it in the present mode."""
        if self.rewrite == "always" or (self.rewrite == "training" and self.training):
            self.normalize_weight()

    def effective_weight(self, gain: Tensor | float = 1.0) -> Tensor:
        """The normalised float32 weights times ``gain``; calls :meth:`rewrite_weight` first."""
        self.rewrite_weight()
        weight = self.weight.float()
        norm = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)
        # Unit root mean square and the fan-in's 1/sqrt(n) in one factor.
        return weight * (gain / (norm + NORM_EPS * math.sqrt(weight[0].numel())))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Maps (N, in, H, W) to (N, out, H, W), or (N, in) to (N, out).

        Args:
            x: Input.
            gain: Factor on the result, applied to the weights because they are smaller than the maps.
        """
        weight = self.effective_weight(gain).to(x.dtype)
        return F.conv2d(x, weight, padding=self.kernel // 2) if self.kernel else F.linear(x, weight)
