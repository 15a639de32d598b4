"""Augmentation of the discriminator's input: differentiable, and adaptive with a varying probability."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sida.data import AugmentPipe

#: Largest move, and side of the cut-out square, as shares of the image.
MOVE, CUT = 1 / 8, 1 / 5


def differentiable_augment(images: Tensor) -> Tensor:
    """Changes colours, moves the image and cuts out a square, all at random; gradients flow to the images.

    Args:
        images: float32 ``(N, C, H, W)`` in [-1, 1]. Draws come from torch's global generator.

    Source: DiffAugment (arXiv:2006.10738), policy "color, translation, cutout"; the square as in
    autonomousvision/stylegan-t:training/diffaug.py, GDD's too.
    """
    return _cut_out(_moved(_coloured(images)))


def _coloured(x: Tensor) -> Tensor:
    """Changes brightness, saturation and contrast of each image."""
    brightness, saturation, contrast = x.new_empty(3, len(x), 1, 1, 1).uniform_()
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    middle = x.mean((1, 2, 3), keepdim=True)
    return middle + (x - middle) * (contrast + 0.5)


def _moved(x: Tensor) -> Tensor:
    """Moves each image by whole pixels and fills up with 0."""
    count, _, height, width = x.shape
    columns = _positions(x, width, MOVE)[:, None, :].expand(-1, height, -1)
    rows = _positions(x, height, MOVE)[:, :, None].expand(-1, -1, width)
    # Pixels outside the image are read from a frame of one pixel.
    framed = nn.functional.pad(x, (1, 1, 1, 1))
    rows, columns = (rows + 1).clamp(0, height + 1), (columns + 1).clamp(0, width + 1)
    first = torch.arange(count, device=x.device)[:, None, None]
    return framed.permute(0, 2, 3, 1)[first, rows, columns].permute(0, 3, 1, 2)


def _positions(x: Tensor, size: int, share: float) -> Tensor:
    """Source position of each pixel of a line, integers ``(N, size)``, some beyond its ends."""
    most = int(size * share + 0.5)
    move = torch.randint(-most, most + 1, (len(x), 1), device=x.device)
    return torch.arange(size, device=x.device) + move


def _cut_out(x: Tensor) -> Tensor:
    """Zeroes a square at a random place, which may be partly outside."""
    inside = [_covered(x, size) for size in x.shape[2:]]
    return x * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


def _covered(x: Tensor, size: int) -> Tensor:
    """Mask of the pixels of a line that the square covers, bool ``(N, size)``."""
    side = int(size * CUT + 0.5)
    start = torch.randint(0, size + 1 - side % 2, (len(x), 1), device=x.device) - side // 2
    place = torch.arange(size, device=x.device)
    return (place >= start) & (place < start + side)


class AdaptiveAugment(nn.Module):
    """Augmentation whose probability follows a target for the mean sign of the logits of real images.

    Args:
        pipe: The augmentation, with the initial probability.
        target: Target for the mean sign of the logits of real images; None keeps the probability.
        interval: Iterations between two changes of the probability.
        move: Size of a change.

    Attributes:
        p: Current probability; a buffer, for resumed runs. Values above 1 act like 1.
        signs: Sum and number of the signs since the last change, and number of iterations, over all devices; a buffer.

    Source: StyleGAN2-ADA (arXiv:2006.06676), section 3; Zyriix/GDD:training/training_loop.py.
    """

    p: Tensor
    signs: Tensor

    def __init__(self, pipe: AugmentPipe, target: float | None = None, interval: int = 4, move: float = 0.0) -> None:
        super().__init__()
        self.pipe, self.target, self.interval, self.move = pipe, target, interval, move
        self.register_buffer("p", torch.tensor(pipe.p, dtype=torch.float64))
        self.register_buffer("signs", torch.zeros(3, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        """Augments images; draws come from torch's global generator."""
        return dataclasses.replace(self.pipe, p=float(self.p))(images)[0]

    @torch.no_grad()
    def observe(
        self, logits: Sequence[Tensor], share: float = 1.0, add_up: Callable[[Tensor], None] | None = None
    ) -> None:
        """Records logits of real images, and changes the probability after each interval.

        Args:
            logits: Logits of each backbone, ``(N, L)``.
            share: Share of the iteration's images.
            add_up: Function that sums a tensor over all devices, in place; None for one device.
        """
        if self.target is None:
            return
        before = int(self.signs[2] + 1e-6)
        total = torch.stack([x.sign().sum() for x in logits]).sum().double()
        counted = torch.stack([total, total.new_tensor(sum(x.numel() for x in logits)), total.new_tensor(share)])
        if add_up is not None:
            # In each call, since the state of a run holds the buffers of the first device only.
            add_up(counted)
        self.signs += counted
        after = int(self.signs[2] + 1e-6)
        if after == before or after % self.interval:
            return
        self.p.add_(torch.sign(self.signs[0] / self.signs[1] - self.target) * self.move).clamp_(min=0)
        self.signs[:2] = 0
