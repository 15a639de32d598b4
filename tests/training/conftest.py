"""What tests of trainings share: a toy teacher, a refused run, and a run that is interrupted and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sida.data import Dataset
from sida.methods import distill
from sida.training import train_teacher
from tests.training.toy import TEACHER, interrupt_after, results


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """Network file of a toy teacher."""
    return str(train_teacher(TEACHER, tmp_path_factory.mktemp("teacher")))


@pytest.fixture
def resumes(tmp_path, monkeypatch):
    """``resumes(spec, nimg)``: checks that an interruption changes nothing; returns the uninterrupted run's folder."""

    def check(spec, nimg: int) -> Path:
        run = train_teacher if "network" in spec else distill
        run(spec, tmp_path / "straight")
        interrupt_after(run, spec, tmp_path / "resumed", monkeypatch, nimg)
        with monkeypatch.context() as patched:
            # The state says which images the run has seen: they are not read again.
            patched.setattr(Dataset, "sketch", None)
            run(spec, tmp_path / "resumed")
        assert results(tmp_path / "resumed") == results(tmp_path / "straight")
        return tmp_path / "straight"

    return check
