"""The fence: code that runs in a child can do nothing, and a child that fails in any way is one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from sida.config.lookup import ROOT
from sida.files import fenced
from sida.files.fenced import SHAPE, Child, Either, fits
from tests.files.escapes import ENDS, TRIES
from tests.refused import refusal, refused
from tests.slow import quick_but

READER = "tests.files.escapes:Escapes"


@pytest.fixture(scope="module", autouse=True)
def _processes_of_their_own():
    """Here no child is forked from a process with the imports (tests/fences.py)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fenced, "subprocess", subprocess)
        yield


@pytest.fixture(scope="module")
def child():
    os.environ["SECRET"] = "x"
    with open(os.devnull) as _, Child(READER, "f.bin") as child:
        yield child


@pytest.mark.parametrize("name", TRIES)
def test_code_in_the_child_can_do_nothing(child, name):
    refused(
        r"cannot be read \(|damaged \((BlockingIO|Permission|ModuleNotFound|Import|Key|Value|Subprocess)Error",
        child.ask, "do", name,
    )  # fmt: skip


@pytest.mark.parametrize("name", quick_but({"drip", "take time"}, ENDS))
def test_a_child_that_fails_is_one_line(monkeypatch, name):
    monkeypatch.setattr(fenced, "SECONDS", 1)
    monkeypatch.setattr(fenced, "_END", 0.5)
    monkeypatch.setattr(fenced, "WAIT", 1 if name in ("wait", "drip") else 30)
    with Child(READER, "f.bin") as child:
        assert re.match(rf"f\.bin: .*{ENDS[name][1]}.*; ", refusal(child.ask, "do", name))


def array(kind: object, shape: object) -> str:
    return json.dumps({"value": None, "arrays": {"x": [kind, shape]}})


LIES = {
    "an array of objects": array("|O", [1]),
    "a negative axis": array("<f4", [-1]),
    "two negative axes": array("<f4", [-1, -1]),
    "more than memory": array("<f4", [1 << 25] * 3),
    "half an element": array("<f4", [0.5]),
    "a shape without axes": array("<f4", 3),
    "a text, times a number": array("<f4", ["x" * 1000, 1 << 30]),
    "a list, times a number": array("<f4", [[1, 2], 1 << 30]),
    "true for one": array("<f4", [True]),
    "many axes": array("<f4", [1] * 9),
    "an axis beyond any": array("<f4", [0, 1 << 48]),
    "a type that is a list": array(["<f4"], [1]),
    "no arrays": '{"value": null, "arrays": null}',
    "another value": '{"value": 1, "arrays": {}}',
    "no mapping": "[]",
    "no JSON": "{",
    "a fault of numbers": '{"fault": [1, 2, 3, 4]}',
    "a number of 100,000 digits": '{"value": 1*0*, "arrays": {}}',
    "a text that grows in memory": '{"value": [*[],*0], "arrays": {}}',
    "nested without end": '{"value": [*[*], "arrays": {}}',
}


@pytest.mark.parametrize("name", LIES)
def test_an_answer_that_lies_is_one_line(name):
    """Before anything is computed from it: in little time and memory."""
    begin, most = time.process_time(), 200_000 if "nested" in name or "digits" in name else 9_000_000
    with Child(READER, "f.bin") as child:
        refused("answer cannot be used", child.ask, "lie", LIES[name], most)
    assert time.process_time() - begin < 5


FITTING = [
    ([1, 2], SHAPE), ([], SHAPE), ([0, (1 << 48) - 1], SHAPE), (None, None), ("a", str), ("a", "a"),
    ([1, "a"], (int, str)), ({"a": [True]}, {str: [bool]}), ({"a": 1, "b": "x"}, {"a": int, "b": object}), ([], [int]),
    (1, Either((None, int))),
]  # fmt: skip
UNFITTING = [
    ([1] * 9, SHAPE), ([1 << 48], SHAPE), ([True], SHAPE), ([1.0], SHAPE), ("12", SHAPE), (0, None), (False, None),
    (True, int), ("b", "a"), ([1], (int, str)), ([1, "a"], [int]), ({"a": 1}, {"a": int, "b": int}),
    ({"b": 1}, {"a": int}), ("x", Either((None, int))), ([], {str: int}),
]  # fmt: skip


@pytest.mark.parametrize(("value", "form"), FITTING)
def test_values_of_a_form_fit(value, form):
    assert fits(value, form)


@pytest.mark.parametrize(("value", "form"), UNFITTING)
def test_values_of_another_form_do_not_fit(value, form):
    assert not fits(value, form)


@pytest.mark.slow
def test_hard_limits_of_the_process_stay_and_readers_work(tmp_path):
    """As on login nodes; a reader that needs more says so, and not that the file is damaged."""
    np.savez(tmp_path / "a.npz", np.zeros(9))
    code = (
        "import math, resource, sys, time; from sida.data.archive import is_intact_zip\n"
        "from sida.files.fenced import Child\n"
        "print(is_intact_zip(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (few := max(3, math.ceil(time.process_time()) + 1), few))\n"
        f"with Child({READER!r}, 'f.bin') as child:\n"
        "    child.ask('lie', '{\"value\": null, \"arrays\": {}}', 0)\n"
        "    print(resource.prlimit(child._process.pid, resource.RLIMIT_CPU)[1] == few)\n"
        "    child._seconds = 1e6\n"
        "    try: child.ask('do', 'take time')\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    limits = "ulimit -t 60; ulimit -n 64; ulimit -v 4000000; exec"
    done = subprocess.run(
        ["bash", "-c", f'{limits} "$@"', "bash", sys.executable, "-c", code, str(tmp_path / "a.npz")],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[:2] == ["True", "True"], done.stderr
    assert re.match(r"UnreadableError f\.bin: takes more than the \d+ s of processor time.*ulimit", lines[2])


def test_a_child_does_not_outlive_its_parent():
    code = f"from sida.files.fenced import Child; c = Child({READER!r}, 'x'); print(c._process.pid, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; input()"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not os.path.exists(f"/proc/{pid}"):
            return
        time.sleep(0.1)
    raise AssertionError("the child lives")


def test_modules_of_the_working_folder_are_not_imported(tmp_path):
    """Nor does Python's own start read them."""
    for name in ("numpy", "json", "PIL", "sida", "sitecustomize", "zipfile"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w'); raise SystemExit(3)")
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p] + [{str(ROOT)!r}]; import sida.data.reader\n"
        "import os; os.chdir(sys.argv[1]); sys.path.insert(0, sys.argv[1])\n"
        "from sida.files.fenced import Child\n"
        "with Child('sida.data.reader:Reader', 'x') as child: print(child.ask('headers', []))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "([], {})\n", done.stderr
    assert not (tmp_path / "ran").exists()
