"""Tests of studies, which are left out with their study."""

from pathlib import Path

import pytest

from sida.config.lookup import ROOT
from tests.workflow.workspace import shipped

collect_ignore = [
    path.name
    for path in Path(__file__).parent.iterdir()
    if path.is_dir() and not (ROOT / "studies" / path.name).is_dir()
]


@pytest.fixture(scope="session")
def paper():
    """The preset of the papers' trainings; nobody changes it."""
    return shipped("paper")
