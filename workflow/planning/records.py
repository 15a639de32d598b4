"""Whether a product is of the spec that its job has now, by what Snakemake keeps of finished jobs."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from workflow.preset import Preset
from workflow.preset.spec_files import Specs

#: Folders of results whose jobs have a spec of the name that follows.
_STAGES = {"teachers", "students", "measurements", "barriers", "tables", "figures"}


class Records:
    """Snakemake's records of the current folder.

    Args:
        preset: The preset whose products are looked at.
    """

    def __init__(self, preset: Preset) -> None:
        self.results, self.specs = preset.results, Specs(preset)

    def changed(self, path: str) -> bool:
        """Whether a product was made with another spec; False where there is no record, as Snakemake takes it."""
        stage, _, inside = path.removeprefix(f"{self.results}/").partition("/")
        name, slash, _ = inside.partition("/")
        if stage not in _STAGES or not path.startswith(f"{self.results}/"):
            return False
        params = _params(path)
        return params is not None and repr(self.specs.digest(stage, name if slash else Path(name).stem)) not in params


def _params(path: str) -> list[str] | None:
    """Parameters of the job that made a file, as Snakemake 9 writes them; None without a record."""
    name = base64.urlsafe_b64encode(path.encode()).decode()
    record = Path(".snakemake/metadata") / name
    try:
        params: list[str] | None = json.loads(record.read_bytes()).get("params")
    except (OSError, ValueError, AttributeError):
        return None
    return params
