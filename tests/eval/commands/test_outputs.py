"""Output verbs of the command line, the overview and paper.pdf."""

import re
import shutil
import subprocess

import pytest

from eval.report.paper import build_paper, compile_latex, missing_latex, paper_source
from sida.config.resources import ROOT
from tests.eval.synthetic_output import inputs_of, write_released
from tests.refused import refused
from workflow.cli import main

MAIN = ROOT / "config" / "tables" / "main.yaml"


def test_a_table_is_written_whole_or_not_at_all(study, tmp_path, refusal):
    (tmp_path / "t.json").mkdir()
    assert "t.json: is a folder" in refusal("table", str(MAIN), *inputs_of(study), "--out", str(tmp_path / "t.tex"))
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_show_prints_the_first_table_and_paths_within_the_terminal(capsys):
    assert main(["show", "demo", "--table", "man"]) == 1
    assert "(did you mean 'main'?)" in capsys.readouterr().err
    assert main(["show", "demo"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    assert "SiDA, α = 1.0" in text
    assert "measurements.csv" in text


def test_paper_source_holds_every_table_figure_claim_and_digest(copied, monkeypatch, tmp_path, capsys):
    shutil.copy(copied / "figures" / "convergence.pdf", copied / "figures" / "figure10.pdf")
    shutil.copy(copied / "figures" / "convergence.pdf", copied / "figures" / "figure2.pdf")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["paper", str(copied)]) == 0
    assert "paper.pdf skipped: pdflatex is not installed" in capsys.readouterr().out
    assert main(["paper", str(copied), "--require-pdf"]) == 1
    text = (copied / "paper.tex").read_text()
    assert r"\input{tables/main.tex}" in text
    places = [text.index(f"figures/{name}.pdf") for name in ("figure2", "figure10", "convergence")]
    assert places == sorted(places)
    assert "D-01" in text
    assert "4ef4ef4e" in text
    assert "0.5 min" in text  # ten ticks of 2.9 s
    assert not (copied / "paper.pdf").exists()
    # A LaTeX without siunitx.
    for name, text in {"pdflatex": "exit 1", "kpsewhich": "echo /texmf/booktabs.sty; exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    capsys.readouterr()
    assert main(["paper", str(copied)]) == 0
    assert "paper.pdf skipped: LaTeX has no siunitx.sty" in capsys.readouterr().out


@pytest.mark.skipif(missing_latex() is not None, reason=str(missing_latex()))
def test_paper_compiles_to_the_same_bytes_and_leaves_nothing_else(copied):
    before = {path.name for path in copied.iterdir()}
    _, pdf = build_paper(copied, "Made-up numbers & 100 %")
    assert pdf is not None
    first = pdf.read_bytes()
    assert first.startswith(b"%PDF")
    assert build_paper(copied, "Made-up numbers & 100 %")[1].read_bytes() == first
    assert {path.name for path in copied.iterdir()} - before == {"paper.tex", "paper.pdf"}
    (copied / "tables" / "main.tex").write_text(r"\undefinedcommand")
    refused(r"paper\.tex: LaTeX stopped: Undefined control sequence", build_paper, copied)
    assert pdf.read_bytes() == first


@pytest.mark.skipif(missing_latex() is not None, reason="needs LaTeX")
@pytest.mark.parametrize("name", ["{outside}", "../secret.txt"])
def test_latex_of_a_results_folder_reads_no_file_outside_it(tmp_path, name):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "study").mkdir()
    source = tmp_path / "study" / "paper.tex"
    read = name.format(outside=tmp_path / "secret.txt")
    source.write_text(rf"\documentclass{{article}}\begin{{document}}\input{{{read}}}\end{{document}}")
    refused(r"paper\.tex: LaTeX stopped: .*secret", compile_latex, source)
    assert not source.with_suffix(".pdf").exists()


def test_the_paper_lists_what_the_published_numbers_alone_decide(tmp_path, monkeypatch):
    claim = {"id": "C", "statement": "s", "verdict": "not decided here", "by_published": {}}
    claims = [claim | {"printed": {"verdict": "supported"}}, claim | {"printed": None}]
    monkeypatch.setattr("eval.report.paper.read_verdicts", lambda path: {"preamble": "", "claims": claims})
    (tmp_path / "claims.json").write_text("{}")
    source = paper_source(tmp_path, [], [], "")
    assert "claim & statement & as published" in source
    assert "not decided here" not in source
    assert "& --" not in source
    assert "1 of 2 claims" in source


def test_no_two_tables_and_no_two_figures_of_the_paper_have_one_number(copied, tmp_path):
    inputs = ["--measurements", str(write_released(tmp_path / "m"))]
    inputs += ["--runs", str(ROOT / "studies/papers/runs/released.tsv")]
    layouts = [*sorted((ROOT / "studies/papers/tables").glob("table[1-7]*.yaml")), tmp_path / "twice.yaml"]
    layouts[-1].write_text(f"extends: {ROOT / 'studies/papers/tables/table4.yaml'}\n")
    for layout in layouts:
        out = copied / "tables" / f"{layout.stem}.tex"
        assert main(["table", str(layout), *inputs, "--mode", "measured", "--out", str(out)]) == 0
    for name in ("figure2", "figure10", "samples"):
        shutil.copy(copied / "figures" / "convergence.pdf", copied / "figures" / f"{name}.pdf")
    source = build_paper(copied)[0].read_text()
    labels = [re.findall(rf"\\renewcommand{{\\the{kind}}}{{(.*?)}}", source) for kind in ("table", "figure")]
    assert labels[0] == ["A1", "1", "2", "3", "4", "4 (version 4)", "5", "6", "7", "A2"]
    assert labels[1] == ["2", "10", "A1", "A2"]
    if shutil.which("pdftotext") and missing_latex() is None:
        text = subprocess.run(["pdftotext", copied / "paper.pdf", "-"], capture_output=True, text=True).stdout
        captions = re.findall(r"(?:Table|Figure) A?\d+(?: \(version 4\))?:", text)
        assert len(captions) == len(set(captions)) == 14
