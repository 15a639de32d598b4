"""Candidates of a sweep: networks or widths of averages, times settings of a sampler."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sida.config.samplers import Sampler, read_sampler
from sida.errors import UserError
from sida.eval.commands._options import pairs
from sida.files.text_files import number_in

#: Axis of averages: the option of ``sida average``.
WIDTH = "std"


class Candidate(NamedTuple):
    """A candidate.

    Attributes:
        name: Its values on the axes, such as ``std=0.1,guidance=1.4``.
        source: Network; empty for an average that is made first.
        width: Relative width of that average; None takes the network.
        sampler: Text of its sampler.
    """

    name: str
    source: str
    width: float | None
    sampler: str


def read_grid(sources: Sequence[str], over: Sequence[str], sampler: str) -> list[Candidate]:
    """Candidates in the order of the options, the last one varying fastest; imports no torch.

    Args:
        sources: Networks, each of which is a candidate; with the axis ``std`` the stored averages of one run.
        over: Axes, such as ``guidance=1,1.2,1.4``.
        sampler: Text of the sampler, to which the settings are added.

    Raises:
        UserError: An axis is wrong or given twice, two candidates are equal, or there is only one.
    """
    axes: dict[str, list[str]] = {}
    for text in over:
        [(key, values)] = pairs([text], "--over").items()
        if key in axes:
            raise UserError(f"--over {key}", "is given twice", "give all its values at once")
        axes[key] = values.split(",")
    widths = [_width(text) for text in axes.pop(WIDTH, [])]
    if twice := [source for source in sources if [*sources].count(source) > 1]:
        raise UserError(twice[0], "is given twice", "give each network once")
    networks: list[tuple[str, str, float | None]] = [(f"{WIDTH}={width:g}", "", width) for width in widths]
    networks = networks or [(f"network={source}" if len(sources) > 1 else "", source, None) for source in sources]
    settings_of_axes = ([f"{key}={value}" for value in values] for key, values in axes.items())
    candidates, seen = [], dict[tuple[str, float | None, Sampler], str]()
    for (name, source, width), settings in itertools.product(networks, itertools.product(*settings_of_axes)):
        words = ",".join([sampler, *settings])
        candidate = Candidate(",".join(filter(None, [name, *settings])), source, width, words)
        content = source, width, read_sampler(words, f"--over, sampler {words}")
        if content in seen:
            raise UserError(f"--over {candidate.name}", f"is the candidate {seen[content]}", "give each value once")
        seen[content] = candidate.name
        candidates.append(candidate)
    if len(candidates) < 2:
        raise UserError("--over", "has one candidate", "give several values, or use `sida score`")
    return candidates


def _width(text: str) -> float:
    width = number_in(text, float)
    if width is None:
        raise UserError(f"--over {WIDTH}={text}", "is no number", "give relative widths, such as 0.05,0.1,0.15")
    return width


def make_averages(candidates: Sequence[Candidate], sources: Sequence[str], folder: Path) -> list[Candidate]:
    """The candidates with files of their averages, which are written into a folder; equal averages give equal bytes.

    Raises:
        UserError: The networks are not averages of one run, or a width is out of range.
    """
    from sida.sampling.job import network_file
    from sida.training.averages import reconstruct_average

    files: dict[float, str] = {}
    for width in (candidate.width for candidate in candidates):
        if width is not None and width not in files:
            files[width] = str(folder / f"{WIDTH}-{width:g}.safetensors")
            reconstruct_average([network_file(source) for source in sources], width, files[width])
    return [one if one.width is None else one._replace(source=files[one.width]) for one in candidates]
