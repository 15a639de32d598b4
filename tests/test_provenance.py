"""What stands beside numbers: versions as their packages name themselves, without loading what is not needed."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy
import torch

from sida.provenance import environment
from sida.resources import ROOT


def test_versions_are_those_of_the_packages():
    found = environment()
    assert (found["torch"], found["numpy"]) == (torch.__version__, numpy.__version__)
    assert found["device"].endswith(" threads)")


def test_a_manifest_is_written_without_loading_torch(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n")
    out = tmp_path / "manifest.json"
    script = "import sys; from sida.cli import main; status = main(sys.argv[1:]); print(status, 'torch' in sys.modules)"
    command = [sys.executable, "-c", script, "manifest", str(tmp_path), "--out", str(out)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["0", "False"]
    record = json.loads(out.read_text())
    assert record["environment"]["torch"] == torch.__version__
    assert list(record["files"]) == ["table.csv"]
