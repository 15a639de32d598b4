"""Downloads against a server with injected faults: what arrives is whole and right, or one line says why not."""

from __future__ import annotations

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sida.assets import Asset, Transfer, fetch_many
from sida.assets.cache import LOCK_FILE
from sida.assets.fetch import check_reachable
from sida.errors import UserError
from tests.assets.fault_server import BODY, HASTY, SHA, get, left_part, one


def test_a_file_is_fetched_once(site, tmp_path):
    registry = one(site.add("f", BODY))
    path = get(registry, tmp_path)
    assert path == tmp_path / "some/net.pkl"
    assert path.read_bytes() == BODY
    get(registry, tmp_path)
    assert len(site.requests) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["net.pkl"]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, len(BODY) - 1), max_size=4), known=st.booleans(), ranges=st.booleans())
def test_broken_connections_end_in_the_whole_file(site, tmp_path_factory, cuts, known, ranges):
    site.requests.clear()
    url = site.add("f", BODY, faults=[("cut", n) for n in cuts], ranges=ranges)
    path = get(
        one(url, sha256=SHA if known else ""),
        tmp_path_factory.mktemp("cache"),
        Transfer(attempts=6, backoff=0.0, timeout=2, quiet=True),
    )
    assert path.read_bytes() == BODY


def test_a_later_process_goes_on_where_an_earlier_one_stopped(site, tmp_path):
    url = site.add("f", BODY, faults=[("cut", 1000)] + [("status", 503)] * 3)
    with pytest.raises(UserError, match="answered 503"):
        get(one(url), tmp_path)
    assert get(one(url), tmp_path).read_bytes() == BODY
    assert site.asked("f")[-1] == "bytes=1000-"


def test_a_complete_part_of_a_killed_process_is_not_fetched_again(site, tmp_path):
    left_part(tmp_path, BODY)
    assert get(one(site.add("f", BODY), sha256=SHA), tmp_path).read_bytes() == BODY
    assert site.asked("f") == [f"bytes={len(BODY)}-"]


@pytest.mark.parametrize("known", [True, False], ids=["the hash is known", "it is not"])
def test_a_beginning_from_an_unknown_place_is_not_trusted(site, tmp_path, known):
    url = site.add("f", BODY, etag=not known)
    left_part(tmp_path, b"x" * 5000)
    assert get(one(url, sha256=SHA if known else ""), tmp_path).read_bytes() == BODY
    assert known or site.asked("f") == [None]


@pytest.mark.parametrize(
    "faults",
    [
        [("status", 500), ("status", 503, [("Retry-After", "0")])],
        [("slow", 100_000, 0.01)],
        [("stall", 1000, 1.5)],
        [("cut", 10), ("wrong range",)],
        [("wrong length", 10)],
    ],
    ids=["5xx", "slow", "stall", "wrong range", "longer than it is"],
)
def test_passing_faults_are_waited_out(site, tmp_path, faults):
    assert get(one(site.add("f", BODY, faults=faults), sha256=SHA), tmp_path).read_bytes() == BODY


def test_redirects_are_followed(site, tmp_path):
    target = site.add("target", BODY, faults=[("cut", 7777)])
    url = site.add("f", b"", faults=[("redirect", target), ("redirect", target)])
    assert get(one(url, sha256=SHA), tmp_path).read_bytes() == BODY
    assert site.asked("target") == [None, "bytes=7777-"]


@pytest.mark.parametrize(
    ("options", "registered", "reason"),
    [
        ({"faults": [("status", 404)]}, {}, "answered 404"),
        ({"faults": [("status", 500)] * 9}, {}, "answered 500"),
        ({"faults": [("web page",)]}, {}, "web page"),
        ({}, {"sha256": "0" * 64}, "wrong content"),
        ({}, {"size": 5}, "5 are registered"),
        ({"length": False}, {"size": len(BODY) - 1}, "more than the"),
        ({"length": False}, {"size": len(BODY) + 1}, "are registered"),
        ({"length": False}, {}, "the length of the file is unknown"),
        ({"faults": [("stall", 0, 3)] * 2}, {}, "connection failed"),
        ({"body": b""}, {}, "empty"),
    ],
)
def test_hopeless_files_are_refused_in_one_line_and_nothing_is_left(site, tmp_path, options, registered, reason):
    url = site.add("f", **{"body": BODY, **options})
    with pytest.raises(UserError, match=reason) as caught:
        get(one(url, **registered), tmp_path, Transfer(attempts=2, backoff=0.001, timeout=1, quiet=True))
    assert "net" in str(caught.value)
    assert not (tmp_path / "some/net.pkl").exists()


def test_mirrors_are_tried_in_order_and_may_finish_a_started_file(site, tmp_path):
    wrong = site.add("wrong", b"other" * 100)
    gone = site.add("gone", BODY, faults=[("status", 410)])
    breaks = site.add("breaks", BODY, faults=[("cut", 4000)] + [("status", 500)] * 9)
    mirrors = (gone, breaks, site.add("good", BODY))
    assert get(one(wrong, mirrors=mirrors, sha256=SHA), tmp_path).read_bytes() == BODY
    assert site.asked("good") == ["bytes=4000-"]


def test_a_file_put_by_hand_is_checked_and_recorded(tmp_path):
    registry = one("", source="the authors' drive")
    with pytest.raises(UserError, match=r"get it from the authors' drive and put it at .*some/net\.pkl"):
        get(registry, tmp_path)
    (tmp_path / "some").mkdir()
    (tmp_path / "some/net.pkl").write_bytes(BODY)
    get(registry, tmp_path)
    assert json.loads((tmp_path / LOCK_FILE).read_text())["some/net.pkl"]["sha256"] == SHA
    with pytest.raises(UserError, match="registered"):
        get(one("", sha256="1" * 64), tmp_path)


def test_offline_names_every_file_and_its_place_and_asks_nobody(site, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIDA_OFFLINE", "1")
    registry = {
        name: Asset(id=name, kind="extractor", url=site.add(name, BODY), target=f"x/{name}", size=len(BODY), sha256=SHA)
        for name in ("a", "b")
    }
    with pytest.raises(UserError, match="2 of 2 assets are missing"):
        fetch_many(["a", "b"], registry=registry, cache=tmp_path)
    said = capsys.readouterr()
    assert said.out == ""
    for name in ("a", "b"):
        assert (
            f"get it from {site.url}/{name} ({len(BODY):,} bytes, sha256 {SHA}) and put it at {tmp_path}/x/{name}"
            in said.err
        )
    assert site.requests == []


def test_two_jobs_fetch_a_file_once(site, tmp_path):
    registry = one(site.add("f", BODY, faults=[("slow", 40_000, 0.02)]))
    with ThreadPoolExecutor(4) as jobs:
        paths = list(jobs.map(lambda _: get(registry, tmp_path), range(4)))
    assert len(set(paths)) == 1
    assert site.asked("f") == [None]


def test_parallel_downloads_are_limited(site, tmp_path):
    names = [f"n{i}" for i in range(6)]
    slow = [("slow", 100_000, 0.02)]
    registry = {n: Asset(id=n, kind="network", url=site.add(n, BODY, faults=list(slow)), target=n) for n in names}
    paths = fetch_many(names, registry=registry, cache=tmp_path, transfer=HASTY, parallel=2)
    assert list(paths) == names
    assert all(path.read_bytes() == BODY for path in paths.values())
    assert site.most_active <= 2


def test_one_failure_does_not_stop_the_others(site, tmp_path):
    registry = {
        "bad": Asset(id="bad", kind="network", url=site.add("bad", BODY, faults=[("status", 404)]), target="bad"),
        "good": Asset(id="good", kind="network", url=site.add("good", BODY), target="good"),
    }
    with pytest.raises(UserError, match="'bad' could not be downloaded"):
        fetch_many(["bad", "good"], registry=registry, cache=tmp_path, transfer=HASTY)
    assert (tmp_path / "good").read_bytes() == BODY


@pytest.mark.parametrize("forbidden", [True, False])
def test_without_a_network_one_line_names_all_that_is_missing(tmp_path, monkeypatch, forbidden):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("SIDA_OFFLINE", "1" if forbidden else "")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # never listens: connections are refused
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        registry = {
            name: Asset(id=name, kind="network", url=f"{url}/{name}", target=f"x/{name}") for name in ("a", "b", "c")
        }
        (tmp_path / "x").mkdir()
        (tmp_path / "x/b").write_bytes(BODY)
        with pytest.raises(UserError, match=r"missing in .*: a c .*`sida assets fetch a c`"):
            check_reachable(["a", "b", "c"], registry=registry, cache=tmp_path)
        check_reachable(["b"], registry=registry, cache=tmp_path)


def test_a_host_is_asked_at_the_port_of_its_address(tmp_path, monkeypatch):
    asked = []
    monkeypatch.delenv("SIDA_OFFLINE", raising=False)
    module = sys.modules["sida.assets.fetch"]
    monkeypatch.setattr(module, "getproxies", dict)
    monkeypatch.setattr(module, "_accepts", lambda *host: asked.append(host))
    registry = one("http://a.example/f", mirrors=("https://b.example/f", "http://c.example:8000/f"))
    with pytest.raises(UserError, match="net"):
        check_reachable(["net"], registry=registry, cache=tmp_path)
    assert asked == [("a.example", 80), ("b.example", 443), ("c.example", 8000)]
