"""Two real SLURMs of two nodes on this machine while tests run (``slurm-local``), one of them with accounting.

Without SLURM the tests are skipped.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from sida.config.lookup import ROOT
from tests.slurm.cluster import Cluster

TOOL = str(ROOT / "tests/slurm/slurm-local")
#: Two fake GPUs and four CPUs on each of two nodes; memory is offered, and nothing enforces it.
SHAPE = {"SLURM_LOCAL_NODES": "2", "SLURM_LOCAL_GPUS": "2", "SLURM_LOCAL_CPUS": "4", "SLURM_LOCAL_MEM_MB": "64000"}


def pytest_collection_modifyitems(items):
    """Tests with a cluster are slow and share it, so one worker runs all tests of a cluster."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.xdist_group(f"slurm-{item.callspec.params['cluster']}"))


def missing(why):
    """`make test-all` goes on without a cluster, `make test-slurm` does not."""
    (pytest.fail if os.environ.get("SIDA_TEST_SLURM") else pytest.skip)(why)


@pytest.fixture(scope="session", params=["accounting", "plain"])
def cluster(request, tmp_path_factory):
    """The cluster, with the environment that finds it."""
    if not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") and (
        os.getuid() != 0 or not shutil.which("apt-get")
    ):
        missing("no SLURM here, and installing it needs root and apt-get")
    accounting = request.param == "accounting"
    folder = tmp_path_factory.mktemp("slurm")
    environment = {**os.environ, **SHAPE, "SLURM_LOCAL_DIR": str(folder)}
    environment |= {"SLURM_LOCAL_ACCOUNTING": "1" if accounting else "", "SLURM_LOCAL_TIMEOUT": "240"}
    started = subprocess.run([TOOL, "up"], env=environment, capture_output=True, text=True, timeout=900)
    if started.returncode:
        missing(f"SLURM did not start here: {started.stderr.strip().splitlines()[-1]}")
    found = re.search(r"SLURM_CONF=(\S+) PATH=([^:]+):", started.stdout)
    assert found, started.stdout
    # Jobs find this interpreter's snakemake first, then wrappers that know the cluster.
    path = f"{os.path.dirname(sys.executable)}:{found[2]}:{os.environ['PATH']}"
    try:
        yield Cluster({"SLURM_CONF": found[1], "PATH": path}, accounting)
    finally:
        subprocess.run([TOOL, "down"], env=environment, capture_output=True, timeout=120)
