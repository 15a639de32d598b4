"""What tests of trainings share."""

import pytest

from sida.training import train_teacher
from tests.training.toy import TEACHER


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """Network file of a toy teacher."""
    return str(train_teacher(TEACHER, tmp_path_factory.mktemp("teacher")))
