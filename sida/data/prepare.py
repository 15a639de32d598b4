"""Prepares data sets in the EDM format from pictures, arrays or the images of another data set (as latents).

An archive has the form that the official tool writes: uncompressed PNG, ``00000/img00000000.png`` onwards in sorted
order of the sources, ``dataset.json`` last, nothing deflated (NVlabs/edm:dataset_tool.py). Equal sources give equal
bytes. CIFAR-10's python archive is a tar of pickles, which the allow-list reader reads without executing code.

Source pictures become squares by the exact rules of the published data sets:

| name | rule | used for |
|---|---|---|
| ``none`` | resize to the target with Lanczos if the size differs | FFHQ, AFHQv2, CIFAR-10 |
| ``center-crop`` | largest centred square, then Lanczos | ImageNet 64×64 |
| ``center-crop-dhariwal`` | halve with a box filter while ≥ 2×, bicubic to the target, centre crop | ImageNet 512×512 |

Source: NVlabs/edm:dataset_tool.py, NVlabs/edm2:dataset_tool.py; the last is guided diffusion's (arXiv:2105.05233).
"""

from __future__ import annotations

import collections
import dataclasses
import io
import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from PIL import Image

from sida.config.datasets import Transform
from sida.config.families import EDM2_LATENTS, Latents
from sida.config.settings import Count, Range, Settings
from sida.data.archive import CLASS, LATENTS_FILE, MEMBERS, PART, Files, dataset_json, image_name
from sida.data.arrays import Arrays, find_arrays
from sida.data.folders import Classes, check_part, counted_classes, part_of, picture_labels
from sida.data.label_files import LABEL_FILES
from sida.data.pictures import ONE_SIZE, encode_png, to_square
from sida.errors import Progress, SettingError, UserError, counted, errors_at, visible
from sida.files.atomic import atomic_path, sha256_json, wait_for_lock, zip_member
from sida.files.ordinary import refuse_same
from sida.files.parts import PartFolder
from sida.late import torch
from sida.machine import num_cores

if TYPE_CHECKING:
    from sida.data.dataset import Dataset

#: Images of a part while a data set is encoded: seconds of a GPU, and 34 MB for EDM2's latents.
ENCODED = 256
TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = ("test_batch",)


def read_cifar10(files: Files, batches: tuple[str, ...] = TRAINING) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 ``(N, 32, 32, 3)`` and classes int64 of ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``.

    Args:
        files: The archive, or its folder.
        batches: Members to read: :data:`TRAINING` (50,000 images) or :data:`TEST` (10,000).

    Raises:
        UserError: A batch is missing or invalid.
    """
    members = {_batch_name(name): index for index, name in enumerate(files.names)}
    if missing := [name for name in batches if name not in members]:
        raise UserError(files.path, f"has no member {missing[0]}", "fetch cifar-10-python.tar.gz again")
    indices = [members[name] for name in batches]
    batches_read = [_read_batch(content, files.where(index)) for content, index in zip(files.read(indices), indices)]
    images, classes = (np.concatenate(parts) for parts in zip(*batches_read))
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), classes


def holds_cifar10(files: Files) -> bool:
    """Whether files have the names of CIFAR-10's batches."""
    return not {TRAINING[0], *TEST}.isdisjoint(map(_batch_name, files.names))


def _batch_name(name: str) -> str:
    return PurePosixPath(name).name.removesuffix(".bin")


def _read_batch(content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    if where.endswith(".bin"):  # a byte of the class, then the image
        images: np.ndarray
        classes: np.ndarray
        rows = np.frombuffer(content, np.uint8)[: len(content) // 3073 * 3073].reshape(-1, 3073)
        images, classes = (rows[:, 1:], rows[:, 0]) if rows.size == len(content) else (rows[:0], rows[:0])
    else:
        arrays = Arrays(where, content)
        images, classes = (arrays.read(name) if name in arrays.shapes else np.empty(0) for name in ("data", "labels"))
    is_whole = images.dtype == np.uint8 and images.shape[1:] == (3072,) and classes.shape == (len(images),)
    if (
        not is_whole
        or classes.dtype.kind not in "iu"
        or not images.size
        or not 0 <= classes.min() <= classes.max() < 10
    ):
        fault = "must hold 'data' uint8 (N, 3072) and as many 'labels' from 0 to 9"
        raise UserError(where, fault, "is this CIFAR-10?")
    return images, classes.astype(np.int64)


class Picture(NamedTuple):
    """A picture to store.

    Attributes:
        png: Its PNG.
        kind: Description of its mode.
        changed: Whether it was cropped or scaled.
        squeezed: Whether it was scaled to other proportions.
        side: Height and width.
    """

    png: bytes
    kind: str
    changed: bool
    squeezed: bool
    side: int


class Source(NamedTuple):
    """Pictures to store or their faults, with their number, classes and channels.

    ``remarks`` list the parts that were taken and left out.
    """

    total: int
    pictures: Iterator[Picture | UserError]
    classes: Classes
    channels: int
    remarks: Sequence[str] = ()


class Prepared(NamedTuple):
    """Facts about an archive: images, resolution, channels, classes, their folders, and a line for people."""

    images: int
    resolution: int
    channels: int
    label_dim: int
    class_names: Sequence[str]
    summary: str


Resolution = Annotated[Count, Range(most=8192)]
_MOST_FAULTS = 20
#: Bytes that the pictures of any source may unpack to, and further ones for each byte of the source: flat drawings
#: unpack to a thousand times their size.
FREE_BYTES, MOST_RATIO = 256 << 20, 1000


@dataclasses.dataclass(frozen=True)
class PrepareConfig(Settings):
    """Settings of :func:`prepare`, and options of ``sida data prepare``.

    Attributes:
        source: Folder, zip or tar of pictures (also packed, or with a tar per class, such as ImageNet's), npz or npy of
            uint8 images, files of MNIST's format or their folder, or CIFAR-10's archive (``-python`` or ``-binary``).
        out: Zip to write.
        resolution: Height and width; null keeps those of the pictures, which must then be square and equal.
        transform: See :mod:`sida.data.prepare`.
        channels: 3 (RGB, as in the originals) or 1 (grey); null: 1 if all pictures are grey, else 3.
        labels: ``auto`` (``dataset.json``, else the top folders), ``folders`` or ``none``.
        subset: ``train`` or ``test`` of CIFAR-10, MNIST's format, parts of an npz, and folders that are named so; null:
            ``train``, but pictures without classes (``labels`` other than ``auto``) are taken from all folders.
        max_images: Largest number of images.
        expect: Expected number of images; if the source has another number, nothing is written and the command fails.
        workers: Reading processes; null: one per processor.
    """

    source: str
    out: str
    resolution: Resolution | None = None
    transform: Transform = "none"
    channels: Literal[1, 3] | None = 3
    labels: Literal["auto", "folders", "none"] = "auto"
    subset: Literal["train", "test"] | None = None
    max_images: Count | None = None
    expect: int | None = None
    workers: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out.endswith(".zip"):
            raise SettingError("out", f"must end in .zip, got '{self.out}'")


def prepare(config: PrepareConfig) -> Prepared:
    """Writes the archive.

    Raises:
        UserError: The source is missing or broken, pictures are damaged (the message names them), or their number is
            not the expected one; or the source is the archive to write.
    """
    refuse_same(config.source, config.out)
    source = _source(config)
    assert source.classes.labels is None or len(source.classes.labels) == source.total
    labels, total = source.classes.labels, min(source.total, config.max_images or source.total)
    if config.expect is not None and total != config.expect:
        raise UserError(config.source, f"has {total:,} images, expected {config.expect:,}", "is the source complete?")
    if labels is not None and (remaining := len(np.unique(labels[:total]))) < (every := len(np.unique(labels))):
        fault = f"its first {total:,} pictures have {remaining} of {every} classes"
        raise UserError(config.source, fault, "leave out --max-images, or say --labels none")
    counts: collections.Counter[tuple[str, bool, bool, int]] = collections.Counter()
    contents = _contents(config, source, total, counts)
    write_archive(config.out, contents, None if labels is None else labels[:total].tolist())
    kinds: collections.Counter[str] = collections.Counter()
    for (kind, *_), count in counts.items():
        kinds[kind] += count
    resized = sum(count for (_, changed, *_), count in counts.items() if changed)
    squeezed = sum(count for (*_, squeezed, _), count in counts.items() if squeezed)
    *_, side = next(iter(counts))
    kinds_text = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    form = "RGB" if source.channels == 3 else "grey"
    line = f"{counted(total, 'picture')} read ({kinds_text}), stored as {form}; {resized:,} cropped or scaled"
    if squeezed:
        line += f" ({squeezed:,} squeezed: not square; --transform center-crop keeps proportions)"
    summary = visible("; ".join([line, *filter(None, (source.classes.remark, *source.remarks))]))
    label_dim = 0 if labels is None else int(labels.max()) + 1
    return Prepared(total, side, source.channels, label_dim, source.classes.folders, summary)


def _contents(
    config: PrepareConfig, source: Source, total: int, counts: collections.Counter[tuple[str, bool, bool, int]]
) -> Iterator[bytes]:
    """Yields the PNG of each picture and counts kinds, changes and sides; all faults are raised together at the end."""
    progress = Progress(f"prepare {Path(config.out).name}", total)
    faults: list[UserError] = []
    for index, picture in enumerate(itertools.islice(source.pictures, total), start=1):
        if isinstance(picture, UserError):
            faults.append(picture)
            if len(faults) == _MOST_FAULTS:
                break
            continue
        counts[picture[1:]] += 1
        progress.update(index, force=index == total)
        yield picture.png
    if faults:
        told = [str(fault) for fault in _by_fault(faults, f"{config.source}: ")]
        raise UserError("", "; ".join([*told, *["reading stopped there"] * (len(faults) == _MOST_FAULTS)]))


def _by_fault(faults: Sequence[UserError], prefix: str) -> Iterator[UserError]:
    """One error for the pictures of one fault, with all their names; of unlike sizes, with their number."""
    groups: dict[tuple[str, str], list[UserError]] = {}
    for fault in faults:
        groups.setdefault(("" if fault.remedy == ONE_SIZE else fault.fault, fault.remedy), []).append(fault)
    for (_, remedy), (first, *others) in groups.items():
        where, text = first.where, first.fault
        if remedy != ONE_SIZE:
            where = ", ".join([where, *(other.where.removeprefix(prefix) for other in others)])
        elif others:
            text = f"{text}, and {counted(len(others), 'further picture')} of unlike size"
        yield UserError(where, text, remedy)


def _source(config: PrepareConfig) -> Source:
    """Opens the source; reads all batches of CIFAR-10 (150 MB), so that a fault in the last one ends the command."""
    arrays = find_arrays(config.source, config.subset or "train", config.labels != "none")
    if arrays is not None:
        source = _of_arrays(config, arrays, arrays.count, arrays.channels, arrays.classes)
        return source._replace(remarks=(arrays.remark,))
    files = Files(config.source, config.workers or num_cores())
    if holds_cifar10(files):
        images, classes = read_cifar10(files, TEST if config.subset == "test" else TRAINING)
        return _of_arrays(config, images, len(images), 3, None if config.labels == "none" else classes)
    # A set with parts is one data set with classes only if one part is taken.
    members, part = files.pictures(), ""
    if config.labels == "auto" or config.subset is not None:
        members, part = part_of(files, members, config.subset)
    labels = picture_labels(files, members, config.labels)
    if part and config.labels != "none" and (labels.folders or labels.labels is None):
        check_part(files, members)
    skipped = {*range(len(files))} - {*members.tolist()}
    # Rows of metadata may be captions alone.
    are_read = config.labels == "none" or (labels.labels is not None and not labels.folders)
    known = (*LABEL_FILES, CLASS) if are_read else (LABEL_FILES[0], CLASS)
    others = [name for i, name in enumerate(files.names) if i in skipped and not name.endswith(known)]
    counts = collections.Counter(PurePosixPath(name).suffix or name for name in others)
    suffixes = ", ".join(f"{count:,} {suffix}" for suffix, count in counts.items())
    remarks = (part, files.left_out, f"other files skipped: {suffixes}" if suffixes else "")
    pictures = members[: config.max_images]
    channels = config.channels
    if channels is None:
        headers = itertools.chain.from_iterable(value for _, value, _ in files.ask("headers", pictures, MEMBERS))
        channels = 3 if any(colours for *_, colours in headers) else 1
    return Source(len(members), _squares(files, pictures, config, channels), labels, channels, remarks)


def _of_arrays(
    config: PrepareConfig, images: Iterable[np.ndarray], count: int, own_channels: int, labels: np.ndarray | None
) -> Source:
    """Pixels ``(H, W[, 3])`` of 1 or 3 channels with their classes as a source."""
    if config.labels == "folders":
        raise UserError(config.source, "holds arrays, not folders", "leave out --labels, or say --labels none")
    channels = config.channels or own_channels

    def to_picture(image: np.ndarray) -> Picture:
        with errors_at(config.source):
            square = to_square(Image.fromarray(image), config.transform, config.resolution, channels)
        is_resized, squeezed = square.size != image.shape[1::-1], image.shape[0] != image.shape[1]
        squeezed = squeezed and config.transform == "none"
        return Picture(
            encode_png(square, 0), "grey" if own_channels == 1 else "RGB", is_resized, squeezed, square.width
        )

    classes = Classes(None, (), "no classes") if labels is None else counted_classes(labels)
    return Source(count, map(to_picture, images), classes, channels)


def _squares(files: Files, members: np.ndarray, config: PrepareConfig, channels: int) -> Iterator[Picture | UserError]:
    """Squares of pictures as PNG, or their faults, in order."""
    side = config.resolution
    # Bytes that all squares may still have: small pictures can claim to be huge.
    budget = FREE_BYTES + MOST_RATIO * files.size + 2 * channels * (side or 0) ** 2 * len(members)
    if side is None:  # the side of the first picture; 0 if that is damaged
        ((_, ((*sides, _),), _),) = files.ask("headers", members[:1], 1)
        side = min(sides)
    count = min(MEMBERS, max(1, PART // (channels * side**2))) if side else 1
    for _, value, arrays in files.ask("squares", members, count, config.transform, config.resolution, side, channels):
        pixels = iter(arrays["squares"])
        budget -= arrays["squares"].nbytes
        if budget < 0:
            raise UserError(files.path, "its pictures unpack to far more bytes than it has", "give --resolution")
        for facts in value:
            if isinstance(facts[1], bool):
                kind, is_resized, squeezed = facts
                yield Picture(encode_png(next(pixels), 0) if side else b"", kind, is_resized, squeezed, side)
            else:
                where, fault, remedy = facts
                yield UserError(f"{files.path}{where}", fault, remedy)


def check_encodable(dataset: Dataset) -> None:
    """Checks that a data set is RGB pixels, which autoencoders take.

    Raises:
        UserError: It is not.
    """
    if not dataset.is_pixels or dataset.num_channels != 3:
        fault = f"must be RGB pixels to be encoded, has {dataset.num_channels} channels"
        remedy = "prepare the pictures with --channels 3" if dataset.is_pixels else "give the pictures"
        raise UserError(dataset.name, fault, remedy)


def encode_dataset(
    dataset: Dataset,
    out: str,
    encode: Callable[[torch.Tensor], torch.Tensor],
    batch_size: int = 8,
    device: str = "cpu",
    latents: Latents = EDM2_LATENTS,
    autoencoder: str | None = None,
    rank: int = 0,
    world: int = 1,
) -> tuple[int, ...] | None:
    """Writes ``00000/img-mean-std-00000000.npy`` … and ``dataset.json`` atomically to an archive.

    Encoded images are kept in numbered parts beside the archive until it is whole, so an interrupted call goes on.
    Several processes encode one part in turn, and the last one to end joins them.

    A file ``latents.json`` describes the latents. EDM2's archives by a registered encoder have none, so that they equal
    those of EDM2's tool to the byte.

    Args:
        dataset: Data set of RGB pixels.
        out: Zip to write.
        encode: Function from uint8 images to moments float32 ``(N, 2C, h, w)``, e.g. :class:`~sida.data.LatentEncoder`.
        batch_size: Images per call.
        device: Device of the images in the call.
        latents: Kind of the latents.
        autoencoder: Registered name of the encoder's autoencoder. The archive records any other one, of which nobody
            knows what trained it.
        rank: Number of this process, from 0.
        world: Number of processes.

    Returns:
        Channels, height and width of the latents; None in a process that ends before others have made their parts.

    Raises:
        UserError: The data set is not RGB pixels, or an image is damaged.

    Source: NVlabs/edm2:dataset_tool.py (``encode``).
    """
    check_encodable(dataset)
    job = {"data": dataset.sha256, "latents": latents.name, "encoder": autoencoder, "batch": batch_size}
    parts = PartFolder(f"{out}.parts", sha256_json(job))
    # Whole batches, so that an image has the same neighbours in any process.
    size = batch_size * max(1, ENCODED // batch_size)
    places = range(0, len(dataset), size)
    mine = places[rank::world]
    todo = [place for place in mine if not parts.is_whole(place)]
    total = len(mine) * size
    progress = Progress(f"encode {dataset.name}", total, done=total - len(todo) * size)
    for count, place in enumerate(todo, len(mine) - len(todo) + 1):
        end = min(place + size, len(dataset))
        batches = [range(start, min(start + batch_size, end)) for start in range(place, end, batch_size)]
        moments = torch.cat([encode(dataset.images(batch).to(device)).cpu().float() for batch in batches])
        parts.write(place, end - place, {"moments": moments})
        progress.update(count * size, force=count == len(mine))
    with open(f"{out}.lock", "ab") as lock:
        wait_for_lock(lock)
        # The parts are read whole when they are joined.
        if world > 1 and not all(map(parts.is_there, places)):
            return None
        shape = _join(out, dataset, parts, places, latents, autoencoder)
        shutil.rmtree(parts.folder)
        os.unlink(lock.name)
    return shape


def _join(
    out: str,
    dataset: Dataset,
    parts: PartFolder,
    places: Sequence[int],
    latents: Latents,
    autoencoder: str | None,
) -> tuple[int, ...]:
    """Writes the archive of all parts; returns channels, height and width of a latent."""
    shape: tuple[int, ...] = ()

    def contents() -> Iterator[bytes]:
        nonlocal shape
        for place in places:
            part = parts.read(place)
            if part is None:
                raise UserError(parts.path(place), "vanished or changed", "run the same command again")
            for array in part.tensors["moments"].numpy():
                stream = io.BytesIO()
                np.save(stream, np.ascontiguousarray(array, dtype=np.float32))
                yield stream.getvalue()
                shape = array.shape

    labels = dataset.class_indices.tolist() if dataset.label_dim else None
    facts = {"kind": latents.name, "spread": "std"}
    if autoencoder not in latents.decoders:
        facts["encoder"] = autoencoder or "unknown"
    further = {LATENTS_FILE: json.dumps(facts)} if latents != EDM2_LATENTS or "encoder" in facts else {}
    write_archive(out, contents(), labels, ".npy", "img-mean-std-", further=further)
    return shape


def write_archive(
    out: str | os.PathLike[str],
    contents: Iterable[bytes],
    labels: Iterable[int] | None,
    *ends: str,
    further: Mapping[str, str] | None = None,
) -> None:
    """Writes a data set in the EDM format atomically; nothing is deflated, so equal contents give equal bytes.

    Args:
        out: Zip to write.
        contents: Encoded images.
        labels: Class of each image, or None.
        ends: Suffix and prefix of the names of images, see :func:`image_name`.
        further: Texts of further files by name.
    """
    names: list[str] = []
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for content in contents:
            names.append(image_name(len(names), *ends))
            archive.writestr(zip_member(names[-1]), content)
        archive.writestr(zip_member("dataset.json"), dataset_json(None if labels is None else zip(names, labels)))
        for name, text in (further or {}).items():
            archive.writestr(zip_member(name), text)
