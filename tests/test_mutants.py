"""Changes of code that `make mutants` tries: one place each, and never words for people."""

import ast
import shutil

import pytest

from sida.config.lookup import ROOT
from tools.mutants import PARTS, Copy, copied, mutants_of

CODE = '''\
"""Words 1."""
LIMIT: Annotated[int, Range(least=2)] = 3


def bounded(values: list[int] = [], *, most: int = 5) -> int:
    """At most 7."""
    assert len(values) > 0
    if not values:
        raise ValueError(f"needs {1 + 1} values, not {len(values) > 3}")
    values.sort(key=abs)
    return min(most, values[0]) if values[0] >= LIMIT and values else "a" + "b"
'''
CHANGES = {
    ("", "3", "4"),
    ("bounded", "5", "6"),
    ("bounded", "not values", "(values)"),
    ("bounded", 'raise ValueError(f"needs {1 + 1} values, not {len(values) > 3}")', "pass"),
    ("bounded", "values.sort(key=abs)", "pass"),
    ("bounded", "values.sort(key=abs)", "(values.sort())"),
    ("bounded", "min", "(max)"),
    ("bounded", "0", "1"),
    ("bounded", "values[0] >= LIMIT", "(values[0] > LIMIT)"),
    ("bounded", "values[0] >= LIMIT and values", "(values[0] >= LIMIT or values)"),
    ("bounded", CODE.splitlines()[-1].partition("return ")[2], "(min(most, values[0]))"),
    ("bounded", CODE.splitlines()[-1].partition("return ")[2], "('a' + 'b')"),
}


def test_changes_are_of_code_and_not_of_words_annotations_and_assertions():
    found = list(mutants_of("x.py", CODE))
    assert {mutant.key[1:] for mutant in found} == CHANGES
    assert {mutant.path for mutant in found} == {"x.py"}
    assert next(m.lines for m in found if m.before == "not values") == (8, 8)


def test_every_change_of_a_module_is_python_and_another_program():
    path = ROOT / PARTS["identity"][0]
    source = path.read_bytes()
    before, found = ast.dump(ast.parse(source)), list(mutants_of(path.name, source.decode()))
    assert len(found) > 100
    for mutant in found[::5]:
        begin, end = mutant.span
        assert source[begin:end].decode() == mutant.before
        assert ast.dump(ast.parse(source[:begin] + mutant.after.encode() + source[end:])) != before, mutant


def test_parts_exist():
    for code, tests, others in PARTS.values():
        assert all((ROOT / path).exists() for path in (code, *tests, *others))


def test_a_copy_has_the_plugins_too(tmp_path):
    """They are a link to a folder; without it the tests of a plugin fail, so that every change looked noticed."""
    assert (copied(tmp_path).root / "sida/plugins/rivals/plugin.toml").is_file()


@pytest.mark.parametrize(("statuses", "passed"), [([1], 0), ([0, 1, 0], 1), ([0, 0], 2)])
def test_a_mutant_passes_the_tests_of_its_part_and_then_those_of_others(tmp_path, monkeypatch, statuses, passed):
    """Those that reach it, of quick files first; a failure of others counts where they pass without the change."""
    path = PARTS["identity"][0]
    mutant = next(mutants_of(path, (ROOT / path).read_text()))
    (tmp_path / path).parent.mkdir(parents=True)
    shutil.copy(ROOT / path, tmp_path / path)
    reached = {f"{path}:{mutant.lines[0]}"}
    tests = {"tests/eval/results/a.py::x": (9.0, reached), "tests/eval/tables/b.py::y": (1.0, reached),
             "tests/eval/results/a.py::z": (0.1, {f"{path}:99999"}), "tests/other.py::z": (0.1, reached)}  # fmt: skip
    changed, given = [], iter(statuses)

    def run(copy, *words, **more):
        changed.append((copy.root / path).read_bytes() != (ROOT / path).read_bytes())
        return next(given)

    monkeypatch.setattr(Copy, "pytest", run)
    assert Copy(tmp_path).passed("identity", mutant, tests) == passed
    assert next(given, None) is None
    assert changed == [True, True, False][: len(statuses)]
    assert (tmp_path / "tests-to-run").read_text().split() == [
        "tests/eval/tables/b.py::y",
        "tests/eval/results/a.py::x",
    ]
