"""Only the named picture formats are opened, and at one place, whatever a file is called."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from eval.measuring.stores import open_images
from sida.data.pictures import FORMATS, PICTURES, open_picture
from sida.data.prepare import PrepareConfig, prepare
from sida.errors import UserError
from tests.data.test_archive import write_folder
from tests.readers.frame import refused

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(name: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(stream, format=name, **options)
    return stream.getvalue()


@pytest.fixture
def ghostscript(monkeypatch):
    """What Ghostscript was asked to draw; nothing is run."""
    calls = []

    def draw(*args):
        calls.append(args)
        return Image.new("L", (8, 8)).im

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", draw)
    return calls


def test_an_eps_under_another_name_never_reaches_ghostscript(tmp_path, ghostscript):
    """Through the one place where pictures are opened."""
    # Pillow by itself would: otherwise this test could not fail.
    Image.open(io.BytesIO(EPS)).load()
    assert len(ghostscript) == 1
    folder = write_folder(tmp_path / "pictures", {"a.png": EPS})
    score = lambda folder: open_images(folder).read(0, 1)
    for read in (score, lambda folder: prepare(PrepareConfig(folder, f"{tmp_path}/o.zip"))):
        assert "a.png: not a readable picture (its content is none of PNG" in refused(read, folder)
    assert len(ghostscript) == 1
    assert not (tmp_path / "o.zip").exists()


@pytest.mark.parametrize("name", ["PCX", "TGA", "JPEG2000"])
def test_formats_that_nobody_named_are_refused(name):
    with pytest.raises(UserError, match="its content is none of"):
        open_picture(encoded(name))


@pytest.mark.parametrize("suffix", sorted(PICTURES))
def test_every_named_format_is_read(suffix):
    picture = open_picture(encoded(FORMATS[suffix]))
    assert picture.size == (8, 8)
    assert picture.format == FORMATS[suffix]
