"""The fence: code that runs in a child can do nothing, and a child that fails in any way is one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from sida.config.lookup import ROOT
from sida.files import fenced
from sida.files.fenced import Child
from tests.files.escapes import ENDS, TRIES
from tests.refused import refusal, refused

READER = "tests.files.escapes:Escapes"


@pytest.fixture(scope="module")
def child():
    os.environ["SECRET"] = "x"
    with open(os.devnull) as _, Child(READER, "f.bin") as child:
        yield child


@pytest.mark.parametrize("name", TRIES)
def test_code_in_the_child_can_do_nothing(child, name):
    refused(
        r"damaged \((OS|BlockingIO|Permission|ModuleNotFound|Import|Key|Value|Subprocess)Error", child.ask, "do", name
    )


@pytest.mark.parametrize("name", ENDS)
def test_a_child_that_fails_is_one_line(monkeypatch, name):
    monkeypatch.setattr(fenced, "SECONDS", 1)
    monkeypatch.setattr(fenced, "WAIT", 1 if name in ("wait", "drip") else 30)
    with Child(READER, "f.bin") as child:
        assert re.match(rf"f\.bin: .*{ENDS[name][1]}.*; ", refusal(child.ask, "do", name))


@pytest.mark.parametrize(
    "lie",
    [("|O", [1]), ("<f4", [-1]), ("<f4", [-1, -1]), ("<f4", [1 << 25] * 3), ("<f4", [0.5]), ("<f4", 3)],
)
def test_an_answer_that_lies_is_one_line(lie):
    with Child(READER, "f.bin") as child:
        refused("no answer that can be used", child.ask, "lie", *lie)


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
        f"import sys; sys.path[:] = [p for p in sys.path if p] + [{str(ROOT)!r}]; from sida.files.fenced import Child\n"
        "import os; os.chdir(sys.argv[1]); sys.path.insert(0, sys.argv[1])\n"
        "with Child('sida.data.reader:Reader', 'x') as child: print(child.ask('headers', []))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "([], {})\n", done.stderr
    assert not (tmp_path / "ran").exists()
