"""Files of samples: shards that are finished or absent, then the form that other programs read; and grids.

| target | while running | at the end |
|---|---|---|
| folder | PNG, and ``.parts/shard-….json`` when a shard is complete | PNG, ``dataset.json``: EDM's format |
| ``FILE.npz`` | ``FILE.npz.parts/shard-….npz`` | ``arr_0`` uint8 (N, H, W, C), ``arr_1`` classes, ``seeds`` |

A shard file has ``images`` uint8 (N, C, H, W), ``seeds`` and ``classes`` int64 (N,). A record beside the samples
describes them; samples of different kinds never mix. Npz and PNG carry checksums of their content: a shard counts as
finished when they agree, and a damaged one is made again.
"""

import abc
import collections
import contextlib
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
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
    sweep_temporaries,
    wait_for_lock,
    write_hashed_json,
    zip_member,
)
from sida.files.ordinary import UnreadableError, read_ordinary
from sida.files.text_files import DamagedError
from sida.prefetch import prefetch
from sida.sampling.generate import Drawer, Samples
from sida.sampling.streams import NO_CLASS

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FAULTS = (ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def intact_png(path: Path) -> bool:
    """Whether a PNG file is there, complete, and all its chunks match their checksums.

    Raises:
        UnreadableError: It cannot be read, which says nothing of its content.
    """
    try:
        content = read_ordinary(path, 64 << 20)
    except UnreadableError:
        raise
    except UserError:
        return False
    position = len(_SIGNATURE)
    if content[:position] != _SIGNATURE:
        return False
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        end = position + 8 + length
        if zlib.crc32(content[position + 4 : end]).to_bytes(4, "big") != content[end : end + 4]:
            return False
        if content[position + 4 : position + 8] == b"IEND":
            return end + 4 == len(content)
        position = end + 4
    return False


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
        parts: Folder of the unfinished parts.
        record_path: JSON that says what the samples are.
        last: File that is written last.
        suffix: End of the names of shards.
    """

    parts: Path
    record_path: Path
    last: Path
    suffix: str

    def __init__(self, path: Path, seeds: Sequence[int], shard_size: int, record: dict[str, Any]) -> None:
        self.path, self.seeds, self.shard_size, self.record = path, seeds, shard_size, record
        self.num_shards = -(-len(seeds) // shard_size)

    def open(self) -> None:
        """Makes folders and the record, or checks that the existing ones belong to the same samples.

        Raises:
            UserError: The target holds other samples.
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
        self._check_own(self.parts, os.path.isdir)
        if not self.is_complete():
            self.parts.mkdir(parents=True, exist_ok=True)
        if not self.record_path.exists():
            write_hashed_json(self.record_path, self.record)

    def _check_own(self, path: Path, is_kind: Callable[[Path], bool] = os.path.isfile) -> None:
        """Refuses a link, pipe or device instead of a file or folder that a job of sampling makes for itself.

        Raises:
            UserError: There is one.
        """
        if path.is_symlink() or (path.exists() and not is_kind(path)):
            raise UserError(path, "is a link, a pipe or the like, which no sampling made", "remove it")

    def shard_seeds(self, shard: int) -> Sequence[int]:
        """Seeds of a shard."""
        return self.seeds[shard * self.shard_size : (shard + 1) * self.shard_size]

    def shard_path(self, shard: int) -> Path:
        """File of a finished shard."""
        seeds = self.shard_seeds(shard)
        return self.parts / f"shard-{seeds[0]:06d}-{seeds[-1]:06d}{self.suffix}"

    @property
    def shard_paths(self) -> list[Path]:
        """Files of all finished shards."""
        return [self.shard_path(shard) for shard in range(self.num_shards)]

    def is_done(self, shard: int) -> bool:
        """Whether a shard is finished and whole; one with other bytes than were written is removed and made again.

        Raises:
            UserError: The shard cannot be read for now; it stays.
        """
        path = self.shard_path(shard)
        self._check_own(path)
        if not path.exists():
            return False
        try:
            if self.is_intact(shard):
                return True
        except UserError:
            if path.exists():
                raise
        # Another process, which put all shards together, may have removed it meanwhile.
        if path.exists():
            say(f"{path}: damaged; removed, it is made again")
            path.unlink(missing_ok=True)
        return False

    @abc.abstractmethod
    def is_intact(self, shard: int) -> bool:
        """Whether the content of a finished shard is what was written.

        Raises:
            UserError: It cannot be read, which says nothing of its content.
        """

    def encode(self, samples: Samples) -> Any:
        """The costly part of writing a batch, if there is one; runs in a worker thread."""
        return samples

    @abc.abstractmethod
    def write(self, shard: int, encoded: list[Any]) -> None:
        """Writes a shard of encoded batches; atomic."""

    def is_complete(self) -> bool:
        """Whether the final form exists."""
        return self.last.exists()

    def finish(self) -> bool:
        """Makes the final form if all shards are there; safe when several processes try. Returns whether it exists."""
        if not self.is_complete():
            if not all(self.is_done(shard) for shard in range(self.num_shards)):
                return self.is_complete()
            lock_path = self.parts.with_name(f".{self.path.name}.lock")
            self._check_own(lock_path)
            with open(lock_path, "a+b") as lock:
                try:
                    wait_for_lock(lock)
                except OSError as error:
                    fault = f"cannot be locked ({error.strerror})"
                    remedy = f"all shards are in {self.parts}: move them to a file system with locks, and run there"
                    raise UserError(self.path, fault, remedy) from None
                if not self.is_complete():
                    self.assemble()
            lock_path.unlink(missing_ok=True)
        self._remove_parts()
        return True

    def _remove_parts(self) -> None:
        """Removes the shards, which are in the final form, and what killed processes left of them; nothing else."""
        for path in self.shard_paths:
            path.unlink(missing_ok=True)
        sweep_temporaries(self.parts)
        with contextlib.suppress(OSError):  # a folder with other files stays
            self.parts.rmdir()

    @abc.abstractmethod
    def assemble(self) -> None:
        """Builds the final form from all shards; atomic."""


class NpzFile(SampleStore):
    """One npz file in the layout of guided-diffusion's sample batches."""

    suffix = ".npz"

    def __init__(self, path: Path, *rest: Any) -> None:
        super().__init__(path, *rest)
        self.parts, self.last = path.with_name(f"{path.name}.parts"), path
        self.record_path = path.with_name(f"{path.name}.json")

    def is_intact(self, shard: int) -> bool:
        """By the checksums of npz, and the seeds."""
        path = self.shard_path(shard)
        if not is_intact_zip(path):
            return False
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return bool(np.array_equal(arrays["seeds"], np.asarray(self.shard_seeds(shard))))
        except OSError as error:
            raise UnreadableError(path, f"cannot be read ({error.strerror})") from None
        except _FAULTS:
            return False

    def write(self, shard: int, encoded: list[Any]) -> None:
        """Writes an npz shard."""
        images = np.concatenate([batch.images.numpy() for batch in encoded])
        seeds = np.array([seed for batch in encoded for seed in batch.seeds], dtype=np.int64)
        classes = np.concatenate([batch.classes.numpy() for batch in encoded])
        with atomic_path(self.shard_path(shard)) as temporary:
            np.savez(temporary, images=images, seeds=seeds, classes=classes)

    def assemble(self) -> None:
        """Joins the shards into one file."""
        with np.load(self.shard_path(0)) as first:
            _, channels, height, width = first["images"].shape
        shape = (len(self.seeds), height, width, channels)
        with atomic_path(self.path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            # Member by member, shard by shard: never all images in memory.
            with archive.open(zip_member("arr_0.npy", MODE), "w", force_zip64=True) as stream:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
                # The next shard is read while one is written.
                for images in prefetch(map(_channels_last, self.shard_paths)):
                    stream.write(images.data)
            for key, name in (("classes", "arr_1.npy"), ("seeds", "seeds.npy")):
                content = io.BytesIO()
                np.save(content, np.concatenate([np.load(path)[key] for path in self.shard_paths]))
                archive.writestr(zip_member(name, MODE), content.getvalue())


def _channels_last(shard: Path) -> np.ndarray:
    """Images of a shard, (N, H, W, C)."""
    with np.load(shard) as arrays:
        return np.ascontiguousarray(arrays["images"].transpose(0, 2, 3, 1))


def write_all(store: SampleStore, shards: Sequence[int], batches: Iterator[Samples], workers: int) -> None:
    """Encodes and writes in the background while ``batches`` computes.

    Args:
        store: Target.
        shards: Shards to write, in the order of ``batches``.
        batches: Samples of those shards, one after the other; no batch reaches into the next shard.
        workers: Encoding threads (encoding releases the interpreter lock); about twice as many batches may wait.
    """

    def write(shard: int, encoded: list[Future[Any]]) -> None:
        store.write(shard, [batch.result() for batch in encoded])

    waiting: collections.deque[Future[Any]] = collections.deque()
    with ThreadPoolExecutor(workers) as encoders, ThreadPoolExecutor(1) as writer:
        for shard in shards:
            count, encoded = len(store.shard_seeds(shard)), []
            while count:
                batch = next(batches)
                count -= len(batch.seeds)
                encoded.append(encoders.submit(store.encode, batch))
                waiting.append(encoded[-1])
                if len(waiting) > 2 * workers:
                    waiting.popleft().result()
            waiting.append(writer.submit(write, shard, encoded))
        while waiting:
            waiting.popleft().result()


class PngFolder(SampleStore):
    """A folder of PNG files in the EDM format, readable as a data set."""

    suffix = ".json"

    def __init__(self, path: Path, *rest: Any) -> None:
        super().__init__(path, *rest)
        self.parts, self.record_path, self.last = path / ".parts", path / "samples.json", path / "dataset.json"

    def is_intact(self, shard: int) -> bool:
        """By the checksums of PNG, and the hash of the shard's list."""
        try:
            labels = read_hashed_json(self.shard_path(shard))["images"]
        except (DamagedError, KeyError):
            return False
        begin = shard * self.shard_size
        names = [image_name(begin + i) for i in range(len(self.shard_seeds(shard)))]
        return [entry[0] for entry in labels] == names and all(intact_png(self.path / name) for name in names)

    def encode(self, samples: Samples) -> list[tuple[int, int, bytes]]:
        """``(seed, class, PNG)`` of each image."""
        if samples.images.shape[1] not in (1, 3):
            fault = f"PNG files need 1 or 3 channels, the images have {samples.images.shape[1]}"
            raise UserError(self.path, fault, "name FILE.npz, or decode latents (--vae)")
        # Light compression: three times faster, a tenth larger, and the samples are temporary more often than not.
        images = (encode_png(image.transpose(1, 2, 0), 1) for image in samples.images.numpy())
        return list(zip(samples.seeds, samples.classes.tolist(), images))

    def write(self, shard: int, encoded: list[Any]) -> None:
        """Writes the PNG files, then the shard's list, which makes it finished."""
        labels = []
        images = (image for batch in encoded for image in batch)
        for position, (seed, label, content) in enumerate(images, shard * self.shard_size):
            name = image_name(position)
            target = self.path / name
            self._check_own(target.parent, os.path.isdir)
            self._check_own(target)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content)
            labels.append([name, label, seed])
        write_hashed_json(self.shard_path(shard), {"images": labels})

    def assemble(self) -> None:
        """Writes ``dataset.json``."""
        labels = [entry[:2] for path in self.shard_paths for entry in read_hashed_json(path)["images"]]
        unlabelled = any(label == NO_CLASS for _, label in labels)
        with atomic_path(self.last) as temporary:
            temporary.write_text(dataset_json(None if unlabelled else labels), encoding="utf-8")


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
