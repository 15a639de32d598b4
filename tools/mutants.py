"""Changes one place of the code at a time and runs the tests that reach it; prints the changes that no test notices.

    make mutants                                                      fifty of all parts
    python -m tools.mutants --parts methods tables --count 20 --seed 3

It works on a copy of the checkout. A first run of each part's tests finds the lines that each test reaches. Survivors
ask for a test, unless the change does not matter: then a line of ``tools/mutants.tsv`` says why.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: The checkout. This module imports none of its code: processes that start from it import the changed copy.
ROOT = Path(__file__).resolve().parents[1]
#: Packages that every test imports, which takes longer than most tests: processes start with them.
_IMPORTED = ("hypothesis", "matplotlib.pyplot", "pandas", "pytest", "scipy.linalg", "scipy.stats", "torch")
_RECIPES = (
    "tests/studies/papers/test_recipes.py",
    "tests/studies/papers/test_presets.py",
    "tests/workflow/test_settings.py",
)
_TABLES = ("tests/studies/papers/test_tables.py", "tests/eval/test_report.py", "tests/readers/test_markup.py")
#: By name: the code of a part, its tests, and tests of other parts that only survivors are tried with.
PARTS: Mapping[str, tuple[str, Sequence[str], Sequence[str]]] = {
    "methods": (
        "sida/methods",
        (
            "tests/methods",
            "tests/training",
            "tests/studies/papers/test_recipes.py",
            "tests/eval/results/test_saw.py",
            "tests/workflow/test_settings.py",
            "tests/workflow/test_costs.py",
        ),
        (*_RECIPES, "tests/eval/results", "plugins/kernels/tests"),
    ),
    "training": (
        "sida/training",
        (
            "tests/training",
            "tests/methods",
            "tests/data/test_latents.py",
            "plugins/kernels/tests",
            "plugins/transformers/tests/test_heads.py",
        ),
        _RECIPES,
    ),
    "metrics": (
        "eval/metrics",
        (
            "tests/eval/test_metrics.py",
            "tests/eval/test_frechet.py",
            "tests/eval/measuring",
            "tests/workflow/test_settings.py",
        ),
        ("tests/eval/features", "tests/eval/results"),
    ),
    "claims": (
        "eval/claims",
        ("tests/eval/claims", "tests/studies/papers/test_claims.py", "tests/studies/test_stored.py"),
        ("tests/eval/test_report.py", "tests/eval/results", "tests/workflow/test_settings.py"),
    ),
    "tables": (
        "eval/tables",
        (
            "tests/eval/tables",
            "tests/eval/results",
            "tests/studies/papers/test_tables.py",
            "tests/studies/test_stored.py",
            "plugins/exchange/tests/test_records.py",
        ),
        (*_TABLES, "tests/eval/measuring/test_score.py", "tests/workflow/test_preset.py"),
    ),
    "identity": (
        "eval/results/identity.py",
        ("tests/eval/results", "tests/eval/tables", "tests/eval/measuring", "tests/studies/test_stored.py"),
        ("tests/eval/claims", *_TABLES),
    ),
}
#: Changes that do not matter: path, function, code, changed code, reason.
KNOWN = "tools/mutants.tsv"
#: Time of a test as a multiple of its first run, which is traced, above which the mutant counts as noticed.
_PATIENCE = 3
_OPERATORS: Mapping[type[ast.AST], type[Any]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_DEFINES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Mutant:
    """One change: a part of a file becomes other text.

    Attributes:
        path: File, from the root of the checkout.
        function: Qualified name of the function or class around it; empty at the top of the module.
        lines: First and last line of the statement, or of the head of a compound one.
        span: Begin and end in the file's bytes.
        before: Code there.
        after: Code in its place.
    """

    path: str
    function: str
    lines: tuple[int, int]
    span: tuple[int, int]
    before: str
    after: str

    @property
    def key(self) -> tuple[str, ...]:
        """What stays if lines are added above."""
        return self.path, self.function, " ".join(self.before.split()), " ".join(self.after.split())

    def __str__(self) -> str:
        return "{}:{} {}: {}  →  {}".format(self.path, self.lines[0], *self.key[1:])


def changes(node: ast.AST) -> Iterator[ast.AST | str]:
    """Changed nodes, or their text, that may replace a node."""
    match node:
        case ast.Compare(ops=[op, *rest]):
            yield ast.Compare(node.left, [_OPERATORS[type(op)](), *rest], node.comparators)
        case ast.BoolOp():
            yield ast.BoolOp(_OPERATORS[type(node.op)](), node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.BinOp() if type(node.op) in _OPERATORS and not any(map(_is_text, (node.left, node.right))):
            yield ast.BinOp(node.left, _OPERATORS[type(node.op)](), node.right)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Name(id=name) if name in _NAMES:
            yield ast.Name(_NAMES[name])
        case ast.IfExp():
            yield node.body
            yield node.orelse
        case ast.Call(func=ast.Name(id="TypeVar")):
            return
        case ast.Call(keywords=[_, *_]):
            for number in range(len(node.keywords)):
                yield ast.Call(node.func, node.args, node.keywords[:number] + node.keywords[number + 1 :])
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            yield "pass"
        case ast.If() if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def mutants_of(path: str, text: str) -> Iterator[Mutant]:
    """All changes of a module: none of its words, annotations, assertions and declarations for type checkers."""
    starts, source = [0], text.encode()
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def walk(node: ast.AST, function: str, lines: tuple[int, int]) -> Iterator[Mutant]:
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = node.end_lineno or node.lineno
            lines = (node.lineno, max(node.lineno, body[0].lineno - 1) if body else last)
        if isinstance(node, _DEFINES):
            function = f"{function}.{node.name}".lstrip(".")
        target: Any = node.test if isinstance(node, ast.If) else node
        for changed in changes(node):
            if isinstance(changed, ast.If):
                changed = changed.test
            after = changed if isinstance(changed, str) else ast.unparse(ast.fix_missing_locations(changed))
            # Braces keep the order in which a changed operator is computed.
            after = f"({after})" if isinstance(target, ast.expr) and not isinstance(changed, ast.Constant) else after
            begin = starts[target.lineno - 1] + target.col_offset
            end = starts[target.end_lineno - 1] + target.end_col_offset
            yield Mutant(path, function, lines, (begin, end), source[begin:end].decode(), after)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list") or _is_words(node, name):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, ast.Assert):
                    yield from walk(child, function, lines)

    for mutant in walk(ast.parse(text), "", (1, 1)):
        if mutant.before.strip() != mutant.after.strip("()"):
            yield mutant


def _is_words(node: ast.AST, name: str) -> bool:
    """Whether a field of a node is text for people, or is not run."""
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return True
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and name == "body"


_STARTS = multiprocessing.get_context("forkserver")
_STARTS.set_forkserver_preload([*_IMPORTED])


def _run(root: str, words: Sequence[str], variables: Mapping[str, str]) -> None:
    """Runs pytest in a folder as the leader of a group of processes, without output."""
    os.setsid()
    os.chdir(root)
    os.environ.update({"PYTHONPATH": root, **variables})
    sys.path.insert(0, root)
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    import pytest

    sys.exit(pytest.main(["-q", "-x", "-n", "0", "-p", "no:cacheprovider", *words]))


@dataclass
class Copy:
    """A copy of the checkout in which mutants live.

    Attributes:
        root: Its folder.
        sound: Parts of which the tests of other parts passed without a change.
    """

    root: Path
    sound: set[str] = field(default_factory=set)

    def pytest(self, *words: str, seconds: float | None = None, **variables: str) -> int:
        """Exit status of pytest; 1 for one that took too long."""
        process = _STARTS.Process(target=_run, args=(str(self.root), words, variables))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return int(process.exitcode != 0)

    def reached(self, parts: Sequence[str]) -> dict[str, tuple[float, set[str]]]:
        """Seconds and lines of each test of some parts, as :mod:`tools.reached` writes them."""
        tests = sorted({path for part in parts for path in PARTS[part][1]})
        # A folder has the tests below it once.
        tests = [path for path in tests if not any(path.startswith(f"{other}/") for other in tests)]
        code = os.pathsep.join(str(self.root / PARTS[part][0]) for part in parts)
        result = self.root / "reached.json"
        if self.pytest("-m", "not slow", "-p", "tools.reached", *tests, REACHED=str(result), REACHED_IN=code):
            raise SystemExit(f"error: the tests fail without a change: pytest {' '.join(tests)}")
        prefix = f"{self.root}/"
        return {
            test: (seconds, {line.removeprefix(prefix) for line in lines})
            for test, (seconds, lines) in json.loads(result.read_text()).items()
        }

    def passed(self, part: str, mutant: Mutant, by_test: Mapping[str, tuple[float, set[str]]]) -> int:
        """Sets of tests that pass with a mutant: 0 if those of its part notice it, 1 if others do, or 2."""
        _, own, further_tests = PARTS[part]
        others = [path for path in further_tests if path not in own]
        reached = {test: of_test for test, of_test in by_test.items() if test.startswith(tuple(own))}
        of_file = {
            test: lines
            for test, (_, lines) in reached.items()
            if any(line.rpartition(":")[0] == mutant.path for line in lines)
        }
        wanted = {f"{mutant.path}:{line}" for line in range(mutant.lines[0], mutant.lines[1] + 1)}
        # Lines of other processes, and those that run as a module is imported, are not seen: all tests of the file run,
        # and then all of the part, since a test of a default reaches no line of its file.
        by_line = [test for test, lines in of_file.items() if wanted & lines]
        tests = by_line or [*of_file] or [*reached]
        # The tests of quick files first.
        seconds: defaultdict[str, float] = defaultdict(float)
        for test in tests:
            seconds[test.partition("::")[0]] += reached[test][0]
        tests = sorted(tests, key=lambda test: seconds[test.partition("::")[0]])
        further = [test for test in reached if test not in of_file] if not by_line and of_file else []
        path, listed = self.root / mutant.path, self.root / "tests-to-run"
        source, (begin, end) = path.read_bytes(), mutant.span
        try:
            path.write_bytes(source[:begin] + mutant.after.encode() + source[end:])
            for chosen in filter(None, (tests, further)):
                listed.write_text("\n".join(chosen))
                if self.pytest(f"@{listed}", seconds=60 + _PATIENCE * sum(reached[test][0] for test in chosen)):
                    return 0
            if not self.pytest("-m", "not slow", *others):
                return 2
        finally:
            path.write_bytes(source)
        if part not in self.sound and self.pytest("-m", "not slow", *others):
            raise SystemExit(f"error: the tests fail without a change: pytest {' '.join(others)}")
        self.sound.add(part)
        return 1


def copied(folder: Path) -> Copy:
    """Copies the files that git knows, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():  # sida/plugins is a link to a folder
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return Copy(folder)


def sampled(parts: Sequence[str], count: int, seed: int) -> tuple[list[tuple[str, Mutant]], int]:
    """Changes with their parts, in the order of the files, and the number of all changes."""
    every: list[tuple[str, Mutant]] = []
    for part in parts:
        code = ROOT / PARTS[part][0]
        for path in sorted(code.rglob("*.py")) if code.is_dir() else [code]:
            name = path.relative_to(ROOT).as_posix()
            every += [(part, mutant) for mutant in mutants_of(name, path.read_text(encoding="utf-8"))]
    places = random.Random(seed).sample(range(len(every)), min(count, len(every)))
    return [every[index] for index in sorted(places)], len(every)


def known_reasons() -> dict[tuple[str, ...], str]:
    """Reasons by the keys of changes that do not matter."""
    with open(ROOT / KNOWN, newline="", encoding="utf-8") as file:
        return {tuple(row[:4]): row[4] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


def main() -> None:
    """Prints the survivors of a sample, and ends with the exit status 1 if one has no reason."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutants", description="Runs the tests on changed code.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="parts of the code (all)")
    parser.add_argument("--count", type=int, default=50, help="number of changes (50)")
    parser.add_argument("--seed", type=int, default=0, help="which changes (0)")
    words = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    sample, total = sampled(words.parts, words.count, words.seed)
    print(f"{len(sample)} of {total:,} changes of {', '.join(words.parts)}", flush=True)
    reasons, at_first, survivors, explained = known_reasons(), 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = copied(Path(folder))
        reached = copy.reached(words.parts)
        for part, mutant in sample:
            passed = copy.passed(part, mutant, reached)
            at_first += passed > 0
            if passed < 2:
                continue
            reason = reasons.get(mutant.key)
            survivors, explained = survivors + 1, explained + (reason is not None)
            print(f"survives: {mutant}{f'  ({reason})' if reason else ''}", flush=True)
    print(f"{at_first} of {len(sample)} survive the tests of their part, {survivors} all tests", end=", ")
    print(f"{explained} of them with a reason in {KNOWN}")
    sys.exit(survivors > explained)


if __name__ == "__main__":
    main()
