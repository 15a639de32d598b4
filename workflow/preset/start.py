"""Checks before a workflow starts: working folder, Snakemake's profile, settings files, file times.

Makes Snakemake repeat jobs whose outputs are missing after a failure, although later products exist.

Snakemake removes the outputs of a failed job, and does not request a missing file while products made from it exist.
So the run after a failure would find nothing to do, and show numbers of old settings. This module requests such files,
and with them everything that is made from them. Files that were removed to free space are not requested: for these
Snakemake still has the record of the job, with the current settings and inputs.

Snakemake also keeps a record of a failed job with the hashes of its inputs. A changed input, such as temporary shards,
would then count as the one that was used. This module removes such records. Files that a job updates get their former
contents back when it fails, and the time of the failure: this module gives them no time, so they are requested again.

The changed functions of Snakemake are not documented; ``tests/workflow/test_failed_rerun.py`` notices other versions.

Lock on a preset's results that names its holder: one workflow at a time; a killed workflow leaves no lock.

``flock`` decides between processes of one machine, and of machines with a common file system that supports it. For
other file systems the lock file names its holder, and the holder touches the file every few seconds. A workflow that
finds the name of another machine watches the file for such a sign of life. Clocks of machines are never compared.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import functools
import hmac
import itertools
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from sida.config.plugins import ALLOW, check_code_path
from sida.config.resources import CHECKOUT, ROOT
from sida.config.settings import load_spec, load_yaml
from sida.errors import UserError, suggestion
from sida.files.atomic import try_lock
from sida.files.text_files import read_ordinary
from sida.progress import say
from workflow.preset.files import find_preset

#: Largest difference in seconds between clocks of machines with a common disk.
SLACK = 60.0


def check_folder(folder: Path) -> None:
    """Checks that Snakemake can write its records in a folder (else Snakemake ends in a traceback).

    Raises:
        UserError: The folder, or ``.snakemake`` in it, cannot be written.
    """
    records = folder / ".snakemake"
    place = records if records.exists() else folder
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{place}: cannot be written, and Snakemake keeps its records there; start it in a writable folder: "
            "snakemake -s CHECKOUT/Snakefile --configfile FILE"
        )


def check_profile(arguments: Sequence[str], option: str = "--workflow-profile") -> None:
    """Refuses a profile of the current folder without permission: a profile contains commands that start jobs.

    Args:
        arguments: Arguments of the user; a profile that they name, or ``none``, is the user's choice.
        option: Option that names a profile, for errors.

    Raises:
        UserError: There is such a profile.
    """
    # Folders that Snakemake searches, in its order.
    path = next((path for path in map(Path, ("default", "profiles/default")) if path.exists()), None)
    ours = (ROOT / "profiles/default").resolve()
    if path is None or path.resolve() == ours or any(word.startswith("--workflow-p") for word in arguments):
        return
    remedy = f"type {option} {path}, else {option} {ours if ours.is_dir() else 'none'}"
    check_code_path(path, "a profile of Snakemake, which says what it runs", remedy)


def check_records(folder: Path) -> None:
    """Refuses ``.snakemake`` without permission, unless this user's `sida run` made it in this folder.

    Snakemake imports modules below it as it starts, and builds objects from its records. A mark in it proves who made
    it: only this user has the key behind the mark.

    Raises:
        UserError: The records are of other origin.
    """
    if CHECKOUT and folder.samefile(ROOT):
        # The checkout's own records are as trusted as its code.
        return
    records = folder / ".snakemake"
    mark, ours = records / "owner", _mark(records)
    if os.path.lexists(records):
        with contextlib.suppress(UserError):
            if ours and hmac.compare_digest(read_ordinary(mark, "", 1 << 10, "", ""), ours):
                return
        kind = "a folder of Snakemake's records that `sida run` did not make here, and Snakemake runs code in it"
        check_code_path(records, kind, f"set {ALLOW}={records.resolve()}, else remove the folder")
    records.mkdir(exist_ok=True)
    if ours:
        mark.unlink(missing_ok=True)
        mark.write_bytes(ours)


def _mark(records: Path) -> bytes | None:
    """The mark that only this user can make for a folder; None where this user has no home to keep a key."""
    key = Path(os.path.expanduser("~"), ".config/sida/owner.key")
    try:
        key.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), open(key, "xb", opener=_private) as stream:
            stream.write(secrets.token_bytes(32))
        secret = read_ordinary(key, str(key), 1 << 10, "remove it", "remove it")
    except (OSError, UserError):
        return None
    return hmac.new(secret, os.fsencode(records.resolve()), "sha256").hexdigest().encode() if secret else None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def check_scheduler(profile: Path) -> None:
    """Refuses a profile of SLURM on a machine without SLURM, where each job fails after a minute.

    Raises:
        UserError: The profile's executor is ``slurm``, and there is no ``sbatch``.
    """
    path = profile / "config.yaml"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if re.search(r"(?m)^executor:\s*slurm\b", text) and shutil.which("sbatch") is None:
        remedy = "start it on a login node of the cluster, or leave the profile out to run jobs on this machine"
        raise UserError(f"{profile}: needs SLURM, and there is no sbatch on this machine; {remedy}")


def check_command(profile: str | None = None) -> None:
    """Ends Snakemake with one line if a file of ``--configfile`` or the scheduler is missing.

    Args:
        profile: Name of the profile that calls this function, if jobs go to a scheduler.
    """
    words = sys.argv[1:]
    if profile is not None and not {"-n", "--dry-run", "--dryrun", "--unlock", "--lint", "--executor", "-e"} & {*words}:
        try:
            check_scheduler(ROOT / "profiles" / profile)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
    starts = [n for n, word in enumerate(words) if word in ("--configfile", "--configfiles")]
    for start in starts:
        for word in itertools.takewhile(lambda word: not word.startswith("-"), words[start + 1 :]):
            if not Path(word).is_file():
                try:
                    fault = f"--configfile {word}: no such file; this preset is {find_preset(word, '--configfile')}"
                except UserError as error:
                    fault = str(error)
                    if word != words[start + 1]:
                        fault = f"--configfile: takes '{word}' as a file; put -- before targets: -- {word}"
                print(f"error: {fault}", file=sys.stderr)
                sys.exit(1)


def closed_results(folder: str | Path) -> str | None:
    """Remark on a read-only results folder; None for a writable or missing folder.

    This is no fault: finished products can be shown. Otherwise Snakemake reports its outputs as protected.
    """
    if not os.path.isdir(folder) or os.access(folder, os.W_OK | os.X_OK):
        return None
    return f"{folder}: is read-only, so nothing can be made there; start in a writable folder to make more"


def check_files(paths: Iterable[str]) -> None:
    """Checks the files of ``--configfile`` with the checks of other commands.

    Raises:
        UserError: The first fault, with its file.
    """
    for path in paths:
        # Snakemake also accepts JSON under any name; the YAML reader accepts most of it.
        (load_spec if Path(path).suffix == ".json" else load_yaml)(path)


def fix_times(folder: str | os.PathLike[str], clock: str | os.PathLike[str]) -> int:
    """Sets file times in the future to the current time and reports them; returns the number of files and folders.

    Args:
        folder: ``results/<preset>``; links are not followed.
        clock: A file in it that was written just now, which gives the time of the disk.
    """
    latest = os.stat(clock).st_mtime + SLACK
    count = 0
    # Folders after their content, since some folders are products.
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            path = Path(parent, name)
            # The file was removed, or belongs to another user.
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime > latest:
                    os.utime(path, follow_symlinks=False)
                    count += 1
    if count:
        say(f"{os.fspath(folder)}: {count:,} files were dated in the future; they are dated now (was a clock wrong?)")
    return count


def ask_for_missing(dag_class: Any, left_out: Collection[str] = ()) -> None:
    """Makes Snakemake treat missing files like incomplete ones, so that their jobs run.

    Args:
        dag_class: Snakemake's class of graphs of jobs; changed for this process.
        left_out: Rules whose files are identified by their contents.
    """
    check_incomplete = dag_class.check_incomplete

    @functools.wraps(check_incomplete)
    async def check(dag: Any) -> None:
        await check_incomplete(dag)
        if dag.workflow.is_main_process and not dag.workflow.touch:
            due = await _due_files(dag, left_out)
            dag.forcefiles.update(due)
            if due:
                say(remark(sorted(map(str, due))))

    dag_class.check_incomplete = check


def forget_failed(job_class: Any) -> None:
    """Makes Snakemake remove its records of the files of a failed job, and take files that are left for old ones.

    Args:
        job_class: Snakemake's class of jobs; changed for this process.
    """
    postprocess = job_class.postprocess

    @functools.wraps(postprocess)
    async def ended(job: Any, *args: Any, error: bool = False, **options: Any) -> None:
        await postprocess(job, *args, error=error, **options)
        if error and job.dag.workflow.is_main_process:
            job.dag.workflow.persistence.cleanup(job)
            for file in job.output:
                if os.path.exists(file):
                    os.utime(file, (0, 0))

    job_class.postprocess = ended


def find_targets(dag_class: Any, preset: str, results: str, products: Callable[[], Sequence[str]]) -> None:
    """Makes Snakemake find products by their paths below the preset's folder: ``tables/main.tex``.

    An unknown target ends in one line with the nearest one.

    Args:
        dag_class: Snakemake's class of graphs of jobs; changed for this process.
        preset: File of the preset.
        results: Folder of the preset, ``results/<preset>``.
        products: Returns the preset's products below that folder.
    """
    init = dag_class.init

    @functools.wraps(init)
    async def checked(dag: Any, *args: Any, **options: Any) -> None:
        rules = list(dag.workflow.rules)
        for target in sorted(map(str, dag.targetfiles)):
            if target in products():
                for files in (dag.targetfiles, dag.forcefiles, dag.priorityfiles, dag.untilfiles, dag.omitfiles):
                    if target in files:
                        files.remove(target)
                        files.add(f"{results}/{target}")
            elif not os.path.exists(target) and not any(rule.is_producer(target) for rule in rules):
                near = suggestion(target.split("/", 2)[-1] if target.startswith("results/") else target, products())
                near = near if len(near) < 200 else "; docs/reproduce.md names them"
                print(f"error: {target}: no target of {preset}{near}", file=sys.stderr)
                sys.exit(1)
        await init(dag, *args, **options)

    dag_class.init = checked


async def _due_files(dag: Any, left_out: Collection[str]) -> set[Any]:
    """Missing inputs of existing products that were not made with the current settings, and files of failed updates."""
    due: set[Any] = set()
    for job in dag.jobs:
        due.update(file for file in job.output if os.path.exists(file) and not os.stat(file).st_mtime)
        there = [file for file in job.output if await file.exists()]
        if not there or not any(map(dag.workflow.persistence.metadata, there)):
            continue
        for maker, files in dag.dependencies[job].items():
            wanted = [file for file in maker.output if file in files and not file.is_temp]
            absent = [file for file in wanted if not await file.exists()]
            if absent and maker.rule.name not in left_out and _is_outdated(dag, maker, there):
                due.update(absent)
    return due


def _is_outdated(dag: Any, maker: Any, products: Collection[Any]) -> bool:
    """Whether a job has no record of success, or one with other settings or from before a change of its inputs."""
    persistence = dag.workflow.persistence
    if not persistence.has_metadata(maker) or persistence.params_changed(maker):
        return True
    made = min(os.stat(file).st_mtime for file in products)
    return any(os.stat(file).st_mtime > made for file in maker.input if os.path.exists(file))


def remark(files: list[str]) -> str:
    """Message about missing and former files."""
    more = f" and {len(files) - 1:,} other files" if len(files) > 1 else ""
    return f"{files[0]}{more}: missing or of before a job that failed; made again, with all that is made from it"


NAME = ".workflow.lock"
#: Seconds between two signs of life, and seconds of watching for those of another machine.
BEAT, PATIENCE = 10.0, 60.0


class PresetLock:
    """The lock of ``results/<preset>``: taken once, held until the process ends for any reason.

    Args:
        folder: The preset's results; made when missing.
        command: Command of the holder, as words.
    """

    def __init__(self, folder: str | os.PathLike[str], command: list[str]) -> None:
        self.folder, self.path = Path(folder), Path(folder) / NAME
        self._token = secrets.token_hex(8)
        self._record = {"token": self._token, "machine": machine(), "host": socket.gethostname(), "pid": os.getpid()}
        self._record |= {"since": _now(), "command": shlex.join(command)}
        self._file: int | None = None
        self._ended = threading.Event()
        self._signs = threading.Thread(target=self._live, daemon=True, name=f"lock of {self.folder}")

    def take(self) -> None:
        """Takes the lock.

        Raises:
            UserError: Another workflow holds the lock (the message names it), or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Child processes do not inherit the lock: a job that outlives a killed workflow leaves no lock.
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be written ({error.strerror}); fix that, or start in a writable folder"
            ) from None
        try:
            self._wait_for_holder(lockable=self._locked())
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(self._record).encode(), 0)
        except BaseException as error:
            os.close(self._file)
            self._file = None
            if isinstance(error, OSError):
                raise UserError(
                    f"{self.path}: cannot be written ({error.strerror}); make room, then start again"
                ) from None
            raise
        atexit.register(self.release)
        self._signs.start()

    def release(self) -> None:
        """Releases the lock; a second call does nothing."""
        self._ended.set()
        # A forked child ends, too, but the lock belongs to its parent.
        if self._file is None or os.getpid() != self._record["pid"]:
            return
        # With a time limit: a file system that does not answer must not delay the end.
        self._signs.join(timeout=5)
        if (read_holder(self.path) or {}).get("token") == self._token:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
        os.close(self._file)
        self._file = None

    def _locked(self) -> bool:
        """Takes the operating system's lock; returns whether the file system supports locks."""
        assert self._file is not None
        try:
            free = try_lock(self._file)
        except OSError:
            # A file system without locks.
            return False
        if not free:
            raise self._refusal(read_holder(self.path))
        return True

    def _wait_for_holder(self, lockable: bool) -> None:
        """Waits until the named holder is known to be gone, and reports it; raises if the holder is alive."""
        holder = read_holder(self.path)
        if holder is None:
            return
        if not (lockable and holder["machine"] == machine()):
            say(f"{self.folder}: {_who(holder)} may be at work here; watching {PATIENCE:.0f} s for a sign of life")
            before, end = _touched(self.path), time.monotonic() + PATIENCE
            while time.monotonic() < end:
                time.sleep(min(1.0, PATIENCE / 10))
                if _touched(self.path) != before:
                    raise self._refusal(read_holder(self.path))
        say(f"{self.folder}: the workflow before ({_who(holder)}) ended without a message; this workflow continues")

    def _refusal(self, holder: dict[str, Any] | None) -> UserError:
        return UserError(
            f"{self.folder}: another workflow is at work here ({_who(holder)}); wait for its end or stop it, "
            "or use another folder of results: --config preset=NAME"
        )

    def _live(self) -> None:
        """Gives signs of life until the end; stops the workflow if another workflow has taken the lock."""
        while not self._ended.wait(BEAT):
            # A file system that does not answer temporarily is no reason to stop.
            with contextlib.suppress(OSError):
                os.utime(self.path)
            holder = read_holder(self.path)
            if holder and holder["token"] != self._token:
                say(f"error: {self.folder}: {_who(holder)} has taken over here; this workflow stops")
                self._ended.set()
                os.kill(os.getpid(), signal.SIGTERM)


def machine() -> str:
    """Identifier of this machine since its start."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def read_holder(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Holder in a lock file (``host``, ``pid``, ``since``, ``command``, ...); None without a readable holder."""
    try:
        record = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"token", "machine", "host", "pid"} <= record.keys() else None


def _who(holder: dict[str, Any] | None) -> str:
    """A holder as text on one line."""
    if holder is None:
        return "its lock file has no name"
    words = f"process {holder['pid']} on {holder['host']} since {holder.get('since')}: {holder.get('command')}"
    return "".join(letter if letter.isprintable() else " " for letter in words)[:300]


def _touched(path: Path) -> tuple[int, bytes] | None:
    """State of the lock file, changed by signs of life; opening the file makes a network file system ask its server."""
    try:
        with open(path, "rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns, stream.read()
    except OSError:
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
