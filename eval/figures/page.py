"""What layouts of figures have in common: a page's size, its words, and panels side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from sida.config.ranges import Count, Range

#: A smaller figure cannot be read, a larger one is a slip of the pen.
Inches = Annotated[float, Range(least=1, most=20)]


@dataclass(frozen=True, kw_only=True)
class Page:
    """Any figure.

    Attributes:
        width: Inches; 3.3 is a column, 6.8 a page of the usual two-column paper.
        scope: Conditions that all rows of the figure meet.
        source: File of the layout, for messages.
    """

    title: str = ""
    caption: str = ""
    width: Inches = 6.8
    scope: Mapping[str, Any] | None = None
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class PanelsPage(Page):
    """A figure of several pairs of axes.

    Attributes:
        panels: The pairs of axes, row by row.
        height: Inches.
        columns: Panels side by side.
        share_y: Whether panels of a row have one vertical scale.
        widths: Relative widths of the panels of a row; where optional panels are left out, all are equal.
        legend: A legend in each panel, or one below all of them (which then also names the lines).
    """

    panels: tuple[Any, ...]
    height: Inches = 3.0
    columns: Count = 3
    share_y: bool = False
    widths: tuple[float, ...] | None = None
    legend: Literal["panels", "below"] = "below"

    def __post_init__(self) -> None:
        require_panels(self.panels)
        if self.widths is not None and (len(self.widths) != self.beside or min(self.widths) <= 0):
            raise ValueError(f"widths: must be {self.beside} positive numbers, one for each panel of a row")

    @property
    def beside(self) -> int:
        """Panels of a full row."""
        return min(self.columns, len(self.panels))

    def of(self, panels: tuple[Any, ...]) -> Self:
        """The same figure of some of its panels; where a row has become shorter, all of it are equally wide."""
        fewer = dataclasses.replace(self, panels=panels, widths=None)
        return dataclasses.replace(fewer, widths=self.widths) if fewer.beside == self.beside else fewer


def require_panels(panels: tuple[Any, ...]) -> None:
    """Refuses a figure of nothing.

    Raises:
        ValueError: There is no panel.
    """
    if not panels:
        raise ValueError("panels: must not be empty")
