"""Settings that are read again and again: parsed once while they say the same; nobody sees another's changes."""

from __future__ import annotations

import pytest

import sida.config.settings
from sida.config.settings import load_yaml
from sida.errors import UserError


def test_equal_text_is_parsed_once_and_a_change_is_seen(tmp_path, monkeypatch):
    parsed = []
    original = sida.config.settings.parse_yaml
    monkeypatch.setattr(
        sida.config.settings, "parse_yaml", lambda text, where: parsed.append(where) or original(text, where)
    )
    path = tmp_path / "layout.yaml"
    path.write_text("rows: [1, 2]\n")
    first = load_yaml(path)
    first["rows"].append(3)
    assert load_yaml(path) == {"rows": [1, 2]}
    assert parsed == [str(path)]
    path.write_text("rows: [1, 9]\n")
    assert load_yaml(path) == {"rows": [1, 9]}


def test_a_fault_is_told_each_time(tmp_path):
    path = tmp_path / "layout.yaml"
    path.write_text("rows: [1, 2\n")
    for _ in range(2):
        with pytest.raises(UserError, match=r"layout\.yaml:2: not valid YAML"):
            load_yaml(path)
