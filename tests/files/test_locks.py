"""File systems whose locks fail, as those of some networks: one line with the place, and nothing is lost."""

import errno
import fcntl
import hashlib
import os

import pytest

from sida.assets import Asset, fetch
from sida.cli.main import main
from sida.errors import UserError
from tests.refused import refusing
from workflow.launch import PoolError, take
from workflow.start import PresetLock

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
    with pytest.raises(UserError, match=r"the cache cannot be locked \(.*SIDA_CACHE") as caught:
        fetch("net", registry={"net": asset}, cache=tmp_path)
    assert without_locks in str(caught.value)
    (tmp_path / "x.pkl").write_bytes(CONTENT)
    assert fetch("net", registry={"net": asset}, cache=tmp_path) == tmp_path / "x.pkl"
    (tmp_path / "x.pkl").write_bytes(CONTENT[::-1])
    with pytest.raises(UserError, match=r"x\.pkl"):
        fetch("net", registry={"net": asset}, cache=tmp_path)


def test_images_stay_where_they_cannot_be_put_together(without_locks, tmp_path, capsys, monkeypatch):
    command = ["sample", "--sampler", "data", "--dataset", "digits", "--seeds", "0-5", "--shard-size", "3"]
    command += ["--out", str(tmp_path / "x.npz")]
    assert main(command) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path}/x.npz: cannot be locked ({without_locks})")
    assert list(tmp_path.rglob("shard-*.npz"))
    monkeypatch.undo()
    assert main(command) == 0
    assert (tmp_path / "x.npz").is_file()


def test_neither_shared_gpus_nor_results_can_be_taken(without_locks, tmp_path):
    with pytest.raises(PoolError, match=rf"{tmp_path}: .*SIDA_GPU_LOCKS"):
        take("0,1", 1, tmp_path)
    with refusing(rf"\.workflow\.lock: .*{without_locks}.*file system with locks"):
        PresetLock(tmp_path / "results", ["snakemake"]).take()
