"""The released preset in small: Snakemake fetches, imports and measures checkpoints from a local server."""

import csv
import hashlib
import json

import pytest
import torch

from sida.assets.registry import ASSET_COLUMNS
from sida.files.atomic import sha256_file
from sida.networks import build_network
from sida.networks.file import read_metadata
from tests.assets.fault_server import serve
from tests.files.genuine import MARK, write_genuine
from tests.workflow.workspace import Workspace

KWARGS = {
    "img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_type": "SongUNet", "model_channels": 8,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "augment_dim": 9,
}  # fmt: skip
SHEET = """\
run	family	label	method	teacher	init	alpha	recipe	sampler	seed	checkpoint	dataset	notes
the-teacher	Teacher	Teacher	teacher					heun-18		published-teacher
the-student	One Step	SiDA	sida	the-teacher		1.0		one-step		published-student
"""


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A workspace with two published pickles, one by id, one by address; the first download of each breaks off once."""
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIDA_ASSETS", str(tmp_path / "assets.tsv"))
    (tmp_path / "work").mkdir()
    workspace = Workspace(tmp_path / "work")
    removed = {"teachers": ..., "recipes": ...}
    settings = {"preset": "standin", "runs": "sheet.tsv", "tables": [], "figures": [], **removed}
    workspace.config(name="standin.yaml", **settings)
    with serve() as site:
        lines = ["\t".join(ASSET_COLUMNS)]
        for seed, name in enumerate(("published-teacher", "published-student")):
            torch.manual_seed(seed)
            net = build_network({"class": "EDMPrecond", "kwargs": KWARGS})
            data = write_genuine(tmp_path / f"{name}.pkl", net).read_bytes()
            row = {"id": name, "kind": "network", "url": site.add(f"{name}.pkl", data, faults=[("cut", 4321)])}
            row |= {"target": f"{name}.pkl", "size": str(len(data))}
            lines.append("\t".join(row.get(column, "") for column in ASSET_COLUMNS))
        (tmp_path / "assets.tsv").write_text("\n".join(lines) + "\n")
        # The last one: a teacher is a registered file, the student any file of the web.
        address = f"{site.url}/{name}.pkl#sha256={hashlib.sha256(data).hexdigest()}"
        (workspace.folder / "sheet.tsv").write_text(SHEET.replace("published-student", address))
        yield workspace, site
    assert not list(tmp_path.rglob(MARK))


def test_rows_are_fetched_imported_and_measured(published):
    workspace, site = published
    workspace.made("--configfile", "standin.yaml", "--", "results/standin/measurements.csv")
    with open(workspace.folder / "results/standin/measurements.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["run"], row["trial"]) for row in rows} == {
        (run, trial) for run in ("the-teacher", "the-student") for trial in "01"
    }
    trial = json.loads((workspace.folder / "results/standin/measurements/the-student/trial-1.json").read_text())
    assert trial["metrics"]["fd"] > 0
    network = workspace.folder / "results/standin/checkpoints/published-student/network.safetensors"
    assert sha256_file(network) in json.dumps(trial)
    assert read_metadata(network)["origin"]["url"] == f"{site.url}/published-student.pkl"
    # The connection that broke was taken up where it ended.
    assert len(site.asked("published-student.pkl")) == 2
    before = len(site.requests)
    assert workspace.planned("--configfile", "standin.yaml", "--", "results/standin/measurements.csv") == {}
    assert len(site.requests) == before
