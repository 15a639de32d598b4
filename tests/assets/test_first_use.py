"""Files whose hash nobody knows: what is recorded at first use is the file that the server has, whole and unpacked."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import sys
import time
from datetime import date
from pathlib import Path

import pytest

from sida.assets import Transfer, fetch, verify_asset
from sida.assets.cache import LOCK_FILE
from sida.assets.download import Part
from sida.errors import UserError
from sida.files.atomic import sha256_file
from tests.assets.fault_server import BODY, HASTY, SHA, get, left_part, one, write_registry
from tests.readers.frame import command, refused


def records(cache: Path) -> dict:
    return json.loads((cache / LOCK_FILE).read_text())


@pytest.mark.parametrize(
    ("etag", "faults"),
    [(True, []), (False, []), (True, [("any condition",)])],
    ids=["the server names another version", "it names none", "it ignores the condition"],
)
def test_a_resumed_file_is_never_of_two_versions(site, tmp_path, etag, faults):
    newer = bytes(reversed(BODY))
    url = site.add("f", BODY, faults=[("cut", 5000)] + [("status", 503)] * 3, etag=etag)
    with pytest.raises(UserError):
        get(one(url), tmp_path)
    site.add("f", newer, faults=faults, etag=etag)
    assert get(one(url), tmp_path).read_bytes() == newer
    assert records(tmp_path)["some/net.pkl"]["sha256"] == hashlib.sha256(newer).hexdigest()


@pytest.mark.parametrize("name", ["md5", "sha256", "words"])
def test_one_etag_for_two_versions_makes_no_mixture(site, tmp_path, name):
    newer = bytes(reversed(BODY))
    etag = hashlib.new(name, BODY).hexdigest() if name != "words" else "v1"
    options = {"etag": False, "headers": {"ETag": f'"{etag}"'}}
    url = site.add("f", BODY, faults=[("cut", 5000)] + [("status", 503)] * 3, **options)
    with pytest.raises(UserError):
        get(one(url), tmp_path)
    # The same name again, continued whatever the condition says.
    site.add("f", newer, faults=[("any condition",), ("cut", 100_000), ("cut", 200_000)], **options)
    assert get(one(url), tmp_path).read_bytes() == newer
    # A download is resumed where the server's name of the version can be checked, and begins anew where it cannot.
    resumed = [wanted for wanted in site.asked("f") if wanted]
    assert resumed[0:1] == ([] if name == "words" else ["bytes=5000-"])


@pytest.mark.parametrize(
    ("text", "size", "fault"),
    [
        ("[" * 100_000, 100_000, "damaged"),
        ('{"some/net.pkl": {"sha256": "x"}}', 33, "damaged"),
        ("{}", 1 << 40, "is larger than"),
    ],
    ids=["nested", "no hash", "huge"],
)
def test_a_damaged_lock_is_one_line(site, tmp_path, text, size, fault):
    (tmp_path / LOCK_FILE).write_text(text)
    os.truncate(tmp_path / LOCK_FILE, size)
    with pytest.raises(UserError, match=fault) as caught:
        get(one(site.add("f", BODY)), tmp_path)
    assert caught.value.place == str(tmp_path / LOCK_FILE)


@pytest.mark.parametrize(
    "note",
    [
        "[" * 100_000, json.dumps({"url": "http://x/f", "a": [[]] * 200_000}), "3",
        '{"url": 3, "digest": []}', '{"url": 3, "digest": "a\\nb"}',
    ],
    ids=["nested", "long", "a number", "other types", "a line end"],
)  # fmt: skip
def test_a_part_with_a_damaged_note_begins_anew(site, tmp_path, note):
    url = site.add("f", BODY)
    left_part(tmp_path, b"x" * 5000, note.replace("3, ", f'"{url}", ', 1))
    assert Part(tmp_path / "some/net.pkl").origin == {}
    assert get(one(url), tmp_path).read_bytes() == BODY


def test_a_compressed_body_is_refused_and_a_mirror_taken(site, tmp_path):
    packed = site.add("packed", gzip.compress(BODY), headers={"Content-Encoding": "gzip"})
    with pytest.raises(UserError, match=r"sends it compressed \(Content-Encoding: gzip\)"):
        get(one(packed), tmp_path)
    assert not (tmp_path / "some/net.pkl").exists()
    assert get(one(packed, mirrors=(site.add("plain", BODY),)), tmp_path).read_bytes() == BODY


def test_the_encoding_of_a_file_that_is_itself_compressed_is_its_own(site, tmp_path):
    body = gzip.compress(BODY)
    url = site.add("f", body, headers={"Content-Encoding": "x-gzip"})
    assert get(one(url, "data/cifar.tar.gz"), tmp_path).read_bytes() == body


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\n <!DOCTYPE html><title>Log in</title>" + b" " * 5000, "a web page"),
        (b"\xef\xbb\xbf<HTML><body>Sorry", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
        (b'{"error": "rate limit exceeded"}', "a message in JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 4\n", "a pointer of Git LFS"),
    ],
)
def test_a_page_in_the_place_of_the_file_is_refused_without_a_content_type(site, tmp_path, body, reason):
    with pytest.raises(UserError, match=f"{reason} instead of the file"):
        get(one(site.add("f", body)), tmp_path)
    assert not (tmp_path / LOCK_FILE).exists()
    (tmp_path / "some/net.pkl").write_bytes(body)
    with pytest.raises(UserError, match=f"net.pkl: is {reason}"):
        get(one(""), tmp_path)


def test_json_and_text_that_are_the_file_are_taken(site, tmp_path):
    body = b'{"latent_channels": 4}'
    assert get(one(site.add("f", body), "vae/config.json"), tmp_path).read_bytes() == body


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_without_an_end_stops_at_the_largest_size(site, tmp_path, chunked):
    faults = [("endless",)] * 3 if chunked else []
    url = site.add("f", b"x" * 100_000, faults=faults, chunked=chunked)
    patience = Transfer(attempts=2, backoff=0.001, timeout=0.5, quiet=True, largest=90_000)
    with pytest.raises(UserError, match=r"90,000 bytes.*SIDA_MAX_DOWNLOAD"):
        get(one(url), tmp_path, patience)
    assert site.sent < 20_000_000
    assert get(one(site.add("g", b"x" * 90_000, chunked=chunked)), tmp_path, patience).stat().st_size == 90_000


def test_a_body_of_unknown_length_leaves_room_on_the_disk(site, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**29))
    with pytest.raises(UserError, match="bytes are free"):
        get(one(site.add("f", BODY, faults=[("endless",)] * 3, chunked=True)), tmp_path)


def test_first_use_says_what_it_recorded(site, tmp_path, capsys):
    url = site.add("f", BODY)
    get(one(url), tmp_path)
    said = capsys.readouterr().err
    assert f"[fetch net] first use: recorded sha256 {SHA}, {len(BODY):,} bytes of {url}" in said
    record = records(tmp_path)["some/net.pkl"]
    assert (record["sha256"], record["size"], record["url"]) == (SHA, len(BODY), url)
    assert record["date"].startswith(str(date.today().year))
    get(one(url), tmp_path)
    (tmp_path / "some/net.pkl").unlink()
    get(one(url), tmp_path)
    get(one(site.add("g", BODY), "other.pkl", sha256=SHA), tmp_path)
    assert "first use" not in capsys.readouterr().err


@pytest.fixture
def registry(site, tmp_path, monkeypatch):
    """A registry file and a cache of the command's own."""
    row = {"id": "net", "kind": "network", "url": site.add("f", BODY), "target": "some/net.pkl"}
    path = write_registry(tmp_path / "assets.tsv", row)
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIDA_ASSETS", str(path))
    return path


def rot(cache: Path) -> Path:
    """Changes a byte of the cached file as a disk does, which changes no time."""
    path = cache / "some/net.pkl"
    path.write_bytes(b"X" + path.read_bytes()[1:])
    found, status = records(cache), path.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    (cache / LOCK_FILE).write_text(json.dumps({"some/net.pkl": {**found["some/net.pkl"], "stamp": stamp}}))
    return path


def test_rot_without_a_new_time_is_found_at_the_first_use_in_a_run(registry, tmp_path, monkeypatch):
    from eval.features import get_extractor
    from eval.measuring.protocol import load_protocol
    from eval.measuring.references import load_references
    from sida.sampling.job import network_file

    fetch("net", transfer=HASTY)
    path = rot(tmp_path / "cache")
    # Hashed in this run already: it is not read again.
    fetch("net")
    monkeypatch.setenv("SIDA_RUN_STARTED", str(time.time()))
    reference = {"r": {"kind": "statistics", "file": "net.pkl"}}
    metric = {"key": "fid", "kind": "frechet", "extractor": "pixels", "reference": "r", "label": "FID"}
    protocol = load_protocol(
        {"name": "p", "title": "P", "resolution": 8, "channels": 1, "num_samples": 9, "trials": 1,
         "references": reference, "metrics": [metric]}
    )  # fmt: skip
    for use in (
        lambda: fetch("net"),
        lambda: network_file("net"),
        lambda: network_file(str(path)),
        lambda: get_extractor("inception", path=str(path)),
        lambda: get_extractor("dinov2", weights=str(path)),
        lambda: load_references(protocol, {}, {"r": str(path)}),
    ):
        with pytest.raises(UserError, match=r"net\.pkl: its sha256 .* is not the one in assets\.lock"):
            use()
    for source in ("net", path):
        refused(command, "sida", "convert", source, tmp_path / "out.safetensors")


def test_a_file_is_hashed_once_in_a_run_and_when_its_inode_or_times_change(registry, tmp_path, monkeypatch):
    hashed = []
    inner = sha256_file
    monkeypatch.setattr(
        sys.modules["sida.assets.fetch"], "sha256_file", lambda path: hashed.append(path) or inner(path)
    )
    path = fetch("net", transfer=HASTY)
    for change in (
        lambda: None,
        lambda: None,
        lambda: path.chmod(0o600),
        lambda: (path.rename(tmp_path / "x"), shutil.copy2(tmp_path / "x", path)),
        lambda: monkeypatch.setenv("SIDA_RUN_STARTED", str(time.time())),
        lambda: None,
    ):
        change()
        fetch("net")
    assert len(hashed) == 3


FETCH, FORGET = (("sida", "assets", verb, "net") for verb in ("fetch", "forget"))


def test_a_wrong_first_hash_is_forgotten_by_name(registry, site, tmp_path):
    path = tmp_path / "cache/some/net.pkl"
    site.pages["/f"].body = b"the wrong file"
    command(*FETCH)
    site.pages["/f"].body = BODY
    path.unlink()
    assert "sida assets forget net" in refused(command, *FETCH)
    assert "net: forgotten" in command(*FORGET)
    command(*FETCH)
    assert verify_asset("net", cache=tmp_path / "cache") == SHA
    # What can be fetched again goes with its record; names are asked for.
    command(*FORGET)
    assert not path.exists()
    assert "nothing is known of it" in command(*FORGET)
    assert "name ids" in refused(command, *FORGET[:-1])


def test_a_file_put_by_hand_survives_that_its_hash_is_forgotten(registry, tmp_path):
    write_registry(registry, {"id": "net", "kind": "network", "target": "some/net.pkl", "source": "a drive"})
    path = tmp_path / "cache/some/net.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    command(*FETCH)
    path.write_bytes(BODY)
    refused(command, *FETCH)
    command(*FORGET)
    command(*FETCH)
    assert records(tmp_path / "cache")["some/net.pkl"]["sha256"] == SHA
