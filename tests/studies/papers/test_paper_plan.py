"""The plan of the `paper` preset: data, teachers, students, measurements, tables and figures; nothing is run."""

from __future__ import annotations

import zipfile

import pytest
import yaml

from sida.config.resources import ROOT
from sida.methods import METHODS
from tests.studies.plans import dry_run
from tests.workflow.workspace import Workspace, settings_of
from workflow.preset import Preset
from workflow.preset.specs import most_gpus
from workflow.preset.targets import Targets


def test_the_plan_of_the_paper(paper, tmp_path):
    preset, (jobs, _) = paper, dry_run(tmp_path, "papers/paper.yaml")
    assert jobs["distill"] + jobs["distill_parent"] == len(preset.students()) > 50
    assert jobs["measure_0_9"] == len(preset.runs)
    assert (jobs["prepare_data"], jobs["encode_data"]) == (5, 1)
    assert (jobs["table"], jobs["figure"]) == (len(preset.settings.tables), len(preset.settings.figures))
    assert jobs["import_checkpoint"] >= len(preset.settings.teachers)
    assert "train_teacher" not in jobs


def test_teachers_are_trained_if_the_preset_says_so():
    config, own = settings_of("paper"), [ROOT / "studies/papers"]
    assert Preset(config, "paper.yaml", own).trained_teachers() == []
    preset = Preset(config | {"train_teachers": True}, "paper.yaml", own)
    students = Targets(preset, False).needs("tables", "table8").networks
    assert len(students) == 8
    assert {preset.runs[run].teacher for run in students} <= {*preset.trained_teachers()}


def test_every_table_and_figure_names_its_rows(paper):
    """What each is made from; a dry run of each takes seconds, which one test of all would make minutes."""
    preset, targets = paper, Targets(paper, False)
    for kind in ("tables", "figures"):
        for name in preset.layouts[kind]:
            needs = targets.needs(kind, name)
            rows = {*needs.measured, *needs.networks}
            assert rows
            assert len(rows) < len(preset.runs), name
            for run in rows & {run.run for run in preset.students()}:
                assert bool(targets.training(run)["data"]) == METHODS[preset.runs[run].method].real_images, run
    assert {preset.runs[run].alpha for run in targets.needs("figures", "figure1").networks} >= {-0.25, 1.5}


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A preset whose data set is made from an asset, a zip of pictures."""
    import numpy as np
    from PIL import Image

    workspace = Workspace(tmp_path)
    for index in range(12):
        path = tmp_path / "pictures" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 255, (10, 8, 3), dtype=np.uint8)).save(path)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in (tmp_path / "pictures").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path / "pictures"))
    columns = ["id", "kind", "url", "mirrors", "size", "sha256", "target", "license", "source", "note"]
    (tmp_path / "own-assets.tsv").write_text("\t".join(columns) + "\nfaces\tdataset\t\t\t\t\tpictures.zip\t\t\t\n")
    monkeypatch.setenv("SIDA_ASSETS", str(tmp_path / "own-assets.tsv"))
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    made_from = {"source": "faces", "resolution": 8, "transform": "center-crop"}
    shapes = {"path": "made/faces.zip", "resolution": 8, "channels": 3, "label_dim": 2, "num_images": 12}
    config = workspace.config(datasets={"faces": {"kind": "zip", **shapes, "made_from": made_from}}, dataset="faces")
    document = yaml.safe_load((tmp_path / config).read_text())
    network = document["teachers"]["digits-short"]["network"]["kwargs"]
    network |= {"img_channels": 3, "label_dim": 2}
    document |= {"protocol": "own.yaml", "tables": [], "figures": [], "claims": None}
    (tmp_path / config).write_text(yaml.safe_dump(document))
    metric = {"key": "fd", "kind": "frechet", "extractor": "pixels", "reference": "data"}
    protocol = {"name": "own", "num_samples": 10, "trials": 1, "metrics": [metric]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**protocol, "references": {"data": {"kind": "dataset"}}}))
    (tmp_path / "own.tsv").write_text("run\tlabel\tmethod\tsampler\ndata\tData\tdata\tdata\n")
    return workspace, config


@pytest.mark.slow
def test_an_archive_that_is_missing_is_made_and_one_that_is_there_stays(pictures):
    workspace, config = pictures
    arguments = ("--configfile", config, "--config", "runs=own.tsv", "--")
    folder = workspace.folder

    def planned():
        return dry_run(folder, folder / config, *arguments[2:], "measurements/data/trial-0.json")[0]

    assert planned() == {"fetch": 1, "prepare_data": 1, "measure_0_0": 1}
    done = workspace.snakemake(*arguments, "made/faces.zip")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "made/faces.zip").stat().st_size > 2000
    # A vanished source is no reason to make the data, and all that was trained on them, again.
    (folder / "pictures.zip").unlink()
    (folder / "results/tiny/assets/faces.json").unlink()
    assert planned() == {"measure_0_0": 1}


def test_each_training_takes_as_many_gpus_as_can_share_its_rounds(paper):
    preset, taken = paper, {}
    for run in preset.students():
        spec = preset.specs.student(run.run)
        taken[run.run] = preset.specs.training_gpus(spec)
        assert spec["batch_size"] % (taken[run.run] * spec.get("batch_gpu", 1)) == 0, run.run
    assert taken["cifar10-uncond-sida-a1"] == preset.settings.gpus == 8
    # Four rounds of 64 images.
    assert taken["cifar10-uncond-gdd"] == 4
    assert [most_gpus(wished, 256, 64) for wished in (0, 1, 3, 4, 8)] == [0, 1, 2, 4, 4]
    assert most_gpus(6, 256, None) == 4
