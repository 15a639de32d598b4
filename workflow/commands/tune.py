"""``sida tune``: tunes methods alike over a declared space."""

from __future__ import annotations

import argparse

HELP = "Tune methods alike: equally many settings of each from a declared space, the best ones trained longer."
EXAMPLES = """examples:
  sida tune studies/rivals/space.yaml -n             (show the next trials and run none)
  sida tune studies/rivals/space.yaml --cores 2
  sida tune studies/rivals/space.yaml --profile slurm

The file names a preset, teachers, rungs, and axes of each method (docs/settings.md, 'space'). trials.csv and, at the
end, tuned.yaml are written beside the file: name tuned.yaml as `base` of the preset. The same command resumes after an
interruption, and trains no trial of trials.csv again; delete that file after a change of the preset. A trial's files
are in results/PRESET/students/tune-*.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("space", metavar="FILE", help="YAML file with the space")
    parser.add_argument("--cores", metavar="N", help="number of cores, as for sida run")
    parser.add_argument("--profile", metavar="NAME|FOLDER", help="where jobs run, as for sida run")
    parser.add_argument("-n", "--dry-run", action="store_true", help="show the next trials and run none")


def run(args: argparse.Namespace) -> int:
    """Runs pass after pass by ``sida run``; returns its status if a pass fails."""
    import json
    import subprocess
    import sys
    from pathlib import Path

    from workflow.tuning import Tuning

    tuning = Tuning(Path(args.space))
    given = [word for key in ("cores", "profile") if (value := getattr(args, key)) for word in (f"--{key}", value)]
    while trials := tuning.next_trials():
        for trial in trials if args.dry_run else ():
            print(trial.run, json.dumps(dict(trial.settings)))
        if args.dry_run:
            return 0
        preset, targets = tuning.write_preset(trials)
        print(f"tune  {len(trials)} trials", flush=True)
        command = [sys.executable, "-m", "workflow", "run", str(preset), *targets, *given]
        status = subprocess.run(command, check=False).returncode
        tuning.write_results()
        if status:
            return status
    print("\n".join(map(str, tuning.write_results())))
    return 0
