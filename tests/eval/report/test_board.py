"""Numbers of several groups on one page: sorted within equal identity, apart otherwise."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eval.commands import main
from eval.report.board import board


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scores of two groups under one protocol, and one of another number of images."""
    base = tmp_path_factory.mktemp("board")
    folder = base / "collected"
    folder.mkdir()
    for name, n in (("bright", 40), ("theirs", 40), ("few", 20)):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (80, 8, 8), dtype=np.uint8)
        np.savez(base / "images.npz", arr_0=pixels // (2 if name == "theirs" else 1))
        command = ["score", str(base / "images.npz"), "--protocol", "digits", "--num-samples", str(n), "--trials", "2"]
        assert main([*command, "--name", name, "--out", str(folder / f"{name}.json")]) == 0
    return folder


def test_values_are_sorted_within_equal_identity(folder):
    tables = [table for table in board(folder) if table.name == "fd"]
    assert sorted(len(table.rows) for table in tables) == [1, 2]
    two = max(tables, key=lambda table: len(table.rows))
    assert [float(row.cells[2].text) for row in two.rows] == sorted(float(row.cells[2].text) for row in two.rows)
    assert {row.cells[1].text for row in two.rows} == {"bright", "theirs"}
    (highest, *_) = [t for t in board(folder) if t.name == "is" and len(t.rows) == 2]
    assert float(highest.rows[0].cells[2].text) >= float(highest.rows[1].cells[2].text)


def test_lines_of_another_group_name_their_origin(folder, tmp_path, capsys):
    np.savez(tmp_path / "images.npz", arr_0=np.random.default_rng(9).integers(0, 256, (80, 8, 8), dtype=np.uint8))
    command = ["score", str(tmp_path / "images.npz"), "--protocol", "digits", "--num-samples", "40", "--trials", "2"]
    capsys.readouterr()
    assert main([*command, "--name", "abroad", "--json"]) == 0
    lines = [json.loads(line) | {"origin": "A group, a <place>"} for line in capsys.readouterr().out.splitlines()]
    for name in ("bright.json", "theirs.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "abroad.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main(["board", str(tmp_path), "--out", str(tmp_path / "board.html")]) == 0
    page = (tmp_path / "board.html").read_text()
    assert "A group, a &lt;place&gt;" in page
    (fd,) = [table for table in board(tmp_path) if table.name == "fd"]
    assert len(fd.rows) == 3


def test_a_folder_without_numbers_is_one_line(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "nobody"):
        assert main(["board", str(folder)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(folder) in error
