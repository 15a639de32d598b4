"""Where a number came from: code version, machine, date."""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import sida

_ROOT = Path(sida.__file__).resolve().parent.parent


@functools.cache
def source_digest() -> str:
    """First 12 hexadecimal digits of the SHA-256 over all Python sources of ``sida`` and ``eval``."""
    digest = hashlib.sha256()
    for package in ("sida", "eval"):
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(str(path.relative_to(_ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def code_version() -> str:
    """``<package version>+<git commit or 'nogit'>[.dirty]``."""
    # An installed package may lie within someone else's repository.
    if not (_ROOT / ".git").exists():
        return f"{sida.__version__}+nogit.{source_digest()}"
    try:
        commit = subprocess.run(
            ["git", "-C", str(_ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        status = subprocess.run(
            ["git", "-C", str(_ROOT), "status", "--porcelain", "--", "sida", "eval"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return f"{sida.__version__}+nogit.{source_digest()}"
    return f"{sida.__version__}+{commit}" + (f".dirty.{source_digest()}" if status.strip() else "")


def now() -> str:
    """UTC time, ISO 8601, to the second; ``SOURCE_DATE_EPOCH`` overrides it."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def device_name(device: str = "cpu") -> str:
    """A person's name for the device: the GPU's model, or the processor architecture and thread count."""
    import torch

    if str(device).startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions and machine facts that belong beside every measured number."""
    import numpy
    import torch

    return {
        "code_version": code_version(),
        "date": now(),
        "device": device_name(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }
