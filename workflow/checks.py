"""Checks before a workflow starts: working folder, Snakemake's profile and records, data, results."""

import contextvars
import getpass
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sida.config.lookup import ALLOW, ROOT, check_code_path
from sida.errors import UserError
from sida.workflow.preset import Preset
from sida.workflow.preset.files import presets
from sida.workflow.preset.specs import missing_data

#: Whether this process only plans; then no profile was read, since only Snakemake's command line reads profiles.
PLANNING = contextvars.ContextVar("PLANNING", default=False)


def check_folder(folder: Path) -> None:
    """Checks that Snakemake can write its records in a folder (else Snakemake ends in a traceback).

    Raises:
        UserError: The folder, or ``.snakemake`` in it, cannot be written.
    """
    records = folder / ".snakemake"
    path = records if records.exists() else folder
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(
            path,
            "cannot be written, and Snakemake keeps its records there",
            "start it in a writable folder: snakemake -s CHECKOUT/Snakefile --configfile FILE",
        )


def check_profile(arguments: Sequence[str]) -> None:
    """Refuses a profile of the current folder without permission: a profile contains commands that start jobs.

    Args:
        arguments: Arguments of the user; a profile that they name, or ``none``, is the user's choice.

    Raises:
        UserError: There is such a profile.
    """
    # Folders that Snakemake searches, in its order.
    path = next((path for path in map(Path, ("default", "profiles/default")) if path.exists()), None)
    ours = (ROOT / "profiles/default").resolve()
    if path is None or path.resolve() == ours or any(word.startswith("--workflow-p") for word in arguments):
        return
    remedy = f"type --workflow-profile {path}, else --workflow-profile {ours if ours.is_dir() else 'none'}"
    check_code_path(path, "a profile of Snakemake, which contains commands", remedy)


def check_records(folder: Path) -> None:
    """Refuses modules in Snakemake's records without permission: Snakemake imports them as it starts.

    Its other records are data, which may come from a plain ``snakemake``, another user or another place.

    Raises:
        UserError: There are such modules.
    """
    modules = folder / ".snakemake/pip-deployments"
    if os.path.lexists(modules):
        kind = "a folder of modules, which Snakemake imports as it starts"
        check_code_path(modules, kind, f"set {ALLOW}={modules.resolve()}, else remove it")


def check_pickles(arguments: Sequence[str]) -> None:
    """Refuses Snakemake's option that loads a pickle of the working folder, which may contain a program.

    Args:
        arguments: Arguments of Snakemake, which takes shorter forms of its options.

    Raises:
        UserError: The option is among them.
    """
    if any(word.startswith("--tr") for word in arguments):
        raise UserError("--trust-io-cache", "loads a pickle of the working folder, which can run code", "leave it out")


def check_scheduler(executor: str) -> None:
    """Refuses SLURM on a machine without SLURM, where each job fails after a minute.

    Args:
        executor: Name of Snakemake's executor.

    Raises:
        UserError: It is ``slurm``, and ``sbatch`` is missing.
    """
    if executor == "slurm" and shutil.which("sbatch") is None:
        remedy = "start it on a login node of the cluster, or leave the profile out to run jobs on this machine"
        raise UserError("executor slurm", "this machine has no sbatch", remedy)


#: Packages that jobs import, which Snakemake itself does not need.
PACKAGES = ("torch", "numpy", "scipy", "pandas", "safetensors", "matplotlib", "PIL")


def check_packages() -> None:
    """Refuses to start jobs in an environment without their packages, where each of them would fail.

    Raises:
        UserError: A package is missing.
    """
    if name := next((name for name in PACKAGES if importlib.util.find_spec(name) is None), None):
        raise missing_package(name, "jobs import it", "add --sdm conda")


def missing_package(name: str, reason: str, remedy: str) -> UserError:
    """The error of a package that Snakemake's environment lacks, with a remedy besides another environment."""
    remedy = f"{remedy}, or start Snakemake in the environment of environment.yml (docs/cluster.md)"
    return UserError(f"package {name}", f"{sys.executable} does not have it, and {reason}", remedy)


#: Ends of the names of settings' files.
_SETTINGS = (".yaml", ".yml", ".json")
#: Jobs that open data sets, by the folder of their specs.
OPENING = {"teachers": "trains on it", "students": "trains on it", "measurements": "is measured with it"}


def check_data(preset: Preset, jobs: Iterable[str]) -> None:
    """Checks that the data sets exist that jobs read and the workflow does not make.

    Args:
        preset: The preset.
        jobs: Names of jobs, ``<stage>/<name>``.

    Raises:
        UserError: One does not exist.
    """
    for stage, _, name in (job.partition("/") for job in jobs):
        if stage in OPENING and (path := missing_data(preset, f"{stage}/{name}", preset.archives.made)):
            remedy = "fetch or prepare the data set first (sida data prepare --help)"
            raise UserError(path, f"no such file or folder, and {name} {OPENING[stage]}", remedy)


def give_cache() -> None:
    """Gives Snakemake a user's name, and a cache in this folder where the home cannot be written.

    Without them it ends in a traceback: a container's user may be a number without a name and a home.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    try:
        # Without a home the path begins with ~ still.
        if cache.parts[0] == "~":
            raise FileNotFoundError(cache)
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK):
            return
    except OSError:
        pass
    os.environ["XDG_CACHE_HOME"] = os.path.abspath(".snakemake/cache")


def check_command(files: Sequence[str | Path]) -> None:
    """Ends Snakemake with one line if a word after ``--configfile`` is not a file of settings; profiles call it.

    Snakemake takes all words after this option as its files, also targets.

    Args:
        files: Words after ``--configfile``.
    """
    give_cache()
    first, *others = [*map(str, files), ""]
    for name in filter(None, (first, *others)):
        is_file = os.path.isfile(name)
        if is_file and name.endswith(_SETTINGS):
            continue
        if name in presets():
            hint = f"this preset is {presets()[name]}"
        elif name == first:
            hint = "name a preset's file; `sida presets` lists them"
        else:
            hint = f"targets come before this option, or after --: snakemake {name} --configfile {first}"
        fault = f"'{name}' is not a {', '.join(_SETTINGS)} file" if is_file else f"no such file '{name}'"
        print(f"error: --configfile: {fault}; {hint}", file=sys.stderr)
        sys.exit(1)


def closed_results(folder: str | Path) -> str | None:
    """Remark on a read-only results folder; None for a writable or missing folder.

    This is not a fault: finished products can be shown. Otherwise Snakemake reports its outputs as protected.
    """
    if not os.path.isdir(folder) or os.access(folder, os.W_OK | os.X_OK):
        return None
    return f"{folder}: is read-only, so nothing can be made there; start in a writable folder to make more"
