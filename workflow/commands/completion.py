"""``sida completion`` and ``sida-eval completion``: a script that completes commands, options, values and files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

HELP = "Print a script that completes this program's commands, options and values in bash, zsh or tcsh."
EXAMPLES = """examples:
  sida completion bash > ~/.local/share/bash-completion/completions/sida
  sida-eval completion bash > ~/.local/share/bash-completion/completions/sida-eval
  sida completion zsh > ~/.zfunc/_sida                  (with fpath+=~/.zfunc before compinit in ~/.zshrc)

Values are names of presets, protocols, tables, figures, methods and targets, as they are when the script is made
(not in tcsh).
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    parser.set_defaults(program=parser.prog.split()[0])


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    from sida.cli.main import command_parser
    from sida.config.resources import how_to_install
    from sida.errors import UserError
    from workflow.cli import VERBS

    try:
        import shtab
    except ImportError:
        remedy = how_to_install("shtab>=1.7", target="extras")
        raise UserError("completion", "the package shtab is not installed", remedy) from None
    parser = command_parser(args.program, "", VERBS[args.program])
    values = {kind: " ".join(filter(_PLAIN.fullmatch, found)) for kind, found in _values().items()}
    for action, kind in _valued(parser):
        # Files, too: most values may be paths.
        zsh = f"{{compadd {values[kind]}; _files}}"
        action.complete = {"bash": f"_sida_{kind}", "zsh": zsh}  # type: ignore[attr-defined]
    functions = (
        f'_sida_{kind}() {{ compgen -W "{words}" -- "$1"; compgen -f -- "$1"; }}' for kind, words in values.items()
    )
    print(shtab.complete(parser, args.shell, preamble={"bash": "\n".join(functions)}))
    return 0


#: Names that mean nothing else to a shell.
_PLAIN = re.compile(r"[\w./-]+")
#: Kind of an argument's values, by its name in the parser; a verb's own comes first.
_KINDS = {
    "figure layout": "figure",
    "check study": "preset",
    "preset": "preset",
    "protocol": "protocol",
    "targets": "target",
    "method": "method",
    **dict.fromkeys(("table", "like", "layout"), "table"),
}


def _values() -> dict[str, list[str]]:
    """Values of each kind."""
    from sida.config.resources import names
    from sida.methods.registry import METHODS
    from workflow.preset.files import presets

    tables, figures = names("tables"), names("figures")
    products = [*(f"tables/{name}.tex" for name in tables), *(f"figures/{name}.pdf" for name in figures)]
    return {
        "preset": list(presets()),
        "protocol": names("protocols"),
        "table": tables,
        "figure": figures,
        "method": list(METHODS),
        "target": [*products, "measurements.csv", "claims.md", "index.html"],
    }


def _valued(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.Action, str]]:
    """Arguments of all verbs that have values of a kind."""
    verbs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for verb, of_verb in verbs.choices.items():
        for action in of_verb._actions:
            kind = _KINDS.get(f"{verb} {action.dest}", _KINDS.get(action.dest))
            if kind is not None and action.choices is None and action.nargs != 0:
                yield action, kind
