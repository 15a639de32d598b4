"""``python -m benchmarks gpu_day``: parts, their results, resuming; the parts themselves rehearsed on the CPU."""

import json
import math
import sys

import pytest

from benchmarks import gpu_day

GOOD = [sys.executable, "-c", "print('all of it')"]


@pytest.fixture
def parts(monkeypatch):
    parts = {"first": ("runs", GOOD), "second": ("fails", [*GOOD[:2], "1 / 0"])}
    monkeypatch.setattr(gpu_day, "PARTS", parts)
    return parts


def test_parts_leave_results_and_are_not_run_again(parts, tmp_path, capfd):
    words = ["--out", str(tmp_path), "--parts", "first,second"]
    assert gpu_day.command(words) == 1
    first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in parts)
    assert (first["kept"], first["goal"], first["last_lines"]) == (True, "runs", ["all of it"])
    assert not second["kept"]
    assert "ZeroDivisionError" in (tmp_path / "second.log").read_text()
    capfd.readouterr()
    assert gpu_day.command(words) == 1
    assert "==" not in capfd.readouterr().out
    assert gpu_day.command(["--out", str(tmp_path), "--parts", "first"]) == 0


def test_a_part_that_the_time_ends_has_no_result_and_is_run_by_the_next_call(parts, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(gpu_day, "LEAST", 0.1)
    parts["first"] = ("ends", [*GOOD[:2], "import time; time.sleep(60)"])
    assert gpu_day.command(["--out", str(tmp_path), "--minutes", str((gpu_day.GRACE + 1) / 60)]) == 1
    assert "first: not finished; the same command continues" in capfd.readouterr().out
    assert not (tmp_path / "first.json").exists()
    assert not (tmp_path / "second.log").exists()
    parts["first"] = ("runs", GOOD)
    gpu_day.command(["--out", str(tmp_path)])
    assert (tmp_path / "first.json").exists()
    assert (tmp_path / "second.json").exists()


def test_first_words_of_names_stand_for_all_these_parts(parts, tmp_path):
    parts |= {"steps-of-one": ("runs", GOOD), "steps-of-two": ("runs", GOOD), "stepsister": ("runs", GOOD)}
    assert gpu_day.command(["--out", str(tmp_path), "--parts", "steps"]) == 0
    assert {path.name for path in tmp_path.glob("*.json")} == {"steps-of-one.json", "steps-of-two.json"}


#: Whole steps in the interpreter take minutes each, and a row needs torch-fidelity (`make peers`).
UNREHEARSED = {"row", *(name for name in gpu_day.PARTS if name.startswith(("step-", "compiled-")))}
UNREHEARSED -= {"compiled-sit-xl2-32"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(gpu_day.PARTS.keys() - UNREHEARSED))
def test_each_part_runs_to_its_end_on_the_cpu(name, tmp_path):
    gpu_day.command(["--out", str(tmp_path), "--parts", name, "--rehearse"])
    log = (tmp_path / f"{name}.log").read_text()
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert "Traceback" not in log, log[-3000:]
    assert result["rehearsal"]
    if name in ("tests", "preset"):
        assert result["kept"], log[-3000:]
    else:
        measured = result["measured"]
        assert all(math.isfinite(row.get("img_per_s", 1)) for row in measured.get("rows", []))
        assert measured["rows"]
