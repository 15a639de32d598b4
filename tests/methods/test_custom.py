"""Mistakes in a method of one's own end in one line with the file and the line there."""

import pytest

from sida.config.lookup import ROOT
from tests.refused import command, refused

DEMO, EXAMPLE = ROOT / "studies/demo", (ROOT / "docs/examples/matching.py").read_text()
MISTAKES = {
    "a term without a weight": ('return {"matching": x', 'return {"typo": x', "loss: .*'typo'.*use equal names"),
    "no weight of a term": (', "denoising": self.lambda_fake_score}', "}", "loss: .*'denoising'.*use equal names"),
    "no terms": ('return {"matching": x * direction}', "return x * direction", "loss: .*Tensor.*return {name: tensor}"),
    "no gradient": ("x * direction}", "(x * direction).detach()}", "loss: .*'generator': matching.*with gradients"),
    "an exception": (
        "direction, x = ",
        'raise ValueError("oops")  # ',
        r"own_\d.py, line \d+: ValueError: oops.*fix it",
    ),
    "no dataclass": (
        "@dataclasses.dataclass(eq=False)\n",
        "",
        r"own_\d.py, line .*MatchingLoss is not a dataclass.*fix it",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_method_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    right, wrong, told = MISTAKES[name]
    assert EXAMPLE.count(right) == 1
    module = f"own_{list(MISTAKES).index(name)}"
    (tmp_path / f"{module}.py").write_text(EXAMPLE.replace(right, wrong))
    teacher = DEMO / "stored/teachers/digits-short/network.safetensors"
    spec = ROOT / "docs/examples/tiny-student.yaml"
    arguments = ["--teacher", teacher, "--method", f"{module}:METHOD", "--spec", spec]
    refused(told, command, "distill", "--out", tmp_path / "out", *arguments)
