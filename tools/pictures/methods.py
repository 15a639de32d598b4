"""The images that each network of a training sees, for five methods side by side."""

from tools.pictures import drawing
from tools.pictures.drawing import DATA, GREY, WORK, line, text

_METHODS = ("SiD", "SiDA", "GDD", "DMD2", "MeanFlow")
#: Name and state of a network, and by method: images that it sees (a trailing ~ is noise), or words.
_ROWS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("generator G", "learns", ("z", "z", "z", "z", "y~")),
    ("starts from", "", ("teacher", "teacher", "teacher", "teacher", "nothing")),
    ("teacher φ", "frozen", ("x~", "x~", "", "x~", "")),
    ("fake score ψ", "learns", ("x~", "x~", "", "x~", "")),
    ("discriminator", "learns", ("", "x~ y~ encoder of ψ", "x y heads on classifiers", "x~ y~ head on ψ", "")),
)
#: Fill and line of a chip by its letter.
_COLOURS = {"x": WORK, "y": DATA, "z": GREY}
_LEFT, _COLUMN, _TOP = 84, 62, 30
_CHIP = 24


def picture() -> str:
    """Text of the SVG file."""
    parts, y = [], _TOP
    for number, method in enumerate(_METHODS):
        parts.append(text(_middle(number), 20, method, 11.5, bold=True))
    for name, state, cells in _ROWS:
        height = 62 if any(len(cell) > 8 for cell in cells) else 26 if not state else 42
        parts.append(line(f"M6 {y}H394"))
        parts.append(text(8, y + (17 if state or height < 40 else 24), name, 11.5, anchor="start", bold=bool(state)))
        if state:
            parts.append(text(8, y + 32, state, 11, anchor="start", grey=True))
        for number, cell in enumerate(cells):
            parts += _cell(cell, _middle(number), y, bool(state))
        y += height
    parts.append(line(f"M6 {y}H394"))
    x = 8
    for chip, words, room in (("x", "generated", 90), ("y", "real", 62), ("z", "random numbers", 0)):
        parts += [*_chip(chip, x, y + 8), text(x + _CHIP + 5, y + 24, words, 11.5, anchor="start")]
        x += _CHIP + room
    parts += [*_chip("x~", 8, y + 36), text(37, y + 52, "with noise of level σ", 11.5, anchor="start")]
    title = "Images that each network of a training sees: SiD, SiDA, GDD, DMD2 and MeanFlow"
    return drawing.picture(title, y + 66, parts)


def _middle(column: int) -> int:
    return _LEFT + _COLUMN * column + _COLUMN // 2


def _cell(cell: str, x: int, y: int, chips: bool) -> list[str]:
    if not cell:
        return [text(x, y + 26, "–", 12, grey=True)]
    if not chips:
        return [text(x, y + 17, cell, 11)]
    images = [word for word in cell.split() if word.rstrip("~") in _COLOURS]
    parts, start = [], x - (len(images) * (_CHIP + 3) - 3) / 2
    for number, image in enumerate(images):
        parts += _chip(image, start + number * (_CHIP + 3), y + 8)
    words = cell.split()[len(images) :]
    lines: tuple[str, ...] = (" ".join(words),) if len(" ".join(words)) <= 12 else (" ".join(words[:-1]), words[-1])
    return parts + [text(x, y + 44 + 12 * number, half, 10) for number, half in enumerate(lines)]


def _chip(image: str, x: float, y: float) -> list[str]:
    noise = '<tspan font-size="9" dy="3">σ</tspan>' if image.endswith("~") else ""
    return [
        drawing.box(x, y, _CHIP, 22, _COLOURS[image[0]], dashed=bool(noise)),
        f'<text x="{x + _CHIP / 2:g}" y="{y + 15:g}" font-size="13" text-anchor="middle" fill="#111111">'
        f"{image[0]}{noise}</text>",
    ]
