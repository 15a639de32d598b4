"""``sida run``: checks a study's files, finds targets by short names, and starts Snakemake with the right files."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sida.cli.main import Verb, integer
from sida.config.lookup import ROOT
from sida.config.registries import Registry
from sida.errors import UserError, suggestion
from sida.workflow.checks import check_folder, check_records
from sida.workflow.commands.presets import preset_argument
from sida.workflow.preset import load_preset
from sida.workflow.preset.extension import stored_results, write_extension
from sida.workflow.preset.files import find_preset
from sida.workflow.preset.targets import Targets


def _arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    preset_argument(parser)
    parser.add_argument("--cores", metavar="N", help="number of cores, or `all` (default: the profile's)")
    parser.add_argument(
        "--profile",
        metavar="NAME|FOLDER",
        help="where jobs run: a folder of profiles, or its name there (docs/cluster.md)",
    )
    parser.add_argument(
        "--extend",
        nargs="?",
        const="",
        metavar="TSV",
        help="take unchanged rows from the study's stored results, and run the rows of a sheet and the changed ones",
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="random networks and few images: every step without a download or a GPU (small ones if the preset trains)",
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="show the jobs and run none")


def _run(args: argparse.Namespace) -> int:
    """Becomes Snakemake, so signals and the exit status are Snakemake's; does not return."""
    if args.cores and args.cores != "all":
        integer("--cores", 1, 10**6)(args.cores)
    if importlib.util.find_spec("snakemake") is None:
        raise ModuleNotFoundError(name="snakemake")
    profile = _profile(args.profile)
    # Snakemake runs code of its settings and records as it starts: they are read first, as data.
    check_folder(Path.cwd())
    check_records(Path.cwd())
    files = [find_preset(args.preset)]
    if args.extend is not None:
        path, rows = write_extension(files, args.extend, stored_folder := stored_results(files))
        print(f"rows  run here: {', '.join(rows) or 'none'}; all others from {stored_folder}", flush=True)
        files = [*files, path]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    if args.rehearse:
        writers = Registry[Callable[..., tuple[Path, dict[str, str]]]]("preset_writers", "writer of presets")
        path, more = writers.find("rehearsal", "--rehearse")(files, args.targets, args.dry_run)
        files, environment = [*files, path], environment | more
        os.environ |= more
    preset = load_preset(*files)
    targets = [path for target in args.targets for path in Targets(preset).paths_of(target)]
    print(f"preset {preset.name} ({preset.source}): {', '.join(args.targets) or 'the whole preset'}", flush=True)
    options = ["--cores", args.cores] if args.cores else []
    options += ["--dry-run"] if args.dry_run else []
    # Snakemake's own targets may follow a second --.
    options += [*args.passed, *([] if "--" in args.passed else ["--"]), *targets]
    os.execve(sys.executable, snakemake_command(files, options, profile), environment)


def snakemake_command(files: Sequence[Path], options: Sequence[str], profile: Path | None = None) -> list[str]:
    """The command that starts Snakemake on a preset's files, with further options and targets; for a safe path."""
    words = ["-s", os.path.relpath(ROOT / "Snakefile"), "--workflow-profile", str(profile or ROOT / "profiles/default")]
    return [sys.executable, "-P", "-m", "sida.workflow.snakemake", *words, "--configfile", *map(str, files), *options]


def _profile(name: str | None) -> Path | None:
    """The folder of a profile that the user names, or None."""
    if name is None:
        return None
    ours = {path.parent.name: path.parent for path in (ROOT / "profiles").glob("*/profile.yaml")}
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir() and name not in ours:
        raise UserError(f"--profile {name}", f"no such folder and no such profile{suggestion(name, ours)}")
    return ours.get(name, folder)


RUN = Verb(
    """examples:
  sida run demo --cores 2
  sida run demo tables/main.tex                     (one product; a row of the sheet is a target, too)
  sida run flowers/ -n                              (a folder of `sida new`; -n shows the jobs and runs none)
  sida run paper tables/table1.tex --profile slurm
  sida run demo --extend my.tsv                   (stored rows are taken, the rows of my.tsv run)
  sida run first-look --rehearse --cores 2        (random networks of the papers' size, 100 images, no download)
  sida run demo --cores 2 -- --forcerun collect     (all words after -- are Snakemake's)

Results are written below the current folder, in results/<preset>/. The exit status is Snakemake's.
""",
    _arguments,
    _run,
    intermixed=True,
)
