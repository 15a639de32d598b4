"""An example of a custom network with a body of its own: mixing layers on patches, seen as a denoiser.

docs/add.md names it: a teacher's ``network`` has ``class: docs.examples.mixer:MixerPrecond``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sida.networks import Precond
from sida.networks.body import Block, Classes, Output, Side, Size


class MixerBlock(Block):
    """Mixes tokens, then channels; the embedding scales the tokens."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Linear(width, width)
        self.tokens, self.channels = nn.Linear(tokens, tokens), nn.Linear(width, width)

    def compute(self, x: Tensor, emb: Tensor) -> Tensor:
        """Maps tokens (N, T, width); see `Block.forward`."""
        normed = F.layer_norm(x, x.shape[-1:]) * (1 + self.scale(emb)[:, None])
        x = x + self.tokens(normed.transpose(1, 2)).transpose(1, 2)
        return x + self.channels(F.gelu(x))


class MixerPrecond(Precond):
    """A network that predicts noise: ``D(x; σ) = x − σ F(x/√(1 + σ²); ln σ)``.

    Args:
        img_resolution, img_channels, label_dim, use_fp16: See `Precond`.
        patch: Side of a patch in pixels.
        width: Channels of a token.
        depth: Number of blocks; the first half is the encoder.
    """

    def __init__(
        self,
        img_resolution: Side,
        img_channels: Size,
        label_dim: Classes = 0,
        use_fp16: bool = False,
        patch: Size = 2,
        width: Size = 32,
        depth: Size = 2,
    ):
        super().__init__(locals())
        self.side = img_resolution // patch
        self.into = nn.Conv2d(img_channels, width, patch, patch)
        self.noise = nn.Linear(1, width)
        self.classes = nn.Linear(label_dim, width, bias=False) if label_dim else None
        self.blocks = nn.ModuleList(MixerBlock(self.side**2, width) for _ in range(depth))
        self.out = nn.ConvTranspose2d(width, img_channels, patch, patch)

    def coefficients(self, sigma: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        """See `Precond.coefficients`."""
        return None, -sigma, (1 + sigma.square()).rsqrt(), sigma.log()

    def body(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None,
        augment_labels: Tensor | None,
        return_flag: str,
        decode: int | None,
    ) -> Output:
        """See `Precond.body`."""
        emb = self.noise(noise_labels[:, None])
        emb = F.silu(emb if self.classes is None else emb + self.classes(class_labels))
        tokens, middle, maps = self.into(x).flatten(2).transpose(1, 2), len(self.blocks) // 2, []
        for block in self.blocks[:middle]:
            tokens = block(tokens, emb)
            maps.append(self.map_of(tokens))
        if return_flag == "features":
            return tuple(maps)
        logits = maps[-1].mean(1, keepdim=True, dtype=torch.float32)
        if return_flag == "encoder":
            return logits
        tokens, emb = tokens[:decode], emb[:decode]
        for block in self.blocks[middle:]:
            tokens = block(tokens, emb)
        image: Tensor = self.out(self.map_of(tokens))
        return image if return_flag == "decoder" else (image, logits)

    def map_of(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, width) as a map (N, width, h, h)."""
        return tokens.transpose(1, 2).unflatten(2, (self.side, self.side))
