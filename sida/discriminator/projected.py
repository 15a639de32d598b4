"""GDD's discriminator: frozen backbones, frozen mixing, trained heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sida.discriminator.augment import AdaptiveAugment, differentiable_augment
from sida.discriminator.backbones import Backbone
from sida.discriminator.heads import Head
from sida.discriminator.mixing import Mixing


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
