"""Samples as PNG files, in the format that data sets are read from: what other people's tools take."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sida.data.archive import dataset_json, image_name
from sida.data.pictures import encode_png
from sida.errors import UserError
from sida.files.atomic import atomic_path, read_hashed_json, write_hashed_json, zip_member
from sida.sampling.generate import Samples
from sida.sampling.intact import intact_png, intact_zip
from sida.sampling.seeds import NO_CLASS
from sida.sampling.store import MODE, NpzFile, SampleStore, ShardFolder

#: Member of a shard with name, class and seed of each image; its last one.
_LABELS = "labels.json"


class PngZip(SampleStore):
    """A zip of PNG files in the EDM format, readable as a data set."""

    suffix = ".zip"

    def _parts_folder(self) -> Path:
        return self.path.with_name(self.path.name + ".parts")

    def is_intact(self, shard: int) -> bool:
        """By the checksums of zip."""
        return intact_zip(self.shard_path(shard))

    def encode(self, samples: Samples) -> list[tuple[int, int, bytes]]:
        """``(seed, class, PNG)`` of each image."""
        return list(zip(samples.seeds, samples.classes.tolist(), map(_png, samples.images.numpy())))

    def write(self, shard: int, encoded: list[Any]) -> None:
        """Writes a zip with the shard's PNG files and their classes and seeds."""
        position = shard * self.shard_size
        labels = []
        with atomic_path(self.shard_path(shard)) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for seed, label, content in (item for batch in encoded for item in batch):
                archive.writestr(zip_member(image_name(position), MODE), content)
                labels.append([image_name(position), label, seed])
                position += 1
            archive.writestr(zip_member(_LABELS, MODE), json.dumps(labels))

    def assemble(self) -> None:
        """Copies the bytes of all shards into one archive: no file of an image is opened."""
        labels: list[list[Any]] = []
        with atomic_path(self.path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for shard in range(self.num_shards):
                with zipfile.ZipFile(self.shard_path(shard)) as part:
                    labels += json.loads(part.read(_LABELS))
                    _append(archive, part)
            archive.writestr(zip_member("dataset.json", MODE), _dataset_json(labels))


def _append(archive: zipfile.ZipFile, part: zipfile.ZipFile) -> None:
    """Adds the members of a shard but its last one, its labels, as they are."""
    assert archive.fp is not None
    assert part.fp is not None
    *members, last = part.infolist()
    assert last.filename == _LABELS
    begin = archive.fp.tell()
    part.fp.seek(0)
    archive.fp.write(part.fp.read(last.header_offset))
    for member in members:
        member.header_offset += begin
        archive.filelist.append(member)
        archive.NameToInfo[member.filename] = member
    archive.start_dir = archive.fp.tell()


class PngFolder(PngZip):
    """A folder of PNG files in the EDM format; the unpacked form of :class:`PngZip`."""

    is_folder = True
    suffix = ".json"

    def _parts_folder(self) -> Path:
        return self.path / ".parts"

    def is_complete(self) -> bool:
        """Whether the last file was written."""
        return (self.path / "dataset.json").exists()

    def is_intact(self, shard: int) -> bool:
        """By the checksums of PNG, and the hash of the shard's list."""
        try:
            labels = read_hashed_json(self.shard_path(shard))["images"]
        except (UserError, KeyError):
            return False
        begin = shard * self.shard_size
        names = [image_name(begin + i) for i in range(len(self.shard_seeds(shard)))]
        return [entry[0] for entry in labels] == names and all(intact_png(self.path / name) for name in names)

    def write(self, shard: int, encoded: list[Any]) -> None:
        """Writes the PNG files, then the shard's list, which makes it finished."""
        position = shard * self.shard_size
        labels = []
        for seed, label, content in (item for batch in encoded for item in batch):
            target = self.path / image_name(position)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
            labels.append([image_name(position), label, seed])
            position += 1
        write_hashed_json(self.shard_path(shard), {"images": labels})

    def assemble(self) -> None:
        """Writes ``dataset.json``."""
        shards = (self.shard_path(shard) for shard in range(self.num_shards))
        labels = [entry for path in shards for entry in read_hashed_json(path)["images"]]
        with atomic_path(self.path / "dataset.json") as temporary:
            temporary.write_text(_dataset_json(labels), encoding="utf-8")


def open_sample_store(
    path: str, as_png: bool, seeds: Sequence[int], shard_size: int, record: dict[str, Any]
) -> SampleStore:
    """The store for a target: ``FILE.zip``, ``FILE.npz``, else a folder of shards, or of PNG files with ``as_png``."""
    target = Path(path)
    kinds: dict[str, type[SampleStore]] = {".zip": PngZip, ".npz": NpzFile}
    kind = kinds.get(target.suffix, PngFolder if as_png else ShardFolder)
    store = kind(target, seeds, shard_size, {**record, "form": kind.__name__})
    store.open()
    return store


def _dataset_json(labels: list[list[Any]]) -> str:
    unlabelled = any(entry[1] == NO_CLASS for entry in labels)
    return dataset_json(None if unlabelled else [entry[:2] for entry in labels])


def _png(image: np.ndarray) -> bytes:
    # Light compression: three times faster, a tenth larger, and the samples are temporary more often than not.
    return encode_png(image.transpose(1, 2, 0), 1)
