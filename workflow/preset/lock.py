"""Lock of a results folder: one workflow at a time.

``flock`` decides between processes of one machine, and of machines with a common file system that supports it.
"""

import datetime
import errno
import json
import os
import shlex
import socket
from pathlib import Path

from sida.errors import UserError
from sida.files.atomic import try_lock
from sida.files.ordinary import DENIED, NO_PERMISSION, read_ordinary
from sida.files.text_files import parse_json

NAME = ".workflow.lock"
#: Largest lock file in bytes.
MOST_BYTES = 1 << 16


class PresetLock:
    """The lock of ``results/<preset>``, held until the process ends for any reason.

    Args:
        folder: The preset's results; made when missing.
        command: Command of the holder, as words.
    """

    def __init__(self, folder: str | os.PathLike[str], command: list[str]) -> None:
        self.folder, self.path = Path(folder), Path(folder) / NAME
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._record = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
        self._record["command"] = shlex.join(command)
        self._file: int | None = None

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> None:
        """Takes the lock, and writes its holder into the file.

        Raises:
            UserError: Another workflow holds the lock (the message names it), the file system has no locks, or the
                folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "no permission, or a read-only file system")
            # Child processes do not inherit the lock: a job that outlives a killed workflow leaves no lock.
            self._file = self._opened()
            if taken := try_lock(self._file):
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, json.dumps(self._record).encode(), 0)
        except OSError as error:
            self.release()
            remedy = "start in a writable folder with room, on a file system with locks"
            raise UserError(self.folder, f"cannot be written or locked ({error.strerror})", remedy) from None
        if not taken:
            self.release()
            fault = f"another workflow is at work here ({_holder(self.path)})"
            remedy = "wait for its end or stop it, or use another folder of results: --config preset=NAME"
            raise UserError(self.folder, fault, remedy)

    def _opened(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            remedy = NO_PERMISSION if error.errno in DENIED else "remove it"
            raise UserError(self.path, f"cannot be opened ({error.strerror})", remedy) from None

    def release(self) -> None:
        """Releases the lock before the end of the process."""
        if self._file is not None:
            os.close(self._file)
        self._file = None


def _holder(path: Path) -> str:
    """The holder that a lock file names, as text."""
    try:
        record = parse_json(read_ordinary(path, MOST_BYTES), str(path))
        words = f"process {record['pid']} on {record['host']} since {record.get('since')}: {record.get('command')}"
    except (UserError, UnicodeDecodeError, LookupError, TypeError):
        return "its lock file has no name"
    return words[:300]
