"""Provenance of numbers: versions of packages, processors, and no import of torch where nothing needs it."""

import json
import subprocess
import sys

import numpy
import pytest
import torch

from sida import machine
from sida.config.resources import ROOT
from sida.machine import environment


def test_versions_are_those_of_the_packages():
    found = environment()
    assert (found["torch"], found["numpy"]) == (torch.__version__, numpy.__version__)


INTEL = "model name\t: Intel(R) Xeon(R) Processor\ncpu family\t: 6\nmodel\t\t: 167\n"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (INTEL * 2, "Intel Xeon Processor, family 6 model 167"),
        ("model name\t: AMD EPYC 7763 64-Core Processor  \n", "AMD EPYC 7763 64-Core Processor"),
        ("BogoMIPS\t: 50.00\n", "riscv64"),
    ],
)
def test_numbers_stand_beside_the_processors_that_rounded_them(monkeypatch, file, name):
    monkeypatch.setattr(machine.Path, "read_text", lambda path, **_: file)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine.platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(machine.torch, "get_num_threads", lambda: 3)
    machine.processor_name.cache_clear()
    try:
        assert machine.device_name("cpu") == f"cpu (4 × {name}, 3 threads)"
        assert environment(None)["device"] == f"cpu (4 × {name})"
    finally:
        machine.processor_name.cache_clear()


def test_a_manifest_is_written_without_loading_torch(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n")
    out = tmp_path / "manifest.json"
    script = (
        "import sys; from sida.cli.main import main; status = main(sys.argv[1:]); print(status, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, "manifest", str(tmp_path), "--out", str(out)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["0", "False"]
    record = json.loads(out.read_text())
    assert record["environment"]["torch"] == torch.__version__
    assert list(record["files"]) == ["table.csv"]
