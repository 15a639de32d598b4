"""The boundary: code in the child can do nothing, and a child that fails in any way is one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from sida.config.lookup import ROOT
from sida.files import convert as module
from sida.files.convert import convert
from tests.files.escapes import ENDS, TRIES
from tests.refused import refusal, refused
from tests.slow import quick_but


@pytest.fixture(autouse=True)
def _processes_of_their_own(monkeypatch):
    """Here no child is a fork (tests/forks.py)."""
    monkeypatch.setattr(module, "subprocess", subprocess)
    monkeypatch.setenv("SECRET", "x")


def asked(name: str, *args: object, content: bytes = b"", **limits: int):
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        return convert(f"tests.files.escapes:{name}", file, "f.bin", *args, **limits)


def test_values_and_arrays_come_back():
    value, arrays = asked("tell", [1, None], "é", content=b"abc")
    assert value == {"content": "abc", "args": [[1, None], "é"], "infinite": float("inf")}
    assert (arrays["empty"].shape, arrays["big"].tolist(), arrays["one"].item()) == ((0, 3), [0, 1, 2], 2.5)
    arrays["big"][0] = 7  # a copy of one's own


@pytest.mark.parametrize("name", TRIES)
def test_code_in_the_child_can_do_nothing(name):
    refused(
        r"cannot be read \(|damaged \((BlockingIO|Permission|ModuleNotFound|Import|Key|Value|Subprocess)Error",
        asked, "do", name,
    )  # fmt: skip


@pytest.mark.parametrize("name", quick_but({"take time"}, ENDS))
def test_a_child_that_fails_is_one_line(monkeypatch, name):
    monkeypatch.setattr(module, "SECONDS", 1)
    monkeypatch.setattr(module, "WAIT", 1 if name == "wait" else 60)
    assert re.match(rf"f\.bin: .*{ENDS[name][1]}.*; ", refusal(asked, "do", name))


def test_a_child_writes_no_more_than_it_may():
    refused("f.bin: unpacks to more than 1,000,000 bytes; ", asked, "fill", 1 << 16, output=1_000_000)


def headed(record: object, shape: object = (2,), kind: object = "F32", end: int = 8) -> str:
    """A file with a record and an array."""
    header = {
        "__metadata__": {"sida": json.dumps({"converted": json.dumps(record)})},
        "x": {"dtype": kind, "shape": shape, "data_offsets": [0, end]},
    }
    text = json.dumps(header)
    return len(text).to_bytes(8, "little").decode("latin-1") + text + "\0" * end


LIES = {
    "nothing": "",
    "a text": "hello",
    "no record": headed(None),
    "a list": headed([]),
    "no value": headed({}),
    "a fault of numbers": headed({"fault": 3}),
    "a short fault": headed({"fault": ["a"]}),
    "a negative axis": headed({"value": 1}, [-2]),
    "more than the file": headed({"value": 1}, [1 << 40]),
    "many axes": headed({"value": 1}, [1] * 9, end=4),
    "another type": headed({"value": 1}, kind="F8_E5M2", end=2),
    "deep": headed({"value": 1}).replace("value", "[" * 9000),
}


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_lies_is_one_line(name):
    refused("f.bin: its reader's output cannot be used; .", asked, "lie", LIES[name])
    assert asked("lie", headed({"value": 1}))[1]["x"].tolist() == [0, 0]


def test_modules_of_the_working_folder_are_not_imported(tmp_path):
    """Nor does Python's own start read them."""
    for name in ("numpy", "json", "PIL", "sida", "sitecustomize", "zipfile"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w'); raise SystemExit(3)")
    np.save(tmp_path / "a.npy", np.zeros(3))
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p] + [{str(ROOT)!r}]; import sida.data.arrays\n"
        "import os; os.chdir(sys.argv[1]); sys.path.insert(0, sys.argv[1])\n"
        "print(sida.data.arrays.Arrays('a.npy').shapes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout == "{'': (3,)}\n", done.stderr
    assert not (tmp_path / "ran").exists()
