"""Writes ``environment.yml``: the packages of an installation and all that they need, as the lock pins them.

python -m tools.write_environment
"""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PATH = ROOT / "environment.yml"
_HEAD = """\
# Written by `python -m tools.write_environment` from requirements/main.lock. The conda environment of the rules
# (`snakemake --sdm conda`), and one to run Snakemake in. The workflow brings the package itself.
name: sida-repro
channels: [conda-forge, nodefaults]
dependencies:
  - python=3.11
  - pip
  - pip:
"""
#: Schedulers of the profiles, which an installation does not need.
_PLUGINS = ("snakemake-executor-plugin-slurm", "snakemake-executor-plugin-cluster-generic")
#: A package of the lock: its name, version and marker, its hashes, and the comment that says which packages need it.
_PACKAGE = re.compile(r"^([a-z0-9][\w.-]*)==(.*?) \\\n((?: .*\n)*)", re.M)


def text() -> str:
    """Content of the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    names = {*_PLUGINS, *(Requirement(text).name.lower().replace("_", "-") for text in texts)}
    packages = _PACKAGE.findall((ROOT / "requirements/main.lock").read_text(encoding="utf-8"))
    needed_by = {name: set(re.findall(r"^ +#(?: +via)? +([a-z0-9][\w.-]*)$", rest, re.M)) for name, _, rest in packages}
    while more := {name for name, users in needed_by.items() if users & names} - names:
        names |= more
    return _HEAD + "".join(f"      - {name}=={pin}\n" for name, pin, _ in packages if name in names)


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
