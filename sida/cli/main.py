"""The ``sida`` command line: finds the verbs, parses, and turns a :class:`UserError` into one line.

Heavy imports (torch, matplotlib) belong inside the functions that verbs run, so that help and wrong arguments take no
seconds.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

from sida.cli import terminal
from sida.cli.arguments import check_output_paths
from sida.config.plugins import allow_typed
from sida.errors import EXIT_RETRY, Preempted, UserError, say, suggestion
from sida.provenance import code_version

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
    """

    help: str
    examples: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


#: Verbs of this package, each a :class:`Verb` named ``module:object``.
SIDA_VERBS = {
    "assets": "sida.cli.data:ASSETS",
    "average": "sida.cli.networks:AVERAGE",
    "convert": "sida.cli.networks:CONVERT",
    "data": "sida.cli.data:DATA",
    "distill": "sida.cli.train:DISTILL",
    "info": "sida.cli.networks:INFO",
    "manifest": "sida.cli.data:WRITE_MANIFEST",
    "sample": "sida.cli.sample:SAMPLE",
    "train-teacher": "sida.cli.train:TRAIN_TEACHER",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb of this package (:mod:`workflow.cli` has all verbs); returns the exit status."""
    return run_command_line("Distil diffusion teachers into one-step generators.", SIDA_VERBS, argv)


def load_verb(place: str) -> Verb:
    """Imports a verb named ``module:object``."""
    module, _, name = place.partition(":")
    return cast(Verb, getattr(importlib.import_module(module), name))


def run_command_line(
    about: str,
    verbs: Mapping[str, str],
    argv: Sequence[str] | None,
    groups: Mapping[str, Mapping[str, str]] | None = None,
    removed: Mapping[str, str] | None = None,
) -> int:
    """Runs the verb named in ``argv``.

    Args:
        about: What the command does, for its help.
        verbs: Places of all verbs.
        argv: Words after the command's name; None takes those of the process.
        groups: Verbs that the help lists, by the heading of their group.
        removed: Remedies by verb, or by verb and option, of words that exist no more.

    Returns:
        Exit status: 0, 1 (error of one line), 2 (usage), 75 (preempted) or 130 (interrupted).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments else "--help"
    if (gone := _removed(arguments, removed or {})) is not None:
        say(f"error: sida {gone}: is removed; {(removed or {})[gone]}")
        return 2
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
    parser = argparse.ArgumentParser(prog="sida", description=about)
    found = load_verb(verbs[verb])
    sub = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True).add_parser(
        verb,
        description=found.help,
        epilog=found.examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.arguments(sub)
    sub.set_defaults(_run=found.run)
    terminal.speak_plainly()
    try:
        return _status(parser, arguments)
    finally:
        # A full disk under the output does not change the status from here on.
        for stream in (sys.stdout, sys.stderr):
            terminal.let_go(stream)


def _removed(arguments: Sequence[str], removed: Mapping[str, str]) -> str | None:
    """The removed verb, or verb with option, that the arguments name."""
    if not arguments or arguments[0] in removed:
        return arguments[0] if arguments else None
    options = (f"{arguments[0]} {word.partition('=')[0]}" for word in arguments[1:])
    return next((option for option in options if option in removed), None)


def _overview(about: str, groups: Mapping[str, Mapping[str, str]]) -> str:
    """The help of the command: its verbs by group."""
    lines = ["usage: sida [-h] [--version] COMMAND ...", "", about]
    for heading, verbs in groups.items():
        lines += ["", f"{heading}:"]
        lines += [
            textwrap.fill(load_verb(place).help, 100, initial_indent=f"  {verb:<15}", subsequent_indent=" " * 17)
            for verb, place in verbs.items()
        ]
    return "\n".join([*lines, "", "`sida COMMAND --help` shows arguments and examples."])


def _status(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    """Parses the arguments and runs the verb; returns the exit status."""
    try:
        try:
            # argparse removes the two hyphens and gives the verb an empty list.
            if (empty := next((word for word in arguments if re.fullmatch("--.+=--", word)), None)) is not None:
                raise UserError(empty, "'--' is not a value", "give another value")
            args = parser.parse_args(arguments, argparse.Namespace(argv=arguments))
            allow_typed(arguments)
            check_output_paths(vars(args))
            return int(args._run(args) or 0)
        finally:
            terminal.finish()
    except UserError as error:
        say(f"error: {error}")
        return error.status
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe; that is not an error of the command.
        return 0
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
