"""Files of settings that Snakemake has merged already, read once more: its own reader lets double keys pass."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sida.config.mapping import load_spec, load_yaml


def check_files(paths: Iterable[str]) -> None:
    """Checks files given with ``--configfile`` as other commands do, which read presets themselves.

    Raises:
        UserError: The first fault, with its file.
    """
    for path in paths:
        # Snakemake takes JSON too, whatever the file's name; YAML's reader knows most of it.
        (load_spec if Path(path).suffix == ".json" else load_yaml)(path)
