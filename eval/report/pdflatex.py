"""Runs LaTeX, and reports missing packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from sida.errors import UserError
from sida.files.atomic import atomic_path

PACKAGES = "texlive-latex-recommended texlive-science"
INSTALL = f"apt-get install --no-install-recommends {PACKAGES}"
STYLES = ("booktabs.sty", "siunitx.sty")


def missing_latex() -> str | None:
    """Missing parts of LaTeX in one line, with the Debian packages that provide them; ``None`` if all are there."""
    if shutil.which("pdflatex") is None:
        return f"pdflatex is not installed ({INSTALL})"
    if shutil.which("kpsewhich") is None:  # packages cannot be checked; LaTeX reports missing ones
        return None
    found = subprocess.run(["kpsewhich", *STYLES], capture_output=True, text=True).stdout
    missing = [style for style in STYLES if style not in found]
    return f"LaTeX has no {' and no '.join(missing)} ({INSTALL})" if missing else None


def compile_latex(source: Path) -> Path:
    """Runs pdflatex twice (for references) in a scratch folder; writes the PDF beside ``source`` when it is complete.

    Raises:
        UserError: LaTeX fails; the message has its first error.
    """
    with tempfile.TemporaryDirectory() as scratch:
        options = ["-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={scratch}"]
        # Fixed time stamps, so that the same results give the same bytes.
        epoch = os.environ.get("SOURCE_DATE_EPOCH", "0")
        environment = {**os.environ, "max_print_line": "1000", "SOURCE_DATE_EPOCH": epoch, "FORCE_SOURCE_DATE": "1"}
        # A results folder may come from a stranger, so its LaTeX reads only files in it and LaTeX's own files.
        environment |= {"openin_any": "p", "openout_any": "p", "TEXMFOUTPUT": scratch}
        for _ in range(2):
            try:
                done = subprocess.run(
                    ["pdflatex", *options, source.name],
                    cwd=source.parent,
                    env=environment,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=600,
                )
            except subprocess.TimeoutExpired:
                raise UserError(f"{source}: pdflatex did not finish within ten minutes") from None
            if done.returncode != 0:
                fault = next((line[2:] for line in done.stdout.splitlines() if line.startswith("! ")), "unknown error")
                raise UserError(f"{source}: LaTeX stopped: {fault.strip()} (packages needed: {PACKAGES})")
        pdf = source.with_suffix(".pdf")
        with atomic_path(pdf) as temporary:
            shutil.copyfile(Path(scratch) / pdf.name, temporary)
    return pdf
