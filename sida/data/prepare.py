"""Preparation of data sets in the EDM format: from pictures in a folder, an archive or CIFAR-10's archive to one zip.

The archive equals the official tool's: uncompressed PNG, ``00000/img00000000.png`` onwards in sorted order of the
sources, ``dataset.json`` last, nothing deflated (NVlabs/edm:dataset_tool.py). Equal sources give equal bytes.

Reader of CIFAR-10's python archive, a tar of pickles, which the allow-list reader reads without executing code.

Transformations of source pictures to square images, by the exact rules of the published data sets.

| name | rule | used for |
|---|---|---|
| ``none`` | resize to the target with Lanczos if the size differs | FFHQ, AFHQv2, CIFAR-10 |
| ``center-crop`` | largest centred square, then Lanczos | ImageNet 64×64 |
| ``center-crop-dhariwal`` | halve with a box filter while ≥ 2×, bicubic to the target, centre crop | ImageNet 512×512 |

Source: NVlabs/edm:dataset_tool.py, NVlabs/edm2:dataset_tool.py; the third is guided diffusion's (arXiv:2105.05233).
"""

from __future__ import annotations

import collections
import dataclasses
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np

from sida.config.datasets import Transform
from sida.config.plugins import load_file_object
from sida.config.settings import Count, OneOf, Range, Settings, names_file_object
from sida.data.archive import dataset_json, image_name, read_labels, with_suffix
from sida.data.pictures import MOST_PIXELS, PixelSum, encode_png, open_picture
from sida.errors import Progress, SettingError, UserError, located, visible
from sida.files.archives import PICTURES, Files, TarFiles, open_files
from sida.files.atomic import atomic_path, zip_member
from sida.files.pickles import parse_pickle

if TYPE_CHECKING:
    from PIL.Image import Image


TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = ("test_batch",)


def read_cifar10(path: str, batches: tuple[str, ...] = TRAINING) -> Iterator[tuple[np.ndarray, int]]:
    """Yields ``(image uint8 (32, 32, 3), class)`` of ``cifar-10-python.tar.gz``, in its order.

    Args:
        path: The archive.
        batches: Members to read: :data:`TRAINING` (50,000 images) or :data:`TEST` (10,000).

    Raises:
        UserError: The file is missing or broken, or a batch is missing or invalid.
    """
    if not Path(path).is_file():
        raise UserError(path, "no such file", "fetch cifar-10-python.tar.gz first")
    files = TarFiles(path)
    members = {PurePosixPath(files.name(index)).name: index for index in range(len(files))}
    for name in batches:
        if name not in members:
            raise UserError(path, f"has no member {name}", "fetch cifar-10-python.tar.gz again")
        yield from _read_batch(files.read(members[name]), files.where(members[name]))


def _read_batch(content: bytes, where: str) -> Iterator[tuple[np.ndarray, int]]:
    batch = parse_pickle(content, where)
    data: Any = batch.get("data") if isinstance(batch, dict) else None
    labels = batch.get("labels") if isinstance(batch, dict) else None
    good = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3072
    if not good or not isinstance(labels, list) or len(labels) != len(data):
        raise UserError(where, "must hold 'data' uint8 (N, 3072) and as many 'labels'", "is this CIFAR-10?")
    for row, label in zip(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels):
        if not isinstance(label, int) or not 0 <= label < 10:
            raise UserError(where, f"class {label!r} is not between 0 and 9")
        yield row, label


TRANSFORMS: tuple[str, ...] = get_args(Transform)


def to_square(picture: Image, transform: str, resolution: int | None, channels: int) -> Image:
    """Applies a transform.

    Args:
        picture: 8 bits per channel, any mode.
        transform: One of :data:`TRANSFORMS`.
        resolution: Target height and width; None keeps the (cropped) size.
        channels: 3 makes everything RGB (as the originals; transparency is dropped), 1 makes it grey.

    Returns:
        RGB or grey, square.

    Raises:
        UserError: Without cropping, the picture is not square and has no target size; or it has more than 8 bits.
    """
    if picture.mode.startswith(("I", "F")):
        raise UserError("", f"has more than 8 bits per channel (mode {picture.mode})", "convert it first")
    mode = "RGB" if channels == 3 else "L"
    if picture.mode != mode:
        picture = picture.convert(mode)
    if transform == "center-crop-dhariwal":
        return _shrink_then_crop(picture, resolution or min(picture.size))
    if transform == "center-crop":
        width, height = picture.size
        left, top, side = (width - min(picture.size)) // 2, (height - min(picture.size)) // 2, min(picture.size)
        picture = picture.crop((left, top, left + side, top + side))
    width, height = picture.size
    if resolution is None and width != height:
        raise UserError("", f"is {width}×{height}", "give --resolution or --transform center-crop")
    if resolution is not None and (width, height) != (resolution, resolution):
        picture = picture.resize((resolution, resolution), _filters().LANCZOS)
    return picture


def _shrink_then_crop(picture: Image, resolution: int) -> Image:
    while min(picture.size) >= 2 * resolution:
        picture = picture.resize((picture.width // 2, picture.height // 2), _filters().BOX)
    scale = resolution / min(picture.size)
    if max(picture.size) * scale * resolution > MOST_PIXELS:
        raise UserError("", f"is {picture.width}×{picture.height}, too long for its width", "remove it")
    # The long side is rounded as in the original: Python's round, halves to even.
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), _filters().BICUBIC)
    left, top = (picture.width - resolution) // 2, (picture.height - resolution) // 2
    return picture.crop((left, top, left + resolution, top + resolution))


def _filters() -> Any:
    from PIL import Image

    return Image.Resampling


#: PNG bytes, description of the picture's mode, and whether it was cropped or scaled.
PreparedPicture = tuple[bytes, str, bool]
#: Function that makes an image in a worker thread, and the image's label.
PictureJob = tuple[Callable[[], PreparedPicture], Any]
Resolution = Annotated[Count, Range(most=8192)]
TransformName = Annotated[str, OneOf(lambda: TRANSFORMS)]
_GREY = ("1", "L", "LA", "La")
_MODES = {
    "1": "black and white", "L": "grey", "LA": "grey without its transparency", "P": "palette",
    "RGBA": "RGBA without its transparency",
}  # fmt: skip
_MOST_FAULTS = 20


@dataclasses.dataclass(frozen=True)
class PrepareConfig(Settings):
    """Settings of :func:`prepare`, and options of ``sida data prepare``.

    Attributes:
        source: Folder, zip, uncompressed tar (also with a tar per class, such as ImageNet's),
            ``cifar-10-python.tar.gz``, or ``FILE.py:function``, called with the subset and the largest number of images
            or None: it returns the number of images in the subset, and an iterable of pixels uint8 ``(H, W[, 3])`` with
            their class.
        out: Zip to write.
        resolution: Height and width; null keeps those of the pictures, which must then be square and equal.
        transform: See :mod:`sida.data.prepare`.
        channels: 3 (RGB, as in the originals) or 1 (grey); null: 1 if all pictures are grey, else 3.
        labels: ``auto`` (``dataset.json``, else the top folders), ``json``, ``folders`` or ``none``.
        subset: ``train`` or ``test`` (CIFAR-10 and functions only).
        max_images: Largest number of images.
        expect: Expected number of images; with another number nothing is written and the command fails.
        workers: Threads; null: one per processor.
    """

    source: str
    out: str
    resolution: Resolution | None = None
    transform: TransformName = "none"
    channels: int | None = 3
    labels: Literal["auto", "json", "folders", "none"] = "auto"
    subset: Literal["train", "test"] = "train"
    max_images: Count | None = None
    expect: int | None = None
    workers: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channels not in (None, 1, 3):
            raise SettingError("channels", f"must be 1 or 3, got {self.channels}")
        if not self.out.endswith(".zip"):
            raise SettingError("out", f"must end in .zip, got '{self.out}'")


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Writes the archive and returns facts about it.

    Returns:
        ``images``, ``resolution``, ``channels``; ``classes``: number of images by class; ``class_names``: folders of
        the classes; ``kinds``: number of pictures by mode; ``resized``: number of pictures cropped or scaled;
        ``skipped``: number of other files by suffix.

    Raises:
        UserError: The source is missing or broken, pictures are damaged (the message names them), or their number is
            not the expected one.
    """
    total, jobs, facts = _jobs(config)
    if config.max_images is not None:
        total = min(total, config.max_images)
    if config.expect is not None and total != config.expect:
        raise UserError(config.source, f"has {total:,} images, expected {config.expect:,}", "is the source complete?")
    progress = Progress(f"prepare {Path(config.out).name}", total)
    labels: list[Any] = []
    faults: list[str] = []
    kinds: collections.Counter[str] = collections.Counter()
    resized = 0
    with atomic_path(config.out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        shape = None
        for index, (result, label) in enumerate(_in_order(jobs, total, config.workers or os.cpu_count() or 1)):
            if isinstance(result, UserError):
                faults.append(str(result))
                if len(faults) == _MOST_FAULTS:
                    break
                continue
            png, kind, changed = result
            shape = shape or _png_shape(png)
            if _png_shape(png) != shape:
                shapes = f"picture {index} is {_show(_png_shape(png))}, the first one {_show(shape)}"
                faults.append(f"{config.source}: {shapes}; give --resolution to make them alike")
                break
            name = image_name(index)
            archive.writestr(zip_member(name), png)
            labels.append([name, label])
            kinds[kind] += 1
            resized += changed
            progress.update(index + 1)
        if faults:
            more = " (reading stopped there)" if len(faults) == _MOST_FAULTS else ""
            raise UserError("", "; ".join(dict.fromkeys(faults)) + more)
        has_labels = bool(labels) and all(label is not None for _, label in labels)
        archive.writestr(zip_member("dataset.json"), dataset_json(labels if has_labels else None))
    progress.update(total, force=True)
    width, _, channels = shape or (0, 0, 0)
    facts |= {"images": total, "resolution": width, "channels": channels, "kinds": dict(kinds), "resized": resized}
    if has_labels and isinstance(labels[0][1], int):
        facts["classes"] = dict(sorted(collections.Counter(label for _, label in labels).items()))
    return facts


def summary(facts: dict[str, Any]) -> str:
    """Describes the result of :func:`prepare` in one line: pictures read, converted, skipped."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in facts["kinds"].items())
    form = "RGB" if facts["channels"] == 3 else "grey"
    line = f"{facts['images']:,} pictures read ({kinds}), stored as {form}; {facts['resized']:,} cropped or scaled"
    if skipped := facts.get("skipped"):
        files = ", ".join(f"{count:,} {suffix}" for suffix, count in skipped.items())
        line += f"; other files skipped: {files}"
    return visible(line)


def _jobs(config: PrepareConfig) -> tuple[int, Iterator[PictureJob], dict[str, Any]]:
    """Number of pictures, a job for each, and facts about the source."""
    path = Path(config.source)
    packed = path.is_file() and not zipfile.is_zipfile(path) and ".tar" in path.name and path.suffix != ".tar"
    if packed or names_file_object(config.source):
        total, pairs = _arrays(config)
        keep = config.labels != "none"
        return total, ((partial(_prepared_array, pixels), label if keep else None) for pixels, label in pairs), {}
    files = open_files(config.source)
    members = with_suffix(files, PICTURES)
    if len(members) == 0:
        raise UserError(config.source, "holds no pictures", "is it the right folder?")
    labels, names = picture_labels(files, members, config.labels)
    channels = config.channels or (1 if all(_is_grey(files, int(member)) for member in members) else 3)
    square = partial(to_square, transform=config.transform, resolution=config.resolution, channels=channels)
    make = partial(_prepared_picture, files, square, PixelSum(files.path, files.size))
    jobs = ((partial(make, int(member)), label) for member, label in zip(members, labels))
    others = (files.name(index) for index in sorted({*range(len(files))} - {*members.tolist()}))
    skipped = collections.Counter(Path(name).suffix or name for name in others if name != "dataset.json")
    return len(members), jobs, {"class_names": names, "skipped": dict(skipped)}


def _is_grey(files: Files, member: int) -> bool:
    """Whether a picture is stored without colours; damage is reported later."""
    try:
        content = files.read(member)
        # A WebP has colours, and is slow to open.
        return content[8:12] != b"WEBP" and open_picture(content, "", load=False).mode in _GREY
    except UserError:
        return True


def _arrays(config: PrepareConfig) -> tuple[int, Iterable[tuple[np.ndarray, int]]]:
    """Number of images, and pixels with class of each, of CIFAR-10's archive or a function."""
    made = names_file_object(config.source)
    if config.transform != "none" or (config.resolution is not None and (made or config.resolution != 32)):
        fault = "makes images of its own size" if made else "CIFAR-10 is 32×32 already"
        raise UserError(config.source, fault, "leave out --resolution and --transform")
    if made:
        return load_file_object(config.source, "source")(config.subset, config.max_images)
    # Read all batches (150 MB) before writing, so that a fault in the last one is found at once.
    pairs = list(read_cifar10(config.source, TRAINING if config.subset == "train" else TEST))
    return len(pairs), pairs


def _prepared_picture(files: Files, square: Callable[[Image], Image], total: PixelSum, member: int) -> PreparedPicture:
    where = files.where(member)
    with located(where), total.turn() as add:
        picture = open_picture(files.read(member), where, add=add)
        result = square(picture)
        return encode_png(result, 0), _MODES.get(picture.mode, picture.mode), result.size != picture.size


def _prepared_array(pixels: np.ndarray) -> PreparedPicture:
    return encode_png(pixels, 0), "grey" if pixels.ndim == 2 else "RGB", False


def picture_labels(files: Files, members: np.ndarray, rule: str) -> tuple[list[Any], list[str]]:
    """Labels of pictures, from ``dataset.json`` or the rank of the top folder's name (else None), and folder names.

    Args:
        files: The source.
        members: Indices of the pictures.
        rule: ``auto``, ``json``, ``folders`` or ``none``, as in :class:`PrepareConfig`.

    Raises:
        UserError: The rule needs labels that are missing.
    """
    if rule in ("auto", "json"):
        found = read_labels(files, members)
        if found is not None:
            return found.tolist(), []
        if rule == "json":
            raise UserError(files.path, "has no labels in dataset.json", "use --labels folders or none")
    if rule in ("auto", "folders"):
        tops = [name.partition("/")[0] if "/" in name else "" for name in (files.name(int(m)) for m in members)]
        ranks = {top: rank for rank, top in enumerate(sorted(set(tops)))}
        if len(ranks) > 1:
            return [ranks[top] for top in tops], [top or "(no folder)" for top in ranks]
        if rule == "folders":
            raise UserError(files.path, "pictures are not in several folders", "use --labels none")
    return [None] * len(members), []


def _in_order(
    jobs: Iterator[PictureJob], total: int, workers: int
) -> Iterator[tuple[PreparedPicture | UserError, Any]]:
    """Yields results or faults in order, while threads work on the next jobs."""
    waiting: collections.deque[tuple[Future[PreparedPicture], Any]] = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for _ in range(total):
                make, label = next(jobs)
                waiting.append((pool.submit(make), label))
                if len(waiting) > 4 * workers:
                    future, label = waiting.popleft()
                    yield _result(future), label
            while waiting:
                future, label = waiting.popleft()
                yield _result(future), label
        finally:
            for future, _ in waiting:
                future.cancel()


def _result(future: Future[PreparedPicture]) -> PreparedPicture | UserError:
    try:
        return future.result()
    except UserError as error:
        return error.with_traceback(None)  # its frames hold a picture


def _png_shape(png: bytes) -> tuple[int, int, int]:
    """Width, height and channels from the header of a PNG written by this module."""
    width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    return width, height, 3 if png[25] == 2 else 1


def _show(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]}×{shape[1]}"
