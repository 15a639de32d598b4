"""Writes the bill of materials of a lock, as CycloneDX: ``python -m tools.write_sbom requirements/main.lock``.

The hashes of a package's files are in the lock beside it.
"""

import re
import sys
from pathlib import Path
from typing import Any

from sida.files.atomic import write_json

_PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)(?: ; ([^\\]*?))? *\\?$", re.MULTILINE)


def bill(lock: Path) -> dict[str, Any]:
    """The bill of a lock: name, version and condition of each package; equal locks give equal bills."""
    components = []
    for name, version, marker in _PINNED.findall(lock.read_text(encoding="utf-8")):
        address = f"pkg:pypi/{name}@{version}"
        component = {"type": "library", "name": name, "version": version, "purl": address, "bom-ref": address}
        # A package may have one version for each kind of machine.
        condition = [{"name": "sida:marker", "value": marker}] if marker else []
        components.append(component | ({"properties": condition} if condition else {}))
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components,
        "metadata": {"component": {"type": "application", "name": "sida-repro", "bom-ref": "sida-repro"}},
    }  # fmt: skip


def bill_path(lock: Path) -> Path:
    """File of a lock's bill."""
    return lock.with_suffix(".cdx.json")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write_json(bill_path(Path(argument)), bill(Path(argument)))
