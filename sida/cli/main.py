"""The ``sida`` command line: finds the verbs, parses, and turns a :class:`UserError` into one line.

Output is adapted to the terminal, file or pipe behind it: encoding, closed pipes.

Verbs are listed without their code (:class:`sida.config.registries.ListedVerb`). A module of verbs imports torch and
matplotlib inside the functions that the verbs run, so that help and wrong arguments take no seconds.
"""

import argparse
import contextlib
import errno
import itertools
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO, cast

from sida.config.lookup import missing_package, our_object
from sida.config.registries import ListedVerb, Registry
from sida.errors import (
    EXIT_RETRY,
    PassingError,
    Preempted,
    UserError,
    near_path,
    reason_of,
    say,
    suggestion,
    visible,
)
from sida.files.atomic import sha256_json, write_text
from sida.files.ordinary import refuse_same
from sida.files.text_files import number_in
from sida.machine import code_version

#: Environment variable with a workflow's folder of faults; the workflow sets it for its jobs.
FAULTS = "SIDA_FAULTS"
#: Errors of paths and disks, which the user can fix.
_PATH_ERRORS = {errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ENAMETOOLONG}
_PATH_ERRORS |= {errno.ELOOP, errno.ENOLCK, errno.ENOSPC, errno.ENOTDIR, errno.ENOTSUP, errno.EPERM, errno.EROFS}
_PATH_ERRORS |= {errno.ESTALE}
#: Messages of torch and of the dynamic linker when memory runs out.
_NO_MEMORY = re.compile("can't allocate memory|failed to map segment|[Cc]annot allocate memory")
#: Message of :meth:`pathlib.Path.resolve` for a circle of links, before Python 3.13.
_CIRCLE = re.compile("Symlink loop from '(.*)'")


class Verb(NamedTuple):
    """A verb of the command line.

    Attributes:
        examples: Text below the arguments in the verb's help.
        arguments: Function that declares the arguments in a parser.
        run: Function of the parsed arguments that does the work; returns the exit status, or None for 0.
        intermixed: Whether positional arguments may follow options, and words after ``--`` are for another program;
            they are ``passed`` of the parsed arguments.
    """

    examples: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    intermixed: bool = False


def run_command_line(
    about: str,
    verbs: Callable[[], Mapping[str, ListedVerb]],
    argv: Sequence[str] | None,
) -> int:
    """Runs the verb named in ``argv``.

    Args:
        about: What the command does, for its help.
        verbs: Function that returns all verbs by name.
        argv: Words after the command's name; None takes the arguments of the process.

    Returns:
        Exit status: 0, 1 (error of one line), 2 (usage), 75 (preempted) or 130 (interrupted). If the last attempt of a
        workflow's job noted a fault that stays, the next attempt prints its line and ends at once.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments else "--help"
    if verb.startswith("-") and verb not in ("-h", "--help", "--version"):
        say(f"error: sida {verb}: no such option; `sida --help` lists the verbs")
        return 2

    fault = _fault_file(arguments)
    if fault is not None and fault.is_file():
        say(fault.read_text(encoding="utf-8"))
        return 1

    def run() -> int | None:
        if verb == "--version":
            print(f"sida {code_version()}")
            return 0
        listed = verbs()
        if verb.startswith("-"):
            print(_overview(about, listed))
            return 0
        if verb in listed:
            return _run(listed[verb], arguments)
        Registry("verbs", "verb").refuse_missing(verb, "")
        say(f"error: sida has no command '{verb}'{suggestion(verb, listed)}")
        return 2

    replace_unencodable()
    try:
        with contextlib.redirect_stdout(sys.stdout and cast(TextIO, _Shown(sys.stdout))):
            return _status(run, fault)
    finally:
        # Python flushes the streams at its exit, and would end with another status if that failed.
        for stream in (sys.stdout, sys.stderr):
            flush_or_discard(stream)


def by_group(verbs: Mapping[str, ListedVerb]) -> dict[str, dict[str, ListedVerb]]:
    """Verbs that the help lists, by the heading of their group."""
    groups: dict[str, dict[str, ListedVerb]] = {}
    for name, verb in verbs.items():
        if verb.group:
            groups.setdefault(verb.group, {})[name] = verb
    return groups


def _overview(about: str, verbs: Mapping[str, ListedVerb]) -> str:
    """The help of the command: its verbs by group."""
    lines = ["usage: sida [-h] [--version] COMMAND ...", "", about]
    for heading, group in by_group(verbs).items():
        lines += ["", f"{heading}:"]
        for name, verb in group.items():
            lines.append(textwrap.fill(verb.help, 100, initial_indent=f"  {name:<15}", subsequent_indent=" " * 17))
    return "\n".join([*lines, "", "`sida COMMAND --help` shows arguments and examples."])


class Once(argparse._StoreAction):
    """Stores an option's value; a second one, which might be meant to join the first, is an error."""

    _value: Any = None

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """Stores the value."""
        if option and self._value not in (None, values):
            raise UserError(option, "is given twice with different values", "give one")
        self._value = values
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(f"{message}; `{self.prog} --help` shows examples")


def parser_of(name: str, verb: Verb, about: str) -> argparse.ArgumentParser:
    """The parser of a verb's arguments."""
    parser = _Parser(
        prog=f"sida {name}",
        description=about,
        epilog=verb.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.arguments(parser)
    return parser


def _parsed(verb: Verb, about: str, arguments: list[str]) -> argparse.Namespace:
    """Arguments of a verb."""
    parser = parser_of(arguments[0], verb, about)
    if not verb.intermixed:
        return parser.parse_args(arguments[1:])
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return parser.parse_intermixed_args(arguments[1:end], argparse.Namespace(passed=arguments[end + 1 :]))


def _run(listed: ListedVerb, arguments: list[str]) -> int | None:
    """Parses the arguments and runs the verb."""
    # From `--option=--` argparse removes the two hyphens and gives the verb an empty list.
    if (empty := next((word for word in arguments if re.fullmatch("--.+=--", word)), None)) is not None:
        raise UserError(empty, "'--' is not a value", "give another value")
    words = itertools.takewhile(lambda word: word != "--", arguments[1:])
    if path := next((word for word in words if re.match("-[^-].", word) and os.path.lexists(word)), None):
        raise UserError(path, "begins with a hyphen, as options do", f"write ./{path}")
    verb: Verb = our_object(listed.object)
    args = _parsed(verb, listed.help, arguments)
    check_output_paths(vars(args))
    return verb.run(args)


def _fault_file(arguments: Sequence[str]) -> Path | None:
    """File for the fault of a workflow's job, by its words; None outside a workflow.

    A scheduler sends a failed job again with larger requests. These do not help if a key is wrong or a file damaged.
    """
    folder = os.environ.get(FAULTS)
    return Path(folder) / f"{sha256_json(arguments)[:16]}.txt" if folder else None


def _status(run: Callable[[], int | None], fault: Path | None = None) -> int:
    """Runs a function that prints; returns the exit status.

    Args:
        run: The function.
        fault: File for a fault that a further attempt meets again.
    """
    status = 0
    try:
        status = int(run() or 0)
        if sys.stdout is not None:
            # A result that does not reach the disk is an error, which later flushes hide.
            sys.stdout.flush()
    except UserError as error:
        say(line := f"error: {error}")
        if fault is not None and not isinstance(error, PassingError):
            with contextlib.suppress(OSError, UserError):  # of a full disk
                write_text(fault, line)
        return error.status
    except BrokenPipeError:
        # The reader of the output (head, less) has closed the pipe; that is not an error of the command.
        pass
    except OSError as error:
        if error.errno == errno.ENOENT and error.filename is None:
            say("error: the current folder was removed; change to another one with `cd`")
            return 1
        if error.errno not in _PATH_ERRORS:
            raise
        prefix = f"{error.filename}: " if error.filename else ""
        say(f"error: {prefix}{error.strerror}; choose another place or make room there")
        return 1
    except ModuleNotFoundError as error:
        if (missing := missing_package(error.name or "")) is None:
            raise
        say(f"error: {missing}")
        return 1
    except (MemoryError, ImportError, RuntimeError) as error:
        if circle := _CIRCLE.fullmatch(str(error)):
            say(f"error: {circle[1]}: {os.strerror(errno.ELOOP)}; choose another place")
            return 1
        if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        # NumPy and torch name the size that they asked for.
        reason = f" ({reason_of(error)})" if str(error) else ""
        say(f"error: this needs more memory than there is{reason}; take less at once (images, batches, jobs)")
        return 1
    except Preempted:
        say("preempted; the state is kept: run the same command again to resume")
        return EXIT_RETRY
    except KeyboardInterrupt:
        say("interrupted; run the same command again to resume")
        return 130
    return status


class _Shown:
    """Stream that shows controls and other characters without a glyph, which texts of strangers may have, as escapes.

    Bold text stays bold.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text."""
        parts = re.split(r"(\x1b\[[01]m)", text)
        return self._stream.write(
            "".join(part if at % 2 else visible(part, "\n\t\xa0") for at, part in enumerate(parts))
        )


def replace_unencodable() -> None:
    """Makes the output print a question mark instead of failing at a character that its encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        # A stream that a caller put there may not support it.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            cast(Any, stream).reconfigure(errors="replace")


def flush_or_discard(stream: TextIO) -> None:
    """Flushes a stream, or discards its content if that fails; otherwise the process would fail at its exit."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# Arguments of verbs: integers, and paths that they read or write. An error is one line that names the option.

_INT64_MAX = 2**63 - 1


def integer(option: str, least: int = 0, most: int = _INT64_MAX) -> Callable[[str], int]:
    """Returns a parser of integers for an option of a verb.

    Args:
        option: Option named in errors.
        least: Smallest accepted integer.
        most: Largest accepted integer.

    Raises:
        UserError: Raised by the parser if the text is not an integer or is out of range.
    """

    def read(text: str) -> int:
        # int() alone would also read 1_000 and other scripts' digits.
        value = number_in(text, int)
        if value is None:
            raise UserError(option, f"must be an integer, got '{text}'")
        if not least <= value <= most:
            bound = f"at least {least}" if value < least else f"at most {most}"
            raise UserError(option, f"must be {bound}, got {text}")
        return int(value)

    return read


def add_integer(parser: Any, option: str, text: str, least: int = 0, most: int = _INT64_MAX, **more: Any) -> None:
    """Adds an option with an integer to an argparse parser; bounds as in :func:`integer`, ``text`` is its help."""
    parser.add_argument(option, type=integer(option, least, most), help=text, **{"metavar": "N", **more})


def existing(option: str = "") -> Callable[[str], str]:
    """Returns a parser of paths to read, which refuses a missing one before the heavy imports.

    Args:
        option: Option named in errors; empty for a positional argument.

    Raises:
        UserError: Raised by the parser if nothing is there, where the message suggests the closest name in that folder,
            or if the path cannot be followed.
    """

    def read(text: str) -> str:
        path, where = Path(text), f"{option + ' ' if option else ''}{text}"
        try:
            exists = _exists(path)
        except OSError as error:
            raise UserError(where, f"cannot be read ({error.strerror})", "check the path") from None
        if not exists:
            raise UserError(where, "no such file or folder", near_path(path))
        return text

    return read


#: Arguments of verbs that name an output file or folder, with their names in errors.
_WRITTEN = {"out": "--out", "grid": "--grid", "record": "--record", "target": "OUT", "study": "STUDY"}
_WRITTEN |= {"bib": "--bib", "latex": "--latex"}
#: Arguments of verbs that name files to read, some as ``KEY=FILE``.
_READ = (
    *("source", "sources", "network", "gnet", "dataset", "images", "against", "reference", "extractor_option", "add"),
    *("spec", "table", "measurements", "runs", "claims", "layout", "row", "run"),
)


def check_output_paths(arguments: Mapping[str, Any]) -> None:
    """Checks the output paths among a verb's arguments; see :func:`check_output_path` and :func:`refuse_lost`."""
    written = {name: arguments[name] for name in _WRITTEN if isinstance(arguments.get(name), str)}
    for name, path in written.items():
        check_output_path(path, _WRITTEN[name])
    refuse_lost(arguments, *written.values())


def refuse_lost(arguments: Mapping[str, Any], *outputs: str | os.PathLike[str]) -> None:
    """Refuses to write a file over an input among a verb's arguments, or over another output.

    Raises:
        UserError: An output is such an input, or two outputs are one file.
    """
    ends = [os.path.realpath(path) for path in outputs]
    for number, path in enumerate(outputs):
        if ends[number] in ends[:number]:
            raise UserError(path, "is two outputs, one of which would be lost", "name another file for one of them")
    for value in map(arguments.get, _READ):
        for text in value if isinstance(value, list) else [value]:
            # In a spec each of them may be another thing than text.
            files = {text, text.partition("=")[2]} - {""} if isinstance(text, str) else ()
            for source, path in itertools.product(files, outputs):
                refuse_same(source, path)


def check_output_path(path: str, option: str) -> None:
    """Checks that a file or folder can be written.

    Args:
        path: File or folder to write. Neither the path nor its parent folders need to exist.
        option: Option named in errors.

    Raises:
        UserError: The path is empty or begins with ``~``, a parent is a file, or the file system does not permit
            writing.
    """
    if not path.strip() or "\0" in path:
        raise UserError(f"{option} '{path}'", "is not a path", "give a file or folder to write")
    if path[0] == "~":
        # A shell replaces it at the start of a word, but not in --out=~/x.
        fault = "nothing can be written there, since the shell has not replaced '~'"
        raise UserError(f"{option} {path}", fault, "write the folder out")
    target = Path(path).absolute()
    try:
        parent = next(folder for folder in (target, *target.parents) if _exists(folder))
        if parent == target and not target.is_dir():
            parent = target.parent
        if not parent.is_dir():
            raise UserError(f"{option} {path}", f"{parent} is a file, not a folder", "choose another place")
        # Permission bits do not decide: root has all of them in /proc too, and a disk may be mounted read-only.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise UserError(f"{option} {path}", f"cannot be written ({error.strerror})", "choose another place") from None


def _exists(path: Path) -> bool:
    """Whether a path exists; raises OSError if it cannot be followed (too long, forbidden, or a circle of links)."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
