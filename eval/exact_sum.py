"""Sums that do not depend on the order of their terms.

Floating-point addition is not associative, so sums of shards merged in another order differ in the last bits. Here
every term becomes a fixed-point number first, x ≈ hi·2⁻¹² + lo·2⁻⁶⁴ with 64-bit integers hi and lo; integer addition
is associative, hence any grouping and any order of the same terms gives the same bits. Terms above 2⁻¹² in magnitude
keep all 53 bits of their float64; smaller ones are rounded to 2⁻⁶⁴ ≈ 5·10⁻²⁰.
"""

from __future__ import annotations

import torch

from sida.errors import UserError

_HIGH = 2.0**12  # one unit of hi is 2^-12
_LOW = 2.0**64  # one unit of lo is 2^-64
_SHIFT = 52  # units of lo in one unit of hi, as a power of two
_LIMIT = 2.0**50  # largest magnitude of a term or a sum; hi then stays below 2^62
_PIECE = 1 << 16  # terms at a time
_ROWS = 1000  # lo of this many terms still fits: 1000 · 2^52 < 2^62


class ExactSum:
    """Array of order-independent sums.

    Args:
        shape: Shape of the array.
        device: Torch device of the sums.
    """

    def __init__(self, shape: tuple[int, ...], device: str | torch.device = "cpu") -> None:
        self.high = torch.zeros(shape, dtype=torch.int64, device=device)
        self.low = torch.zeros(shape, dtype=torch.int64, device=device)

    def add(self, terms: torch.Tensor) -> None:
        """Adds one float array of the sum's shape.

        Raises:
            UserError: A term or the sum is not finite or exceeds 2^50.
        """
        terms, high, low = terms.to(self.high.device, torch.float64).flatten(), self.high.view(-1), self.low.view(-1)
        # In pieces that stay in the processor's cache: each of these operations would else read memory.
        for first in range(0, len(high), _PIECE):
            piece = slice(first, first + _PIECE)
            _accumulate(high[piece], low[piece], *_split(terms[piece]))

    def add_rows(self, terms: torch.Tensor) -> None:
        """Adds many float arrays ``(N, *shape)``, each as a separate term; errors are those of :meth:`add`."""
        rows = max(1, min(_ROWS, _PIECE // max(1, self.high.numel())))
        for chunk in terms.to(self.high.device, torch.float64).split(rows):
            high, low = _split(chunk)
            _accumulate(self.high, self.low, high.sum(0), low.sum(0))

    def merge(self, other: ExactSum) -> None:
        """Adds another sum."""
        _accumulate(self.high, self.low, other.high.to(self.high.device), other.low.to(self.low.device))

    def value(self) -> torch.Tensor:
        """The sums as float64."""
        return (self.high.double() / _HIGH).add_(self.low.double(), alpha=1 / _LOW)


def _split(terms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fixed-point parts (hi, lo) of new float64 terms, int64; checked for finiteness and size."""
    least, most = terms.aminmax()
    if not bool((least > -_LIMIT) & (most < _LIMIT)):
        raise UserError("features: not finite or above 1e15; check the images and the feature network")
    high = (terms * _HIGH).floor_()
    # Exact: the remainder consists of low bits of the term itself.
    low = torch.sub(terms, high, alpha=1 / _HIGH).mul_(_LOW).round_()
    return high.to(torch.int64), low.to(torch.int64)


def _accumulate(sum_high: torch.Tensor, sum_low: torch.Tensor, high: torch.Tensor, low: torch.Tensor) -> None:
    sum_low += low
    # Carry: equal sums have only one representation (0 <= low < 2^52).
    sum_high += high
    sum_high += sum_low >> _SHIFT
    sum_low &= (1 << _SHIFT) - 1
    least, most = sum_high.aminmax()
    if max(-int(least), int(most)) >= int(_LIMIT * _HIGH):
        raise UserError("features: their sum exceeds 1e15; check the images and the feature network")
