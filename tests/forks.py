"""Children of conversions without a start of Python: work within the tests' process, or forks of it.

Work within takes milliseconds, a fork 0.3 s, a process 2 s. A fork gets the limits and the filter of a child that
starts by itself (tests/files/test_convert.py has those), which hostile files need.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import traceback
import types

import pytest

import sida.data.reader
import sida.files.foreign  # noqa: F401 - so that no fork imports it
from sida.files import child, convert


class Within:
    """A child as :class:`subprocess.Popen` shows it, whose work is done in this process."""

    def __init__(self, command, *, stdin, **_):
        reader, source, out, limits = json.loads(command[-1])[1:]
        module, _, name = reader.partition(":")
        read = getattr(importlib.import_module(module), name)
        with (
            pytest.MonkeyPatch.context() as patch,
            open(os.dup(source), "rb") as stream,
            open(os.dup(out), "wb") as file,
        ):
            patch.setattr(child, "_in_child", True)
            self._status = child.answer(read, json.load(stdin), stream, child.Writer(file), limits)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait(self):
        return self._status

    def kill(self):
        pass


class Forked(Within):
    """A child that is a fork of this process."""

    def __init__(self, command, *, stdin, **_):
        self.pid = os.fork()
        if self.pid:
            return
        try:
            # Finalizers of the tests' objects would remove their files.
            gc.disable()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            sys.stdin = os.fdopen(os.dup(stdin.fileno()))
            child.serve(*json.loads(command[-1])[1:])
        finally:
            os._exit(1)

    def wait(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 0)


@contextlib.contextmanager
def children(kind):
    """Children of this process are of a kind within."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "subprocess", types.SimpleNamespace(Popen=kind, DEVNULL=None))
        yield


def run_anew(work, *arguments):
    """Runs a function in a fork of this process that has imported nothing of this package; it must end well."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            gc.disable()
            for name in [name for name in sys.modules if name.partition(".")[0] == "sida"]:
                del sys.modules[name]
            work(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
