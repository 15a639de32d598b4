"""``sida crate``: a results folder as an RO-Crate, so that it can be archived and cited."""

from __future__ import annotations

import argparse

from sida.cli.arguments import existing

HELP = "Pack a results folder as an RO-Crate (files, hashes, authors, command, code) for an archive."
EXAMPLES = """examples:
  sida crate results/demo demo-crate.zip
  sida crate results/demo demo-crate --citation CITATION.cff

The folder is checked first (sida verify). Kept states and logs are left out. Authors and licence come from a
CITATION.cff; that of this code is only a placeholder: name your own. Needs the package rocrate
(`make setup`; with a wheel: pip install rocrate).
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "folder", type=existing(), metavar="DIR", help="results folder of a preset, with its manifest.json"
    )
    parser.add_argument("out", metavar="OUT", help="FILE.zip, or a new folder")
    parser.add_argument("--citation", metavar="FILE", help="CITATION.cff with authors and licence of the results")


def run(args: argparse.Namespace) -> int:
    """Packs the folder."""
    from workflow.archive.crate import write_crate

    count = write_crate(args.folder, args.out, args.citation)
    print(f"{args.out}: {count:,} files with their hashes")
    return 0
