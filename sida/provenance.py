"""Provenance of a number: code version, machine, date."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import runpy
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
    """``<package version>+<git commit or 'nogit'>[.dirty]``; an installed wheel has the commit in its version."""
    # An installed package may lie in another project's repository.
    if not (_ROOT / ".git").exists():
        return _installed_version() or f"{sida.__version__}+nogit.{source_digest()}"
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


def _installed_version() -> str | None:
    """Version of the installed wheel if it names a commit and the wheel's files are those that run."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        package = importlib.metadata.distribution("sida-repro")
        if "+" in package.version and package.locate_file("sida") == _ROOT / "sida":
            return package.version
    return None


def now() -> str:
    """UTC time, ISO 8601, to the second; ``SOURCE_DATE_EPOCH`` overrides it."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def device_name(device: str = "cpu") -> str:
    """Name of the device for people: model of the GPU, or model and number of the processors and threads in use."""
    import torch

    if str(device).startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu ({processor_name()}, {threads} thread{'s' * (threads != 1)})"


@functools.cache
def processor_name() -> str:
    """Number and model of the processors (or their architecture); the last digits of results depend on them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    facts = dict(re.findall(r"^(cpu family|model|model name)\s*: (.+)$", text, re.MULTILINE))
    # Virtual machines hide the name, not the numbers.
    name = " ".join(re.sub(r"\((R|TM)\)", "", facts.get("model name", platform.machine())).split())
    numbers = (
        f", family {facts['cpu family']} model {facts['model']}" if {"cpu family", "model"} <= facts.keys() else ""
    )
    return f"{os.cpu_count() or 1} × {name}{numbers}"


def environment(device: str | None = "cpu") -> dict[str, Any]:
    """Versions and facts about the machine, for the record of a measured number.

    Args:
        device: Device that computed the number; None describes the processor without importing torch.
    """
    return {
        "code_version": code_version(),
        "date": now(),
        "device": f"cpu ({processor_name()})" if device is None else device_name(device),
        "python": platform.python_version(),
        "torch": _torch_version(),
        "numpy": importlib.metadata.version("numpy"),
    }


def _torch_version() -> str:
    """``torch.__version__``, build included, without loading torch."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return str(runpy.run_path(str(Path(spec.origin).with_name("version.py")))["__version__"])
