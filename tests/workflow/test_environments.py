"""The workflow in environments that do not have the project: all packages of environment.yml, and Snakemake alone."""

import os
import re
import subprocess
import sysconfig
import venv
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from sida.config.lookup import ROOT
from sida.workflow.preset.files import presets
from tests.workflow.workspace import Workspace

SITE = Path(sysconfig.get_path("purelib"))
PUBLISHED = "studies/papers/published.yaml"
TABLE = "results/published/tables/table8.tex"


def snakemake_alone() -> set[str]:
    """Distributions that Snakemake needs, and theirs."""
    waiting, names = ["snakemake"], set[str]()
    while waiting:
        if (name := waiting.pop()) in names:
            continue
        names.add(name)
        needs = map(Requirement, metadata.requires(name) or ())
        waiting += [each.name for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
    return names


class Environment:
    """A virtual environment, whose packages are those of this one without its editable checkout."""

    def __init__(self, folder: Path, packages: set[str] | None = None) -> None:
        venv.create(folder, with_pip=False)
        self.bin = folder / "bin"
        site = next((folder / "lib").glob("python*/site-packages"))
        if packages is None:
            # A folder added by a .pth file is searched for modules, but its own .pth files are not read.
            (site / "packages.pth").write_text(f"{SITE}\n")
        for name in packages or ():
            tops = {file.parts[0] for file in metadata.distribution(name).files or () if file.parts[0] != ".."}
            for top in tops - {"__pycache__", "tests"}:
                if not (site / top).exists():
                    (site / top).symlink_to(SITE / top)
        script = f'#!/bin/sh\nexec {self.bin}/python -m snakemake "$@"\n'
        (self.bin / "snakemake").write_text(script)
        (self.bin / "snakemake").chmod(0o755)

    def run(self, folder: Path, *words: str, path: Path | None = None) -> tuple[int, str]:
        """Exit status and output of ``snakemake`` in a folder."""
        search = os.pathsep.join([*([str(path)] if path else []), str(self.bin), "/usr/bin", "/bin"])
        environment = {"PATH": search, "HOME": str(folder), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["snakemake", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=1200
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Environment:
    return Environment(tmp_path_factory.mktemp("complete") / "environment")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("alone") / "environment", snakemake_alone())
    without = (
        "import importlib.util as u; print([n for n in ('torch', 'numpy', 'safetensors', 'sida') if u.find_spec(n)])"
    )
    python = [str(environment.bin / "python"), "-I", "-c", without]
    assert subprocess.run(python, capture_output=True, text=True).stdout == "[]\n"
    return environment


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A checkout in a path with a space."""
    (tmp_path / "a checkout").mkdir()
    return Workspace(tmp_path / "a checkout").folder


def test_the_demo_is_planned_with_the_packages_and_without_the_project(complete, checkout):
    status, said = complete.run(checkout, "--cores", "2", "-n")
    assert status == 0, said
    assert re.search(r"^distill +\d", said, re.M), said


@pytest.mark.slow
def test_a_start_from_elsewhere_needs_the_path_of_the_snakefile_alone(alone, checkout, tmp_path):
    preset = f"{checkout}/{PUBLISHED}"
    status, said = alone.run(
        tmp_path, "-s", f"{checkout}/Snakefile", "--cores", "1", "-n", TABLE, "--configfile", preset
    )
    assert status == 0, said
    assert re.search(r"^table +1", said, re.M), said


#: Reads each preset as the Snakefile does, in one process, since Snakemake's start takes seconds.
READ = """
from sida.workflow.preset import preset_from
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.files import presets, read_preset
from sida.workflow.preset.specs import Jobs
from sida.workflow.preset.targets import Targets

for name, path in presets().items():
    preset = preset_from(*read_preset([path], {}))
    check_preset(preset)
    jobs = Jobs(preset)
    jobs.digest("preset")
    Targets(preset).groups(jobs)
    print(name)
"""


@pytest.mark.slow
def test_snakemake_alone_reads_every_preset(alone, checkout):
    done = subprocess.run([alone.bin / "python", "-c", READ], cwd=checkout, capture_output=True, text=True)
    assert done.stdout.split() == [*presets()], done.stderr[-3000:]


#: Stands for conda: says its version, makes an empty environment.
CONDA = """#!/bin/sh
case "$*" in
    "info --json") echo '{"conda_prefix": "FOLDER", "platform": "linux-64"}' ;;
    --version) echo "conda 25.1.0" ;;
    *config*) echo '{"get": {"channel_priority": "strict"}}' ;;
esac
"""


@pytest.mark.slow
def test_snakemake_alone_gives_its_jobs_to_conda_or_says_what_is_missing(alone, complete, checkout, tmp_path):
    """Snakemake takes PYTHONPATH from jobs of a conda environment; the environment's own Python runs them."""
    words = ("--cores", "1", TABLE, "--configfile", PUBLISHED)
    status, said = alone.run(checkout, *words)
    assert status == 1
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.search(r"^error: package torch: .* --sdm conda", line)
    assert "Traceback" not in said
    folder = tmp_path / "conda/bin"
    folder.mkdir(parents=True)
    python = f'#!/bin/sh\necho "$PYTHONPATH" >> {tmp_path}/seen\nexec {complete.bin}/python "$@"\n'
    for name, text in (("conda", CONDA.replace("FOLDER", str(folder.parent))), ("python", python)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "activate").write_text(f'export PATH="{folder}:$PATH"\n')
    status, said = alone.run(checkout, *words, "--sdm", "conda", path=folder)
    assert status == 0, said[-6000:]
    assert (checkout / TABLE).is_file()
    assert all(str(checkout) in line.split(os.pathsep) for line in (tmp_path / "seen").read_text().splitlines())


def test_every_profile_begins_with_the_same_checks_and_has_the_name_of_older_snakemakes():
    paths = sorted((ROOT / "profiles").glob("*/profile.yaml"))
    definitions = [yaml.safe_load(path.read_text())["__definitions__"] for path in paths]
    assert len(definitions) > 2
    assert all(lines == definitions[0] for lines in definitions)
    assert all((path.parent / "config.yaml").samefile(path) for path in paths)
    # The folder in which Snakemake looks by itself.
    assert ROOT / "profiles/default/profile.yaml" in paths
