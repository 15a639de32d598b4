"""Readers behind the fence, forked from one process that has their imports: the tests start hundreds of them.

A reader gets the same limits, filter and socket as one that starts by itself (tests/files/test_fence.py has those).
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import types

import pytest

from sida.files import fenced

_MODULES = ("sida.data.reader", "sida.files.tensor_arrays", "sida.files.unpickler")
#: Each message has the setup of a child and its socket, or the id of a child whose exit status is asked for.
_SERVER = """
import importlib, json, os, socket, sys
sys.path[:], modules, place = json.loads(sys.argv[1])
for name in modules:
    importlib.import_module(name)
from sida.files import fenced
line = socket.socket(fileno=place)
while True:
    text, files, _, _ = socket.recv_fds(line, 1 << 16, 1)
    if not text:
        break
    asked = json.loads(text)
    if not files:
        found, status = os.waitpid(asked, os.WNOHANG)
        line.send(json.dumps(os.waitstatus_to_exitcode(status) if found else None).encode())
        continue
    if pid := os.fork():
        os.close(files[0])
        line.send(json.dumps(pid).encode())
        continue
    status = 1
    try:
        os.setsid()
        line.close()
        sys.path[:], reader, memory, _ = asked
        fenced.serve(reader, memory, files[0])
        status = 0
    finally:
        os._exit(status)
"""


class _Server:
    """The process that forks; of one process of the tests."""

    def __init__(self) -> None:
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        setup = json.dumps([fenced._safe_path(), _MODULES, theirs.fileno()])
        self.owner, self.lock = os.getpid(), threading.Lock()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SERVER, setup], pass_fds=(theirs.fileno(),), cwd="/",
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        theirs.close()

    def ask(self, request: object, *files: int):
        with self.lock:
            socket.send_fds(self.line, [json.dumps(request).encode()], files)
            return json.loads(self.line.recv(1 << 10))


class _Forked:
    """A child as :class:`subprocess.Popen` shows it."""

    def __init__(self, server: _Server, setup: str, file: int) -> None:
        self.server, self.code = server, None
        self.pid = server.ask(json.loads(setup), file)

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.server.ask(self.pid)
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        pause, waited = threading.Event(), 0.0
        while self.poll() is None:
            if timeout is not None and waited > timeout:
                raise subprocess.TimeoutExpired("reader", timeout)
            pause.wait(0.002)
            waited += 0.002
        return self.code


@contextlib.contextmanager
def forked():
    """Readers of this process are forked within, and those of its forks start by themselves.

    The process that forks ends with the one of the tests.
    """
    server: list[_Server] = []

    def start(command, *, pass_fds, **options):
        if not server:
            server.append(_Server())
        if server[0].owner != os.getpid():
            return subprocess.Popen(command, pass_fds=pass_fds, **options)
        return _Forked(server[0], command[-1], *pass_fds)

    names = {**vars(subprocess), "Popen": start}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fenced, "subprocess", types.SimpleNamespace(**names))
        yield
