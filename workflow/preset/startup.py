"""Checks before a workflow starts: its folder, Snakemake's profile, files of settings, file times."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sida.config.mapping import load_spec, load_yaml
from sida.config.plugins import check_code_path
from sida.config.resources import ROOT
from sida.errors import UserError, suggestion
from sida.progress import say

#: Seconds by which the clocks of machines that share a disk may differ.
SLACK = 60.0


def check_folder(folder: Path) -> None:
    """Checks that Snakemake can keep its records in a folder; it would end in a traceback.

    Raises:
        UserError: The folder, or ``.snakemake`` in it, cannot be written.
    """
    records = folder / ".snakemake"
    place = records if records.exists() else folder
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{place}: cannot be written, and Snakemake keeps its records there; start it in a folder of your own: "
            "snakemake -s CHECKOUT/Snakefile --configfile FILE"
        )


def check_profile(arguments: Sequence[str]) -> None:
    """Refuses a profile that Snakemake took from the current folder by itself: it says what is run to start a job.

    Args:
        arguments: What the user typed; a profile that is named there, or ``none``, is the user's choice.

    Raises:
        UserError: There is one, and the user gave no permission for it.
    """
    # Where Snakemake looks first, in its order.
    path = next((path for path in map(Path, ("default", "profiles/default")) if path.exists()), None)
    ours = (ROOT / "profiles/default").resolve()
    if path is None or path.resolve() == ours or any(word.startswith("--workflow-p") for word in arguments):
        return
    remedy = f"type --workflow-profile {path}, else --workflow-profile {ours if ours.is_dir() else 'none'}"
    check_code_path(path, "a profile of Snakemake, which says what it runs", remedy)


def check_command() -> None:
    """Ends Snakemake with one line if a file of ``--configfile`` is missing; profiles call it before it is opened."""
    words = sys.argv[1:]
    starts = [n for n, word in enumerate(words) if word in ("--configfile", "--configfiles")]
    for start in starts:
        for word in itertools.takewhile(lambda word: not word.startswith("-"), words[start + 1 :]):
            if not Path(word).is_file():
                presets = [str(path) for path in Path(word).parent.glob("*.yaml")]
                print(f"error: --configfile {word}: no such file{suggestion(word, presets)}", file=sys.stderr)
                sys.exit(1)


def closed_results(folder: str | Path) -> str | None:
    """What to say of results that may only be read; None where they may be written, or are not there.

    No fault: what is finished is told to be so. Where something is to be made, Snakemake calls its outputs protected.
    """
    if not os.path.isdir(folder) or os.access(folder, os.W_OK | os.X_OK):
        return None
    return f"{folder}: may only be read: nothing can be made there; start where results may be kept to make more"


def check_files(paths: Iterable[str]) -> None:
    """Checks files given with ``--configfile`` as other commands do, which read presets themselves.

    Raises:
        UserError: The first fault, with its file.
    """
    for path in paths:
        # Snakemake takes JSON too, whatever the file's name; YAML's reader knows most of it.
        (load_spec if Path(path).suffix == ".json" else load_yaml)(path)


def fix_times(folder: str | os.PathLike[str], clock: str | os.PathLike[str]) -> int:
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
