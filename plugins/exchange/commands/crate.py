"""The verb ``crate``: describes a results folder as a Workflow Run RO-Crate."""

import argparse

from sida.cli.main import Verb, existing


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("folder", type=existing(), help="results folder of a finished run")
    parser.add_argument(
        "--license", default="", metavar="ADDRESS", help="address or name of the licence of the results"
    )


def _crate(args: argparse.Namespace) -> int:
    """Writes the crate."""
    from sida.plugins.exchange.crate import write_crate
    from sida.workflow.archive.manifest import CRATE

    count = write_crate(args.folder, args.license)
    print(f"{args.folder}/{CRATE}: {count} files")
    return 0


CRATE = Verb(
    """examples:
  sida crate results/demo --license https://spdx.org/licenses/CC-BY-4.0
  sida verify results/demo                  (compares the files with the crate, too)

Checks the folder as sida verify does, then writes ro-crate-metadata.json, and the Snakefile and rules of the run, into
it; a folder with a fault stays as it is. Needs: pip install '.[crate]'
""",
    _arguments,
    _crate,
)
