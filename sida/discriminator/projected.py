"""GDD's discriminator: frozen backbones, frozen random mixing, trained heads, and augmentation of its input.

Mixing combines a backbone's maps across channels, then across scales; a head is a small convolutional network on each
mixed map. Augmentation is differentiable, and its probability adapts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, linear
from torch.nn.utils.parametrizations import spectral_norm

from sida.data import AugmentPipe
from sida.discriminator.backbones import Backbone


class Mixing(nn.Module):
    """Mixes each map's channels at random, adds all coarser maps, and doubles the size.

    Args:
        channels: Channels of the maps, finest first.
        width: Channels of the first mixed map.

    Attributes:
        channels: Channels of the mixed maps: ``width``, ``width``, ``2 width``, ``4 width``, ...

    Source: projected GANs (arXiv:2111.01007), section 3.2; autonomousvision/stylegan-xl:pg_modules/projector.py.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        inner = [width << level for level in range(len(channels))]
        self.channels = [width, *inner[:-1]]
        self.across_channels = nn.ModuleList(nn.Conv2d(old, new, 1) for old, new in zip(channels, inner))
        self.across_scales = nn.ModuleList(nn.Conv2d(old, new, 1) for old, new in zip(inner, self.channels))
        self.requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Mixed maps, finest first; maps ``(N, C, h, w)`` halve in size from one to the next."""
        mixed: list[Tensor] = []
        for x, channels, scales in reversed(list(zip(maps, self.across_channels, self.across_scales))):
            x = channels(x)
            if mixed:
                x = x + mixed[-1]
            x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            mixed.append(scales(x))
        return mixed[::-1]


#: Width of a class's embedding, and channels of the map with which it is multiplied.
EMBEDDING, COMPARED = 320, 64


class ClassProjection(nn.Linear):
    """A linear layer with equalised learning rate, and leaky ReLU with gain √2.

    Weights start as N(0, 1) and are scaled in the forward pass; biases start as 0.

    Source: StyleGAN2 (arXiv:1912.04958); Zyriix/GDD:training/networks_stylegan2.py (``FullyConnectedLayer``).
    """

    def reset_parameters(self) -> None:
        """Draws the weights from torch's global generator."""
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in)`` to ``(N, out)``."""
        return math.sqrt(2) * leaky_relu(linear(x, self.weight / math.sqrt(self.in_features), self.bias), 0.2)


class Head(nn.Module):
    """Head that reduces a map to a common size and gives logits of its patches, conditioned on classes if any.

    Convolutions have spectral normalisation. Batch normalisation always uses the batch, since the official
    discriminator is always in training mode.

    Args:
        channels: Channels of the map.
        size: Nominal size of the map.
        end: Nominal size of the map from which the logits are computed.
        widths: Channels of further maps by nominal size.
        label_dim: Number of classes; 0 is unconditional.

    Source: StyleGAN-XL (arXiv:2202.00273), section 3.1; Zyriix/GDD:pg_modules/discriminator.py, whose class embeddings
    start from ImageNet's; here they start at random.
    """

    def __init__(self, channels: int, size: int, end: int, widths: Mapping[int, int], label_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        while size > end:
            size //= 2
            layers += [
                spectral_norm(nn.Conv2d(channels, widths[size], 4, 2, 1)),
                nn.BatchNorm2d(widths[size], track_running_stats=False),
                nn.LeakyReLU(0.2),
            ]
            channels = widths[size]
        self.down = nn.Sequential(*layers)
        kernel = 4 if end >= 8 else max(1, end // 2)
        self.logits = spectral_norm(nn.Conv2d(channels, COMPARED if label_dim else 1, kernel, bias=False))
        self.embedding = self.projection = None
        if label_dim:
            self.embedding = nn.Linear(label_dim, EMBEDDING, bias=False)
            nn.init.normal_(self.embedding.weight)
            self.projection = ClassProjection(EMBEDDING, COMPARED)

    def forward(self, x: Tensor, class_labels: Tensor | None) -> Tensor:
        """Logits ``(N, patches)`` of a map ``(N, C, h, w)``; ``class_labels`` one-hot ``(N, label_dim)``."""
        x = self.logits(self.down(x))
        if self.embedding is not None and self.projection is not None:
            assert class_labels is not None
            wanted = self.projection(self.embedding(class_labels))
            x = (x * wanted[:, :, None, None]).sum(1, keepdim=True) / math.sqrt(COMPARED)
        return x.flatten(1)


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


class ProjectedDiscriminator(nn.Module):
    """Discriminator that gives logits of images, one tensor for each backbone.

    Backbones and mixing are not registered as submodules: they have no trained parameters, are not part of a run's
    state and never change their mode. They follow the module to a device.

    Args:
        backbones: Frozen feature networks.
        label_dim: Number of classes; 0 is unconditional.
        diffaug: Whether to augment the images differentiably, with separate draws for each backbone.
        augment: Adaptive augmentation, stored here because its probability is part of a run's state; callers apply it.

    Draws for the frozen mixing, the heads and the augmentation come from torch's global generator.

    Source: projected GANs (arXiv:2111.01007); GDD (arXiv:2405.20750).
    """

    def __init__(
        self,
        backbones: Sequence[Backbone],
        label_dim: int = 0,
        diffaug: bool = False,
        augment: AdaptiveAugment | None = None,
    ) -> None:
        super().__init__()
        self.diffaug, self.augment = diffaug, augment
        mixings = [Mixing(net.channels, net.mixing) for net in backbones]
        # A tuple hides them from torch.
        self._frozen = tuple(nn.Sequential(*pair).eval() for pair in zip(backbones, mixings))
        self.heads = nn.ModuleList()
        for net, mixing in zip(backbones, mixings):
            end = min(8, net.sizes[-1])
            maps = zip(mixing.channels, net.sizes)
            self.heads.append(nn.ModuleList(Head(c, size, end, net.widths, label_dim) for c, size in maps))

    def forward(self, images: Tensor, class_labels: Tensor | None = None) -> list[Tensor]:
        """Computes logits.

        Args:
            images: float32 ``(N, C, H, W)`` in [-1, 1].
            class_labels: One-hot ``(N, label_dim)``; ignored by an unconditional discriminator.

        Returns:
            A tensor ``(N, L)`` for each backbone: the patches of all its heads.
        """
        logits = []
        for frozen, heads in zip(self._frozen, self.heads):
            maps = frozen(differentiable_augment(images) if self.diffaug else images)
            parts = [head(x, class_labels) for head, x in zip(cast(nn.ModuleList, heads), maps)]
            logits.append(torch.cat(parts, 1))
        return logits

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ProjectedDiscriminator:
        for net in self._frozen:
            net._apply(fn)
        return super()._apply(fn, recurse)
