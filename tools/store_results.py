"""Stores the results of a study beside its preset: ``python tools/store_results.py PRESET [--add] [--networks]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.results.stored import store
from workflow.preset import Preset
from workflow.preset.files import find_preset
from workflow.preset.spec_files import row_digest


def main() -> None:
    """Writes the folder ``stored`` of the study from results/<preset>."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", metavar="PRESET", help="name or file of the preset")
    parser.add_argument("--add", action="store_true", help="keep stored rows that these results do not have")
    parser.add_argument("--networks", action="store_true", help="store the networks, too")
    args = parser.parse_args()
    path = find_preset(args.preset)
    preset = Preset.load(path)
    about = {"preset": args.preset, "title": preset.settings.title}
    asked = {run: row_digest(preset, run) for run in preset.runs}
    out = Path(path).parent / "stored"
    store(preset.results, out, about, asked, add=args.add, networks=args.networks)
    print(out)


if __name__ == "__main__":
    main()
