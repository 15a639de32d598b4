"""The first real day: presets from an empty cache and an empty home, with files from the registry's addresses.

The files are the stand-ins of a rehearsal, with small networks and few images, and the registry is the real one but for
the hashes of stand-ins whose originals have a registered hash. The code of DINOv2's stand-in has none, so that its step
is the one of a day on which the code at its address is another.

Of `released`, a row of each kind in Tables 1, 3, 4 and 7 is measured: EDM's teachers and generators, and of one size of
EDM2 a teacher with guidance and a generator; and a teacher with autoguidance. Of `paper`, a row of each family is
trained: here ImageNet 64×64, AFHQ-v2 and EDM2, and CIFAR-10 on SLURM (``test_first_day_slurm.py``).
"""

import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sida.config.lookup import ROOT
from sida.config.settings import load_yaml
from sida.data.pictures import encode_png
from sida.data.prepare import TRAINING, write_archive
from sida.files.atomic import sha256_file
from sida.plugins.planner import rehearsal, stand_ins
from sida.plugins.planner.small import AUTOENCODER, trains
from sida.workflow.commands.run import snakemake_command
from sida.workflow.preset import load_preset
from sida.workflow.preset.files import find_preset
from tests.data.test_archive import tar_of, zip_of
from tests.data.test_prepare import python2_batch
from tests.eval.synthetic_output import csv_rows
from tests.first_day.hosts import REGISTRY, official_hosts

IMAGES = 20
#: Sizes of the networks; images, classes and blocks of attention stay.
SMALL = {
    "SongUNet": {"model_channels": 16, "channel_mult": [1, 1, 1], "num_blocks": 1},
    "DhariwalUNet": {"model_channels": 64, "channel_mult": [1, 1, 1, 1], "num_blocks": 1},
    None: {"model_channels": 64, "channel_mult": [1, 1, 1, 1], "num_blocks": 1},
}
GONE, LATENTS = "cifar10-uncond-sida-a1", "edm2-xs-sida"
CLOSED = "teacher-edm-cifar10-uncond"
#: Rows of tables of `released`, with the metrics that a table shows.
ROWS = {
    "table1": ([CLOSED, "cifar10-uncond-sida-a1"], {"fid", "is"}),
    "table3": (["teacher-edm-imagenet64", "imagenet64-sida-a1"], {"fid", "recall"}),
    "table4": (["teacher-edm2-xs-cfg", "edm2-xs-sid2a"], {"fid"}),
    "table7": (["edm2-xs-sid2a"], {"fd_dinov2"}),
    "teachers": (["teacher-edm2-s-autog-dino"], {"fd_dinov2"}),
}
RELEASED = [*dict.fromkeys(name for names, _ in ROWS.values() for name in names)]
#: Trainings of `paper` and their tables. CIFAR-10 and AFHQ-v2 are fetched; ImageNet is put by hand, as the published
#: tar of tars or as an archive of pictures that the workflow encodes into latents.
PIXELS = {"imagenet64-sida-a1": "table3", "afhq64-sida-a1": "table6"}
ENCODED = {LATENTS: "table4"}
#: Files of a training of SiD2A: teacher, generator and data.
SID2A = ["teacher-edm-cifar10-uncond", "cifar10-uncond-sid-a1.2", "cifar10-python"]
#: Images of the archives of trainings.
ARCHIVES = {"cifar10-32x32": 20, "afhqv2-64x64": 4, "imagenet-64x64": 1000, "img512": 8, "img512-sd": 8}


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """One stand-in of Inception for all days."""
    stand_ins.write_inception(path := tmp_path_factory.mktemp("inception") / "inception.pt")
    return path


@pytest.fixture
def day(request, tmp_path, monkeypatch, inception):
    """The hosts with the files of rows of a preset, and a function that makes targets: its status and its lines."""
    name, rows, targets = request.param
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    architecture = stand_ins._architecture

    def small(asset, preset):
        network = architecture(asset, preset)
        return {**network, "kwargs": network["kwargs"] | SMALL[network["kwargs"].get("model_type")]}

    monkeypatch.setattr(stand_ins, "_architecture", small)
    monkeypatch.setattr(stand_ins, "VAE_WIDTHS", AUTOENCODER)
    monkeypatch.setattr(rehearsal, "MOST_STEPS", 2)
    for module in (rehearsal, stand_ins):
        monkeypatch.setattr(module, "IMAGES", IMAGES)
        # Networks of trainings are U-Nets here, and small already.
        monkeypatch.setattr(module, "small_network", lambda network, where: network)
    monkeypatch.setattr(stand_ins, "write_inception", lambda path: shutil.copyfile(inception, path))
    monkeypatch.setattr(rehearsal, "small_trainings", few_kimg)
    monkeypatch.setattr(rehearsal, "_write_datasets", _data_of_the_user)
    if name == "paper":
        # The published list has the class of each image of the archive.
        images = ARCHIVES["img512-sd" if LATENTS in rows else "imagenet-64x64"]
        labels = np.linspace(0, 999, images).astype(int).tolist()
        classes = {"labels": [[f"{number}.png", label] for number, label in enumerate(labels)]}
        monkeypatch.setattr(stand_ins, "_write_labels", lambda path, *_: path.write_text(json.dumps(classes)))
    files = [find_preset(name)]
    preset, _ = rehearsal.write_rehearsal(files, rows)
    results = f"results/rehearsal-{name}"
    others = [row for row in load_preset(*files).measurable if rows and row not in rows]
    with official_hosts(tmp_path) as hosts:
        served = {}
        for asset in REGISTRY.values():
            path = preset.parent / "cache" / asset.target
            if path.is_file() and not asset.urls:
                # Put by hand.
                (hosts.cache / asset.target).parent.mkdir(parents=True, exist_ok=True)
                path.rename(hosts.cache / asset.target)
            elif path.is_file():
                hosts.add(asset.id, path.read_bytes())
                facts = {"size": str(path.stat().st_size), "sha256": sha256_file(path)} if asset.sha256 else {}
                served[asset.id] = facts
                path.unlink()
        (tmp_path / "assets.tsv").write_text(_with(served))
        variables = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        variables |= {**hosts.environment, "SIDA_ASSETS": str(tmp_path / "assets.tsv"), "OMP_NUM_THREADS": "1"}

        def run(options=("--cores", "2"), profile=None, **more):
            words = [*options, "--retries", "2", "--config", f"without=[{','.join(others)}]", "--"]
            words += [f"{results}/{target}" for target in targets]
            command = snakemake_command([*files, preset], words, profile)
            place = {"env": variables | more, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            done = subprocess.run(command, **place)
            print(done.stdout)
            return done.returncode, done.stdout.splitlines()

        yield hosts, run


def few_kimg(preset):
    """Four training steps for each recipe, with an evaluation in the middle and at the end."""
    few = {"total_kimg": 0.016, "batch_size": 4, "batch_gpu": 2, "tick_kimg": 0.008}
    few |= {"fp16": False, "half": "float16"}
    few["evaluation"] = {"every_kimg": 0.008, "num_samples": 10}
    return {"recipes": {name: {**recipe, **few} for name, recipe in preset.settings.recipes.items()}}


def _data_of_the_user(preset, folder):
    """Data sets as they are registered, but for their number of images; writes their sources."""
    if not trains(preset):
        return {}
    random = np.random.default_rng(0)

    def picture(height, width, kind="PNG"):
        # Smooth, so that large pictures are small files.
        pixels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(stream := io.BytesIO(), kind)
        return stream.getvalue()

    def batch():
        return python2_batch(random.bytes(4 * 3072), random.integers(0, 10, 4).tolist())

    cifar10 = {f"cifar-10-batches-py/{name}": batch() for name in (*TRAINING, "test_batch")}
    afhq = {f"train/{name}/{number}.png": picture(512, 512) for name in ("cat", "dog") for number in range(2)}
    folders = [f"n{1_440_764 + 7 * number:08}" for number in range(1000)]  # not consecutive, as WordNet's
    imagenet = {f"{name}.tar": tar_of({f"{name}_1.JPEG": picture(70, 90, "JPEG")}) for name in folders}
    sources = {"cifar10-python": tar_of(cifar10, "w:gz"), "afhqv2": zip_of(afhq), "imagenet-train": tar_of(imagenet)}
    for name, body in sources.items():
        path = folder / "cache" / REGISTRY[name].target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    pictures = (encode_png(random.integers(0, 256, (512, 512, 3), dtype=np.uint8)) for _ in range(8))
    Path("datasets").mkdir()
    write_archive(Path("datasets/img512.zip"), pictures, np.linspace(0, 999, 8).astype(int).tolist())
    counts = {f"datasets/{name}.zip": count for name, count in ARCHIVES.items()}
    entries = load_yaml(ROOT / "config/datasets.yaml").items()
    return {
        name: {**entry, "num_images": counts[entry["path"]]} for name, entry in entries if entry.get("path") in counts
    }


def _with(served):
    """The text of the registry with the sizes and hashes of stand-ins."""
    header, *lines = (ROOT / "config/assets.tsv").read_text().splitlines()
    columns = header.split("\t")
    rows = [dict(zip(columns, line.split("\t"), strict=True)) for line in lines]
    return "\n".join([header, *("\t".join((row | served.get(row["id"], {})).values()) for row in rows)]) + "\n"


def measured_of(folder, table):
    """Rows and metrics with values for a table."""
    return {(row["run"], row["metric"]) for row in csv_rows(folder / f"collected/tables/{table}.csv")}


@pytest.mark.slow
@pytest.mark.parametrize("day", [("released", RELEASED, [f"tables/{name}.tex" for name in ROWS])], indirect=True)
def test_tables_are_measured_without_a_teacher_whose_file_is_closed(day, tmp_path):
    hosts, run = day
    page = ("status", 403, ("Content-Type", "text/html"))
    hosts.fail(CLOSED, page, page, page)
    hosts.fail("inception", ("cut", 7_000_000), ("status", 503))
    status, lines = run(SIDA_ALLOW_CODE=str(hosts.cache))
    assert status == 1
    assert f"not measured: {CLOSED}: " in lines[-1]
    assert hosts.asked(CLOSED) == [None]
    results = tmp_path / "work/results/rehearsal-released"
    table = (results / "tables/table1.md").read_text()
    assert re.search(rf"Not measured: {CLOSED} \(.*answered 403\)", table)
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert {line.split("|")[2].strip() for line in rows if "not measured" not in line} == {"SiDA, α=1.0"}
    assert [line for line in rows if "not measured" in line and "VP-EDM" in line]
    for table, (names, metrics) in ROWS.items():
        expected = {(name, metric) for name in names for metric in metrics if name != CLOSED}
        assert measured_of(results, table) >= expected


@pytest.mark.slow
@pytest.mark.parametrize("day", [("first-look", [], ["tables/first-look.tex"])], indirect=True)
def test_a_first_look_goes_from_an_empty_home_to_its_table(day, tmp_path):
    hosts, run = day
    hosts.fail(GONE, *[("status", 404)] * 9)
    hosts.fail("ffhq64-sida-a1", ("cut", 70_000))
    hosts.fail("fid-ref-ffhq64", ("status", 503))
    results = tmp_path / "work/results/rehearsal-first-look"

    # Code whose hash is not registered is asked about, once for each run, and everything else is measured.
    status, lines = run()
    told = [line for line in lines if "not used without permission" in line]
    permission = re.search(r"set SIDA_ALLOW_CODE=(\S+)$", told[0])[1]
    assert status == 1
    assert len({*told}) == 1
    assert {path.name for path in (results / "measurements").iterdir()} >= {"imagenet64-sida-a1", "ffhq64-sida-a1"}
    assert not (results / "tables").exists()

    # The remedy as it is printed; the dead link costs its row.
    status, lines = run(SIDA_ALLOW_CODE=permission)
    assert status == 1
    assert f"not measured: {GONE}: {GONE}: huggingface.co: the server answered 404" in lines[-1]
    rows = csv_rows(results / "collected/tables/first-look.csv")
    assert {row["run"] for row in rows} == {"imagenet64-sida-a1", "ffhq64-sida-a1", "afhq64-sida-a1", LATENTS}
    assert "fd_dinov2" in {row["metric"] for row in rows if row["run"] == LATENTS}
    before = len(hosts.site.requests)

    # Nothing is fetched or measured twice.
    status, lines = run(SIDA_ALLOW_CODE=permission)
    assert (status, len(hosts.site.requests)) == (0, before)
    asked = {name: hosts.asked(name) for name in REGISTRY if REGISTRY[name].url}
    assert {name: len(times) for name, times in asked.items() if len(times) > 1} == {
        "ffhq64-sida-a1": 2,
        "fid-ref-ffhq64": 2,
    }


@pytest.mark.slow
@pytest.mark.parametrize("day", [("laptop", [], [])], indirect=True)
def test_laptop_makes_all_of_its_products(day, tmp_path):
    _, run = day
    status, _ = run()
    assert status == 0
    results = tmp_path / "work/results/rehearsal-laptop"
    assert [row["run"] for row in csv_rows(results / "collected/tables/laptop.csv")][:1] == ["cifar10-uncond-sida-a1"]
    assert (results / "figures/samples.pdf").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("day", [("sid2a", ["cifar10-uncond-sid2a-a1.2"], ["tables/table1.tex"])], indirect=True)
def test_sid2a_is_trained_from_a_released_generator_and_measured(day, tmp_path):
    hosts, run = day
    hosts.fail("cifar10-python", ("cut", 5_000))
    status, _ = run()
    assert status == 0
    # Each file that the training reads was fetched once, and the rest of the cut transfer once more.
    assert {name: len(hosts.asked(name)) for name in SID2A} == {**dict.fromkeys(SID2A, 1), "cifar10-python": 2}
    results = tmp_path / "work/results/rehearsal-sid2a"
    assert len((results / "students/cifar10-uncond-sid2a-a1.2/evaluations.jsonl").read_text().splitlines()) > 1
    assert {row["run"] for row in csv_rows(results / "collected/tables/table1.csv")} == {"cifar10-uncond-sid2a-a1.2"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("day", "tables"),
    [(("paper", [*rows], [f"tables/{table}.tex" for table in rows.values()]), rows) for rows in (PIXELS, ENCODED)],
    indirect=["day"],
    ids=["pixels", "latents"],
)
def test_a_row_of_each_family_is_trained_and_measured(day, tables, tmp_path):
    hosts, run = day
    status, _ = run(SIDA_ALLOW_CODE=str(hosts.cache))
    assert status == 0
    results = tmp_path / "work/results/rehearsal-paper"
    for name, table in tables.items():
        assert len((results / f"students/{name}/evaluations.jsonl").read_text().splitlines()) > 1
        assert (name, "fid") in measured_of(results, table)
