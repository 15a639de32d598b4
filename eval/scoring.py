"""Scores in Python: images, a function or a generator in; means, spreads and a row for tables out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sida.eval.measuring.functions import CallableSource, callable_name
from sida.eval.measuring.protocol import Protocol, load_protocol
from sida.eval.measuring.score import Score, score_images
from sida.eval.measuring.score_plan import NetworkFile
from sida.eval.measuring.source import names_function, names_network
from sida.eval.measuring.stores import Groups, ImageStore, MemoryStore, open_images
from sida.eval.results.measurements import MEASUREMENT_COLUMNS
from sida.eval.results.trial_files import long_rows
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
            npz or npy of images; or images in memory (:func:`sida.eval.measuring.stores.as_pixels`): an array or tensor
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
    source = _source(images, value_range, "images")
    if against is not None:
        if isinstance(against, LoadedGenerator) or callable(against):
            count = source.count if isinstance(source, ImageStore) else load_protocol(protocol).num_samples
            against = _draw(against, num_samples or count, batch_size)
        settings["against"] = _source(against, value_range, "against")
    result = score_images(source, protocol, name=name, **settings)
    result.forget_trials()
    return ScoreRow(**vars(result))


def _draw(generator: Any, count: int, batch_size: int | None) -> np.ndarray:
    """Images of a function, module or generator for seeds 0, 1, 2, …, uint8 (N, C, H, W)."""
    if isinstance(generator, LoadedGenerator):
        return generator.sample(count, seed=0)
    source = CallableSource(callable_name(generator), function=generator)
    images = np.concatenate([b.images.cpu().numpy() for b in source.stream(0, count, batch_size or 256)])
    assert len(images) == count
    return images


def _source(images: Any, value_range: tuple[float, float] | None, where: str) -> Any:
    """Images in files or memory, opened; networks, functions and their names are returned as they are."""
    if isinstance(images, NetworkFile | LoadedGenerator) or callable(images):
        return images
    if isinstance(images, str | Path):
        named = names_network(str(images)) or names_function(str(images))
        return str(images) if named else open_images(images)
    return MemoryStore(images, value_range, where)
