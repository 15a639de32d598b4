"""The presets `gpu` and `first-look`: checks, budget, and the small form of `gpu`."""

import json

import numpy as np
import pytest
import yaml

from sida.config.lookup import ROOT
from sida.eval.claims.claim import load_claims
from sida.workflow.planning.costs import Costs
from sida.workflow.planning.driver import driver_cards
from sida.workflow.preset import load_preset
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.files import find_preset
from sida.workflow.preset.jobs import measurement
from tests.plugins import needs
from tests.workflow.workspace import Workspace, forked_snakemake, shipped

pytestmark = needs("judges", "kernels")


def test_the_budget_is_half_an_hour_and_the_memory_of_a_4090():
    gpu = shipped("gpu")
    costs = Costs(gpu, "H200", fresh=True)
    named = [("teachers", name) for name in gpu.trained_teachers] + [("students", run.run) for run in gpu.students]
    found = [costs.of(*job) for job in [*named, *(("measurements", run) for run in gpu.measurable)]]
    assert sum(job.gpu_hours for job in found) < 25 / 60
    assert 10 < max(job.memory_gb or 0 for job in found) < 24


def test_held_out_images_are_an_archive_of_their_own_that_measuring_waits_for():
    for preset in map(shipped, ("gpu", "gpu-small")):
        row = next(iter(preset.rows.values()))
        train, heldout = (row.protocol.sources[key] for key in ("train", "heldout"))
        assert (train.fixed, heldout.fixed) == (False, True)
        path = preset.data.named(heldout.dataset)["path"]
        assert path != row.data["path"]
        assert path in preset.archives.made
        assert path in measurement(preset, "data").needs["files"]


def write_pictures(folder, **counts):
    """Squares in noise, their place the class, as files of MNIST's format."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in counts.items():
        classes = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 60, (count, 28, 28), np.uint8)
        for image, place in zip(images, classes):
            image[2 * place : 2 * place + 8, 6:20] += 150
        for stem, array in (("images-idx3", images), ("labels-idx1", classes)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (folder / f"{part}-{stem}-ubyte").write_bytes(header + array.tobytes())
    return folder


@pytest.mark.skipif(bool(driver_cards()), reason="there is a GPU here")
def test_without_a_gpu_it_ends_in_one_line_before_data_is_rendered(tmp_path):
    words = ["-s", str(ROOT / "Snakefile"), "--workflow-profile", str(ROOT / "profiles/default"), "--cores", "2"]
    status, text = forked_snakemake(tmp_path, *words, "--configfile", str(ROOT / "studies/gpu/preset.yaml"))
    assert status != 0
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "studies/gpu/preset.yaml: device: 'cuda'" in line
    assert "sida presets" in line
    assert not list(tmp_path.glob("results/*/*"))


def test_the_small_form_has_its_own_results_data_and_no_gpu():
    gpu, small = map(shipped, ("gpu", "gpu-small"))
    check_preset(small)
    assert (small.settings.device, small.settings.gpus) == ("cpu", 0)
    assert not {*gpu.archives.made} & {*small.archives.made}
    assert gpu.results != small.results
    assert [run.run for run in gpu.students] == [run.run for run in small.students]
    # Further files win as for the workflow.
    assert load_preset(find_preset("gpu"), find_preset("gpu-small")).settings == small.settings != gpu.settings


@pytest.mark.slow
def test_the_small_form_ends_with_its_table(tmp_path):
    """A tenth of its images: the path, not its numbers."""
    space = Workspace(tmp_path)
    pictures = write_pictures(tmp_path / "pictures", train=600, t10k=300)
    protocol = yaml.safe_load((ROOT / "studies/gpu/protocols/clothes28.yaml").read_text())
    (tmp_path / "few.yaml").write_text(yaml.safe_dump({**protocol, "num_samples": 300}))
    recipe = {"total_kimg": 0.8, "evaluation": {"every_kimg": 0.4, "num_samples": 300}}
    changes = {"teachers": {"clothes": {"training": {"total_kimg": 2.4}}}, "protocol": "few.yaml"}
    changes["datasets"] = {
        f"fashion{name}": {
            "kind": "zip", "path": f"few{name}.zip", "channels": 1, "label_dim": 10, "num_images": images,
            "made_from": {"source": str(pictures), "subset": part},
        }
        for name, images, part in (("", 600, "train"), ("-heldout", 300, "test"))
    }  # fmt: skip
    changes["recipes"] = dict.fromkeys(("sid", "sida", "sid2a"), recipe)
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(changes))
    files = ["--configfile", "studies/gpu/preset.yaml", "studies/gpu/gpu-small.yaml", "short.yaml"]
    results = tmp_path / "results" / "gpu-small"
    space.done(*files)
    table = (results / "tables/gpu.csv").read_text()
    assert all(run.run in (results / "measurements.csv").read_text() for run in shipped("gpu").runs.values())
    assert "SiD2A" in table
    verdicts = json.loads((results / "claims.json").read_text())
    assert len(verdicts["claims"]) == len(load_claims(ROOT / "studies/gpu/claims.py").claims)
