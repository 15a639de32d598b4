"""Sharding: optimizer state, gradient and average of large networks, cut into one piece per rank.

Each rank keeps all parameters, but only its own piece of Adam's moments, of the averaged gradient and of the average of
the weights. A step reduces the gradients to pieces, updates each piece, and gathers the parameters again.

Source: ZeRO (arXiv:1910.02054), stages 1 and 2, on one vector instead of many tensors.
"""

from __future__ import annotations

import torch

from sida.training.flat import FlatParameters
from sida.training.ranks import Ranks

#: Entries of each rank's piece that :meth:`Shards.portable` gathers at a time.
_CHUNK = 1 << 24


class Shards:
    """Division of a vector ``(P,)`` into pieces of ``size`` entries; zeros pad the last piece.

    Args:
        ranks: Processes that share the vector.
        count: P.

    Attributes:
        size: Entries of a piece.
        padding: Number of zeros after the vector.
    """

    def __init__(self, ranks: Ranks, count: int) -> None:
        self.ranks, self.count = ranks, count
        self.size = -(-count // ranks.world_size)
        self.padding = self.size * ranks.world_size - count

    def own(self, padded: torch.Tensor) -> torch.Tensor:
        """Returns this rank's piece of a padded vector: a view."""
        return padded[self.ranks.rank * self.size : (self.ranks.rank + 1) * self.size]

    def averaged(self, padded: torch.Tensor) -> torch.Tensor:
        """Returns this rank's piece of the average of all ranks' padded vectors."""
        piece = torch.empty_like(self.own(padded))
        self.ranks.reduce_scatter(piece, padded)
        return piece.div_(self.ranks.world_size)

    def spread(self, padded: torch.Tensor) -> None:
        """Gathers a padded vector, in place, from the piece that each rank has changed."""
        self.ranks.all_gather(padded, self.own(padded))

    def portable(self, piece: torch.Tensor, flat: FlatParameters) -> torch.Tensor:
        """Gathers a vector from its pieces, in the order of :meth:`FlatParameters.portable`, on the CPU of rank 0.

        Other ranks, which write no states, get their own piece.
        """
        first = self.ranks.rank == 0
        result = torch.empty(self.ranks.world_size, self.size if first else 0, dtype=piece.dtype)
        for start in range(0, self.size, _CHUNK):
            part = piece[start : start + _CHUNK]
            everyones = part.new_empty(self.ranks.world_size * len(part))
            self.ranks.all_gather(everyones, part)
            if first:
                result[:, start : start + len(part)].copy_(everyones.view(self.ranks.world_size, -1))
        return flat.portable(result.view(-1)[: self.count]) if first else piece

    def piece_of(self, vector: torch.Tensor) -> torch.Tensor:
        """Returns this rank's piece of a whole vector ``(P,)``: a padded copy."""
        piece = self.own(vector)
        return torch.nn.functional.pad(piece, (0, self.size - len(piece)))

    def total(self, norm: torch.Tensor, count: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the norm and count of a whole vector from those of the pieces."""
        both = torch.stack([norm.double().square(), torch.as_tensor(count, device=norm.device).double()])
        self.ranks.add_up(both)
        return both[0].sqrt().to(norm.dtype), both[1].long()
