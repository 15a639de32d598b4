"""Files of a results folder that are dated in the future: a clock that was wrong, or copies from such a machine.

Snakemake tells by times what is older than its inputs. What is made from a file of next week would be made again by
every run until then, and what was made next week would look newer than all that it is made from now.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sida.progress import say

#: Seconds by which the clocks of machines that share a disk may differ.
SLACK = 60.0


def mend_times(folder: str | os.PathLike[str], clock: str | os.PathLike[str]) -> int:
    """Dates what is dated in the future to now, and says so; returns how many files and folders.

    Args:
        folder: ``results/<preset>``; links are not followed.
        clock: A file there that was written just now: what time it is is the disk's to say.
    """
    latest = os.stat(clock).st_mtime + SLACK
    count = 0
    # Folders after what is in them: some are products.
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            path = Path(parent, name)
            # A file that went away, or that somebody else owns.
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime > latest:
                    os.utime(path, follow_symlinks=False)
                    count += 1
    if count:
        say(f"{os.fspath(folder)}: {count:,} files were dated in the future; they are dated now (was a clock wrong?)")
    return count
