"""Lines of a workflow on the screen: none of Snakemake's about itself, and after Ctrl-C none about each stopped job.

Snakemake prints by handlers of Python's logging; the one for the screen gets a filter here. Its file in
``.snakemake/log`` keeps every line.
"""

import atexit
import logging
import signal
import sys
import threading
from types import FrameType

from sida.errors import say

_INTERRUPTED = "interrupted; finished work is kept: the same command continues"
#: Beginnings of Snakemake's lines about itself.
_OF_SNAKEMAKE = (
    "Building DAG of jobs...", "Using shell: ", "Provided resources: ", "Rules claiming more threads",
    "Conda environments: ignored", "Singularity containers: ignored", "Select jobs to execute", "Execute ",
)  # fmt: skip
_FAILED = "stopped before the end; finished work is kept: run the same command again to continue"


class Interrupts(logging.Filter):
    """Filter of the lines of a workflow's main process, and its last line.

    Attributes:
        interrupted: Whether the process was interrupted.
        again: Whether the same command would now leave out rows and get further.
    """

    def __init__(self) -> None:
        super().__init__()
        self.interrupted, self.again, self._failed = False, False, False

    def take(self) -> None:
        """Takes SIGINT, unless the process ignores it, as one that a script starts in the background does."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._end)

    def begin(self) -> None:
        """Filters the lines on the screen from now on."""
        from snakemake.logging import logger

        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.addFilter(self)

    def failed(self) -> None:
        """Lets the last line be that work is left."""
        self._failed = True
        atexit.register(self._say_last)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record goes to the screen: none of Snakemake's work, none of a command that was asked to end."""
        from snakemake.logging import LogEvent, get_event

        text = record.getMessage()
        if text.lstrip().startswith(_OF_SNAKEMAKE):
            return False
        if not self.interrupted:
            return True
        ended = "CalledProcessError" in text or text.startswith("WorkflowError:\nAt least one job")
        return not ended and get_event(record) not in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if not self.interrupted:
            self.interrupted = True
            atexit.register(self._say_last)
        if _prints(frame):  # where Snakemake's handler drops the exception
            timer = threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, number))
            timer.daemon = True
            timer.start()
            return
        # Snakemake takes this as it takes KeyboardInterrupt while jobs run, and ends without a trace at other times.
        sys.exit(128 + number)

    def _say_last(self) -> None:
        atexit.unregister(self._say_last)
        say(_INTERRUPTED if self.interrupted else _FAILED)


def _prints(frame: FrameType | None) -> bool:
    """Whether a handler of logging is at work in a frame or around it."""
    while frame is not None:
        if frame.f_code.co_name == "emit":
            return True
        frame = frame.f_back
    return False


#: The filter of this process.
INTERRUPTS = Interrupts()
