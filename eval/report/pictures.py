"""Pictures of figures, made small enough to be committed or put into a page."""

from __future__ import annotations

import io
from pathlib import Path

from sida.data.pictures import open_picture


def reduced_png(source: Path) -> bytes:
    """A PNG file of the same size in 256 colours, a fraction of the bytes."""
    from PIL import Image

    stream = io.BytesIO()
    picture = open_picture(source.read_bytes(), str(source)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(stream, format="PNG", optimize=True)
    return stream.getvalue()
