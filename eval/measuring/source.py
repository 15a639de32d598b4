"""A source of images: ``stream(first, count)`` yields uint8 batches by position, and its identity changes with them.

Networks, data sets, files and Python functions are sources. Position i is image i of files, and for the others a seed;
it gives the same image in any batch, part or trial.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from sida.assets.registry import is_address, load_registry
from sida.config.registries import entries
from sida.config.settings import names_object
from sida.data.archive import Files
from sida.data.arrays import holds_images
from sida.errors import UserError
from sida.files.content import NETWORK, first_bytes, kind_of_file
from sida.networks.folders import NETWORK_FILES

if TYPE_CHECKING:
    # A wrong name is refused without torch.
    import torch

    from sida.data.dataset import Sketch


class ImageBatch(NamedTuple):
    """Images of consecutive positions.

    Attributes:
        images: uint8 (N, C, H, W).
        classes: Requested classes, int64 (N,), or None.
    """

    images: torch.Tensor
    classes: torch.Tensor | None

    @classmethod
    def of(cls, images: torch.Tensor, classes: torch.Tensor | None) -> ImageBatch:
        """Images of a generator; a network without classes gives None or :data:`sida.sampling.NO_CLASS`."""
        from sida.sampling import NO_CLASS

        # A network has classes or none, so one label stands for all.
        has_classes = classes is not None and len(classes) > 0 and int(classes[0]) != NO_CLASS
        return cls(images, classes if has_classes else None)


class Source(abc.ABC):
    """Images by position.

    Attributes:
        in_files: Whether positions count the images of files from 0; else they are seeds.
        sketch: Sketch of the images that the generator was trained on; None: unknown.
    """

    in_files: ClassVar[bool] = False
    sketch: Sketch | None = None

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """Plain values that change if an image could change, such as digests of networks, data and files."""

    @abc.abstractmethod
    def stream(self, first: int, count: int, batch_size: int) -> Iterator[ImageBatch]:
        """Yields images ``first … first + count − 1`` in their order, ``batch_size`` at a time."""


class Duplicates:
    """Refuses equal images, since copies would count as samples.

    Args:
        name: Function that gives the name of the image at a position, for the error.
        remedy: Remedy in the error, beside that of allowing them.
    """

    def __init__(self, name: Callable[[int], str], remedy: str) -> None:
        allowing = "or allow them (sida.score: allow_duplicates=True; in a spec allow_duplicates: true of the sampler)"
        self._name, self._remedy = name, f"{remedy}, {allowing} if the generator may draw equal images"
        self._seen: dict[bytes, int] = {}

    def check(self, images: Iterable[np.ndarray], first: int) -> None:
        """Checks the images from position ``first`` on.

        Raises:
            UserError: An image equals an image at another position.
        """
        for position, image in enumerate(images, start=first):
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            twin = self._seen.setdefault(digest, position)
            if twin != position:
                raise UserError(self._name(position), f"is the same image as {self._name(twin)}", self._remedy)


def names_network(source: str) -> bool:
    """Whether a text names a network: a file, the folder of a run, of ``sida export`` or of a plugin's library, an id
    or an address.

    A file of tensors may hold images instead; a damaged one counts as a network, whose reader says more.
    """
    path = Path(source)
    if path.is_dir():
        return any((path / name).is_file() for name in (*NETWORK_FILES, *entries("network_folders")))
    start, images = b"", False
    with contextlib.suppress(UserError):
        start, images = first_bytes(path), holds_images(path)
    return (
        is_address(source)
        or (kind_of_file(path, start) == NETWORK and not images)
        or (not path.exists() and source in load_registry())
    )


#: Formats of files that are programs of torch, by the ends of names of their members.
_PROGRAMS = {"/archive_format": "torch.export", "serialized_exported_program.json": "torch.export"}
_PROGRAMS |= {"/constants.pkl": "TorchScript"}


def program_format(path: str | Path) -> str:
    """``torch.export`` or ``TorchScript`` for one of their files, by its members; empty for another file."""
    try:
        names = Files(path).names
    except UserError:
        return ""
    return next((kind for end, kind in _PROGRAMS.items() if any(name.endswith(end) for name in names)), "")


def names_function(source: str) -> bool:
    """Whether a text names a function, ``module:function``, and not a file of that name."""
    return names_object(source) and not Path(source).exists()
