"""The ``sida`` command line: finds the verbs, parses, and turns a :class:`UserError` into one line.

Output is adapted to the terminal, file or pipe behind it: encoding, closed pipes.

Heavy imports (torch, matplotlib) belong inside the functions that verbs run, so that help and wrong arguments take no
seconds.
"""

import argparse
import contextlib
import errno
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO, cast

from sida.cli.arguments import check_output_paths
from sida.config.plugins import allow_typed, our_object
from sida.errors import EXIT_RETRY, Preempted, UserError, say, suggestion
from sida.machine import code_version

#: Errors of paths and disks, which the user can fix.
_PLACES = {errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ENAMETOOLONG}
_PLACES |= {errno.ENOLCK, errno.ENOSPC, errno.ENOTDIR, errno.ENOTSUP, errno.EPERM, errno.EROFS, errno.ESTALE}


class Verb(NamedTuple):
    """A verb of the command line.

    Attributes:
        help: One line.
        examples: Text below the arguments in the verb's help.
        arguments: Function that declares the arguments in a parser.
        run: Function of the parsed arguments that does the work; returns the exit status, or None for 0.
        intermixed: Whether positional arguments may follow options, and words after ``--`` are for another program;
            they are ``passed`` of the parsed arguments.
    """

    help: str
    examples: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    intermixed: bool = False


#: Verbs of this package, each a :class:`Verb` named ``module:object``.
SIDA_VERBS = {
    "average": "sida.cli.networks:AVERAGE",
    "convert": "sida.cli.networks:CONVERT",
    "data": "sida.cli.data:DATA",
    "distill": "sida.cli.train:DISTILL",
    "info": "sida.cli.networks:INFO",
    "sample": "sida.cli.networks:SAMPLE",
    "train-teacher": "sida.cli.train:TRAIN_TEACHER",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb of this package (:mod:`workflow.cli` has all verbs); returns the exit status."""
    return run_command_line("Distil diffusion teachers into one-step generators.", SIDA_VERBS, argv)


def run_command_line(
    about: str,
    verbs: Mapping[str, str],
    argv: Sequence[str] | None,
    groups: Mapping[str, Mapping[str, str]] | None = None,
) -> int:
    """Runs the verb named in ``argv``.

    Args:
        about: What the command does, for its help.
        verbs: Places of all verbs.
        argv: Words after the command's name; None takes those of the process.
        groups: Verbs that the help lists, by the heading of their group.

    Returns:
        Exit status: 0, 1 (error of one line), 2 (usage), 75 (preempted) or 130 (interrupted).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments else "--help"
    if not verb.startswith("-") and verb not in verbs:
        say(f"error: sida has no command '{verb}'{suggestion(verb, verbs)}")
        return 2
    if verb == "--version":
        print(f"sida {code_version()}")
        return 0
    if verb in ("-h", "--help"):
        print(_overview(about, groups or {"verbs": verbs}))
        return 0
    if verb.startswith("-"):
        say(f"error: sida {verb}: no such option; `sida --help` lists the verbs")
        return 2
    speak_plainly()
    try:
        return _status(our_object(verbs[verb]), arguments)
    finally:
        # A full disk under the output does not change the status from here on.
        for stream in (sys.stdout, sys.stderr):
            let_go(stream)


def _overview(about: str, groups: Mapping[str, Mapping[str, str]]) -> str:
    """The help of the command: its verbs by group."""
    lines = ["usage: sida [-h] [--version] COMMAND ...", "", about]
    for heading, verbs in groups.items():
        lines += ["", f"{heading}:"]
        lines += [
            textwrap.fill(our_object(place).help, 100, initial_indent=f"  {verb:<15}", subsequent_indent=" " * 17)
            for verb, place in verbs.items()
        ]
    return "\n".join([*lines, "", "`sida COMMAND --help` shows arguments and examples."])


def _parsed(verb: Verb, arguments: list[str]) -> argparse.Namespace:
    """Arguments of a verb."""
    parser = argparse.ArgumentParser(
        prog=f"sida {arguments[0]}",
        description=verb.help,
        epilog=verb.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.arguments(parser)
    if not verb.intermixed:
        return parser.parse_args(arguments[1:])
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return parser.parse_intermixed_args(arguments[1:end], argparse.Namespace(passed=arguments[end + 1 :]))


def _status(verb: Verb, arguments: list[str]) -> int:
    """Parses the arguments and runs the verb; returns the exit status."""
    status = 0
    try:
        # argparse removes the two hyphens and gives the verb an empty list.
        if (empty := next((word for word in arguments if re.fullmatch("--.+=--", word)), None)) is not None:
            raise UserError(empty, "'--' is not a value", "give another value")
        args = _parsed(verb, arguments)
        allow_typed(arguments)
        check_output_paths(vars(args))
        status = int(verb.run(args) or 0)
        if sys.stdout is not None:
            # A result that does not reach the disk is an error, which later flushes hide.
            sys.stdout.flush()
    except UserError as error:
        say(f"error: {error}")
        return error.status
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe; that is not an error of the command.
        pass
    except OSError as error:
        if error.errno not in _PLACES:
            raise
        named = f"{error.filename}: " if error.filename else ""
        say(f"error: {named}{error.strerror}; choose another place or make room there")
        return 1
    except Preempted:
        say("preempted; the state is kept: run the same command again to resume")
        return EXIT_RETRY
    except KeyboardInterrupt:
        say("interrupted; run the same command again to resume")
        return 130
    return status


def speak_plainly() -> None:
    """Makes output write a question mark for a character that its encoding does not have, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        # A stream put there by a caller may not support it.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            cast(Any, stream).reconfigure(errors="replace")


def let_go(stream: TextIO) -> None:
    """Flushes a stream, or discards its content if that fails; otherwise the process would fail at its exit."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
