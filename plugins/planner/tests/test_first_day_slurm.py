"""The first day on a cluster: a row of `paper` on the SLURM of this machine, from an empty cache and an empty home."""

import pytest

from sida.config.lookup import ROOT
from sida.files.text_files import yaml_text
from sida.plugins.planner.tests.test_first_day import day, inception, measured_of  # noqa: F401 - fixtures
from tests.slurm.cluster import QUICK, fields_of
from tests.slurm.conftest import cluster  # noqa: F401 - a fixture

ROW = "cifar10-uncond-sida-a1"
#: Minutes that a job may ask for.
LIMIT = 15


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["plain"], indirect=True)
@pytest.mark.parametrize("day", [("paper", [ROW], ["tables/table1.tex"])], indirect=True)
def test_a_row_is_trained_and_measured_in_jobs_of_minutes(day, cluster, tmp_path):  # noqa: F811 - fixtures
    _, run = day
    (tmp_path / "site.yaml").write_text(yaml_text({"partition": "main", "max_hours": LIMIT / 60}))
    variables = {name: cluster.environment[name] for name in ("SLURM_CONF", "PATH")}
    status, _ = run(QUICK, ROOT / "profiles/slurm", **variables, SIDA_SITE=str(tmp_path / "site.yaml"))
    assert status == 0
    assert (ROW, "fid") in measured_of(tmp_path / "work/results/rehearsal-paper", "table1")
    jobs = [fields_of(cluster.show(job)) for job in cluster.run("squeue", "-h", "-t", "all", "-o", "%A").split()]
    assert {job["TimeLimit"] for job in jobs if "distill" in job.get("Comment", "")} == {f"00:{LIMIT}:00"}
