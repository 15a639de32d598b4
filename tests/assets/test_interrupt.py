"""Ctrl-C ends downloads at the first time of asking, and a shared cache that nobody may write is of use."""

from __future__ import annotations

import codecs
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from sida.assets import Asset, Transfer, fetch, fetch_many, verify_asset
from sida.assets.cache import LOCK_FILE
from sida.assets.fetch import describe_asset
from sida.config.resources import ROOT
from sida.errors import UserError
from tests.assets.fault_server import BODY, SHA, write_registry
from tests.signals import heed_interrupts


@pytest.mark.parametrize("fault", [("stall", 1000, 100), ("slow", 1000, 0.02)], ids=["silent servers", "slow ones"])
def test_the_first_interrupt_ends_parallel_downloads_and_keeps_what_arrived(site, tmp_path, fault):
    names = ["a", "b", "c", "d"]
    rows = [{"id": n, "kind": "network", "url": site.add(n, BODY, faults=[fault]), "target": n} for n in names]
    registry, cache = write_registry(tmp_path / "assets.tsv", *rows), tmp_path / "cache"
    command = [sys.executable, "-m", "sida", "assets", "fetch", *names, "--parallel", "3", "--registry", str(registry)]
    environment = {**os.environ, "SIDA_CACHE": str(cache)}

    options = {"stderr": subprocess.PIPE, "text": True, "preexec_fn": heed_interrupts}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **options) as process:
        deadline = time.monotonic() + 300
        # What a silent server sent is not in the file before more of it comes.
        least = 0 if fault[0] == "stall" else 1000
        while site.most_active < 3 or sum(part.stat().st_size >= least for part in cache.glob("*.part")) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().count("interrupted; run the same command again") == 1
    assert not site.asked("d")
    kept = {path.stem: path.stat().st_size for path in cache.glob("*.part")}
    assert not [path for path in cache.iterdir() if path.name in names]
    for page in site.pages.values():
        page.faults.clear()
    subprocess.run([*command, "--quiet"], cwd=ROOT, env=environment, check=True, capture_output=True)
    assert all((cache / name).read_bytes() == BODY for name in names)
    asked = [site.asked(name)[-1] for name in kept if kept[name]]
    assert asked == [f"bytes={size}-" for size in kept.values() if size]
    assert asked or fault[0] == "stall"


def test_an_interrupt_in_this_process_lets_no_download_finish_later(site, tmp_path):
    registry = {
        n: Asset(id=n, kind="network", url=site.add(n, BODY, faults=[("slow", 10_000, 0.03)]), target=n) for n in "ab"
    }

    main = threading.main_thread().ident
    threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        fetch_many(["a", "b"], registry=registry, cache=tmp_path, transfer=Transfer(quiet=True))
    time.sleep(1.2)
    assert sorted(path.name for path in tmp_path.glob("?")) == []


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
    path = fetch("net", registry=registry, cache=cache, transfer=Transfer(quiet=True))
    shutil.rmtree(cache / ".locks")
    for name in ("known", "hand"):
        (cache / f"{name}.pkl").write_bytes(BODY)
    before = sorted(cache.rglob("*"))
    with nobody_may_write(cache):
        for name in ("net", "known", "hand"):
            assert fetch(name, registry=registry, cache=cache).read_bytes() == BODY
            assert verify_asset(name, registry=registry, cache=cache) == SHA
            assert describe_asset(registry[name], cache)["sha256"] == SHA
        with pytest.raises(UserError, match=r"cache cannot be written .*set SIDA_CACHE"):
            fetch("gone", registry=registry, cache=cache)
    assert sorted(cache.rglob("*")) == before
    # A damaged file is found there as well; also one whose time was lost on the way to the shared place.
    path.write_bytes(b"X" + BODY[1:])
    with nobody_may_write(cache), pytest.raises(UserError, match=LOCK_FILE):
        fetch("net", registry=registry, cache=cache)
