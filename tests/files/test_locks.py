"""File systems whose locks fail, as those of some networks: one line with the place, and nothing is lost."""

import errno
import fcntl
import hashlib
import os

import pytest

from sida.assets.registry import Asset
from tests.assets.fault_server import get
from tests.refused import command, refused, refusing
from workflow.launch import take
from workflow.preset.lock import PresetLock

CONTENT = b"a network"


@pytest.fixture
def without_locks(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return os.strerror(errno.ENOLCK)


def test_files_of_the_cache_are_used_and_none_is_fetched(without_locks, tmp_path):
    asset = Asset(id="net", kind="network", url="https://localhost/x", target="x.pkl",
                  sha256=hashlib.sha256(CONTENT).hexdigest())  # fmt: skip
    told = rf"the cache cannot be written and locked \({without_locks}\).*SIDA_CACHE"
    refused(told, get, {"net": asset}, tmp_path)
    (tmp_path / "x.pkl").write_bytes(CONTENT)
    assert get({"net": asset}, tmp_path) == tmp_path / "x.pkl"
    (tmp_path / "x.pkl").write_bytes(CONTENT[::-1])
    refused(r"x\.pkl", get, {"net": asset}, tmp_path)


def test_images_stay_where_they_cannot_be_put_together(without_locks, tmp_path, monkeypatch):
    arguments = ["sample", "--sampler", "data", "--dataset", "digits", "--seeds", "0-5", "--shard-size", "3"]
    arguments += ["--out", tmp_path / "x.npz"]
    with refusing(rf"^{tmp_path}/x.npz: cannot be locked \({without_locks}\)"):
        command(*arguments)
    assert list(tmp_path.rglob("shard-*.npz"))
    monkeypatch.undo()
    command(*arguments)
    assert (tmp_path / "x.npz").is_file()


def test_neither_shared_gpus_nor_results_can_be_taken(without_locks, tmp_path):
    with refusing(rf"{tmp_path}: .*SIDA_GPU_LOCKS"):
        take("0,1", 1, tmp_path)
    with refusing(rf"results: .*{without_locks}.*file system with locks"):
        PresetLock(tmp_path / "results", ["snakemake"]).take()
