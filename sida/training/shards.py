"""Flat vectors cut into one piece per rank: optimizer, gradient and average of big networks, shared by the devices.

Each rank keeps all parameters, but Adam's moments, the averaged gradient and the average of the weights of its own
piece only. A step adds the gradients up into the pieces, steps on them, and puts the parameters together again.

Source: ZeRO (arXiv:1910.02054), stages 1 and 2, on one vector instead of many tensors.
"""

from __future__ import annotations

import torch

from sida.training.flat import FlatParameters
from sida.training.ranks import Ranks

#: Entries of each rank's piece that are put together at a time where nothing else needs the whole.
_CHUNK = 1 << 24


class Shards:
    """How a vector ``(P,)`` is cut: into pieces of ``size`` entries, the last one filled up with zeros.

    Args:
        ranks: Who shares it.
        count: P.

    Attributes:
        size: Entries of a piece.
        padding: Zeros behind the vector.
    """

    def __init__(self, ranks: Ranks, count: int) -> None:
        self.ranks, self.count = ranks, count
        self.size = -(-count // ranks.world_size)
        self.padding = self.size * ranks.world_size - count

    def own(self, padded: torch.Tensor) -> torch.Tensor:
        """This rank's piece of a padded vector: a view."""
        return padded[self.ranks.rank * self.size : (self.ranks.rank + 1) * self.size]

    def averaged(self, padded: torch.Tensor) -> torch.Tensor:
        """This rank's piece of the average of all ranks' padded vectors."""
        piece = torch.empty_like(self.own(padded))
        self.ranks.reduce_scatter(piece, padded)
        return piece.div_(self.ranks.world_size)

    def spread(self, padded: torch.Tensor) -> None:
        """Puts a padded vector together, in place, from the piece of it that each rank has changed."""
        self.ranks.all_gather(padded, self.own(padded))

    def portable(self, piece: torch.Tensor, flat: FlatParameters) -> torch.Tensor:
        """The vector of which every rank has a piece, as :meth:`FlatParameters.portable` gives it, on the CPU.

        On ranks but the first, which keep no states, it is their piece.
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
        """This rank's piece of a whole vector ``(P,)``: a copy, padded."""
        piece = self.own(vector)
        return torch.nn.functional.pad(piece, (0, self.size - len(piece)))

    def total(self, norm: torch.Tensor, count: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
        """Norm and count of a whole vector from those of the pieces."""
        both = torch.stack([norm.double().square(), torch.as_tensor(count, device=norm.device).double()])
        self.ranks.add_up(both)
        return both[0].sqrt().to(norm.dtype), both[1].long()
