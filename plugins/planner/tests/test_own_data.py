"""docs/own-pictures.md: a study of one's own pictures lives in one folder outside the repository."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sida.config.lookup import ROOT
from sida.config.settings import from_mapping
from sida.data import ImageArchive
from sida.eval.results.extended import read_extended
from sida.networks import build_network
from sida.plugins.planner.pictures import check_listed, first_picture
from sida.plugins.planner.plan import make_plan, wall_hours
from sida.workflow.cli import main
from sida.workflow.preset import load_preset
from sida.workflow.preset.checks import check_preset
from sida.workflow.preset.jobs import measurement, teacher_training, training
from tests.data.test_archive import tar_of
from tests.plugins import needs


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of this test, where prepared pictures are kept."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SIDA_CACHE", str(folder))
    return folder


def pictures(
    folder: Path, size: tuple[int, int], mode: str = "RGB", classes: Sequence[str] = "ab", each: int = 20
) -> Path:
    """Coloured noise, a folder per class."""
    draw = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = draw.integers(0, 90, (size[1], size[0], len(mode) if mode == "RGB" else 1))
            pixels[..., number % pixels.shape[2]] += 160
            Image.fromarray(pixels.squeeze().astype(np.uint8)).save(folder / name / f"{index:03d}.png")
    return folder


def test_cifar_10s_archive_has_pictures_before_they_are_read(tmp_path):
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    path = tmp_path / "cifar-10-binary.tar"
    path.write_bytes(tar_of({f"cifar-10/{name}.bin": bytes(3073) for name in names}))
    check_listed(str(path))
    assert first_picture(str(path), None, None).resolution == 32


def small(study: Path) -> None:
    """Shrinks a study to seconds; SiD2A waits for SiD and goes."""
    rows = (study / "runs.tsv").read_text().splitlines(keepends=True)
    (study / "runs.tsv").write_text("".join(row for row in rows if not row.startswith("sid2a")))
    preset = yaml.safe_load((study / "preset.yaml").read_text())
    few = {"total_kimg": 0.4, "batch_size": 20, "batch_gpu": None, "tick_kimg": 0.2}
    if trained := preset["teachers"].get("edm"):
        trained["network"]["kwargs"] |= {"model_channels": 8}
        trained["training"] |= few
    for recipe in preset["recipes"].values():
        recipe |= {"total_kimg": 0.2, "batch_size": 10, "batch_gpu": None, "tick_kimg": 0.1}
        recipe["evaluation"] = {"every_kimg": 0.1, "num_samples": 20, "trials": 1}
    for recipe in ("sida", "sid2a"):
        preset["recipes"][recipe] |= {"warmup_kimg": 0, "adversarial_kimg": 0}
    (study / "preset.yaml").write_text(yaml.safe_dump(preset))
    protocol = yaml.safe_load((study / "protocols/own.yaml").read_text()) | {"num_samples": 30, "trials": 2}
    (study / "protocols/own.yaml").write_text(yaml.safe_dump(protocol))
    (study / "figures/samples.yaml").write_text("extends: samples.yaml\nrows: 2\ncolumns: 2\n")


@pytest.mark.slow
def test_a_study_runs_from_its_own_folder(tmp_path, capsys):
    data, study = pictures(tmp_path / "pictures", (12, 10)), tmp_path / "flowers"
    assert main(["new", str(study), "--data", str(data), "--resolution", "8"]) == 0
    assert "  sida run ." in capsys.readouterr().out.splitlines()
    small(study)
    named = ("tables/main.md", "figures/convergence.png", "figures/samples.png")
    command = [Path(sys.executable).parent / "sida", "run", ".", "--cores", "2", *named]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=study, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    results = study / "results/flowers"
    table = re.sub(" +", " ", (results / "tables/main.md").read_text())
    assert "on flowers (8×8×3; 2 classes: a, b)" in table
    for label in ("Resampled images", "EDM teacher", "SiD, α = 1.0", "SiDA, α = 1.0"):
        assert re.search(rf"\| {label} \| \d* ?\| \**\d", table), label
    panels = {line.split(",")[0] for line in (results / "figures/samples.csv").read_text().splitlines()[1:]}
    assert len(panels) == 4
    assert not (ROOT / "results/flowers").exists()


@pytest.mark.parametrize(
    ("size", "mode", "options", "device", "extractor"),
    [
        (8, "L", ["--channels", "1", "--labels", "none"], "cpu", "pixels"),
        pytest.param(32, "RGB", [], "cuda", "inception", marks=pytest.mark.slow),
    ],
)
def test_sizes_and_rates_fit_the_pictures(tmp_path, monkeypatch, size, mode, options, device, extractor):
    from sida.methods import DistillConfig
    from sida.training import TeacherConfig

    data = pictures(tmp_path / "pictures", (size, size), mode, each=3)
    assert main(["new", str(tmp_path / "mine"), "--data", str(data), *options]) == 0
    monkeypatch.chdir(tmp_path / "mine")
    preset = load_preset("preset.yaml")
    check_preset(preset)
    assert (preset.settings.device, preset.settings.gpus) == (device, int(device == "cuda"))
    assert not re.search("[Mm]inutes", Path("preset.yaml").read_text())
    teacher = from_mapping(TeacherConfig, teacher_training(preset, "edm").spec, "teacher")
    from_mapping(DistillConfig, training(preset, "sid2a").spec, "student")
    kwargs = dict(teacher.network["kwargs"])
    assert kwargs["img_channels"] == (1 if mode == "L" else 3)
    assert kwargs["label_dim"] == (0 if "none" in options else 2)
    build_network({"class": teacher.network["class"], "kwargs": kwargs | {"model_channels": 8}})
    assert measurement(preset, "data").spec["dataset"]["path"] == "data.zip"
    # Nobody predicted anything, and each point of a curve is one trial.
    assert not preset.claims
    assert "Bands" not in read_extended(preset.layout("figures", "convergence"))["caption"]
    # The shape is that of the studies of the suite.
    shape = {path.name for path in (ROOT / "studies").glob("*/*")}
    assert {path.name for path in Path().iterdir()} - {"data.zip"} <= shape
    assert extractor in Path("protocols/own.yaml").read_text()


@pytest.mark.parametrize(
    ("size", "options", "memory", "hours"),
    [
        pytest.param(32, ["--gpu", "H100", "--hours", "48"], 80, 48, marks=pytest.mark.slow),
        (28, ["--cores", "2", "--hours", "0.5"], 8, 0.5),
    ],
)
def test_a_study_fits_its_card_and_hours_by_the_plan(tmp_path, monkeypatch, capsys, size, options, memory, hours):
    data = pictures(tmp_path / "pictures", (size, size), "L", each=3)
    assert main(["new", str(tmp_path / "mine"), "--data", str(data), *options]) == 0
    assert "given up for that: " in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "mine")
    plan = make_plan([Path("preset.yaml")])
    assert (plan.costs.gpu_name, plan.gpus) == (("CPU", 2) if "--cores" in options else (options[1], 1))
    assert max(job.memory_gb for job in plan.jobs.values()) <= memory
    assert 0.5 * hours < wall_hours(plan.jobs, plan.gpus) <= 1.1 * hours


@pytest.fixture
def pipeline(tmp_path):
    from plugins.diffusers.tests.pipelines import write_pipeline

    write_pipeline(tmp_path / "ddpm", in_channels=3, out_channels=3)
    return tmp_path / "ddpm"


@needs("diffusers")
def test_a_teacher_of_diffusers_decides_size_and_classes_of_the_pictures(tmp_path, pipeline, monkeypatch, capsys):
    data = pictures(tmp_path / "pictures", (12, 10), "L")
    new = ["new", str(tmp_path / "mine"), "--data", str(data), "--teacher", str(pipeline), "--cores", "2"]
    assert main([*new, "--hours", "0.1"]) == 0
    assert "teacher's" not in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "mine")
    preset = load_preset("preset.yaml")
    check_preset(preset)
    assert preset.settings.datasets["mine"].items() >= {"resolution": 8, "channels": 3, "label_dim": 0}.items()
    assert preset.trained_teachers == []
    assert training(preset, "sida").spec["teacher"] == "teacher.safetensors"
    jobs = make_plan([Path("preset.yaml")]).jobs
    assert not any(job.network_unknown for job in jobs.values())
    # A prepared data set with classes is not used as it is.
    assert main(["data", "prepare", "--source", str(data), "--resolution", "8", "--out", "ready.zip"]) == 0
    ready = ["new", "../ready", "--data", "ready.zip", "--teacher", "teacher.safetensors", "--cores", "2"]
    assert main([*ready, "--hours", "0.1"]) == 0
    assert load_preset("../ready/preset.yaml").settings.datasets["ready"]["label_dim"] == 0
    assert ImageArchive("../ready/data.zip").label_dim == 0
    # A teacher that is a network file, for other classes and other pictures.
    option, labels = "--resolution 4: the teacher .* has 8; leave", "--teacher teacher.safetensors: label_dim: "
    for options, told in ((["--resolution", "4"], option), (["--labels", "folders"], labels)):
        other = ["new", "../other", "--data", str(data), "--teacher", "teacher.safetensors", *options]
        assert main(other) == 1
        assert re.search(told, capsys.readouterr().err)
        assert not Path("../other").exists()


@needs("diffusers")
@pytest.mark.slow
def test_a_teacher_of_diffusers_becomes_a_generator_and_its_table(tmp_path, pipeline):
    data, study = pictures(tmp_path / "pictures", (8, 8)), tmp_path / "mine"
    assert main(["new", str(study), "--data", str(data), "--teacher", str(pipeline), "--cores", "2"]) == 0
    small(study)
    command = [Path(sys.executable).parent / "sida", "run", ".", "--cores", "2", "tables/main.md"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=study, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    table = re.sub(" +", " ", (study / "results/mine/tables/main.md").read_text())
    for label in ("Resampled images", "Teacher", "SiD, α = 1.0", "SiDA, α = 1.0"):
        assert re.search(rf"\| {label} \| \d* ?\| \**\d", table), label


def test_a_prepared_data_set_stays_where_it_is(tmp_path, monkeypatch):
    data = pictures(tmp_path / "pictures", (8, 8))
    assert main(["data", "prepare", "--source", str(data), "--out", str(tmp_path / "🌸.zip")]) == 0
    assert main(["new", str(tmp_path / "mine"), "--data", str(tmp_path / "🌸.zip")]) == 0
    assert not (tmp_path / "mine/data.zip").exists()
    monkeypatch.chdir(tmp_path)
    assert measurement(load_preset("mine/preset.yaml"), "data").spec["dataset"]["path"] == "mine/../🌸.zip"


def test_both_ways_of_the_page_store_the_same_pictures(tmp_path):
    data = pictures(tmp_path / "pictures", (13, 9), "L", each=3)
    words = ["--source", str(data), "--resolution", "8", "--transform", "center-crop", "--channels", "1"]
    assert main(["data", "prepare", *words, "--out", str(tmp_path / "x.zip")]) == 0
    assert main(["new", str(tmp_path / "mine"), "--data", str(data), "--resolution", "8", "--hours", "0.2"]) == 0
    assert (tmp_path / "mine/data.zip").read_bytes() == (tmp_path / "x.zip").read_bytes()


def test_an_array_is_prepared(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 8, 8), np.uint8))
    assert main(["new", str(tmp_path / "mine"), "--data", str(tmp_path / "x.npy"), "--hours", "0.2"]) == 0
    assert (tmp_path / "mine/data.zip").is_file()


@pytest.mark.parametrize(
    ("name", "size", "options", "remedy"),
    [
        ("Flow_ers", (8, 8), [], "a-z, 0-9 and '-'"),
        ("pictures", (8, 8), [], "exists already"),
        ("mine", (8, 9), [], "is 8×9, and 3 further pictures of unlike size; give --resolution N$"),
        ("mine", (96, 96), [], "give --resolution 64"),
        ("mine", None, ["--resolution", "17"], "give --resolution 16"),
        ("mine", (16, 16), ["--hours", "0.001"], r"--hours 0.001: .* 2 cores: .* takes [\d.]+ hours .*give --hours 0"),
    ],
)
def test_what_no_study_can_be_made_of_is_one_line_and_leaves_nothing(tmp_path, capsys, name, size, options, remedy):
    data = tmp_path / "pictures"
    if size:
        pictures(data, size, each=2)
    else:
        # A resolution is refused before a picture is read.
        data.mkdir()
        (data / "a.png").write_bytes(b"no picture")
    before = sorted(tmp_path.iterdir())
    assert main(["new", str(tmp_path / name), "--data", str(data), *options]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(remedy, error)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_the_least_hours_are_said_before_pictures_are_read_which_is_done_once(tmp_path, capsys, monkeypatch):
    from sida.data import prepare as module

    data, read, prepare = pictures(tmp_path / "pictures", (16, 16), each=2), [], module.prepare
    monkeypatch.setattr(module, "prepare", lambda config: read.append(config) or prepare(config))

    def made(name: str, hours: str) -> str:
        status = main(["new", str(tmp_path / name), "--data", str(data), "--hours", hours])
        said = capsys.readouterr()
        return said.err if status else said.out

    least = re.search(r"give --hours ([\d.]+) or more", made("a", "0.001"))[1]
    assert not read
    # Of pictures in classes, too, which are counted later.
    first, second = made("b", least), made("c", str(9 * float(least)))
    assert len(read) == 1
    assert (tmp_path / "b/data.zip").read_bytes() == (tmp_path / "c/data.zip").read_bytes()
    assert "4 pictures read" in first
    assert "4 pictures read" in second
    # Other pictures, and a damaged copy of the prepared ones.
    Image.new("RGB", (16, 16), 7).save(data / "a/new.png")
    assert "5 pictures read" in made("d", "2")
    (kept,) = (tmp_path / os.environ["SIDA_CACHE"] / "prepared").glob("*.zip")
    kept.write_bytes(b"other")
    assert "5 pictures read" in made("e", "2")
    assert len(read) == 3


def test_pictures_are_summed_up_and_names_of_classes_kept_as_text(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["\x01a", "b\x7f", "c\x9b31m", "d\u202ee", "f: [*", "größe"]
    pictures(tmp_path / "pictures", (8, 8), "L", classes=names, each=3)
    (tmp_path / "pictures/notes.txt").write_text("no picture")
    (tmp_path / "pictures" / "x.\x1b[31m\u202e").write_text("")
    assert main(["new", "flowers", "--data", "pictures", "--hours", "0.2"]) == 0
    said = capsys.readouterr()
    assert (said.out + said.err).replace("\n", "").isprintable()
    for text in ("18 images 8×8×1, 6 classes", "18 pictures read (18 grey)", "1 .txt", "größe"):
        assert text in said.out
    preset = load_preset("flowers/preset.yaml")
    check_preset(preset)
    grid = read_extended(preset.layout("figures", "samples"))
    shown = grid["class_names"]
    assert len(set(shown)) == grid["rows"] == len(names)
    assert {"f: [*", "größe"} < set(shown)
    assert "".join(shown).isprintable()
    assert "6 classes: " in yaml.safe_load(Path("flowers/tables/main.yaml").read_text())["caption"]
