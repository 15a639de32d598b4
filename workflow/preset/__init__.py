"""Presets: settings and sample sheet, checked as a whole, with the paths of networks and the specs of jobs.

The workflow and the command line read presets with this package, so both accept the same files and report the same
faults. ``docs/architecture.md`` describes specs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sida.config.datasets import MadeFrom
from workflow.preset.archives import find_archives
from workflow.preset.checks import check_references
from workflow.preset.files import read_preset
from workflow.preset.rows import Rows
from workflow.preset.specs import Specs


class Preset(Rows):
    """A validated preset: its rows, with ``specs`` of jobs.

    Args:
        config: Settings as :func:`~workflow.preset.files.read_preset` reads them (Snakemake's overrides included).
        source: File named in errors.
        own: Folders of the preset, which are searched first for files, data sets, checkpoints, protocols and layouts
            that the preset or its sheet names (:mod:`sida.config.resources`).

    Raises:
        UserError: Any fault in the configuration, the sheet or between them.
    """

    def __init__(self, config: Mapping[str, Any], source: str = "config", own: Sequence[Path] = ()) -> None:
        super().__init__(config, source, own)
        self.specs = Specs(self)
        check_references(self)

    @classmethod
    def load(cls, *paths: str | Path) -> Preset:
        """Loads a preset file; keys of further files win, as with Snakemake's ``--configfile``."""
        return cls(*read_preset(paths))

    @functools.cached_property
    def archives(self) -> dict[str, str]:
        """Archives that the workflow can make for data sets of rows and teachers: path to data set."""
        return find_archives(self)

    def archive_origin(self, path: str) -> MadeFrom:
        """Source of an archive that the workflow makes."""
        found = self.origin(self.archives[path], self.source)
        assert found is not None  # archives have one
        return found
