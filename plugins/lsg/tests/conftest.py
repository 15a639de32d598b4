"""Fixtures that the tests of trainings have, too."""

import pytest

from sida.training import train_teacher
from tests.training.toy import NETWORK, TEACHER


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """Network file of a toy teacher with a null label."""
    network = {**NETWORK, "kwargs": {**NETWORK["kwargs"], "label_dropout": 0.2}}
    spec = {**TEACHER, "network": network, "total_kimg": 0.1}
    return str(train_teacher(spec, tmp_path_factory.mktemp("teacher")))
