"""Small files that ask for endless work or memory: one line, before the work is done."""

import re
from unittest import mock

import pytest

from eval.measuring.stores import open_images
from eval.results.sheet import read_runs
from sida.assets import load_registry
from sida.data import pictures
from sida.data.archive import ImageArchive
from sida.data.pictures import MOST_PLAIN, open_picture
from sida.data.prepare import read_cifar10
from sida.files.atomic import read_hashed_json, read_jsonl
from sida.files.text_files import MOST_LINES, parse_json, parse_yaml, read_csv
from sida.sampling.store import intact_png, intact_zip
from tests.readers import bombs
from tests.readers.frame import command, refused
from workflow.cli import main


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bombs.jpeg(110), "more than 100 scans"),
        (b"\xff\xd8" + b"\xff\xe5\0\2" * 6000, "more than 5,000 segments"),
        (bombs.ppm(MOST_PLAIN // 2 + 1), "plain PPM"),
        (b"P5\n3000 3000 254\n" + bytes(9_000_000), "plain PPM"),
        (b"P6#" + b"x" * MOST_PLAIN + b"\n1 1 255\n", "plain PPM"),
        (bombs.bmp(MOST_PLAIN), "packed BMP"),
        (bombs.gif(comment=9 << 20), "GIF of more than 16 MiB"),
        (bombs.png(2000), "more than 1,000 chunks"),
        (bombs.tiff(1, strips=300_000), "300,000 strips"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pictures_that_take_long_whatever_their_size(content, reason):
    assert reason in refused(open_picture, content, "x")


@pytest.mark.parametrize("content", [bombs.gif(4000), bombs.tiff(20_000)], ids=["gif", "tiff"])
def test_frames_are_not_counted(content):
    assert "several frames" in refused(open_picture, content, "x", True)
    assert open_picture(content, "x").size[0] >= 1


@pytest.mark.parametrize(
    "content",
    [
        bombs.jpeg(3), bombs.gif(), bombs.tiff(1), bombs.png(20), bombs.ppm(3 * 64, comment=9, side=8),
        b"P6 # note\n# more\n2048 2048\n255\n" + bytes(3 << 22), b"P4 8192 8192\n" + bytes(8 << 20),
    ],
    ids=["jpeg", "gif", "tiff", "png", "plain ppm", "ppm", "pbm"],
)  # fmt: skip
def test_ordinary_pictures_are_below_the_limits(content):
    open_picture(content, "x", whole=True)


@pytest.mark.parametrize("form", ["bz2", "gz"])
def test_packed_tars_of_nothing(tmp_path, form):
    path = tmp_path / f"x.tar.{form}"
    path.write_bytes(bombs.packed_tar(form, 1 << 33))
    assert "unpacks to more than" in refused(open_images, path)
    assert "unpacks to more than" in refused(lambda: list(read_cifar10(str(path))))


def test_a_packed_tar_is_unpacked_once_whatever_its_order(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(bombs.packed_tar("gz", 100_000, 300))
    store = open_images(path)
    with mock.patch("gzip.GzipFile.seek", side_effect=AssertionError("unpacked again")):
        assert sum(len(store._files.read(index)) for index in range(300)) == 30_000_000


def test_zip_archives_whose_members_share_their_bytes_or_are_nothing(tmp_path):
    (tmp_path / "x.zip").write_bytes(bombs.overlapping_zip(1 << 20, 500))
    assert "members share their bytes" in refused(ImageArchive, str(tmp_path / "x.zip"))
    assert not intact_zip(tmp_path / "x.zip")
    (tmp_path / "y.zip").write_bytes(bombs.overlapping_zip(80 << 20, 1))
    assert "unpacks to" in refused(ImageArchive, str(tmp_path / "y.zip"))
    with mock.patch("zipfile.ZipFile.testzip", side_effect=AssertionError("unpacked")):
        assert not intact_zip(tmp_path / "y.zip")


def test_samples_of_many_chunks_or_bytes(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(bombs.png(100))
    assert intact_png(tmp_path / "x.png")
    monkeypatch.setattr(pictures, "MOST_CHUNKS", 50)
    assert not intact_png(tmp_path / "x.png")


@pytest.mark.parametrize("reader", [read_runs, load_registry])
def test_sheets_of_too_many_lines(tmp_path, reader):
    path = tmp_path / "x.tsv"
    path.write_text("run\n" + ",\n" * (MOST_LINES + 1))
    assert "more than 100,000 lines" in refused(reader, path)


def test_text_of_too_many_values(tmp_path):
    assert "more than 100,000 values" in refused(parse_yaml, "a: [" + "x," * 1_000_000 + "]", "x")
    assert "more than 2,000,000 values" in refused(parse_json, "[" + "[]," * 1_100_000 + "0]", "x")
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + ",\n" * 1_100_000)
    assert "more than 1,000,000 rows" in refused(read_csv, path)
    path.write_text(",".join("abcdefghijkl") + "\n" + (",," * 6 + "\n") * 999_000)
    assert "more than 12,000,000 cells" in refused(read_csv, path)
    path.write_text("{}\n" * 2_100_000)
    assert "more than 4,000,000 values" in refused(read_jsonl, path)
    path.write_text('{"claims": [' + "[]," * 1_100_000 + "0]}")
    assert "more than 2,000,000 values" in refused(read_hashed_json, path)


#: Pictures of some hundred bytes, and how many of them are in an archive.
SUMS = {
    "jpeg": (bombs.large_jpeg(8192, 80), 20),
    "webp": (bombs.flat_webp(8192), 100),
    "png": (bombs.flat_png(8192), 400),
}
CALLS = [
    *(f"sida data prepare --source {form}.zip --out out-{form}.zip" for form in SUMS),
    "sida new study --data png.zip",
    "sida data check png.zip",
    "sida score webp.zip --protocol digits --num-samples 100 --trials 1",
]


def test_pictures_that_are_small_each_are_bounded_in_sum(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for form, (picture, count) in SUMS.items():
        (tmp_path / f"{form}.zip").write_bytes(bombs.zip_of_equals(picture, count, f".{form}"))
        assert (tmp_path / f"{form}.zip").stat().st_size < 100_000
    before = sorted(tmp_path.iterdir())
    for call in CALLS:
        said = refused(command, *call.split(), megabytes=1500)
        assert re.search(r"pixels in 8. scans|256 for each byte|channels? of 8192×8192|mode 1|read next frame", said)
    assert sorted(tmp_path.iterdir()) == before


def test_flat_and_small_pictures_are_taken(tmp_path):
    (tmp_path / "x.zip").write_bytes(bombs.zip_of_equals(bombs.flat_png(512), 40, ".png"))
    assert main(["data", "prepare", "--source", str(tmp_path / "x.zip"), "--out", str(tmp_path / "o.zip")]) == 0
    assert len(ImageArchive(str(tmp_path / "o.zip"))) == 40
    assert open_picture(bombs.flat_webp(64), "x").size == (64, 64)
