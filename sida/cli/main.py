"""The ``sida`` command line: finds the verbs, parses, and turns a :class:`UserError` into one line.

Heavy imports (torch, matplotlib) belong inside the functions that verbs run, so that help and wrong arguments take no
seconds.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple, cast

from sida.cli import terminal
from sida.cli.arguments import check_output_paths
from sida.config.plugins import allow_typed
from sida.errors import EXIT_RETRY, Preempted, UserError, say, suggestion

#: Errors of paths and disks, which the user can fix.
_PLACES = {errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ENAMETOOLONG}
_PLACES |= {errno.ENOLCK, errno.ENOSPC, errno.ENOTDIR, errno.ENOTSUP, errno.EPERM, errno.EROFS, errno.ESTALE}


ABOUT = "Distil diffusion teachers into one-step generators."


class Verb(NamedTuple):
    """A verb of the command line.

    Attributes:
        help: One line.
        examples: Text below the arguments in the verb's help.
        arguments: Function that declares the arguments in a parser.
        run: Function of the parsed arguments that does the work; returns the exit status, or None for 0.
        hidden: Whether the list of verbs leaves it out: a verb for the workflow's jobs.
    """

    help: str
    examples: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    hidden: bool = False


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
    """Runs a verb of this package (:mod:`workflow.cli` has further verbs); returns the exit status."""
    return run_command_line("sida", ABOUT, SIDA_VERBS, argv)


def verbs_of(commands: ModuleType) -> dict[str, str]:
    """Verbs of a ``commands`` package, with the names of their modules.

    A module has ``HELP``, ``EXAMPLES``, ``arguments`` and ``run`` of a :class:`Verb`; its name with ``_`` replaced by
    ``-`` is the verb. Modules that begin with ``_`` are not verbs.
    """
    names = [module.name for module in pkgutil.iter_modules(commands.__path__) if module.name[0] != "_"]
    return {name.replace("_", "-"): f"{commands.__name__}.{name}" for name in names}


def load_verb(place: str) -> Verb:
    """Imports a verb: ``module:object``, or a module of a ``commands`` package."""
    module, _, name = place.partition(":")
    found = importlib.import_module(module)
    if name:
        return cast(Verb, getattr(found, name))
    return Verb(found.HELP, found.EXAMPLES, found.arguments, found.run)


def run_command_line(name: str, description: str, verbs: Mapping[str, str], argv: Sequence[str] | None) -> int:
    """Runs the verb named in ``argv``; exit status 0, 1 (error of one line), 2 (usage), 75 (preempted) or
    130 (interrupted).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in verbs:
        say(f"error: {name} has no command '{arguments[0]}'{suggestion(arguments[0], verbs)}")
        return 2
    if arguments[:1] == ["--version"]:
        from sida.provenance import code_version

        print(f"{name} {code_version()}")
        return 0
    wanted = [arguments[0]] if arguments and arguments[0] in verbs else sorted(verbs)
    parser = command_parser(name, description, {verb: verbs[verb] for verb in wanted})
    terminal.speak_plainly()
    try:
        return _status(parser, arguments)
    finally:
        # A full disk under the output does not change the status from here on.
        for stream in (sys.stdout, sys.stderr):
            terminal.let_go(stream)


def command_parser(name: str, description: str, verbs: Mapping[str, str]) -> argparse.ArgumentParser:
    """Parser of a program with some verbs, each by its place (:func:`load_verb`)."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--version", action="store_true", help="show the version of the code and exit")
    parsers = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for verb, place in verbs.items():
        found = load_verb(place)
        shown: dict[str, Any] = {} if found.hidden else {"help": found.help}
        sub = parsers.add_parser(
            verb,
            description=found.help,
            epilog=found.examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **shown,
        )
        found.arguments(sub)
        sub.set_defaults(_run=found.run)
    return parser


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
