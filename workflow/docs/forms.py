"""Formats of numbers in documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


#: Decimals, factor and unit of a metric, or of a quantity of a training log, in running text.
FORMS = {
    "fd": (2, 1, ""), "is": (2, 1, ""), "fd_pixel": (3, 1, ""), "accuracy": (1, 100, " %"),
    "weight_rms.generator": (4, 1, ""), "weight_rms.fake_score": (4, 1, ""),
}  # fmt: skip


FORM = (2, 1, "")
