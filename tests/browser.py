"""Headless Chromium, driven over a pipe: opens a file at a width, runs JavaScript in it, takes pictures."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
#: Most seconds for an answer, on a busy machine, too.
_SECONDS = 120


class Page:
    """A page in the browser."""

    def __init__(self, out: int, into: int) -> None:
        self._out, self._into, self._ids, self._rest = out, into, itertools.count(1), b""
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.requests: list[str] = []
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def open(self, path: Path, width: int, height: int = 900) -> None:
        """Opens a file at a width in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        answer = self.call("Page.navigate", url=path.resolve().as_uri())
        assert "errorText" not in answer, f"{path}: {answer['errorText']}"
        while self.run("document.readyState") != "complete" or self.run("location.protocol") != "file:":
            time.sleep(0.05)

    def run(self, code: str) -> Any:
        """Value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self, path: Path) -> None:
        """Writes a PNG of what is visible."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def call(self, method: str, **settings: Any) -> dict[str, Any]:
        """Calls a method of the DevTools protocol for this page."""
        return self._send(method, self._session, **settings)

    def _send(self, method: str, session: dict[str, str] | None = None, **settings: Any) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": settings, **(session or {})}
        os.write(self._into, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._out], [], [], _SECONDS)[0], "Chromium does not answer"
            received = os.read(self._out, 1 << 16)
            assert received, "Chromium ended"
            self._rest += received
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A page of a browser whose profile is a folder; the browser ends with the context."""
    assert CHROMIUM is not None
    (out, browser_out), (browser_in, into) = os.pipe(), os.pipe()
    words = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-pipe",
    ]
    words += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={folder}", "about:blank"]
    # The protocol's pipes are descriptors 3 (in) and 4 (out).
    shell = f'exec "$@" 3<&{browser_in} 4>&{browser_out}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "chromium", *words],
        pass_fds=(browser_in, browser_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
    )
    os.close(browser_in)
    os.close(browser_out)
    try:
        yield Page(out, into)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(out)
        os.close(into)
