"""Servers that crawl, never end, or lead elsewhere: each download ends in one line, in time, with few bytes."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time

import pytest

from sida.assets import Transfer
from sida.assets.download import HopelessError, open_url
from sida.assets.registry import asset_at, load_registry
from sida.errors import UserError
from tests.assets.fault_server import get, one, write_registry

WINDOW = 0.3
HASTY = Transfer(attempts=2, backoff=0.0, timeout=WINDOW, window=WINDOW, least=1 << 16, quiet=True)
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "interim answers": (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 1000),
    "chunk extensions": (CHUNKED + b"1;", b"x" * 65536),
    "the body of a redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: /f\r\nTransfer-Encoding: chunked\r\n\r\n", b"400\r\n" + b"x" * 1024 + b"\r\n"
    ),
}  # fmt: skip
SLOW = {
    "headers": (OK, b"a"),
    "the body": (OK + b"Content-Length: 1000000\r\n\r\n", b"x" * 64),
    "chunk extensions": (CHUNKED, b"1;" + b"x" * 30 + b"\r\nx\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"a: b\r\n"),
}


@contextlib.contextmanager
def raw_server(first: bytes, then: bytes, pause: float):
    """Answers up to 20 connections, each for up to a minute: ``first``, and ``then`` again and again."""
    listener = socket.create_server(("127.0.0.1", 0))
    sent: list[int] = []
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(1)
            connection.recv(1 << 16)
            connection.sendall(first)
            until = time.monotonic() + 60
            while time.monotonic() < until and not ended.wait(pause):
                connection.sendall(then)
                sent.append(len(then))

    def listen() -> None:
        for _ in range(20):
            with contextlib.suppress(OSError):
                threading.Thread(target=answer, args=[listener.accept()[0]], daemon=True).start()
            if ended.is_set():
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/f", sent
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(2)


@pytest.mark.parametrize(
    ("answer", "pause", "reason"),
    [*((answer, 0.0, r"sends less than|redirects|LineTooLong") for answer in ENDLESS.values()),
     *((answer, WINDOW / 10, r"less than .* \(2 attempts\)") for answer in SLOW.values())],
    ids=[*(f"endless {name}" for name in ENDLESS), *(f"slow {name}" for name in SLOW)],
)  # fmt: skip
def test_an_answer_without_end_or_one_that_crawls_ends(tmp_path, answer, pause, reason):
    began = time.monotonic()
    with raw_server(*answer, pause) as (url, sent), pytest.raises(UserError, match=reason):
        get(one(url), tmp_path, HASTY)
    assert time.monotonic() - began < 30
    assert sum(sent) < 100 << 20


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
        (["https://a.org:99999/g"], "no valid host or port"),
        (["file:///etc/passwd"], "must be https"),
        (["https://a..b/g"], "no valid host"),
        (["/g"] * 30, "redirects"),
    ],
)
def test_a_redirect_keeps_https_and_leads_to_an_address(locations, fault):
    with pytest.raises(HopelessError, match=fault):
        open_url(Answers(*locations), "https://a.org/f", {}, 1)


ADDRESSES = [
    "https://host:99999/x", "https://host:0/x", "https://host:a/x", "https://[::1/x", "https://[1:2/x", "https://]/x",
    "https://a..b/x", "https://-a/x", "https://.../x", "https://300.1.1.1/x", f"https://{'a' * 64}/x", "https://:80/x",
    "hf://a/..@../evil/net.pkl", "hf://../b/net.pkl", "hf://a/b@../net.pkl", "hf://a/./net.pkl",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_can_never_work_is_refused_before_it_is_asked(tmp_path, address):
    with pytest.raises(UserError) as caught:
        asset_at(address)
    assert str(caught.value).startswith(f"'{address}'")
    if address.startswith("https"):
        row = {"id": "net", "kind": "network", "url": address, "target": "net.pkl"}
        write_registry(tmp_path / "assets.tsv", row)
        with pytest.raises(UserError, match=r"assets.tsv:2: "):
            load_registry(tmp_path / "assets.tsv")


@pytest.mark.parametrize(
    "address", ["https://a.b-c.org:8443/x", "https://[::1]:80/x", "https://10.0.0.1/x", "https://h/x"]
)
def test_good_addresses_are_taken(address):
    assert asset_at(address).url == address


def test_a_part_that_is_a_link_is_not_followed(site, tmp_path):
    mine = tmp_path / "mine"
    mine.write_bytes(b"precious")
    for name in ("net.pkl.part", "net.pkl.part.json"):
        (tmp_path / "cache/some").mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache/some" / name).symlink_to(mine)
    path = get(one(site.add("f", b"x" * 1000)), tmp_path / "cache", HASTY)
    assert path.read_bytes() == b"x" * 1000
    assert not path.is_symlink()
    assert mine.read_bytes() == b"precious"
