"""``sida new``: makes a folder with everything that a study of custom data needs."""

from __future__ import annotations

import argparse

from sida.cli.arguments import existing, whole
from sida.cli.main import Verb


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("study", metavar="STUDY", help="folder to make; its name becomes the preset's")
    parser.add_argument(
        "--data", required=True, type=existing("--data", pictures=True), metavar="FOLDER|ZIP", help="your pictures"
    )
    parser.add_argument(
        "--resolution",
        type=whole("--resolution", 1, 8192),
        metavar="N",
        help="height and width (default: the pictures')",
    )
    parser.add_argument("--channels", type=int, help="3: RGB, 1: grey (default: the pictures')")
    parser.add_argument("--labels", help="auto (default), json, folders or none: see `sida data prepare`")
    parser.add_argument("--device", help="cpu or cuda (default: by --gpu, --cores and the resolution)")
    parser.add_argument("--gpu", metavar="NAME", help="card of config/plan.yaml that the study has to fit (RTX4090)")
    parser.add_argument(
        "--cores", type=whole("--cores", 1, 10**4), metavar="N", help="processor cores in place of a card (2)"
    )
    parser.add_argument("--hours", type=float, help="hours until the table (default: 8, a night)")


def _run(args: argparse.Namespace) -> int:
    """Writes the folder."""
    from sida.config.settings import from_mapping
    from workflow.planning.new import StudyConfig, new_study

    given = {k: v for k, v in vars(args).items() if k in StudyConfig.__dataclass_fields__ and v is not None}
    print("\n".join(new_study(from_mapping(StudyConfig, given, "sida new:"))))
    return 0


NEW = Verb(
    "Make a study of custom pictures: a folder with a commented preset, sheet, protocol and layouts.",
    """examples:
  sida new flowers --data pictures/ --resolution 64     crops and scales to flowers/data.zip
  sida new flowers --data flowers-32x32.zip             a zip of `sida data prepare` stays where it is
  sida new flowers --data pictures/ --resolution 32 --gpu H100 --hours 24
  sida new clothes --data fashion.zip --cores 2 --hours 0.5
  sida new tryout --data pictures/ --resolution 16 --hours 0.2    ends in minutes, to see every step
  cd flowers && sida run .

Width, lengths, micro-batches and measured images are the largest that fit card and hours by the costs of `sida plan`;
a line says what was given up (up to 16×16 on 2 cores, above on a card of 24 GB, unless you name others).
See docs/own-pictures.md.
""",
    _arguments,
    _run,
)
