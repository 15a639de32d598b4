"""Files in the cache: hashed once in a run, forgotten by name, kept by an interrupt, of use to all who read them."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sida.assets.cache import LOCK_FILE, describe_asset, fetch, verify_asset
from sida.assets.registry import Asset
from sida.config.resources import ROOT
from sida.sampling.job import network_file
from tests.assets.fault_server import BODY, HASTY, SHA, get, one, records, using, write_registry
from tests.refused import command, refusal, refused
from tests.workflow.workspace import heed_interrupts


def test_a_damaged_lock_is_one_line(site, tmp_path):
    (tmp_path / LOCK_FILE).write_text('{"some/net.pkl": {"sha256": "x"}}')
    assert refused("damaged", get, one(site.add("f", BODY)), tmp_path).place == str(tmp_path / LOCK_FILE)


@pytest.fixture
def registry(site, tmp_path, monkeypatch):
    """A registry file and a cache of the command's own."""
    row = {"id": "net", "kind": "network", "url": site.add("f", BODY), "target": "some/net.pkl"}
    path = write_registry(tmp_path / "assets.tsv", row)
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIDA_ASSETS", str(path))
    return path


def test_rot_without_a_new_time_is_found_at_the_first_use_in_a_run_and_after_each_change(
    registry, tmp_path, monkeypatch
):
    """A byte changed as by a disk, which changes no time; the networks of a row are looked at, too."""
    cache, path = tmp_path / "cache", fetch("net", transfer=HASTY)
    path.write_bytes(b"X" + path.read_bytes()[1:])
    record = records(cache)["some/net.pkl"]
    for change in (
        lambda: path.chmod(0o600),
        lambda: (path.rename(tmp_path / "x"), shutil.copy2(tmp_path / "x", path)),
        lambda: monkeypatch.setenv("SIDA_RUN_STARTED", str(time.time())),
    ):
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        (cache / LOCK_FILE).write_text(json.dumps({"some/net.pkl": {**record, "stamp": stamp}}))
        # Hashed in this run already: it is not read again.
        fetch("net")
        change()
        for use in (lambda: fetch("net"), lambda: network_file("net"), lambda: network_file(str(path))):
            refused(r"net\.pkl: has the sha256 .* is recorded in assets\.lock", use)


FETCH, FORGET = (("assets", verb, "net") for verb in ("fetch", "forget"))


def test_a_wrong_first_hash_is_forgotten_by_name(registry, site, tmp_path):
    path = tmp_path / "cache/some/net.pkl"
    site.pages["/f"].body = b"the wrong file"
    command(*FETCH)
    site.pages["/f"].body = BODY
    path.unlink()
    assert "sida assets forget net" in refusal(command, *FETCH)
    assert "net: forgotten" in command(*FORGET)
    command(*FETCH)
    assert verify_asset("net") == SHA
    # What can be fetched again goes with its record; names are asked for.
    command(*FORGET)
    assert not path.exists()
    assert "nothing is known of it" in command(*FORGET)
    assert "name ids" in refusal(command, *FORGET[:-1])


def test_a_file_put_by_hand_is_checked_recorded_and_kept_when_its_hash_is_forgotten(registry, tmp_path):
    row = {"id": "net", "kind": "network", "target": "some/net.pkl", "source": "the authors' drive"}
    write_registry(registry, row)
    path = tmp_path / "cache/some/net.pkl"
    assert f"get it from the authors' drive and put it at {path}" in refusal(command, *FETCH)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<html>Sorry")
    assert "net.pkl: is a text" in refusal(command, *FETCH)
    path.write_bytes(b"first")
    command(*FETCH)
    path.write_bytes(BODY)
    assert "assets.lock" in refusal(command, *FETCH)
    command(*FORGET)
    command(*FETCH)
    assert records(tmp_path / "cache")["some/net.pkl"]["sha256"] == SHA
    refused("registered", get, one("", sha256="1" * 64), tmp_path / "cache")


@pytest.mark.parametrize("fault", [("stall", 1000, 100), ("slow", 1000, 0.02)], ids=["silent servers", "slow ones"])
def test_the_first_interrupt_ends_downloads_and_keeps_what_arrived(site, tmp_path, fault):
    names = ["a", "b"]
    rows = [{"id": n, "kind": "network", "url": site.add(n, BODY, faults=[fault]), "target": n} for n in names]
    registry, cache = write_registry(tmp_path / "assets.tsv", *rows), tmp_path / "cache"
    command = [sys.executable, "-m", "sida", "assets", "fetch", *names]
    environment = {**os.environ, "SIDA_CACHE": str(cache), "SIDA_ASSETS": str(registry)}

    options = {"stderr": subprocess.PIPE, "text": True, "preexec_fn": heed_interrupts}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **options) as process:
        deadline = time.monotonic() + 300
        # What a silent server sent is not in the file before more of it comes.
        least = 0 if fault[0] == "stall" else 1000
        while not any(part.stat().st_size >= least for part in cache.glob("*.part")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().count("interrupted; run the same command again") == 1
    assert not site.asked("b")
    kept = {path.stem: path.stat().st_size for path in cache.glob("*.part")}
    assert not [path for path in cache.iterdir() if path.name in names]
    for page in site.pages.values():
        page.faults.clear()
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert all((cache / name).read_bytes() == BODY for name in names)
    asked = [site.asked(name)[-1] for name in kept if kept[name]]
    assert asked == [f"bytes={size}-" for size in kept.values() if size]
    assert asked or fault[0] == "stall"


@contextlib.contextmanager
def nobody_may_write(folder: Path):
    """A folder that this process can only read: as another user where it is root, whom no mode stops."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    # Its module may lie where only the owner reads, and a codec that was not found is never looked for again.
    codecs.lookup("utf-8-sig")
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture
def cache():
    """A folder that other users can reach; pytest's are private."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


def test_a_filled_cache_is_of_use_to_those_who_cannot_write_it(site, cache):
    registry = {
        "net": Asset(id="net", kind="network", url=site.add("f", BODY), target="some/net.pkl"),
        "known": Asset(id="known", kind="network", url="", sha256=SHA, target="known.pkl"),
        "hand": Asset(id="hand", kind="network", url="", target="hand.pkl"),
        "gone": Asset(id="gone", kind="network", url=site.add("g", BODY), target="gone.pkl"),
    }
    path = get(registry, cache)
    shutil.rmtree(cache / ".locks")
    for name in ("known", "hand"):
        (cache / f"{name}.pkl").write_bytes(BODY)
    before = sorted(cache.rglob("*"))
    with nobody_may_write(cache), using(registry, cache):
        for name in ("net", "known", "hand"):
            assert fetch(name).read_bytes() == BODY
            assert verify_asset(name) == SHA
            assert describe_asset(registry[name])["sha256"] == SHA
        refused(r"cache cannot be written .*set SIDA_CACHE", fetch, "gone")
    assert sorted(cache.rglob("*")) == before
    # A damaged file is found there as well; also one whose time was lost on the way to the shared place.
    path.write_bytes(b"X" + BODY[1:])
    with nobody_may_write(cache):
        refused(LOCK_FILE, get, registry, cache)
