"""Downloads and their cache against a server with faults: what arrives is whole and right, or one line says why not."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sida.assets import cache, download
from sida.assets.cache import LOCK_FILE, fetch, fetch_many, verify_asset
from sida.assets.download import HopelessError, Transfer, open_url
from sida.assets.registry import Asset
from sida.config.lookup import ROOT
from sida.errors import PassingError
from sida.sampling.job import network_file
from tests.assets.fault_server import BODY, HASTY, SHA, get, records, use_registry, using, write_registry
from tests.refused import command, refusal, refused
from tests.workflow.workspace import heed_interrupts


def test_a_file_is_fetched_once_and_recorded(site, tmp_path, capsys):
    url = site.add("f", BODY)
    path = get(url, tmp_path)
    assert path == tmp_path / "some/net.pkl"
    assert path.read_bytes() == BODY
    assert f"[fetch net] first use: recorded sha256 {SHA}, {len(BODY):,} bytes of {url}" in capsys.readouterr().err
    record = records(tmp_path)["some/net.pkl"]
    assert (record["sha256"], record["size"], record["url"]) == (SHA, len(BODY), url)
    get(url, tmp_path)
    assert len(site.requests) == 1
    assert [p.name for p in path.parent.iterdir()] == ["net.pkl"]
    path.unlink()
    get(url, tmp_path)
    assert "first use" not in capsys.readouterr().err


@settings(max_examples=8)
@given(cuts=st.lists(st.integers(0, len(BODY) - 1), max_size=4), known=st.booleans(), ranges=st.booleans())
def test_broken_connections_end_in_the_whole_file(site, tmp_path_factory, cuts, known, ranges):
    site.requests.clear()
    url = site.add("f", BODY, faults=[("cut", n) for n in cuts], ranges=ranges)
    patient = Transfer(attempts=6, backoff=0.0, timeout=2)
    path = get(url, tmp_path_factory.mktemp("cache"), patient, sha256=SHA if known else "")
    assert path.read_bytes() == BODY


OTHER = b"x" * 5000


@pytest.mark.parametrize(
    ("part", "note", "known", "asked"),
    [
        (BODY, None, True, [f"bytes={len(BODY)}-"]),
        (OTHER, None, True, ["bytes=5000-", None]),
        (BODY + b"more", None, True, [f"bytes={len(BODY) + 4}-", None]),
        (OTHER, None, False, [None]),
        (OTHER, "[" * 100_000, False, [None]),
        (OTHER, 'URL\n"v1"\r\nX: 1', False, [None]),
    ],
    ids=["whole", "another beginning", "too long", "of an unknown file", "long note", "another header"],
)
def test_what_a_killed_process_left_is_checked(site, tmp_path, part, note, known, asked):
    url = site.add("f", BODY)
    (tmp_path / "some").mkdir()
    (tmp_path / "some/net.pkl.part").write_bytes(part)
    if note:
        (tmp_path / "some/net.pkl.part.etag").write_text(note.replace("URL", url))
    assert get(url, tmp_path, sha256=SHA if known else "").read_bytes() == BODY
    assert site.asked("f") == asked


def test_a_part_that_is_a_link_is_not_followed(site, tmp_path):
    mine = tmp_path / "mine"
    mine.write_bytes(b"precious")
    (tmp_path / "some").mkdir()
    for name in ("net.pkl.part", "net.pkl.part.etag"):
        (tmp_path / "some" / name).symlink_to(mine)
    path = get(site.add("f", BODY), tmp_path)
    assert path.read_bytes() == BODY
    assert not path.is_symlink()
    assert mine.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["strong", "weak", "none"])
@pytest.mark.parametrize("ignores", [True, False], ids=["the server ignores the condition", "it heeds it"])
def test_a_resumed_file_is_never_of_two_versions(site, tmp_path, name, ignores):
    """A server without strong names of versions gives the file anew."""
    newer, headers = bytes(reversed(BODY)), {"strong": {}, "weak": {"ETag": 'W/"v1"'}, "none": {"ETag": None}}[name]
    url = site.add("f", BODY, [("cut", 100_000)] + [("status", 503)] * 2, headers=headers)
    refused("", get, url, tmp_path)
    site.add("f", newer, [("any condition",), ("cut", 100_000)] if ignores else [], headers=headers)
    assert get(url, tmp_path).read_bytes() == newer
    assert records(tmp_path)["some/net.pkl"]["sha256"] == hashlib.sha256(newer).hexdigest()
    resumed = [wanted for wanted in site.asked("f") if wanted]
    assert resumed[:1] == (["bytes=34464-"] if name == "strong" else [])


def test_a_strong_name_of_two_versions_is_found_by_the_bytes_before_the_rest(site, tmp_path):
    newer, headers = BODY[:99_000] + bytes(reversed(BODY))[99_000:], {"ETag": '"one"'}
    url = site.add("f", BODY, [("cut", 100_000)] + [("status", 503)] * 2, headers=headers)
    refused("", get, url, tmp_path)
    site.add("f", newer, [("any condition",)], headers=headers)
    assert get(url, tmp_path).read_bytes() == newer
    assert site.asked("f")[-2:] == ["bytes=34464-", None]


PAGES = [
    b"\n <!DOCTYPE html><title>Log in</title>" + b" " * 5000,
    b"\xef\xbb\xbf<HTML><body>Sorry",
    b'{"error": "rate limit exceeded"}',
    b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 4\n",
]
LONG = b"x" * 500_000
UNKNOWN, CHUNKED = ({"headers": {"Content-Length": None, "Transfer-Encoding": kind}} for kind in (None, "chunked"))


@pytest.fixture(autouse=True)
def most(monkeypatch):
    """The limit of a file without registered size."""
    monkeypatch.setattr(download, "SIZE_LIMIT", 400_000)


@pytest.mark.parametrize(
    ("served", "registered", "reason"),
    [
        ({"faults": [("status", 404)]}, {}, "answered 404"),
        ({"faults": [("status", 200, ("Content-Type", "text/html"))]}, {}, "web page"),
        *(({"body": body}, {}, "instead of a file") for body in PAGES),
        ({"headers": {"Content-Encoding": "gzip"}}, {}, r"sends it compressed \(Content-Encoding: gzip\)"),
        ({}, {"sha256": "0" * 64}, "0000… is registered"),
        ({}, {"size": 5}, "5 are registered"),
        (UNKNOWN, {"size": len(BODY) - 1}, "more than"),
        (UNKNOWN, {"size": len(BODY) + 1}, "are registered"),
        (UNKNOWN, {}, "the length of the file is unknown"),
        ({"body": LONG}, {}, "without a registered size at most 400,000"),
        ({"body": LONG, "faults": [("endless",)], **CHUNKED}, {}, "more than 400,000 bytes"),
        ({"faults": [("stall", 0, 3)] * 2}, {}, "connection failed"),
        ({"body": b""}, {}, "has 0 bytes"),
        # Nothing was asked to continue.
        ({"faults": [("status", 416, ("Content-Range", "bytes */0"))] * 2}, {}, "another part"),
        ({"faults": [("status", 416, ("Content-Range", "bytes */0"))] * 2}, {"sha256": "0" * 64}, "another part"),
    ],
)
def test_hopeless_files_are_refused_in_one_line_and_nothing_is_left(site, tmp_path, served, registered, reason):
    url = site.add("f", **{"body": BODY, **served})
    transfer = Transfer(attempts=2, backoff=0.001, timeout=1)
    assert "net" in str(refused(reason, get, url, tmp_path, transfer, **registered))
    assert not (tmp_path / "some/net.pkl").exists()
    assert not (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize(
    ("faults", "absent"),
    [
        ([("status", 404)], "answered 404"),
        ([("status", 403, ("Content-Type", "text/html"))], "answered 403"),
        ([("status", 200, ("Content-Type", "text/html"))], "web page"),
        ([("status", 500)] * 9, ""),
        ([("status", 501)] * 9, ""),
        ([("cut", 10)] * 9, ""),
        ([("stall", 0, 1)] * 9, ""),
    ],
)
def test_a_file_that_no_server_has_is_told_from_one_that_may_come_later(site, tmp_path, faults, absent):
    asset = Asset("net", "network", site.add("f", BODY, faults=faults), "some/net.pkl")
    with using({"net": asset}, tmp_path):
        error = refused(absent, fetch, "net", Transfer(attempts=2, backoff=0.001, timeout=0.3))
        assert isinstance(error, PassingError) != bool(absent)
        answers = cache.absence(asset)
        assert bool(answers) == bool(absent)
        assert absent in answers
        site.add("f", BODY)
        fetch("net", HASTY)
        assert not cache.absence(asset)
        assert [path.name for path in (tmp_path / "some").iterdir()] == ["net.pkl"]


def test_a_mirror_that_may_answer_later_keeps_a_file_from_being_absent(site, tmp_path):
    gone, later = site.add("gone", BODY, [("status", 404)] * 9), site.add("later", BODY, [("status", 503)] * 9)
    asset = Asset("net", "network", gone, "some/net.pkl", mirrors=(later,))
    with using({"net": asset}, tmp_path):
        assert isinstance(refused("404.*503", fetch, "net", HASTY), PassingError)
        assert not cache.absence(asset)


@pytest.mark.parametrize(
    ("served", "target"),
    [
        ({"faults": [("status", 500), ("status", 503, ("Retry-After", "0"))]}, "net.pkl"),
        ({"faults": [("stall", 1000, 1.5)]}, "net.pkl"),
        ({"faults": [("cut", 10), ("wrong range",)]}, "net.pkl"),
        ({"faults": [("wrong length", 10)]}, "net.pkl"),
        ({"body": gzip.compress(BODY), "headers": {"Content-Encoding": "x-gzip"}}, "data/cifar.tar.gz"),
        ({"body": b'{"latent_channels": 4}'}, "vae/config.json"),
        ({"body": LONG[:400_000]}, "net.pkl"),
        ({"body": LONG[:400_000], **CHUNKED}, "net.pkl"),
    ],
)
def test_passing_faults_are_waited_out_and_what_looks_odd_and_is_the_file_is_taken(site, tmp_path, served, target):
    page = {"body": BODY, **served}
    assert get(site.add("f", **page), tmp_path, target=target).read_bytes() == page["body"]


def test_mirrors_are_tried_in_order_and_may_finish_a_started_file(site, tmp_path):
    wrong = site.add("wrong", b"other" * 100)
    gone = site.add("gone", BODY, faults=[("status", 410)])
    breaks = site.add("breaks", BODY, faults=[("cut", 4000)] + [("status", 500)] * 9)
    mirrors = (gone, breaks, site.add("good", BODY))
    assert get(wrong, tmp_path, mirrors=mirrors, sha256=SHA).read_bytes() == BODY
    assert site.asked("good") == ["bytes=4000-"]


def test_two_jobs_fetch_a_file_once(site, tmp_path):
    url = site.add("f", BODY, faults=[("slow", 40_000, 0.02)])
    with using({"net": Asset("net", "network", url, "net.pkl")}, tmp_path), ThreadPoolExecutor(4) as jobs:
        paths = list(jobs.map(lambda _: fetch("net", HASTY), range(4)))
    assert len(set(paths)) == 1
    assert site.asked("f") == [None]


@pytest.mark.parametrize("forbidden", [True, False])
def test_without_a_network_every_missing_file_is_named(site, tmp_path, monkeypatch, capsys, forbidden):
    asked, accepts = [], cache._accepts
    monkeypatch.setattr(cache, "_accepts", lambda *host: asked.append(host) or (host[1] == port and accepts(*host)))
    monkeypatch.setattr(cache, "getproxies", dict)
    monkeypatch.setenv("SIDA_OFFLINE", "1" if forbidden else "")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # never listens: connections are refused
        port = closed.getsockname()[1]
        url = site.url if forbidden else f"http://127.0.0.1:{port}"
        more = {"mirrors": ("https://127.0.0.2/f", "http://127.0.0.3/f"), "sha256": SHA}
        registry = {name: Asset(name, "network", f"{url}/{name}", target=f"x/{name}", **more) for name in "abc"}
        (tmp_path / "x").mkdir()
        (tmp_path / "x/b").write_bytes(BODY)
        with using(registry, tmp_path):
            for call in (cache.check_reachable, fetch_many):
                refused(rf"missing in {tmp_path}: a c .*`sida assets fetch a c`.* {url}/c as x/c", call, "abc")
            cache.check_reachable("b")
        if forbidden:
            many = {f"m{n}": Asset(f"m{n}", "network", url, target=f"x/m{n}") for n in range(10, 50)}
            with using(many, tmp_path):
                refused(r": m10 .* m15 and 34 more .*`downloads`.*`sida assets list`", cache.check_reachable, many)
    hosts = [("127.0.0.1", port), ("127.0.0.2", 443), ("127.0.0.3", 80)]
    assert asked == ([] if forbidden else 2 * hosts)
    assert capsys.readouterr().err == ""
    assert site.requests == []


def test_a_host_without_an_address_is_asked_for_once(tmp_path, monkeypatch, capsys):
    asked = []

    def unknown(*address, **_):
        asked.append(address[0])
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    url = "https://host.example/f"
    refused(rf"'net' .*network\?.* {url} .*{tmp_path}/some/net.pkl", get, url, tmp_path)
    assert asked == ["host.example"]
    assert "trying again" not in capsys.readouterr().err


def test_a_body_of_unknown_length_leaves_room_on_the_disk(site, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**29))
    refused("bytes are free", get, site.add("f", BODY, faults=[("endless",)] * 3, **CHUNKED), tmp_path)


def test_a_full_disk_is_no_fault_of_the_connection(site, tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(download, "write_text", Mock(side_effect=full))
    refused(r"net\.pkl\.part: No space left on device; free some", get, site.add("f", BODY), tmp_path)


class Answers:
    """Redirects, and what was asked for with which authorization."""

    def __init__(self, *locations: str) -> None:
        self.locations, self.asked = list(locations), []

    def __call__(self, request, timeout):
        self.asked.append(request.get_header("Authorization"))
        answer = io.BytesIO()
        answer.status = 302 if self.locations else 200
        answer.headers = {"Location": self.locations.pop(0)} if self.locations else {}
        return answer


def test_the_token_of_the_hub_goes_to_the_hub_over_https_alone(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    answers = Answers("https://cdn.org/g", "https://huggingface.co:8443/h", "https://huggingface.co.evil.org/i")
    open_url(answers, "https://huggingface.co/o/r/resolve/main/f", {}, 1)
    assert answers.asked == ["Bearer hf_secret", None, None, None]
    monkeypatch.setenv("HF_ENDPOINT", "http://huggingface.co")
    for url in ("http://huggingface.co/f", "https://other.org/f"):
        answers = Answers()
        open_url(answers, url, {}, 1)
        assert answers.asked == [None]


@pytest.mark.parametrize(
    ("locations", "fault"),
    [
        (["http://a.org/f"], "from https to http"),
        (["/g", "//b.org/g", "http://127.0.0.1/g"], "from https to http"),
        (["https://a.org:99999/g"], "valid host and port"),
        (["file:///etc/passwd"], "must be https"),
        (["https://a..b/g"], "valid host and port"),
        (["/g"] * 30, "redirects"),
    ],
)
def test_a_redirect_keeps_https_and_leads_to_an_address(locations, fault):
    with pytest.raises(HopelessError, match=fault):
        open_url(Answers(*locations), "https://a.org/f", {}, 1)


# Files in the cache: hashed once in a run, forgotten by name, kept by an interrupt


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.EROFS])
def test_files_of_the_cache_are_used_and_none_is_fetched_where_it_cannot_be_locked(site, tmp_path, monkeypatch, reason):
    """As on a file system without locks, or on one that may only be read."""
    url = site.add("f", BODY)
    get(url, tmp_path, sha256=SHA)
    monkeypatch.setattr(cache, "try_lock", Mock(side_effect=OSError(reason, os.strerror(reason))))
    assert get(url, tmp_path, sha256=SHA).read_bytes() == BODY
    refused("cannot be written and locked", get, url, tmp_path / "other", sha256=SHA)
    assert len(site.asked("f")) == 1


def test_a_damaged_lock_is_one_line(site, tmp_path):
    (tmp_path / LOCK_FILE).write_text('{"some/net.pkl": {"sha256": "x"}}')
    assert refused("damaged", get, site.add("f", BODY), tmp_path).where == str(tmp_path / LOCK_FILE)


@pytest.fixture
def registry(site, tmp_path, monkeypatch):
    """A registry file and a cache of the command's own."""
    row = {"id": "net", "kind": "network", "url": site.add("f", BODY), "target": "some/net.pkl"}
    return use_registry(monkeypatch, tmp_path, row)


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
    assert "without a record" in command(*FORGET)
    assert "name ids" in refusal(command, *FORGET[:-1])


def test_a_file_put_by_hand_is_checked_recorded_and_kept_when_its_hash_is_forgotten(registry, tmp_path):
    row = {"id": "net", "kind": "network", "target": "some/net.pkl", "source": "the authors' drive"}
    write_registry(registry, row)
    path = tmp_path / "cache/some/net.pkl"
    assert f"get it from the authors' drive and put it at {path}" in refusal(command, *FETCH)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<html>Sorry")
    assert "net.pkl: is a web page" in refusal(command, *FETCH)
    path.write_bytes(b"first")
    command(*FETCH)
    path.write_bytes(BODY)
    assert "assets.lock" in refusal(command, *FETCH)
    command(*FORGET)
    command(*FETCH)
    assert records(tmp_path / "cache")["some/net.pkl"]["sha256"] == SHA
    refused("registered", get, "", tmp_path / "cache", sha256="1" * 64)


@pytest.mark.parametrize("fault", [("stall", 1000, 100), ("slow", 1000, 0.02)], ids=["silent servers", "slow ones"])
def test_the_first_interrupt_ends_downloads_and_keeps_what_arrived(site, tmp_path, fault):
    names = ["a", "b"]
    known = {"kind": "network", "sha256": SHA}
    rows = [{"id": n, "url": site.add(n, BODY, faults=[fault]), "target": n, **known} for n in names]
    registry, cache = write_registry(tmp_path / "assets.tsv", *rows), tmp_path / "cache"
    command = [sys.executable, "-m", "sida.workflow", "assets", "fetch", *names]
    place = {"cwd": ROOT, "env": {**os.environ, "SIDA_CACHE": str(cache), "SIDA_ASSETS": str(registry)}}
    with subprocess.Popen(command, **place, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts) as process:
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
    kept = {path.stem: path.stat().st_size for path in cache.glob("*.part") if path.stat().st_size}
    assert kept or fault[0] == "stall"
    assert not [path for path in cache.iterdir() if path.name in names]
    for page in site.pages.values():
        page.faults.clear()
    subprocess.run(command, **place, check=True, capture_output=True)
    assert all((cache / name).read_bytes() == BODY for name in names)
    assert {name: site.asked(name)[-1] for name in kept} == {name: f"bytes={size}-" for name, size in kept.items()}
