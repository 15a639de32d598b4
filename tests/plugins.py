"""Tests of the core and of studies that name objects of a plugin: they are skipped without the plugin.

A parameter of a test that is such a name needs no mark (conftest.py).
"""

import csv

import pytest

from sida.config.registries import INDEX, plugins


def index():
    """Rows of the names of all plugins: registry, name, plugin."""
    with open(INDEX, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def missing_names():
    """Names of plugins that are not here."""
    return {row["name"] for row in index() if row["plugin"] not in plugins()}


def needs(*names):
    """A mark: the test is skipped if one of these plugins is not here."""
    missing = [name for name in names if name not in plugins()]
    return pytest.mark.skipif(bool(missing), reason=f"without the plugin {', '.join(missing)}")
