"""Programs of ``make validators``, which check crates and records by their makers' own rules, without a network."""

import subprocess
from pathlib import Path

import pytest

from sida.config.lookup import ROOT

_BIN = ROOT / ".venv-validators/bin"
_CONTEXTS = Path(__file__).with_name("contexts")
_FILES = {
    "https://w3id.org/ro/crate/1.1/context": "ro-crate-1.1.json",
    "https://w3id.org/ro/terms/workflow-run/context": "workflow-run.json",
}
#: Puts stored contexts where the validator looks for answers of the network.
_FILL = """
import io, sys
from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from urllib3 import HTTPResponse

cache, *words = sys.argv[1:]
files = dict(zip(words[::2], words[1::2]))

class Stored(HTTPAdapter):
    def send(self, request, **_):
        content = io.BytesIO(open(files[request.url], "rb").read())
        headers = {"Content-Type": "application/ld+json"}
        return self.build_response(request, HTTPResponse(content, headers, 200, preload_content=False))

session = CachedSession(cache, backend="sqlite", expire_after=-1)
session.mount("https://", Stored())
for address in files:
    session.get(address)
"""


def validate_crate(folder: Path, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Runs roc-validator on a crate, at level REQUIRED of Workflow Run Crate."""
    words = [word for address, name in _FILES.items() for word in (address, _CONTEXTS / name)]
    _run("python", "-c", _FILL, scratch / "cache", *words).check_returncode()
    options = (
        "--profile-identifier",
        "workflow-run-crate",
        "--offline",
        "--cache-path",
        scratch / "cache",
        "--verbose",
    )
    return _run("rocrate-validator", "--no-interactive", "validate", *options, "--no-paging", folder)


def validate_records(data: Path) -> subprocess.CompletedProcess[str]:
    """Runs the validator of Every Eval Ever on a folder ``data`` of records."""
    paths = [path.relative_to(data.parent) for path in data.rglob("*.json")]
    return _run("python", "-m", "every_eval_ever.validate", "--format", "json", *paths, cwd=data.parent)


def _run(program: str, *words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    if not (_BIN / program).exists():
        pytest.skip("make validators")
    return subprocess.run([_BIN / program, *words], capture_output=True, text=True, check=False, cwd=cwd)
