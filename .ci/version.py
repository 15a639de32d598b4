"""Version of a package: that of ``sida/__init__.py`` with the commit it was built from (read by hatchling)."""

import re
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_CODE = ("sida", "plugins", "eval", "workflow", "config", "studies")


def _version() -> str:
    stated = re.findall(r'^__version__ = "(.+)"', (_ROOT / "sida" / "__init__.py").read_text(encoding="utf-8"), re.M)[0]
    if (_ROOT / "PKG-INFO").exists():  # a source distribution
        return re.findall(r"^Version: (.+)$", (_ROOT / "PKG-INFO").read_text(encoding="utf-8"), re.M)[0]
    git = ["git", "-C", str(_ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain", "--", *_CODE], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return stated
    return f"{stated}+{commit.stdout.strip()}" + ".dirty" * bool(changes.stdout.strip())


__version__ = _version()
