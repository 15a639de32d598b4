"""A proxy of this machine that answers for the hosts of the registry, over TLS, with files of the tests.

Commands take the way of the first real day: addresses of ``config/assets.tsv``, certificates, a proxy. Nothing in the
suite knows of it: ``https_proxy`` and ``REQUESTS_CA_BUNDLE`` are settings of every program.
"""

from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sida.assets.registry import load_registry
from sida.config.lookup import ROOT
from tests.assets.fault_server import Handler, Site, serve

REGISTRY = load_registry(ROOT / "config/assets.tsv")


class Hosts:
    """The hosts and their files.

    Attributes:
        environment: Variables that lead a command here, with an empty cache and an empty home.
        cache: The cache.
    """

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.cache = site, folder / "cache"
        (folder / "home").mkdir()
        self.environment = {"https_proxy": site.url, "http_proxy": site.url, "no_proxy": ""}
        self.environment |= {"REQUESTS_CA_BUNDLE": str(folder / "hosts.pem"), "SIDA_CACHE": str(self.cache)}
        self.environment |= {"HOME": str(folder / "home"), "SIDA_ALLOW_CODE": ""}

    def add(self, asset: str, body: bytes, faults: tuple = (), **served) -> str:
        """Puts a file at the address of a registered asset; returns the address. See :meth:`Site.add`."""
        url = REGISTRY[asset].url
        self.site.add(_name(url), body, faults, **served)
        return url

    def fail(self, asset: str, *faults: tuple) -> None:
        """Lets the next requests for an asset meet faults."""
        self.site.pages[f"/{_name(REGISTRY[asset].url)}"].faults = [*faults]

    def asked(self, asset: str) -> list:
        """The Range headers of all requests for an asset."""
        return self.site.asked(_name(REGISTRY[asset].url))


def _name(url: str) -> str:
    return url.partition("://")[2]


@contextlib.contextmanager
def official_hosts(folder: Path) -> Iterator[Hosts]:
    """Starts the proxy; the folder gets its certificate, an empty cache and an empty home."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not here")
    names = sorted({urlsplit(url).hostname for asset in REGISTRY.values() for url in asset.urls})
    key, certificate = folder / "hosts.key", folder / "hosts.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=hosts of the registry"]
    words += ["-addext", f"subjectAltName={','.join(f'DNS:{name}' for name in names)}"]
    subprocess.run([*words, "-addext", "keyUsage=digitalSignature,keyCertSign"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Proxy(Handler):
        """Opens the tunnel that a client asks for, and answers in it as the host."""

        host = ""

        def do_CONNECT(self) -> None:
            self.host = self.path.removesuffix(":443")
            self.send_response(200)
            self.end_headers()
            self.request = context.wrap_socket(self.request, server_side=True)
            self.setup()
            self.close_connection = False

        def do_GET(self) -> None:
            # Outside a tunnel a proxy is asked for the whole address.
            self.path = f"/{self.host}{self.path}" if self.host else f"/{_name(self.path)}"
            with contextlib.suppress(OSError):  # the client has left
                super().do_GET()

    with serve(Proxy) as site:
        yield Hosts(site, folder)
