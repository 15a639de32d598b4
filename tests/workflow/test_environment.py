"""The environment files agree with each other and name no address; an audit says what it could not ask."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from sida.config.resources import ROOT
from tests.workflow.workspace import Workspace


def locked(name: str = "requirements/main.lock") -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (ROOT / name).read_text(), re.M))


def supported() -> dict[str, Requirement]:
    """Packages that pyproject.toml names, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    return {requirement.name.lower(): requirement for requirement in map(Requirement, texts)}


def test_the_locks_have_the_newest_and_the_oldest_supported_versions():
    newest, oldest = locked(), locked("requirements/oldest.lock")
    assert {"torch", "snakemake", "numpy"} < {*newest} & {*oldest} & {*supported()}
    # The oldest torch brings a Triton of its own, which is too old for the extra `fused`: kernels say so.
    assert Version(oldest.pop("triton")) not in supported()["triton"].specifier
    for name, requirement in supported().items():
        for versions in (newest, oldest):
            assert name not in versions or versions[name] in requirement.specifier, name
        least = next(Version(each.version).release for each in requirement.specifier if each.operator == ">=")
        assert name not in oldest or Version(oldest[name]).release[: len(least)] == least, name
    for name in ("torch", "snakemake"):
        assert any(each.operator == "<" for each in supported()[name].specifier)


@pytest.mark.parametrize(
    ("program", "status", "line"),
    [
        ("echo No known vulnerabilities found", 0, "audit: requirements/main.lock: No known vulnerabilities found"),
        ("echo requests.exceptions.ConnectionError: x >&2; exit 1", 75, "cannot be reached from here"),
        # A finding is not hidden by a word in it, nor by locks that could not be asked about.
        ("echo 'Found 1 known vulnerability: an SSLError is ignored'; exit 1", 1, "SSLError is ignored"),
        (
            "case $* in *main.lock) echo Found 1 known vulnerability: x;; *) echo ReadTimeout;; esac; exit 1",
            1,
            "not checked: requirements/extras.lock",
        ),
    ],
)
def test_an_audit_that_could_ask_nobody_says_so(tmp_path, program, status, line):
    fake = tmp_path / "pip-audit"
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(0o755)
    environment = {**os.environ, "PIP_AUDIT": str(fake)}
    done = subprocess.run([ROOT / ".ci" / "audit"], env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert (done.returncode, line in said) == (status, True), said
    assert status != 75 or len(said.splitlines()) == 1


def test_conda_environment_has_every_package_in_the_locked_version():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    texts = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    pins = {pin.name.lower(): str(pin.specifier) for pin in map(Requirement, texts)}
    versions = locked()
    plugins = {f"snakemake-executor-plugin-{name}" for name in ("slurm", "cluster-generic")}
    # torch for NVIDIA cards brings Triton along; trackers and completion are for people, not for jobs.
    assert {*pins} == {*supported()} - {"triton"} | plugins
    assert pins == {name: f"=={versions[name]}" for name in pins}
    assert "[reports]" in next(text for text in texts if text.startswith("snakemake["))


#: Stands for conda: says its version, makes an empty environment.
CONDA = """#!/bin/sh
case "$*" in
    "info --json") echo '{"conda_prefix": "FOLDER", "platform": "linux-64"}' ;;
    --version) echo "conda 25.1.0" ;;
    *config*) echo '{"get": {"channel_priority": "strict"}}' ;;
esac
"""


def test_jobs_of_a_conda_environment_find_the_package_by_themselves(tmp_path, monkeypatch):
    """Snakemake takes PYTHONPATH from them; the environment's own Python runs them."""
    workspace, place = Workspace(tmp_path), tmp_path / "conda" / "bin"
    place.mkdir(parents=True)
    python = f'#!/bin/sh\necho "$PYTHONPATH" >> {tmp_path}/seen\nexec {sys.executable} "$@"\n'
    for name, text in (("conda", CONDA.replace("FOLDER", str(place.parent))), ("python", python)):
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    (place / "activate").write_text(f'export PATH="{place}:$PATH"\n')
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)
    words = ["--configfile", "studies/papers/published.yaml", "--sdm", "conda", "--"]
    workspace.made(*words, "results/published/tables/table8.tex")
    assert all(str(tmp_path) in line.split(os.pathsep) for line in (tmp_path / "seen").read_text().splitlines())


def test_every_locked_package_has_hashes_and_no_address():
    for path in (ROOT / "requirements").glob("*.lock"):
        text = path.read_text()
        packages = re.findall(r"^[a-zA-Z0-9](?:.*\n(?=\s))*.*", text, re.M)
        assert packages, path
        assert all("--hash=sha256:" in package for package in packages), path
        assert "://" not in text
        assert "index-url" not in text
