"""Tests of studies, which are left out with their study."""

from pathlib import Path

from sida.config.resources import ROOT

collect_ignore = [
    path.name
    for path in Path(__file__).parent.iterdir()
    if path.is_dir() and not (ROOT / "studies" / path.name).is_dir()
]
