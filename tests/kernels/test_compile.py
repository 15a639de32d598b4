"""Kernels compile for a Hopper GPU, which needs none: the interpreter does not look at types."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("parts", [[], pytest.param(["plain"], marks=pytest.mark.slow)], ids=["whole", "plain"])
def test_all_kernels_compile(parts):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compile_all", *parts]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) >= 18
