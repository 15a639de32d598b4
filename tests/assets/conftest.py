"""A server of files for tests of downloads."""

import pytest

from tests.assets.fault_server import serve


@pytest.fixture
def site():
    with serve() as site:
        yield site
