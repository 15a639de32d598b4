"""``sida settings``: what a key of a preset, recipe or protocol means, which values it takes, and its default."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from sida.cli.main import Verb
from sida.errors import UserError, suggestion
from sida.workflow.cli import terminal_width
from sida.workflow.settings import ABOUT, all_settings, official_values

if TYPE_CHECKING:
    from sida.workflow.settings import Setting


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    text = "a key (lr), a place of keys (recipe), or both (recipe.lr); without: all places"
    parser.add_argument("key", nargs="?", metavar="KEY", help=text)
    parser.add_argument("--about", metavar="WORD", help="list the keys whose name or meaning has a word")


def _settings(args: argparse.Namespace) -> int:
    """Prints keys in full, or lists of keys."""
    rows = all_settings()
    place, _, key = (args.key or "").rpartition(".")
    in_full = [row for row in rows if row.key == key and place in ("", row.place)]
    is_place = args.key in ABOUT
    if args.key and not in_full and not is_place:
        known = {*ABOUT, *(row.key for row in rows)}
        known |= {f"{row.place}.{row.key}" for row in rows} if place else set()
        raise UserError(args.key, f"no such key{suggestion(args.key, known, '')}", "list the keys: sida settings")
    listed = [row for row in rows if args.key in (None, row.place)] if args.about or is_place else []
    if args.about:
        word = args.about.lower()
        listed = [row for row in listed or in_full if word in f"{row.key} {row.meaning}".lower()]
        if not listed:
            raise UserError(f"--about {args.about}", "no key has this word", "list the keys: sida settings")
        in_full = []
    for title, group in _joined(in_full).items():
        _print_setting(title, group)
    if args.key is None and not args.about:
        for place, about in ABOUT.items():
            _print_line(place, about, 20)
    elif is_place and not args.about:
        _print_text(f"{args.key}: {ABOUT[args.key]}", "")
    for row in listed:
        _print_line(row.key if is_place else f"{row.place}.{row.key}", f"{row.default:<9} {row.meaning}", 34)
    return 0


def _joined(rows: list[Setting]) -> dict[str, Setting]:
    """Settings by their places, with those of one type, default and meaning together."""
    places: dict[tuple[str, ...], list[Setting]] = {}
    for row in rows:
        places.setdefault(row[2:], []).append(row)
    return {", ".join(f"{row.place}.{row.key}" for row in same): same[0] for same in places.values()}


def _print_setting(title: str, setting: Setting) -> None:
    _print_text(title, "")
    if setting.kind:
        _print_text(setting.kind)
    values = official_values(setting.key) if setting.place in ("recipe", "sheet") and setting.default == "null" else {}
    if setting.default:
        _print_text("needed" if setting.default == "*needed*" else f"default: {setting.default}")
    _print_text(setting.meaning)
    for value, methods in values.items():
        _print_text(f"official {value}: {methods}")


def _print_text(text: str, indent: str = "  ") -> None:
    lines = textwrap.wrap(
        text, terminal_width(), initial_indent=indent, subsequent_indent=indent or "  ", break_on_hyphens=False
    )
    print("\n".join(lines))


def _print_line(name: str, text: str, width: int) -> None:
    """Prints a name and as much of a text as a line takes."""
    room = max(20, terminal_width() - width - 1)
    print(f"{name:<{width}} {text if len(text) <= room else text[: room - 1] + '…'}")


SETTINGS = Verb(
    """examples:
  sida settings                      (the places of keys)
  sida settings recipe               (all keys of a recipe, one line each)
  sida settings init_sigma           (one key in full, with the official value for each method and network family)
  sida settings protocol.num_samples  (the key of one place)
  sida settings --about noise        (keys whose name or meaning has a word)
""",
    _arguments,
    _settings,
)
