"""File systems whose locks fail, as those of some networks: one line with the place, and nothing is lost."""

import errno
import fcntl
import os
import shutil

import pytest

from sida.assets.cache import LOCK_FILE, fetch, verify_asset
from sida.assets.registry import Asset
from sida.workflow.commands.assets import describe_asset
from sida.workflow.launch import take
from sida.workflow.preset.lock import PresetLock
from tests.assets.fault_server import BODY, SHA, using
from tests.refused import command, refused

NO_LOCKS = os.strerror(errno.ENOLCK)


def refuse(*_):
    raise OSError(errno.ENOLCK, NO_LOCKS)


@pytest.mark.parametrize("fault", [NO_LOCKS, "File exists"])
def test_a_filled_cache_is_of_use_where_nothing_can_be_locked_or_written(fault, tmp_path, monkeypatch):
    facts = {"recorded": {}, "known": {"sha256": SHA}, "by hand": {}, "gone": {"url": "https://localhost/x"}}
    registry = {name: Asset(name, "network", target=name, **{"url": "", **more}) for name, more in facts.items()}
    *here, gone = registry
    for name in here:
        (tmp_path / name).write_bytes(BODY)
    with using(registry, tmp_path):
        fetch("recorded")
        record = (tmp_path / LOCK_FILE).read_bytes()
        if fault == NO_LOCKS:
            monkeypatch.setattr(fcntl, "flock", refuse)
        else:  # a folder's mode would not stop root
            shutil.rmtree(tmp_path / ".locks")
            (tmp_path / ".locks").touch()
        for name in here:
            assert fetch(name).read_bytes() == BODY
            assert verify_asset(name) == SHA
            assert describe_asset(registry[name])["sha256"] == SHA
        refused(rf"cache cannot be written and locked \({fault}\).*set SIDA_CACHE", fetch, gone)
        # A damaged file is found there as well; also one whose time was lost on the way to the shared place.
        for name, place in (("recorded", LOCK_FILE), ("known", "registered")):
            (tmp_path / name).write_bytes(b"X" + BODY[1:])
            refused(place, fetch, name)
        assert (tmp_path / LOCK_FILE).read_bytes() == record


def test_images_stay_where_they_cannot_be_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refuse)
    arguments = ["sample", "--sampler", "data", "--dataset", "digits", "--seeds", "0-5"]
    arguments += ["--out", tmp_path / "x.npz"]
    refused(rf"^{tmp_path}/x.npz: cannot be locked \({NO_LOCKS}\)", command, *arguments)
    assert list(tmp_path.rglob("*.parts/*.safetensors"))
    monkeypatch.undo()
    command(*arguments)
    assert (tmp_path / "x.npz").is_file()


def test_neither_shared_gpus_nor_results_can_be_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refuse)
    refused(rf"{tmp_path}: .*SIDA_GPU_LOCKS", take, "0,1", 1, tmp_path)
    lock = PresetLock(tmp_path / "results", ["snakemake"])
    refused(rf"results: .*{NO_LOCKS}.*file system with locks", lock.take)
