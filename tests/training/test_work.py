"""What a training step's kernels must do and hold, counted without a GPU (benchmarks.step_work)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from sida.kernels import unavailable_reason

if unavailable_reason() is not None:
    pytest.skip(str(unavailable_reason()), allow_module_level=True)

# One worker counts for all of them.
pytestmark = [pytest.mark.xdist_group("step_work"), pytest.mark.slow]

#: The interpreter launches nothing, so this runs in a process without it.
SCRIPT = """
import json
from benchmarks import gpu, step_work
kwargs = {**gpu.SMALL, "model_channels": 32, "num_blocks": 1, "dropout": 0.1}
network = {"class": "EDMPrecond", "kwargs": kwargs}
case = gpu.Case("small", network, 64, 1.0)
print(json.dumps({side: step_work.row(side, case) for side in step_work.SIDES[:4]}))
"""


@pytest.fixture(scope="module")
def rows():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


def test_activations_made_again_keep_the_goal_of_memory(rows):
    held = {side: row["memory_gib"] for side, row in rows.items()}
    assert held["fused, again"] <= 0.6 * held["official order"]
    assert held["fused, again"] < held["fused"] < held["torch"]


def test_all_ways_do_the_same_products(rows):
    operations = {side: row["tflop"] for side, row in rows.items()}
    for side in rows:
        assert operations[side] == pytest.approx(operations["official order"], rel=0.05)


def test_fused_kernels_move_less_and_sum_no_gradients_on_the_side(rows):
    assert rows["fused"]["gigabytes"] < rows["torch"]["gigabytes"] < rows["official order"]["gigabytes"]
    assert rows["fused"]["kernels"] < rows["official order"]["kernels"] / 2
    # What is left are vectors and losses.
    other = rows["fused"]["groups"]["other"]["gigabytes"]
    assert other < 0.25 * rows["fused"]["gigabytes"]
