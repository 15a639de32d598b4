"""Fixtures of tests of measuring: a cache that knows the references and networks of published numbers."""

from __future__ import annotations

import pytest

from tests.eval.synthetic_output import write_lock


@pytest.fixture(scope="session")
def recorded_cache(tmp_path_factory):
    """A cache with records of downloads, and without the files."""
    return write_lock(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _registered(recorded_cache, monkeypatch):
    monkeypatch.setenv("SIDA_CACHE", str(recorded_cache))
