"""Figures look the same wherever they are drawn."""

from __future__ import annotations

import os
import subprocess
import sys

from sida.config.resources import ROOT
from sida.files.atomic import sha256_file

DRAW = """
import sys
from eval.figures.style import new_figure, save
figure = new_figure(2, 1.5)
axes = figure.subplots()
axes.plot([1, 3, 2], label="x")
axes.set_title("SiDA")
axes.legend()
save(figure, "out.pdf", "t")
"""


def test_settings_of_the_working_folder_change_no_figure(tmp_path):
    drawn = []
    for name, settings in (("a", ""), ("b", "axes.facecolor: red\nsavefig.dpi: 7\nlines.linestyle: :\nbackend: x.y\n")):
        (tmp_path / name).mkdir()
        if settings:
            (tmp_path / name / "matplotlibrc").write_text(settings)
        else:
            os.mkfifo(tmp_path / name / "matplotlibrc")  # whoever opens it waits for ever
        code = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){DRAW}"]
        subprocess.run(code, cwd=tmp_path / name, check=True, capture_output=True, timeout=100)
        drawn.append([sha256_file(tmp_path / name / f"out.{suffix}") for suffix in ("pdf", "png")])
    assert drawn[0] == drawn[1]
