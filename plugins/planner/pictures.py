"""Pictures of a new study: a look at the first one, and all of them prepared, once for several guesses of hours."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sida.assets.registry import cache_dir
from sida.errors import UserError, say
from sida.files.atomic import copy_file, read_hashed_json, sha256_file, sha256_json, write_hashed_json
from sida.files.ordinary import walk_below
from sida.machine import source_digest

if TYPE_CHECKING:
    from sida.data.prepare import PrepareConfig, Prepared


@dataclasses.dataclass(frozen=True)
class FirstPicture:
    """Facts of a data set by its first picture, before the others are read.

    Attributes:
        resolution: Height and width.
        num_channels: Number of channels.
        label_dim: Number of classes.
    """

    resolution: int
    num_channels: int = 1
    label_dim: int = 0

    def __len__(self) -> int:
        return 1


def check_listed(data: str) -> None:
    """Refuses what the list of files shows to be no pictures, before anything that takes long.

    Raises:
        UserError: As :func:`sida.data.prepare.prepare`.
    """
    from sida.data.archive import Files
    from sida.data.arrays import find_arrays
    from sida.data.prepare import holds_cifar10

    if find_arrays(data, "train", labels=False) is None and not holds_cifar10(files := Files(data)):
        files.pictures(arrays=True)


def first_picture(data: str, resolution: int | None, teacher: Mapping[str, Any] | None) -> FirstPicture | None:
    """The data set by its first picture; None if the picture is unsuitable, which reading all of them reports.

    Args:
        data: Pictures, as of ``sida new``.
        resolution: Height and width that the user names.
        teacher: ``{class, kwargs}`` of a teacher that is there.
    """
    from sida.data.archive import Files
    from sida.data.arrays import find_arrays
    from sida.data.prepare import holds_cifar10

    if teacher is not None:
        return FirstPicture(*(teacher["kwargs"].get(key, 0) for key in ("img_resolution", "img_channels", "label_dim")))
    if resolution is not None:
        return FirstPicture(resolution)
    if (arrays := find_arrays(data, "train", labels=False)) is not None:
        return FirstPicture(arrays.read(slice(1)).shape[-1])
    files = Files(data)
    if holds_cifar10(files):
        return FirstPicture(32)
    members = files.pictures()[:1]
    sides = [sides for _, value, _ in files.ask("headers", members, 1) for *sides, _ in value] if len(members) else []
    return FirstPicture(sides[0][0]) if sides and 0 < sides[0][0] == sides[0][1] else None


#: Largest archive of prepared pictures that is kept for another ``sida new``, in bytes.
_MOST_KEPT = 2 << 30


def prepared(config: PrepareConfig) -> Prepared:
    """Prepares pictures; the last ones are kept in the cache, so that another guess of hours reads none again.

    Raises:
        UserError: As :func:`sida.data.prepare.prepare`.
    """
    from sida.data.prepare import Prepared, prepare

    facts = {**dataclasses.asdict(config), "out": None, "files": _stamps(config.source), "code": source_digest()}
    folder = cache_dir() / "prepared"
    record = folder / f"{sha256_json(facts)}.json"
    archive = record.with_suffix(".zip")
    with contextlib.suppress(OSError, UserError, KeyError, TypeError):
        record_content = read_hashed_json(record)
        shutil.copyfile(archive, config.out)
        if sha256_file(config.out) == record_content.pop("zip_sha256"):
            result = Prepared(**record_content["prepared"])
            say(f"the pictures are unchanged since they were prepared: {archive}")
            return result
    result = prepare(config)
    if os.path.getsize(config.out) <= _MOST_KEPT:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            copy_file(config.out, archive)
            write_hashed_json(record, {"prepared": result._asdict(), "zip_sha256": sha256_file(config.out)})
    return result


def _stamps(source: str) -> list[list[Any]]:
    """Names, sizes and times of a file, or of the files of a folder."""
    files = sorted(walk_below(source)) if os.path.isdir(source) else [("", Path(source))]
    stats = [(name, entry.stat()) for name, entry in files]
    return [[os.path.abspath(source)], *([name, stat.st_size, stat.st_mtime_ns, stat.st_ino] for name, stat in stats)]
