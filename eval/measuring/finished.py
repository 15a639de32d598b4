"""Finished batches of a trial, kept in files while it is measured, so that an interrupted trial resumes within itself.

A trial of minutes has no files. The features of its batches are all that a longer one needs: added in their order, they
give the sums of an uninterrupted trial to the last bit.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from sida.errors import UserError
from sida.eval.features.registry import Features
from sida.files.tensors import read_tensors, write_tensors

#: Seconds of a trial from one file to the next.
SECONDS = 180.0
#: Features and logits of a batch by extractor, and its classes.
Outputs = tuple[Mapping[str, Features], torch.Tensor | None]
_CLASSES = "classes"


class FinishedBatches:
    """The batches of one trial in a folder.

    Args:
        folder: Folder of the files; missing until the first one is written.
        digest: Digest of everything that decides the outputs; files with another one are removed.
        device: Torch device of the outputs.
    """

    def __init__(self, folder: Path, digest: str, device: str) -> None:
        self._folder, self._digest, self._device = folder, digest, device
        self._waiting: list[Outputs] = []
        self._first = 0  # image of the trial with which the next file begins
        self._written = time.monotonic()

    def __iter__(self) -> Iterator[Outputs]:
        """Yields the batches of the files in their order, up to the first file that is missing or damaged."""
        while (path := self._path()).is_file():
            try:
                tensors, record = read_tensors(path)
            except UserError:
                return
            if record.get("digest") != self._digest:
                self.remove()
                return
            lengths = tensors.pop("lengths").tolist()
            parts = {name: tensor.to(self._device).split(lengths) for name, tensor in tensors.items()}
            names = [name.removesuffix("/features") for name in parts if name.endswith("/features")]
            for number, length in enumerate(lengths):
                at = {name: part[number] for name, part in parts.items()}
                self._first += length
                classes = at.get(_CLASSES)
                yield {name: Features(at[f"{name}/features"], at.get(f"{name}/logits")) for name in names}, classes

    def add(self, outputs: Mapping[str, Features], classes: torch.Tensor | None) -> None:
        """Adds a batch; the batches of some minutes become a file."""
        self._waiting.append((outputs, classes))
        if time.monotonic() - self._written < SECONDS:
            return
        lengths = [len(next(iter(batch.values())).features) for batch, _ in self._waiting]
        tensors = {"lengths": torch.tensor(lengths)}
        for name in outputs:
            tensors[f"{name}/features"] = torch.cat([batch[name].features for batch, _ in self._waiting])
            logits = [batch[name].logits for batch, _ in self._waiting]
            if known := [one for one in logits if one is not None]:
                tensors[f"{name}/logits"] = torch.cat(known)
        if classes is not None:
            tensors[_CLASSES] = torch.cat([one for _, one in self._waiting if one is not None])
        self._folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self._path(), tensors, {"digest": self._digest})
        self._first += sum(lengths)
        self._waiting, self._written = [], time.monotonic()

    def remove(self) -> None:
        """Removes the files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self) -> Path:
        return self._folder / f"from-{self._first:09d}.safetensors"
