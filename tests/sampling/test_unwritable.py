"""Targets that cannot be written are one line, whichever command meets them."""

import errno
import os

import pytest

from sida.cli.main import main
from sida.errors import UserError
from sida.files.atomic import atomic_path
from sida.networks import build_network
from sida.networks.file import save_network
from tests.files.genuine import write_genuine
from tests.networks.made import SMALL


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = build_network({"class": "EDMPrecond", "kwargs": SMALL}).eval()
    save_network(net, tmp_path / "net.safetensors", {})
    write_genuine(tmp_path / "net.pkl", net)
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    return net


def failed(command, capsys):
    capsys.readouterr()
    assert main(command) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_folder_in_place_of_the_file_is_named(net, capsys):
    line = failed(["convert", "net.pkl", "folder"], capsys)
    assert "folder: is no ordinary file" in line
    assert os.listdir("folder") == []


def test_a_full_disk_is_named(net, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in failed(["convert", "net.pkl", "out.safetensors"], capsys)
    assert not os.path.exists("out.safetensors")
    assert not [name for name in os.listdir() if ".tmp" in name]


def test_other_faults_keep_their_traceback(net, monkeypatch):
    def odd(descriptor):
        raise OSError(errno.EBADF, "a mistake of the program")

    monkeypatch.setattr(os, "fsync", odd)
    with pytest.raises(OSError, match="a mistake of the program"):
        main(["convert", "net.pkl", "out.safetensors"])


def test_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no ordinary file"), atomic_path(tmp_path / "pipe"):
        pytest.fail("the block must not run")
    assert os.listdir(tmp_path) == ["pipe"]
