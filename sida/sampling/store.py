"""Files of samples: shards that are finished or absent, then the form that other programs read; and grids.

| target | shards while running | at the end |
|---|---|---|
| folder | numbered parts in ``.parts/`` with encoded pictures | PNG, ``dataset.json``: EDM's format |
| ``FILE.npz`` | numbered parts in ``FILE.npz.parts/`` | ``arr_0`` uint8 (N, H, W, C), ``arr_1`` classes, ``seeds`` |

A record beside the samples describes them; samples of different kinds never mix. A damaged shard is made again
(:mod:`sida.files.parts`).
"""

import abc
import collections
import contextlib
import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sida.config.samplers import Sampler
from sida.data.archive import dataset_json, image_name, is_intact_zip
from sida.data.pictures import encode_png
from sida.errors import UserError, say
from sida.files.atomic import (
    atomic_path,
    read_hashed_json,
    set_aside,
    sha256_json,
    sweep_temporaries,
    wait_for_lock,
    write_hashed_json,
    zip_member,
)
from sida.files.parts import Part, PartFolder
from sida.prefetch import prefetch
from sida.sampling.generate import Drawer, Samples
from sida.sampling.streams import NO_CLASS

#: Permissions of archive members once unpacked.
MODE = 0o644


class SampleStore(abc.ABC):
    """Target of a sampling job; see the module's table.

    Args:
        path: Folder or file.
        seeds: All seeds, in order; shards are consecutive stretches of them.
        shard_size: Seeds per shard.
        record: JSON values that decide the samples (and ``info``, which does not). An existing target with another
            record is refused.

    Attributes:
        parts: Finished shards; the place of a shard is the position of its first seed.
        record_path: JSON that says what the samples are.
        last: File that is written last.
    """

    parts: PartFolder
    record_path: Path
    last: Path

    def __init__(self, path: Path, seeds: Sequence[int], shard_size: int, record: dict[str, Any]) -> None:
        self.path, self.seeds, self.shard_size, self.record = path, seeds, shard_size, record
        self.places = range(0, len(seeds), shard_size)
        self.job = sha256_json({key: value for key, value in record.items() if key != "info"})

    def open(self) -> None:
        """Makes the record, or checks that the existing one belongs to the same samples.

        Raises:
            UserError: The target holds other samples or other files.
        """
        # Looked at before the record, which another process of the same job writes before anything else.
        occupied = self.path.exists()
        if occupied and self.path.is_dir():
            occupied = any(not entry.name.startswith(".") for entry in self.path.iterdir())
        if self.record_path.exists():
            existing = read_hashed_json(self.record_path, f"remove it and {self.path}, then sample again")
            different = sorted(k for k in self.record if k != "info" and existing.get(k) != self.record[k])
            if different:
                fault = f"holds samples with other {', '.join(different)} (see {self.record_path})"
                raise UserError(self.path, fault, "choose another --out or remove it")
        elif occupied:
            raise UserError(self.path, "exists and was not written by sida sample", "choose another --out or remove it")
        if self.path.is_file() and not is_intact_zip(self.path):
            say(f"{self.path}: damaged; set aside as {set_aside(self.path).name} and made again")
        if not self.record_path.exists():
            write_hashed_json(self.record_path, self.record)

    def shard_seeds(self, place: int) -> Sequence[int]:
        """Seeds of the shard at a place."""
        return self.seeds[place : place + self.shard_size]

    def is_done(self, place: int) -> bool:
        """Whether a shard is finished and whole; a damaged one is made again.

        Raises:
            UserError: The shard cannot be read for now; it stays.
        """
        if self.parts.is_whole(place):
            return True
        # Another process, which put all shards together, may have removed it meanwhile.
        if self.parts.path(place).exists() and not self.is_complete():
            say(f"{self.parts.path(place)}: damaged; it is made again")
        return False

    @abc.abstractmethod
    def encode(self, samples: Samples) -> dict[str, torch.Tensor]:
        """Tensors of a shard for a batch, which are joined; runs in a worker thread."""

    def write(self, place: int, encoded: Sequence[dict[str, torch.Tensor]]) -> None:
        """Writes a shard of encoded batches; atomic."""
        tensors = {name: torch.cat([batch[name] for batch in encoded]) for name in encoded[0]}
        self.parts.write(place, len(self.shard_seeds(place)), tensors)

    def shards(self) -> Iterator[Part]:
        """All shards in order.

        Raises:
            UserError: One is damaged.
        """
        for place in self.places:
            part = self.parts.read(place)
            if part is None:
                raise UserError(self.parts.path(place), "damaged or removed meanwhile", "run the same command again")
            yield part

    def is_complete(self) -> bool:
        """Whether the final form exists."""
        return self.last.exists()

    def finish(self) -> bool:
        """Makes the final form if all shards are there; safe when several processes try. Returns whether it exists."""
        if not self.is_complete():
            if not all(self.is_done(place) for place in self.places):
                return self.is_complete()
            lock_path = self.parts.folder.with_name(f".{self.path.name}.lock")
            with open(lock_path, "a+b") as lock:
                try:
                    wait_for_lock(lock)
                except OSError as error:
                    fault = f"cannot be locked ({error.strerror})"
                    remedy = f"all shards are in {self.parts.folder}: move them to a file system with locks, run there"
                    raise UserError(self.path, fault, remedy) from None
                if not self.is_complete():
                    self.assemble()
            lock_path.unlink(missing_ok=True)
        for place in self.places:
            self.parts.remove(place)
        sweep_temporaries(self.parts.folder)
        with contextlib.suppress(OSError):  # a folder with other files stays
            self.parts.folder.rmdir()
        return True

    @abc.abstractmethod
    def assemble(self) -> None:
        """Builds the final form from all shards; its last file is written atomically."""


class NpzFile(SampleStore):
    """One npz file in the layout of guided-diffusion's sample batches."""

    def __init__(self, path: Path, *rest: Any) -> None:
        super().__init__(path, *rest)
        self.parts, self.last = PartFolder(path.with_name(f"{path.name}.parts"), self.job), path
        self.record_path = path.with_name(f"{path.name}.json")

    def encode(self, samples: Samples) -> dict[str, torch.Tensor]:
        """Images (N, H, W, C) and classes."""
        return {"images": samples.images.permute(0, 2, 3, 1), "classes": samples.classes}

    def assemble(self) -> None:
        """Joins the shards into one file."""
        parts = prefetch(self.shards())  # the next shard is read while one is written
        first = next(parts)
        shape, classes = (len(self.seeds), *first.tensors["images"].shape[1:]), []
        with atomic_path(self.path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            # Member by member, shard by shard: never all images in memory.
            with archive.open(zip_member("arr_0.npy", MODE), "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
                for part in _chained(first, parts):
                    stream.write(part.tensors["images"].numpy().data)
                    classes.append(part.tensors["classes"].numpy())
            seeds = np.array(self.seeds, dtype=np.int64)
            for name, values in (("arr_1.npy", np.concatenate(classes)), ("seeds.npy", seeds)):
                content = io.BytesIO()
                np.save(content, values)
                archive.writestr(zip_member(name, MODE), content.getvalue())


def _chained(first: Part, others: Iterable[Part]) -> Iterator[Part]:
    yield first
    yield from others


class PngFolder(SampleStore):
    """A folder of PNG files in the EDM format, readable as a data set."""

    def __init__(self, path: Path, *rest: Any) -> None:
        super().__init__(path, *rest)
        self.parts = PartFolder(path / ".parts", self.job)
        self.record_path, self.last = path / "samples.json", path / "dataset.json"

    def encode(self, samples: Samples) -> dict[str, torch.Tensor]:
        """PNG files one after the other, their lengths, and classes."""
        if samples.images.shape[1] not in (1, 3):
            fault = f"PNG files need 1 or 3 channels, the images have {samples.images.shape[1]}"
            raise UserError(self.path, fault, "name FILE.npz, or decode latents (--vae)")
        # Light compression: three times faster, a tenth larger, and the samples are temporary more often than not.
        pictures = [encode_png(image.transpose(1, 2, 0), 1) for image in samples.images.numpy()]
        content = torch.frombuffer(bytearray(b"".join(pictures)), dtype=torch.uint8)
        lengths = torch.tensor([len(picture) for picture in pictures])
        return {"pictures": content, "lengths": lengths, "classes": samples.classes}

    def assemble(self) -> None:
        """Writes the PNG files, then ``dataset.json``."""
        labels: list[list[Any]] = []
        for part in self.shards():
            pictures = part.tensors["pictures"].split(part.tensors["lengths"].tolist())
            for content, label in zip(pictures, part.tensors["classes"].tolist()):
                labels.append([image_name(len(labels)), label])
                target = self.path / labels[-1][0]
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(content.numpy().tobytes())
        unlabelled = any(label == NO_CLASS for _, label in labels)
        with atomic_path(self.last) as temporary:
            temporary.write_text(dataset_json(None if unlabelled else labels), encoding="utf-8")


def write_all(store: SampleStore, places: Sequence[int], batches: Iterator[Samples], workers: int) -> None:
    """Encodes and writes in the background while ``batches`` computes.

    Args:
        store: Target.
        places: Places of the shards to write, in the order of ``batches``.
        batches: Samples of those shards, one after the other; no batch reaches into the next shard.
        workers: Encoding threads (encoding releases the interpreter lock); about twice as many batches may wait.
    """

    def write(place: int, encoded: list[Future[Any]]) -> None:
        store.write(place, [batch.result() for batch in encoded])

    waiting: collections.deque[Future[Any]] = collections.deque()
    with ThreadPoolExecutor(workers) as encoders, ThreadPoolExecutor(1) as writer:
        for place in places:
            count, encoded = len(store.shard_seeds(place)), []
            while count:
                batch = next(batches)
                count -= len(batch.seeds)
                encoded.append(encoders.submit(store.encode, batch))
                waiting.append(encoded[-1])
                if len(waiting) > 2 * workers:
                    waiting.popleft().result()
            waiting.append(writer.submit(write, place, encoded))
        while waiting:
            waiting.popleft().result()


def open_sample_store(path: str, seeds: Sequence[int], shard_size: int, record: dict[str, Any]) -> SampleStore:
    """The store for a target: ``FILE.npz``, else a folder of PNG files.

    Raises:
        UserError: The target holds other samples.
    """
    target = Path(path)
    kind = NpzFile if target.suffix == ".npz" else PngFolder
    store = kind(target, seeds, shard_size, {**record, "form": kind.__name__})
    store.open()
    return store


#: Default number of rows and columns.
SIDE = 8
_GRID_BATCH = 64


class Pictures:
    """Draws a square grid: row r shows class r (modulo the number of classes), columns show different seeds.

    Args:
        sampler: Sampler of the network.
        side: Rows and columns. None takes 8 for grey and RGB pixels and 0 (no picture) for anything else.
        device: Device that decodes latents.
    """

    def __init__(self, sampler: Sampler, side: int | None, device: str) -> None:
        self.drawer, self.side = Drawer(sampler, device=device), side

    def __call__(self, net: torch.nn.Module, path: Path) -> None:
        """Writes the grid of a network as PNG, unless ``side`` is 0; opens a decoder once."""
        self.drawer.net = net
        side = self.side
        if side is None:
            side = SIDE if net.img_channels in (1, 3) and self.drawer.latents is None else 0
        if side:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_grid(path, self.drawer.grid(side, side, 0, _GRID_BATCH), side)


def tile(images: torch.Tensor, columns: int, gap: int = 0, fill: Sequence[int] = (255,)) -> torch.Tensor:
    """Arranges images uint8 ``(N, C, h, w)`` in one image ``(C, H, W)``, row by row.

    Args:
        images: Images.
        columns: Images per row.
        gap: Pixels between images.
        fill: Colour of gaps and empty cells: one value for all channels, or one per channel.
    """
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    padded = torch.empty((rows * columns, channels, height + gap, width + gap), dtype=torch.uint8)
    padded[:] = torch.tensor(fill, dtype=torch.uint8)[:, None, None]
    padded[:count, :, :height, :width] = images
    picture = padded.reshape(rows, columns, channels, height + gap, width + gap).permute(2, 0, 3, 1, 4)
    picture = picture.reshape(channels, rows * (height + gap), columns * (width + gap))
    return picture[:, : picture.shape[1] - gap, : picture.shape[2] - gap].contiguous()


def save_grid(path: str | os.PathLike[str], images: torch.Tensor, columns: int, scale: int = 1) -> None:
    """Writes a grid as PNG, each pixel ``scale`` × ``scale``.

    Args:
        path: PNG file; written atomically.
        images: uint8 ``(N, C, H, W)`` with 1 or 3 channels.
        columns: Images per row.
        scale: Whole-number enlargement, without smoothing.

    Raises:
        UserError: The images are neither grey nor RGB.
    """
    if images.shape[1] not in (1, 3):
        raise UserError(path, f"a picture needs 1 or 3 channels, got {images.shape[1]}", "decode latents first (--vae)")
    picture = tile(images, columns).permute(1, 2, 0).numpy()
    enlarged = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(enlarged))
