"""Children of conversions as forks of the tests' process, which has their imports: starting one takes 0.3 s.

A fork gets the limits and the filter of a child that starts by itself (tests/files/test_convert.py has those).
"""

import contextlib
import gc
import json
import os
import signal
import sys
import types

import pytest

import sida.data.reader
import sida.files.foreign  # noqa: F401 - so that no fork imports it
from sida.files import child, convert


class Forked:
    """A child as :class:`subprocess.Popen` shows it."""

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

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 0)


@contextlib.contextmanager
def forked():
    """Children of this process are forks within."""
    names = {"Popen": Forked, "DEVNULL": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "subprocess", types.SimpleNamespace(**names))
        yield
