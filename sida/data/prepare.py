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
import contextlib
import dataclasses
import itertools
import math
import os
import re
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from sida.config.datasets import Transform
from sida.config.settings import Count, Range, Settings
from sida.data.archive import (
    HIDDEN,
    LEFT_OUT,
    Files,
    common_folder,
    counted_by_tool,
    dataset_json,
    first_image,
    image_name,
    is_tools,
    no_pictures,
)
from sida.data.arrays import find_arrays
from sida.data.pictures import PICTURES, encode_png, to_square
from sida.errors import Progress, SettingError, UserError, located, visible
from sida.files.atomic import atomic_path, zip_member
from sida.files.ordinary import refuse_same
from sida.files.pickles import parse_pickle

TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = ("test_batch",)


def read_cifar10(files: Files, batches: tuple[str, ...] = TRAINING) -> Iterator[tuple[np.ndarray, int]]:
    """Yields ``(image uint8 (32, 32, 3), class)`` of ``cifar-10-python.tar.gz``, in its order.

    Args:
        files: The archive.
        batches: Members to read: :data:`TRAINING` (50,000 images) or :data:`TEST` (10,000).

    Raises:
        UserError: A batch is missing or invalid.
    """
    members = {PurePosixPath(name).name: index for index, name in enumerate(files.names)}
    for name in batches:
        if name not in members:
            raise UserError(files.path, f"has no member {name}", "fetch cifar-10-python.tar.gz again")
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


#: PNG bytes, description of the picture's mode, whether it was cropped or scaled, and width, height, channels.
PreparedPicture = tuple[bytes, str, bool, tuple[int, ...]]
Resolution = Annotated[Count, Range(most=8192)]
_MOST_FAULTS, _PART = 20, 64 << 20
#: Names of folders with the images that no training sees, and of parts of data sets.
_HELD_OUT = {"test", "testing", "val", "valid", "validation", "dev", "eval"}
_SPLIT = re.compile(rf"(?i:train|training|{'|'.join(sorted(_HELD_OUT))})([^a-z].*)?$")
#: Bytes that any source's pictures may have, and for each of its bytes: flat drawings have a thousand.
FREE_BYTES, MOST_RATIO = 256 << 20, 1000


@dataclasses.dataclass(frozen=True)
class PrepareConfig(Settings):
    """Settings of :func:`prepare`, and options of ``sida data prepare``.

    Attributes:
        source: Folder, zip or tar of pictures (also packed, or with a tar per class, such as ImageNet's), npz or npy of
            uint8 images, files of MNIST's format or their folder, or ``cifar-10-python.tar.gz``.
        out: Zip to write.
        resolution: Height and width; null keeps those of the pictures, which must then be square and equal.
        transform: See :mod:`sida.data.prepare`.
        channels: 3 (RGB, as in the originals) or 1 (grey); null: 1 if all pictures are grey, else 3.
        labels: ``auto`` (``dataset.json``, else the top folders), ``json``, ``folders`` or ``none``.
        subset: ``train`` or ``test`` of CIFAR-10, MNIST's format, and folders that are named so; null:
            ``train``, but pictures without classes (``labels`` other than ``auto``) are taken from all folders.
        max_images: Largest number of images.
        expect: Expected number of images; with another number nothing is written and the command fails.
        workers: Reading processes; null: one per processor.
    """

    source: str
    out: str
    resolution: Resolution | None = None
    transform: Transform = "none"
    channels: Literal[1, 3] | None = 3
    labels: Literal["auto", "json", "folders", "none"] = "auto"
    subset: Literal["train", "test"] | None = None
    max_images: Count | None = None
    expect: int | None = None
    workers: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out.endswith(".zip"):
            raise SettingError("out", f"must end in .zip, got '{self.out}'")


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Writes the archive and returns facts about it.

    Returns:
        ``images``, ``resolution``, ``channels``; ``classes``: number of images by class; ``class_names``: folders of
        the classes; ``kinds``: number of pictures by mode; ``resized``: number of pictures cropped or scaled;
        ``skipped``: number of other files by suffix; ``hidden``: number of files that systems leave.

    Raises:
        UserError: The source is missing or broken, pictures are damaged (the message names them), or their number is
            not the expected one; or the source is the archive to write.
    """
    refuse_same(config.source, config.out)
    total, pictures, classes, facts, most = _source(config)
    if config.expect is not None and total != config.expect:
        raise UserError(config.source, f"has {total:,} images, expected {config.expect:,}", "is the source complete?")
    progress = Progress(f"prepare {Path(config.out).name}", total)
    labels: list[Any] = []
    faults: list[str] = []
    kinds: collections.Counter[str] = collections.Counter()
    resized = written = 0
    with atomic_path(config.out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        shape = None
        for index, (result, label) in enumerate(zip(pictures, classes)):
            if isinstance(result, UserError):
                faults.append(str(result))
                if len(faults) == _MOST_FAULTS:
                    break
                continue
            png, kind, changed, sizes = result
            shape = shape or sizes
            if sizes != shape:
                shapes = f"picture {index} is {_show(sizes)}, the first one {_show(shape)}"
                faults.append(f"{config.source}: {shapes}; give --resolution to make them alike")
                break
            name = image_name(index)
            archive.writestr(zip_member(name), png)
            written += len(png)
            if written > most:
                raise UserError(config.source, f"its pictures unpack to more than {most:,} bytes", "give --resolution")
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
    if has_labels:
        facts["classes"] = dict(sorted(collections.Counter(label for _, label in labels).items()))
    return facts


def summary(facts: dict[str, Any]) -> str:
    """Describes the result of :func:`prepare` in one line: pictures read, converted, skipped."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in facts["kinds"].items())
    form = "RGB" if facts["channels"] == 3 else "grey"
    line = f"{facts['images']:,} pictures read ({kinds}), stored as {form}; {facts['resized']:,} cropped or scaled"
    if part := facts.get("part"):
        line += f"; {part}"
    if names := facts.get("class_names"):
        more = f", … {len(names) - 1} = {names[-1]}" if len(names) > 12 else ""
        line += "; classes: " + ", ".join(f"{rank} = {name}" for rank, name in enumerate(names[:12])) + more
    elif counts := facts.get("classes"):
        listed = [f"{label} ({count:,})" for label, count in counts.items()]
        line += "; classes: " + ", ".join([*listed[:12], f"… {listed[-1]}"] if len(listed) > 12 else listed)
        if empty := [label for label in range(max(counts)) if label not in counts]:
            line += f"; no picture of class {', '.join(map(str, empty[:4]))}{', …' if len(empty) > 4 else ''}"
    if remark := facts.get("remark") or ("" if "classes" in facts else "no classes"):
        line += f"; {remark}"
    if facts.get("hidden"):
        line += f"; {facts['hidden']:,} {LEFT_OUT}"
    if skipped := facts.get("skipped"):
        files = ", ".join(f"{count:,} {suffix}" for suffix, count in skipped.items())
        line += f"; other files skipped: {files}"
    return visible(line)


def _source(
    config: PrepareConfig,
) -> tuple[int, Iterable[PreparedPicture | UserError], Iterable[Any], dict[str, Any], float]:
    """Number of pictures, the pictures, their labels, facts about the source, and bytes that its pictures explain."""
    if (arrays := find_arrays(config.source, config.subset or "train", config.labels != "none")) is not None:
        if arrays.classes is not None:
            _refuse_lost(config, arrays.classes, arrays.count)
        return _of_arrays(config, arrays.count, arrays.pairs())
    files = Files(config.source, config.workers or os.cpu_count() or 1)
    members = files.with_suffix(PICTURES)
    if len(members) == 0 and {TRAINING[0], *TEST} & {PurePosixPath(name).name for name in files.names}:
        if config.resolution != 32:
            _refuse_sizes(config, "CIFAR-10 is 32×32 already")
        # Read all batches (150 MB) before writing, so that a fault in the last one is found at once.
        pairs = list(read_cifar10(files, TEST if config.subset == "test" else TRAINING))
        _refuse_lost(config, np.array([label for _, label in pairs]), len(pairs))
        return _of_arrays(config, len(pairs), pairs)
    if len(members) == 0:
        raise no_pictures(files)
    part = None
    if config.labels == "auto" or config.subset is not None:
        members, part = _part_of(files, members, config.subset)
    labels, names, remark = picture_labels(files, members, config.labels)
    grey = config.channels is None and not any(any(found) for _, found, _ in files.ask("colours", members, 64))
    others = (files.names[index] for index in sorted({*range(len(files))} - {*members.tolist()}))
    visible_names = (name for name in others if not HIDDEN.search(name))
    read = ("dataset.json",) if labels is None or names else ("dataset.json", ".cls")
    skipped = collections.Counter(Path(name).suffix or name for name in visible_names if not name.endswith(read))
    facts = {"class_names": names, "skipped": dict(skipped), "part": part, "hidden": files.hidden, "remark": remark}
    chosen = members[: config.max_images]
    if labels is not None:
        _refuse_lost(config, labels, len(chosen))
    channels = config.channels or (1 if grey else 3)
    pictures = _prepared(files, chosen, config.transform, config.resolution, channels)
    least = 0 if config.resolution is None else 2 * channels * config.resolution**2
    known = [None] * len(chosen) if labels is None else labels.tolist()
    return len(chosen), pictures, known, facts, FREE_BYTES + MOST_RATIO * files.size + least * len(chosen)


def _refuse_lost(config: PrepareConfig, labels: np.ndarray, count: int) -> None:
    """Refuses a largest number of images that takes whole classes away."""
    taken = min(count, config.max_images or count)
    kept, every = len(np.unique(labels[:taken])), len(np.unique(labels))
    if kept < every and config.labels != "none":
        fault = f"its first {taken:,} pictures have {kept} of {every} classes"
        raise UserError(config.source, fault, "leave out --max-images, or say --labels none")


def _refuse_sizes(config: PrepareConfig, fault: str) -> None:
    if config.transform != "none" or config.resolution is not None:
        raise UserError(config.source, fault, "leave out --resolution and --transform")


def _of_arrays(
    config: PrepareConfig, total: int, pairs: Iterable[tuple[np.ndarray, int | None]]
) -> tuple[int, Iterable[PreparedPicture], Iterable[Any], dict[str, Any], float]:
    """As :func:`_source`, of pixels with their classes."""
    if config.labels in ("json", "folders"):
        fault = f"holds pixels with their classes, and no place for --labels {config.labels}"
        raise UserError(config.source, fault, "leave it out, or say --labels none")
    total = total if config.max_images is None else min(total, config.max_images)
    pixels, classes = itertools.tee(itertools.islice(pairs, total))

    def made(image: np.ndarray) -> PreparedPicture:
        kind = "grey" if image.ndim == 2 else "RGB"
        own = 1 if kind == "grey" else 3
        channels = config.channels or own
        alike = config.resolution is None and config.transform == "none" and channels == own
        if alike and image.shape[0] == image.shape[1]:
            return encode_png(image, 0), kind, False, (image.shape[1], image.shape[0], own)
        with located(config.source):
            square = to_square(Image.fromarray(image), config.transform, config.resolution, channels)
        return encode_png(square, 0), kind, square.size != image.shape[1::-1], (*square.size, channels)

    labels = (label if config.labels != "none" else None for _, label in classes)
    return total, (made(image) for image, _ in pixels), labels, {}, math.inf


def _prepared(
    files: Files, members: np.ndarray, transform: str, resolution: int | None, channels: int
) -> Iterator[PreparedPicture | UserError]:
    """Squares of pictures as PNG, or what is wrong with them, in order."""
    count = 1
    if len(members) and resolution is None:
        # The first picture's size, since those that differ from it are refused.
        with contextlib.suppress(UserError):
            (_, height, width), _ = first_image(files, members)
            count = _PART // (channels * height * width)
    elif resolution is not None:
        count = _PART // (channels * resolution**2)
    asked = files.ask("squares", members, min(64, max(1, count)), transform, resolution, channels)
    for _, value, parts in asked:
        for index, facts in enumerate(value):
            if isinstance(facts, dict):
                place, *rest = facts["fault"]
                yield UserError(f"{files.path}{place}", *rest)
            else:
                kind, changed, sizes = facts
                yield parts[str(index)].tobytes(), kind, changed, tuple(sizes)


class PictureLabels(NamedTuple):
    """Labels of pictures, the folders of their classes in order, and a remark on how they were found."""

    labels: np.ndarray | None
    folders: list[str]
    remark: str = ""


def picture_labels(files: Files, members: np.ndarray, rule: str) -> PictureLabels:
    """Labels of pictures, from ``dataset.json``, ``.cls`` files or the rank of the top folder's name.

    Args:
        files: The source.
        members: Indices of the pictures.
        rule: ``auto``, ``json``, ``folders`` or ``none``, as in :class:`PrepareConfig`.

    Raises:
        UserError: The rule needs labels that are missing, or ``auto`` finds several readings.
    """
    names = [files.names[int(m)] for m in members]
    folder = common_folder(names)
    if rule in ("auto", "json"):
        found = files.labels(members)
        if found is not None:
            return PictureLabels(found, [])
        if rule == "json":
            raise UserError(files.path, "has no labels in dataset.json", "use --labels folders or none")
    if rule not in ("auto", "folders"):
        return PictureLabels(None, [], "no classes (--labels none)")
    tops = [name.removeprefix(folder).rpartition("/")[0].partition("/")[0] for name in names]
    folders = set(tops)
    if rule == "auto":
        if fault := _doubt(files, folder, folders, tops, names):
            raise UserError(files.path, fault, "say --labels folders or none, or name a folder within it")
        if all(map(is_tools, folders)):
            first = min(folders)
            return PictureLabels(None, [], f"no classes: folders such as {first} are numbered by a tool (--labels)")
    ranks = {top: rank for rank, top in enumerate(_in_order(folders))}
    if len(ranks) > 1:
        labels = np.array([ranks[top] for top in tops], np.int64)
        shifted = next((top for rank, top in enumerate(ranks) if top.isdecimal() and int(top) != rank), None)
        remark = f"class {ranks[shifted]} is folder {shifted}, since classes are numbered 0, 1, 2, …" if shifted else ""
        return PictureLabels(labels, [top or "(no folder)" for top in ranks], remark)
    if rule == "folders":
        raise UserError(files.path, "pictures are not in several folders", "use --labels none")
    return PictureLabels(None, [], "no classes: the pictures are in one folder")


def _in_order(folders: Collection[str]) -> list[str]:
    """Folders in the order of their classes: by their numbers if the names differ in these alone, else by name."""
    alike = len({re.sub(r"\d+", "#", top) for top in folders}) == 1
    return sorted(folders, key=lambda top: ([int(n) for n in re.findall(r"\d+", top)] if alike else [], top))


def _doubt(files: Files, folder: str, folders: set[str], tops: list[str], names: list[str]) -> str | None:
    """Reason why folders may or may not be classes; None where there is one reading."""
    if len(folders) > 1 and "" in folders:
        return f"has pictures beside the folders {', '.join(sorted(folders - {''})[:4])}"
    places = [name.removesuffix("dataset.json") for name in files.names if name.endswith("/dataset.json")]
    if unread := [place for place in places if not folder.startswith(place) and not HIDDEN.search(place)]:
        return f"has a dataset.json in {unread[0]}, which is not the folder of all pictures"
    if len(parts := sorted(top for top in folders if _SPLIT.match(top))) > 1:
        return f"has the folders {', '.join(parts[:4])}, which are parts of a data set and no classes"
    if len(folders) > 1 and all(map(is_tools, folders)) and not counted_by_tool(tops, names):
        return f"has folders such as {min(folders)}, which are classes or are numbered by a tool"
    return None


def _part_of(files: Files, members: np.ndarray, subset: str | None) -> tuple[np.ndarray, str | None]:
    """Pictures of the subset where the top folders are parts of a data set, such as train and test; what was taken.

    Raises:
        UserError: None, or several, of the folders are the subset; or a subset is given and there are no parts.
    """
    names = [files.names[int(member)] for member in members]
    folder = common_folder(names)
    tops = [name.removeprefix(folder).partition("/")[0] for name in names]
    found = sorted(set(tops))
    if len(found) < 2 or not {top.lower() for top in found} <= {"train", "training", *_HELD_OUT}:
        if subset is not None:
            fault = f"has no folders named train and test, of which --subset {subset} takes one"
            raise UserError(files.path, fault, "leave out --subset, or name a folder")
        return members, None
    subset = subset or "train"
    wanted = [top for top in found if (top.lower() in _HELD_OUT) == (subset == "test")]
    if len(wanted) != 1:
        fault = f"its folders {', '.join(found)} are parts of a data set, {len(wanted)} of them {subset}"
        remedy = f"name one: --source {files.path}/{folder}{found[0]}" if files.is_folder else "unpack it and name one"
        raise UserError(files.path, fault, remedy)
    taken = members[[top == wanted[0] for top in tops]]
    return taken, f"part {wanted[0]} of {', '.join(found)} (--subset takes the other)"


def _show(sizes: tuple[int, ...]) -> str:
    return f"{sizes[0]}×{sizes[1]}"
