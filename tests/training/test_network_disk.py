"""A network's file system: handles go stale, reads fail once, no links, no locks; one line, and then as before."""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
from pathlib import Path

import pytest

from sida.cli.main import main
from sida.methods import distill
from tests.training.toy import STUDENT, as_json, results

SPEC = {**STUDENT, "total_kimg": 0.032, "tick_kimg": 0.016, "snapshot_kimg": None, "evaluation": None}


@pytest.fixture(scope="module")
def alone(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    distill({**SPEC, "teacher": teacher}, folder)
    return folder


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_a_file_that_cannot_be_read_once_is_one_line(tmp_path, teacher, alone, monkeypatch, capsys, number):
    """As when a file was renamed over on another machine while this one had it open, or a server was away."""
    original = builtins.open

    def failing(file, mode="r", *arguments, **options):
        if str(file) == teacher:
            raise OSError(number, os.strerror(number), teacher)
        return original(file, mode, *arguments, **options)

    command = ["distill", "--spec", as_json({**SPEC, "teacher": teacher}), "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", failing)
        assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert teacher in line
    assert os.strerror(number) in line
    assert not (tmp_path / "run/network.safetensors").exists()
    assert main(command) == 0
    assert results(tmp_path / "run") == results(alone)


def test_no_hard_link_and_no_soft_one_is_needed(tmp_path, teacher, alone, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for name in ("link", "symlink"):
        monkeypatch.setattr(os, name, refuse)
    distill({**SPEC, "teacher": teacher}, tmp_path / "run")
    assert results(tmp_path / "run") == results(alone)


def test_a_file_system_without_locks_is_one_line(tmp_path, teacher, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert main(["distill", "--spec", as_json({**SPEC, "teacher": teacher}), "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("cannot be locked (No locks available); use a file system with locks")


def test_a_network_that_is_replaced_while_it_is_read(tmp_path, teacher, alone, monkeypatch):
    """A reader that has a file open goes on with the old one; what was opened by name later is the new one, whole."""
    copy = tmp_path / "teacher.safetensors"
    copy.write_bytes(Path(teacher).read_bytes())
    with open(copy, "rb") as reader:
        start = reader.read(1000)
        distill({**SPEC, "teacher": str(copy)}, tmp_path / "run")
        replacement = tmp_path / "new"
        replacement.write_bytes(b"\x00" * 10)
        os.replace(replacement, copy)
        assert start + reader.read() == Path(teacher).read_bytes()
    assert results(tmp_path / "run") == results(alone)
