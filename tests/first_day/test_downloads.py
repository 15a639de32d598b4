"""Downloads from the addresses of the registry, with the faults of a first day, one at a time."""

from __future__ import annotations

import hashlib
import re
import shutil

import pytest

from sida.assets import cache, download
from sida.assets.cache import fetch, verify_asset
from sida.assets.download import Transfer
from sida.errors import PassingError
from tests.assets.fault_server import BODY
from tests.first_day.hosts import REGISTRY, official_hosts
from tests.refused import refused

NETWORK, OTHER = "cifar10-uncond-sida-a1", "fid-ref-cifar10"
HASTY = Transfer(attempts=2, backoff=0.001, timeout=5)
PAGE = ("Content-Type", "text/html")


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """The hosts of the registry, which have a file of another asset, too; it is in the cache."""
    with official_hosts(tmp_path) as hosts:
        for name, value in hosts.environment.items():
            monkeypatch.setenv(name, value)
        download._certificates.cache_clear()
        hosts.add(OTHER, BODY[:1000])
        fetch(OTHER, HASTY)
        yield hosts
    download._certificates.cache_clear()


def test_a_file_comes_from_the_address_of_the_registry_over_tls(hosts, monkeypatch):
    url = hosts.add(NETWORK, BODY)
    assert url.startswith("https://huggingface.co/")
    path = fetch(NETWORK, HASTY)
    assert path == hosts.cache / REGISTRY[NETWORK].target
    assert path.read_bytes() == BODY
    assert cache.read_records()[REGISTRY[NETWORK].target]["url"] == url
    # A host whose certificate nobody vouches for gives nothing.
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    download._certificates.cache_clear()
    hosts.add("cifar10-uncond-sid-a1.2", BODY)
    refused("CertVerification", fetch, "cifar10-uncond-sid-a1.2", HASTY)
    assert hosts.asked("cifar10-uncond-sid-a1.2") == []


@pytest.mark.parametrize(
    ("fault", "told", "passes"),
    [
        ({"faults": [("status", 404)]}, "answered 404", False),
        ({"faults": [("status", 403, PAGE)]}, "answered 403", False),
        ({"faults": [("status", 200, PAGE)]}, "web page instead of the file", False),
        ({"faults": [("status", 302, ("Location", "http://huggingface.co/x"))]}, "from https to http", False),
        ({"faults": [("cut", 100_000)] + [("status", 503)] * 3}, "answered 503", True),
        ({"faults": [("cut", 100_000)] * 3, "ranges": False}, "broke after 100,000", True),
    ],
    ids=["404", "403 with a page", "a page", "redirect to http", "cut transfer", "no range requests"],
)
def test_a_fault_is_one_line_with_address_and_remedy_and_afterwards_the_file_comes(hosts, fault, told, passes):
    hosts.add(NETWORK, BODY, **fault)
    path = hosts.cache / REGISTRY[NETWORK].target
    remedy = f"put it at {re.escape(str(path))}"
    error = refused(f"'{NETWORK}' .*huggingface.co: .*{told}.*{remedy}", fetch, NETWORK, HASTY)
    assert isinstance(error, PassingError) == passes
    assert "run the command again" in error.remedy or not passes
    assert bool(cache.absence(REGISTRY[NETWORK])) == (not passes and "http" not in told)
    assert not path.exists()
    assert verify_asset(OTHER)
    # What arrived is kept; without a registered hash its last 64 KiB are compared.
    begin = max([file.stat().st_size for file in path.parent.glob("*.part")], default=0) - (1 << 16)
    hosts.add(NETWORK, BODY, ranges=fault.get("ranges", True))
    before = len(hosts.asked(NETWORK))
    assert fetch(NETWORK, HASTY).read_bytes() == BODY
    assert hosts.asked(NETWORK)[before:] == [f"bytes={begin}-" if begin > 0 else None]
    assert verify_asset(OTHER)


def test_a_redirect_to_another_host_is_followed(hosts):
    storage = REGISTRY[OTHER].url
    hosts.add(NETWORK, b"", [("status", 302, ("Location", storage))])
    assert fetch(NETWORK, HASTY).read_bytes() == BODY[:1000]


def test_a_file_that_changed_is_refused_and_taken_only_after_its_hash_is_given_up(hosts):
    hosts.add(NETWORK, BODY)
    first = fetch(NETWORK, HASTY)
    first.unlink()
    changed = bytes(reversed(BODY))
    hosts.add(NETWORK, changed)
    error = refused(f"'{NETWORK}'.*sha256.*sida assets forget {NETWORK}", fetch, NETWORK, HASTY)
    assert not isinstance(error, PassingError)
    assert not cache.absence(REGISTRY[NETWORK])
    assert not first.exists()
    cache.forget(NETWORK)
    assert hashlib.sha256(fetch(NETWORK, HASTY).read_bytes()).digest() == hashlib.sha256(changed).digest()


def test_a_registered_size_and_hash_hold_for_the_real_file_alone(hosts):
    assert REGISTRY["inception"].sha256
    hosts.add("inception", BODY)
    error = refused(f"'inception'.*{len(BODY):,} bytes there, .* are registered", fetch, "inception", HASTY)
    assert not isinstance(error, PassingError)


def test_a_disk_without_room_keeps_what_arrived_and_names_the_variable_of_the_cache(hosts, monkeypatch):
    hosts.add(NETWORK, BODY)
    usage = shutil.disk_usage(hosts.cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    error = refused(r"1,000 bytes are free.*SIDA_CACHE", fetch, NETWORK, HASTY)
    assert isinstance(error, PassingError)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert fetch(NETWORK, HASTY).read_bytes() == BODY
    assert verify_asset(OTHER)
