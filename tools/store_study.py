"""Stores the results of a run beside its study, as far as there are any: numbers, logs, verdicts, pictures, networks.

python -m tools.store_study results/demo studies/demo/preset.yaml --networks
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from eval.report.page import reduced_png
from eval.results.stored import store
from sida.files.atomic import atomic_path
from workflow.preset import Preset
from workflow.preset.jobs import row_digest


def store_study(results: Path, file: Path, study: Path, networks: bool = False) -> Path:
    """Replaces the folder ``stored`` and the pictures of a study; returns that folder.

    Args:
        results: Results of the preset.
        file: File of the preset.
        study: Folder of the study.
        networks: Whether networks are stored as well.
    """
    preset, out = Preset.load(file), study / "stored"
    asked = {run: row_digest(preset, run) for run in preset.runs}
    store(results, out, {"preset": str(file), "title": preset.settings.title}, asked, networks=networks)
    for path in results.glob("claims.*"):
        shutil.copyfile(path, out / path.name)
    drawn = [name for name in preset.settings.figures if (results / "figures" / f"{name}.png").exists()]
    for name in drawn:
        with atomic_path(study / f"{name}.png") as temporary:
            temporary.write_bytes(reduced_png(results / "figures" / f"{name}.png"))
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, metavar="DIR")
    parser.add_argument("preset", type=Path, metavar="FILE")
    parser.add_argument("--networks", action="store_true", help="store the networks, too")
    args = parser.parse_args()
    print(store_study(args.results, args.preset, args.preset.parent, args.networks))
