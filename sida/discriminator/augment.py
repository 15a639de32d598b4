"""Augmentation of what the discriminator sees: a fixed, differentiable one, and one that finds its own strength."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sida.data import AugmentPipe

#: Largest move, and side of the square that is cut out, as shares of the image.
MOVE, CUT = 1 / 8, 1 / 5


def differentiable_augment(images: Tensor) -> Tensor:
    """Random colours, then a move, then a square cut out; gradients flow to the images.

    Args:
        images: float32 ``(N, C, H, W)`` in [-1, 1]. Draws come from torch's global generator.

    Source: DiffAugment (arXiv:2006.10738), policy "color, translation, cutout"; the square as in
    autonomousvision/stylegan-t:training/diffaug.py, GDD's too.
    """
    return _cut_out(_moved(_coloured(images)))


def _coloured(x: Tensor) -> Tensor:
    """Brightness, saturation and contrast, each drawn for each image."""
    brightness, saturation, contrast = x.new_empty(3, len(x), 1, 1, 1).uniform_()
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    middle = x.mean((1, 2, 3), keepdim=True)
    return middle + (x - middle) * (contrast + 0.5)


def _moved(x: Tensor) -> Tensor:
    """Moves each image by whole pixels; 0 comes in from outside."""
    count, _, height, width = x.shape
    columns = _positions(x, width, MOVE)[:, None, :].expand(-1, height, -1)
    rows = _positions(x, height, MOVE)[:, :, None].expand(-1, -1, width)
    # A frame of one pixel: everything from outside is read there.
    framed = nn.functional.pad(x, (1, 1, 1, 1))
    rows, columns = (rows + 1).clamp(0, height + 1), (columns + 1).clamp(0, width + 1)
    first = torch.arange(count, device=x.device)[:, None, None]
    return framed.permute(0, 2, 3, 1)[first, rows, columns].permute(0, 3, 1, 2)


def _positions(x: Tensor, size: int, share: float) -> Tensor:
    """From where each pixel of a line comes: integers ``(N, size)``, some beyond its ends."""
    most = int(size * share + 0.5)
    move = torch.randint(-most, most + 1, (len(x), 1), device=x.device)
    return torch.arange(size, device=x.device) + move


def _cut_out(x: Tensor) -> Tensor:
    """A square at a random place becomes 0; it may stick out."""
    inside = [_covered(x, size) for size in x.shape[2:]]
    return x * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])


def _covered(x: Tensor, size: int) -> Tensor:
    """Which pixels of a line the square covers: bool ``(N, size)``."""
    side = int(size * CUT + 0.5)
    start = torch.randint(0, size + 1 - side % 2, (len(x), 1), device=x.device) - side // 2
    place = torch.arange(size, device=x.device)
    return (place >= start) & (place < start + side)


class AdaptiveAugment(nn.Module):
    """Augmentation whose probability moves until real images look as real as wanted.

    Args:
        pipe: What is done to images, with the probability at the start.
        target: Wanted mean sign of the logits of real images; None keeps the probability.
        interval: Iterations between two moves.
        move: By how much the probability moves at a time.

    Attributes:
        p: Probability now; a buffer, so that a resumed run knows it. It may pass 1, and does nothing more there.
        signs: Sum and number of the signs since the last move, and iterations so far, of all devices; a buffer.

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
        """Augmented images; draws come from torch's global generator."""
        return dataclasses.replace(self.pipe, p=float(self.p))(images)[0]

    @torch.no_grad()
    def observe(
        self, logits: Sequence[Tensor], share: float = 1.0, add_up: Callable[[Tensor], None] | None = None
    ) -> None:
        """Takes note of logits of real images, and moves when it is time.

        Args:
            logits: Of each backbone, ``(N, L)``.
            share: How much of the iteration's images these are.
            add_up: Sums a tensor over all devices, in place; None is one device.
        """
        if self.target is None:
            return
        before = int(self.signs[2] + 1e-6)
        total = torch.stack([x.sign().sum() for x in logits]).sum().double()
        counted = torch.stack([total, total.new_tensor(sum(x.numel() for x in logits)), total.new_tensor(share)])
        if add_up is not None:
            # Each time, not only before a move: a state is the first device's, for all of them.
            add_up(counted)
        self.signs += counted
        after = int(self.signs[2] + 1e-6)
        if after == before or after % self.interval:
            return
        self.p.add_(torch.sign(self.signs[0] / self.signs[1] - self.target) * self.move).clamp_(min=0)
        self.signs[:2] = 0
