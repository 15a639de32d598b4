"""Fixtures that the tests of trainings have, too."""

from tests.training.conftest import teacher as teacher
