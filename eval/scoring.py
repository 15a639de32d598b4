"""Scores in Python: images, a function or a generator in; means, spreads and a row for tables out."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sida.errors import UserError
from sida.eval.measuring.arrays import as_pixels
from sida.eval.measuring.functions import CallableSource, callable_name
from sida.eval.measuring.images import names_network
from sida.eval.measuring.order import Groups
from sida.eval.measuring.protocol import Protocol, load_protocol
from sida.eval.measuring.score import Score, score_images
from sida.eval.measuring.score_plan import NetworkFile
from sida.eval.measuring.stores import open_images
from sida.eval.results.measurements import long_rows
from sida.eval.results.summary import MEASUREMENT_COLUMNS
from sida.eval.tables.scores import latex_row, markdown_row, row_columns
from sida.sampling.job import LoadedGenerator, open_device

if TYPE_CHECKING:
    import pandas


class ScoreRow(Score):
    """A score with forms for a terminal, a notebook and a paper."""

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def frame(self) -> pandas.DataFrame:
        """One line per metric: ``mean``, ``std``, ``standard_error``, ``min``, ``max`` and ``trials``."""
        import pandas

        lines = {key: {**numbers, "trials": len(numbers["values"])} for key, numbers in self.summary().items()}
        columns = ["mean", "std", "standard_error", "min", "max", "trials"]
        return pandas.DataFrame.from_dict(lines, orient="index", columns=columns).rename_axis("metric")

    def trials(self) -> pandas.DataFrame:
        """One line per trial and metric, with the columns of ``measurements.csv``."""
        import pandas

        rows = pandas.DataFrame(long_rows(self.records), columns=list(MEASUREMENT_COLUMNS))
        return rows.assign(value=rows["value"].astype(float))

    def latex(self, table: str | None = None) -> str:
        """The row in LaTeX with the columns, decimals and units of a table such as ``table1``.

        Args:
            table: Layout of the table; for the default see :func:`sida.eval.tables.scores.row_columns`.

        Raises:
            UserError: The row is not comparable with the table's published numbers.
        """
        return latex_row(self, row_columns(self.protocol, table, self.identity))

    def markdown(self, table: str | None = None) -> str:
        """The row as a Markdown table."""
        return markdown_row(self, row_columns(self.protocol, table, self.identity))


def score(
    images: Any,
    protocol: str | Path | Mapping[str, Any] | Protocol,
    trials: int | None = None,
    num_samples: int | None = None,
    name: str | None = None,
    *,
    device: str | None = None,
    batch_size: int | None = None,
    family: str = "",
    nfe: int | None = None,
    dataset: Mapping[str, Any] | None = None,
    references: Mapping[str, str | Path] | None = None,
    extractors: Mapping[str, Mapping[str, Any]] | None = None,
    allow_duplicates: bool = False,
    against: Any = None,
    groups: Groups | None = None,
    value_range: tuple[float, float] | None = None,
) -> ScoreRow:
    """Measures images under a protocol, as ``sida score`` does.

    >>> sida.eval.score(sida.load("cifar10-uncond-sida-a1"), "cifar10").frame()

    Args:
        images: A generator of :func:`sida.load`; a function or module called with a list of seeds; a folder, zip, tar,
            npz or npy of images; or images in memory (:func:`sida.eval.measuring.arrays.as_pixels`): an array or tensor
            uint8 ``(N, C, H, W)`` or ``(N, H, W, C)``, ``(images, classes)``, pictures, batches, a DataLoader.
        protocol: Name, path or content.
        trials: Number of trials; by default the protocol's, or as many as the images suffice for.
        num_samples: Images per trial; another number than the protocol's is not comparable with it.
        name: Label of the row.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes a GPU if there is one.
        batch_size: Images per batch; None chooses.
        family: Group of the row in tables.
        nfe: Network evaluations per image, for tables.
        dataset: Data set for references that are made here.
        references: Local files by reference key; others are fetched.
        extractors: Options by feature network, e.g. ``{"inception": {"path": ...}}``.
        allow_duplicates: Accept equal images.
        against: Images that replace the protocol's references, for a comparison of two sets (protocol ``pair``);
            files, images in memory, a function or a generator (seeds 0, 1, 2, …, as many as the first set has images).
        groups: ``trials`` or ``classes``: meaning of folders of images, where several trials are taken.
        value_range: Values of floats in memory that stand for black and white, such as ``(-1, 1)``.

    Raises:
        UserError: Images that cannot be measured under this protocol.
    """
    settings: dict[str, Any] = {
        "trials": trials,
        "num_samples": num_samples,
        "device": None if device is None and isinstance(images, LoadedGenerator) else open_device(device),
        "batch_size": batch_size,
        "family": family,
        "nfe": nfe,
        "dataset": dataset,
        "references": references,
        "extractors": extractors,
        "allow_duplicates": allow_duplicates,
        "groups": groups,
    }
    with tempfile.TemporaryDirectory() as folder, _argument_named(folder):
        source = _as_file(images, Path(folder) / "images.npz", value_range, "images")
        if against is not None:
            if isinstance(against, LoadedGenerator) or callable(against):
                against = _draw(against, num_samples or _count(source, protocol), batch_size)
            settings["against"] = _as_file(against, Path(folder) / "against.npz", value_range, "against")
        label = name or (None if source is images else "images")
        result = score_images(source, protocol, name=label, **settings)
        result.forget_trials()
    return ScoreRow(**vars(result))


@contextlib.contextmanager
def _argument_named(folder: str) -> Iterator[None]:
    """Names the argument in errors, instead of the temporary file that holds images in memory."""
    try:
        yield
    except UserError as error:
        if folder in error.where:
            name = re.sub(rf"{re.escape(folder)}{os.sep}(\w+)\.npz(\[arr_[01]\])?", r"\1", error.where)
            raise type(error)(name, error.fault, error.remedy) from None
        raise


def _count(source: Any, protocol: str | Path | Mapping[str, Any] | Protocol) -> int:
    """Number of images of the first of two sets."""
    if isinstance(source, str | Path) and Path(source).exists() and not names_network(str(source)):
        return open_images(source).count
    return load_protocol(protocol).num_samples


def _draw(generator: Any, count: int, batch_size: int | None) -> np.ndarray:
    """Images of a function, module or generator for seeds 0, 1, 2, …, uint8 (N, C, H, W)."""
    if isinstance(generator, LoadedGenerator):
        return generator.sample(count, seed=0)
    source = CallableSource(callable_name(generator), function=generator)
    images = np.concatenate([b.images.cpu().numpy() for b in source.stream(0, count, batch_size or 256)])
    assert len(images) == count
    return images


def _as_file(images: Any, file: Path, value_range: tuple[float, float] | None, where: str) -> Any:
    """A new file with images in memory; paths, networks and functions are returned as they are."""
    if isinstance(images, str | Path | NetworkFile | LoadedGenerator) or callable(images):
        return images
    pixels, classes = as_pixels(images, value_range, where)
    arrays = {"arr_0": pixels} if classes is None else {"arr_0": pixels, "arr_1": classes}
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file
