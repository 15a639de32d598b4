"""Fixtures of all tests: golden vectors and quiet single-threaded torch."""

import gc
import os

import hypothesis
import pytest
import torch

import sida.eval  # noqa: F401 - registers what trainings need, as the command does
from tests import forks
from tests.golden import vectors
from tests.plugins import missing_names

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests trust their own code; those of this permission take it back.
os.environ.setdefault("SIDA_ALLOW_CODE", "*")
if not torch.cuda.is_available():
    # Fused kernels run in Triton's interpreter, which must know before Triton is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")
# As in trainings and measurements; torch's default for convolutions on a GPU rounds to 10 bits.
torch.backends.cudnn.allow_tf32 = False
# How long an example takes says how busy the machine is; after 0.2 s of it a test would fail.
# Examples may share a folder or a server: each writes its own files anew.
CHECKS = hypothesis.HealthCheck
hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[CHECKS.too_slow, CHECKS.function_scoped_fixture]
)
hypothesis.settings.load_profile("busy machine")


def pytest_make_parametrize_id(val):
    """Bytes by their number: archives have the time in them, and workers that name a test differently do not start."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items):
    """A slow test may take half an hour.

    A test with a parameter that is a name of a missing plugin, or the words of a missing verb, is skipped.
    """
    missing = missing_names()
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        names = (value[0] if isinstance(value, list) and value else value for value in parameters)
        for name in missing & {name for name in names if isinstance(name, str)}:
            item.add_marker(pytest.mark.skip(reason=f"'{name}' is of a plugin that is not here"))


def pytest_collection_finish():
    """Imported modules live until the end: no later collection of garbage looks at them, and no fork copies them."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _single_thread():
    torch.set_num_threads(1)
    # Autograd counts devices at its first use. Where a test has registered one before, it starts threads, and processes
    # that later tests fork cannot train.
    torch.zeros(1, requires_grad=True).sum().backward()


@pytest.fixture(scope="session", autouse=True)
def _readers_within():
    with forks.children(forks.Within):
        yield


@pytest.fixture(scope="module")
def forked_readers():
    """Readers of files have the limits of a child, which hostile files need."""
    with forks.children(forks.Forked):
        yield


@pytest.fixture(scope="session")
def golden():
    """``golden("losses_edm/networks") -> (arrays, info)``, see :func:`tests.golden.vectors.load`."""
    return vectors.load
