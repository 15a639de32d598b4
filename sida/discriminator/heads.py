"""Trained part of the discriminator: a small convolutional head on each mixed map."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear
from torch.nn.utils.parametrizations import spectral_norm

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
