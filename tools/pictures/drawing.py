"""Parts of an SVG picture that is readable at a width of 400 pixels."""

from xml.sax.saxutils import escape

WIDTH = 400
#: Fill and line of a box by what it holds.
DATA, WORK, RESULT, GREY = (
    ("#d3e5fb", "#1f5fa8"),
    ("#ffe3c2", "#c46a00"),
    ("#d9f0d3", "#2f7d32"),
    ("#e9e9e9", "#707070"),
)
_MONO = ' font-family="DejaVu Sans Mono, Consolas, monospace"'


def picture(title: str, height: float, parts: list[str]) -> str:
    """An SVG file.

    Args:
        title: Words for readers who cannot see it.
        height: Its height in pixels.
        parts: Elements, drawn in this order.
    """
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'width="{WIDTH}" height="{height:g}" font-family="DejaVu Sans, Verdana, sans-serif">'
    )
    back = f'<rect width="{WIDTH}" height="{height:g}" rx="6" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", back, *parts, "</svg>"]) + "\n"


def text(
    x: float,
    y: float,
    words: str,
    size: float,
    *,
    anchor: str = "middle",
    bold: bool = False,
    grey: bool = False,
    mono: bool = False,
) -> str:
    """Words, by the point of their base line at ``anchor`` and their size in pixels."""
    weight, colour = ' font-weight="bold"' if bold else "", "#666666" if grey else "#111111"
    family = f'{_MONO} xml:space="preserve"' if mono else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"{weight}{family} fill="{colour}">'
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, width: float, height: float, colours: tuple[str, str], *, dashed: bool = False) -> str:
    """A box with round corners, by its upper left corner."""
    fill, line = colours
    dash = ' stroke-dasharray="3 2"' if dashed else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" fill="{fill}" stroke="{line}"{dash}/>'
    )


def line(path: str, colour: str = "#d5d5d5") -> str:
    """A thin line along a path."""
    return f'<path d="{path}" fill="none" stroke="{colour}"/>'


def arrow(path: str, x: float, y: float) -> str:
    """A line along a path that ends downwards in the tip (x, y)."""
    tip = f'<path d="M{x - 4:g} {y - 6:g}h8l-4 6z" fill="#707070"/>'
    return f"{line(f'{path}V{y - 5:g}', '#707070')}{tip}"
