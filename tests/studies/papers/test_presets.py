"""The papers' presets: plans, second protocols, and the released preset in small from a local server."""

import collections
import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import yaml

from sida.assets.registry import load_registry
from sida.config.lookup import ROOT
from sida.config.named_files import find_file
from sida.eval.measuring.protocol import load_protocol
from sida.eval.results.conditions import matching
from sida.eval.results.identity import comparable
from sida.eval.results.measurements import Measurement, Measurements
from sida.eval.results.published import load_published
from sida.eval.tables.build import build_table
from sida.eval.tables.layout import load_layout
from sida.files.atomic import sha256_file
from sida.methods import METHODS
from sida.networks import build_network
from sida.networks.file import read_metadata
from sida.workflow.planning.costs import Costs
from sida.workflow.preset import load_preset, preset_from
from sida.workflow.preset.checks import check_preset, unshown_remark
from sida.workflow.preset.jobs import gpus_of, layout_needs, measurement, most_gpus, training
from sida.workflow.preset.specs import row_digest
from tests.assets.fault_server import serve, write_registry
from tests.data.test_archive import png, write_zip
from tests.eval.synthetic_output import csv_rows, planned_lines
from tests.files.made_pickles import MARK, write_genuine
from tests.plugins import needs
from tests.workflow.workspace import (
    SMALL_UNET,
    Workspace,
    beside_a_registry,
    forked_snakemake,
    jobs_in,
    settings_of,
    shipped,
)


def dry_run(folder: Path, preset: str, *arguments: str) -> tuple[dict[str, int], str]:
    """Number of jobs by rule, the total left out, and everything that Snakemake prints."""
    words = ["-s", str(ROOT / "Snakefile"), "--cores", "2", "-n", "--configfile", str(ROOT / "studies" / preset)]
    status, text = forked_snakemake(folder, *words, *arguments)
    assert not status, text[-2000:]
    return jobs_in(text), text


@pytest.mark.slow
@needs("planner")
def test_the_plan_of_the_paper_has_a_job_for_each_row_archive_and_download(paper, tmp_path, monkeypatch):
    from sida.plugins.planner.plan import make_plan

    monkeypatch.chdir(tmp_path)
    plan = make_plan([ROOT / "studies/papers/paper.yaml"], gpus=8, fresh=True)
    planned = collections.Counter(job.kind for job in plan.jobs.values())
    assert planned["student"] == len(paper.students) > 50
    assert (planned["measure"], planned["data"], planned["teacher"]) == (len(paper.runs), 6, 0)
    assert planned["fetch"] >= planned["import"] >= len(paper.settings.teachers)
    assert all(1 < job.gpu_hours < 20_000 for job in plan.jobs.values() if job.kind == "student")
    places = {product: place for place, product in enumerate(plan.jobs)}
    for product, job in plan.jobs.items():
        assert all(places[needed] < places[product] for needed in job.after)


def test_teachers_are_trained_if_the_preset_says_so():
    config, own = settings_of("paper"), [ROOT / "studies/papers"]
    assert preset_from(config, "paper.yaml", own).trained_teachers == []
    preset = preset_from(config | {"train_teachers": True}, "paper.yaml", own)
    students = layout_needs(preset, "tables", "table8").networks
    assert len(students) == 8
    assert {preset.runs[run].teacher for run in students} <= {*preset.trained_teachers}


def test_every_table_and_figure_names_its_rows(paper):
    for kind in ("tables", "figures"):
        for name in paper.layouts[kind]:
            needs = layout_needs(paper, kind, name)
            rows = {*needs.measured, *needs.networks}
            assert 0 < len(rows) < len(paper.runs), name
            for run in rows & {run.run for run in paper.students}:
                made = {*training(paper, run).needs["files"]} & {*paper.archives.made}
                assert bool(made) == METHODS[paper.runs[run].method].real_images, run
    assert {paper.runs[run].alpha for run in layout_needs(paper, "figures", "figure1").networks} >= {-0.25, 1.5}


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A preset whose data set is made from an asset, a zip of pictures."""
    workspace = Workspace(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (12, 10, 8, 3), dtype=np.uint8)
    write_zip(tmp_path / "pictures.zip", {f"{'ab'[index % 2]}/{index}.png": png(p) for index, p in enumerate(noise)})
    registry = write_registry(tmp_path / "own-assets.tsv", {"id": "faces", "kind": "dataset", "target": "pictures.zip"})
    monkeypatch.setenv("SIDA_ASSETS", str(registry))
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path))
    made_from = {"source": "faces", "resolution": 8, "transform": "center-crop"}
    shape = {"path": "made/faces.zip", "resolution": 8, "channels": 3, "label_dim": 2, "num_images": 12}
    metric = {"key": "fd", "kind": "frechet", "extractor": "pixels", "reference": "data"}
    protocol = {"name": "own", "num_samples": 10, "trials": 1, "metrics": [metric]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**protocol, "references": {"data": {"kind": "dataset"}}}))
    (tmp_path / "own.tsv").write_text("run\tlabel\tmethod\tsampler\ndata\tData\tdata\tdata\n")
    network = "teachers__digits-short__network__kwargs"
    changes = {"dataset": "faces", "datasets": {"faces": {"kind": "zip", **shape, "made_from": made_from}}}
    changes |= {f"{network}__img_channels": 3, f"{network}__label_dim": 2, "protocol": "own.yaml"}
    return workspace, workspace.config(**changes, tables=[], figures=[], claims=None)


@pytest.mark.slow
def test_an_archive_that_is_missing_is_made_and_one_that_is_there_stays(pictures):
    workspace, config = pictures
    arguments = ("--configfile", config, "--config", "runs=own.tsv", "--")
    folder = workspace.folder

    def planned():
        return dry_run(folder, folder / config, *arguments[2:], "results/tiny/measurements/data/trial-0.json")[0]

    assert planned() == {"fetch": 1, "prepare_data": 1, "measure_0_0": 1}
    workspace.done(*arguments, "made/faces.zip")
    assert (folder / "made/faces.zip").stat().st_size > 2000
    # A vanished source is no reason to make the data, and all that was trained on them, again.
    (folder / "pictures.zip").unlink()
    (folder / "results/tiny/assets/faces.json").unlink()
    assert planned() == {"measure_0_0": 1}


def test_each_training_takes_as_many_gpus_as_can_share_its_rounds(paper):
    preset, taken = paper, {}
    for run in preset.students:
        spec = training(preset, run.run).spec
        taken[run.run] = gpus_of(preset, training(preset, run.run))
        assert spec["batch_size"] % (taken[run.run] * spec.get("batch_gpu", 1)) == 0, run.run
    assert taken["cifar10-uncond-sida-a1"] == preset.settings.gpus == 8
    # Four rounds of 64 images.
    assert taken["cifar10-uncond-gdd"] == 4
    assert [most_gpus(wished, 256, 64) for wished in (0, 1, 3, 4, 8)] == [0, 1, 2, 4, 4]
    assert most_gpus(6, 256, None) == 4


#: Ends of `--sid_model` in mingyuanzhou/SiD@sida:run_sid_sida.sh and run_sid_sida_edm2.sh, by the beginning of a run.
STARTS = {
    "cifar10-uncond": "SiD/resolve/main/cifar10-uncond/alpha1.2/network-snapshot-1.200000-403968.pkl",
    "cifar10-cond": "SiD/resolve/main/cifar10-cond/alpha1.2/network-snapshot-1.200000-713312.pkl",
    "imagenet64": "SiD/resolve/main/imagenet64/alpha1.2/network-snapshot-1.200000-939176.pkl",
    "ffhq64": "SiD/resolve/main/ffhq64/alpha1.2/network-snapshot-1.200000-498176.pkl",
    "afhq64": "SiD/resolve/main/afhq64/alpha1/network-snapshot-1.000000-371712.pkl",
    "edm2-xs": "SiDA/resolve/main/EDM2_distillation/edm2_img512_xs_sid_alpha1-249360.pkl",
    "edm2-s": "SiDA/resolve/main/EDM2_distillation/edm2_img512_s_sid_alpha1-192010.pkl",
    "edm2-m": "SiDA/resolve/main/EDM2_distillation/edm2_img512_m_sid_alpha1-226830.pkl",
    "edm2-l": "SiDA/resolve/main/EDM2_distillation/edm2_img512_l_sid_alpha1-203788.pkl",
    "edm2-xl": "SiDA/resolve/main/EDM2_distillation/edm2_img512_xl_sid_alpha1-234004.pkl",
    "edm2-xxl": "SiDA/resolve/main/EDM2_distillation/edm2_img512_xxl_sida_alpha1-077932.pkl",
}


def test_every_row_is_trained_as_in_the_paper_preset_and_starts_from_the_scripts_file(paper):
    sid2a = shipped("sid2a")
    registry = load_registry()
    rows = {run.run for run in paper.students if run.method == "sid2a" and run.family != "Ablation"}
    assert {run.run for run in sid2a.students} == rows
    for run in sid2a.students:
        assert run == dataclasses.replace(paper.runs[run.run], second_protocol=None)
        ours, theirs = training(sid2a, run.run).spec, training(paper, run.run).spec
        assert {key for key in ours if ours[key] != theirs[key]} == {"init", "teacher"}
        start = sid2a.runs[run.init].checkpoint
        assert registry[start].urls[0].endswith(STARTS[run.run.split("-sid2a")[0]])
        assert sid2a.rows[run.init].network.name in training(sid2a, run.run).needs["imports"]


def test_a_plan_counts_the_published_networks_that_the_preset_does_not_describe():
    student = Costs(shipped("sid2a"), "H200", fresh=True).of("students", "cifar10-uncond-sid2a-a1.2")
    assert 40 < student.gpu_hours < 45


def test_the_plan_builds_tables_and_figures_and_nothing_else(tmp_path):
    jobs, _ = dry_run(tmp_path, "papers/published.yaml")
    assert (jobs["table"], jobs["figure"], jobs["claims"]) == (len(shipped("published").layouts["tables"]), 3, 1)
    assert not {"fetch", "import_checkpoint", "train_teacher", "distill", "measure", "collect"} & set(jobs)


@pytest.mark.slow
def test_table_8_and_figure_3_are_targets(tmp_path, monkeypatch):
    monkeypatch.setenv("SIDA_OFFLINE", "1")
    workspace = Workspace(tmp_path)
    targets = ("results/published/tables/table8.tex", "results/published/figures/figure3.pdf")
    workspace.made("--configfile", "studies/papers/published.yaml", "--", *targets)
    results = workspace.folder / "results" / "published"
    table = (results / "tables" / "table8.md").read_text()
    published = load_published()
    for key in ("table8-sid-seconds-per-1k-images-cifar-10-sec-per-kimg", "table8-alpha-sida"):
        assert published[key].text in table
    assert "configured" not in table
    assert "not measured" not in table
    lines = (results / "figures" / "figure3.csv").read_text()
    assert published["table3-dmd-fid"].text in lines
    assert (results / "figures" / "figure3.pdf").read_bytes().startswith(b"%PDF")
    # The published numbers lie in this folder too; its tables are not taken for them.
    assert {path.name for path in results.glob("*.csv")} == {"published.csv"}


@pytest.mark.slow
def test_the_released_preset_has_a_full_plan(tmp_path):
    # As docs/released.md lists the downloads.
    jobs, text = dry_run(tmp_path, "papers/released.yaml", "--quiet", "host", "reason")
    measured = sum(count for name, count in jobs.items() if name.startswith("measure"))
    assert measured >= 60
    listed = [len(re.findall(rf"^Job \d+: {job}", text, re.MULTILINE)) for job in ("asset .*: fetching", "measure ")]
    assert listed == [jobs["fetch"], measured]
    assert jobs["fetch"] >= jobs["import_checkpoint"] >= measured
    config = yaml.safe_load((ROOT / "studies/papers/released.yaml").read_text())
    assert (jobs["table"], jobs["figure"]) == (len(config["tables"]), len(config["figures"]))
    assert re.search(r"\d+ rows left out .*sida plan .*--verbose", text)


def test_the_laptops_number_is_comparable_with_table_1_and_its_short_run_is_not():
    run, key = "cifar10-uncond-sida-a1", "fid"
    once, ten = (load_preset(PAPERS / f"{name}.yaml").rows[run].protocol for name in ("laptop", "released"))
    short = load_protocol(PAPERS / "protocols/cifar10-look.yaml")
    identities = [protocol.identity(key, "reference", "extractor") for protocol in (once, ten, short)]
    assert comparable(identities[0], identities[1]) is None
    assert comparable(identities[0], identities[2])
    assert (once.seeds(0), once.trials) == (ten.seeds(0), 1)
    page, number = (ROOT / "docs/laptop.md").read_text(), load_published()[f"table1-sida-a1.0-{key}"]
    assert f"FID {number.text} ± {number.std}" in page
    assert f"within {scipy.stats.t.ppf(0.995, 9) * float(number.std) * math.sqrt(1 + 1 / 10):.3f} of" in page


TABLES = {"table1": "cifar10", "table2": "cifar10", "table5": "ffhq64", "table6": "afhqv2"}


PAPERS = ROOT / "studies" / "papers"


@pytest.fixture(scope="module")
def clean():
    return load_preset(PAPERS / "released.yaml", PAPERS / "clean.yaml")


def test_the_preset_passes_its_check_and_shows_all_it_measures(clean):
    check_preset(clean)
    assert unshown_remark(clean) is None
    cifar10 = ["fid-ref-cifar10-clean", "inception"]
    assert measurement(clean, "cifar10-cond-sida-a1.cifar10-clean").needs["downloads"] == cifar10
    # clean-fid has no statistics of these sets at 64×64: the images themselves are asked for.
    assert measurement(clean, "ffhq64-sida-a1.ffhq64-clean").needs["downloads"] == ["inception"]
    assert "datasets/ffhq-64x64.zip" in measurement(clean, "ffhq64-sida-a1.ffhq64-clean").needs["files"]


def test_rows_are_measured_twice_and_the_first_time_as_before(clean):
    released = shipped("released")
    more = set(clean.runs) - set(released.runs)
    for second in (clean.runs[run] for run in more):
        assert clean.rows[second.run].network == clean.rows[second.first].network
        assert second.method == released.runs[second.first].method
    for method in {run.method for run in released.runs.values()}:
        assert not {run.run for run in matching(clean.runs, {"method": method})} & more
    for run in released.runs:
        assert measurement(clean, run).spec == measurement(released, run).spec


def test_clean_numbers_have_columns_without_a_published_side(clean):
    measured = Measurements([Measurement(**line) for line in planned_lines(clean)])
    for name, protocol in TABLES.items():
        layout, plain = (load_layout(find_file("tables", each, [PAPERS])) for each in (f"clean-{name}", name))
        table = build_table(layout, measured, clean.runs, "audit")
        assert [column.title for column in table.columns][-2:] == ["FID (clean) ↓", "KID ×10³ ↓"]
        found = {(r["column"], r["protocol"]) for r in table.records if r["measured"]}
        own = {(column, f"{protocol}-clean") for column in ("fid_clean", "kid_clean")}
        assert own | {("fid", protocol)} <= found
        assert not any(r["published"] for r in table.records if r["column"].endswith("_clean"))
        before = build_table(plain, measured, clean.runs)
        cells = [[cell.plain for cell in row.cells] for row in before.rows]
        assert [[cell.plain for cell in row.cells[: len(before.columns)]] for row in table.rows] == cells


def test_rows_that_are_trained_here_are_measured_twice_and_trained_once():
    preset = shipped("demo")
    more = preset_from(
        settings_of("demo") | {"second_protocols": {"digits-five": "digits-mini"}}, "d.yaml", preset.folders
    )
    networks = [name for name, run in preset.runs.items() if not run.without_network]
    assert set(more.runs) - set(preset.runs) == {f"{name}.digits-mini" for name in networks}
    for run in preset.students:
        assert more.runs[run.run] == dataclasses.replace(run, second_protocol=more.runs[run.run].second_protocol)
    check_preset(more)
    for name in networks:
        first, second = more.rows[name], more.rows[f"{name}.digits-mini"]
        assert Path(second.protocol_path).stem == "digits-mini" != Path(first.protocol_path).stem
        assert measurement(more, second.run).spec["network"] == measurement(more, name).spec["network"]
        assert row_digest(preset, name) == row_digest(more, name) != row_digest(more, second.run)
    assert measurement(more, "sida-a1.0.digits-mini").needs["students"] == ["sida-a1.0"]


@pytest.mark.slow
def test_leakage_passes_its_check_and_shares_the_papers_rows(paper):
    leakage = shipped("leakage")
    check_preset(leakage)
    assert unshown_remark(leakage) is None
    rows = [{name for name in preset.runs if name.endswith("-leakage")} for preset in (paper, leakage)]
    # The released generators of other methods, and finetuned teachers, are not trained in the other preset.
    assert {name.partition(".")[0] for name in rows[1] ^ rows[0]} == {
        "imagenet64-dmd2", "imagenet64-dmd2-longer", "imagenet64-dmd2-no-gan", "cifar10-uncond-ect",
        "teacher-edm-cifar10-uncond-ddo", "teacher-edm-cifar10-cond-ddo",
    }  # fmt: skip


def test_a_row_waits_for_its_student_its_set_and_both_feature_networks(paper):
    needs = measurement(paper, "imagenet64-gdd-i.imagenet64-leakage").needs
    assert needs["students"] == ["imagenet64-gdd-i"]
    assert "datasets/imagenet-64x64.zip" in needs["files"]
    wanted = ["dinov2-code", "dinov2-vitl14", "fid-ref-imagenet64", "inception", "labels-imagenet"]
    assert measurement(paper, "imagenet64-gdd-i.imagenet64-leakage").needs["downloads"] == wanted
    assert measurement(shipped("leakage"), "imagenet64-sida-a1.imagenet64-leakage").needs["downloads"] == wanted


def test_a_plan_counts_the_images_of_a_reference_that_is_made_here(paper):
    costs = Costs(paper, "H200")
    row = "imagenet64-sida-a1"
    more = costs.measurement(f"{row}.imagenet64-leakage").gpu_hours - costs.measurement(row).gpu_hours
    images = 500_000 + 1_281_167
    assert more == pytest.approx(images * costs.assumptions.gflop_of("dinov2") * 1e9 / costs._rate(False) / 3600)


RELEASED = """\
run	family	label	method	teacher	init	alpha	recipe	sampler	seed	checkpoint	dataset	notes
the-teacher	Teacher	Teacher	teacher					heun-18		published-teacher
the-student	One Step	SiDA	sida	the-teacher		1.0		one-step		published-student
"""


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A workspace with two published pickles, one by id, one by address; the first download of each breaks off once."""
    workspace = beside_a_registry(tmp_path, monkeypatch)
    removed = {"teachers": ..., "recipes": ...}
    settings = {"preset": "standin", "runs": "sheet.tsv", "tables": [], "figures": [], **removed}
    workspace.config(name="standin.yaml", **settings)
    with serve() as site:
        rows = []
        for seed, name in enumerate(("published-teacher", "published-student")):
            torch.manual_seed(seed)
            net = build_network({"class": "EDMPrecond", "kwargs": SMALL_UNET})
            data = write_genuine(tmp_path / f"{name}.pkl", net).read_bytes()
            row = {"id": name, "kind": "network", "url": site.add(f"{name}.pkl", data, faults=[("cut", 4321)])}
            rows.append(row | {"target": f"{name}.pkl", "size": str(len(data))})
        write_registry(tmp_path / "assets.tsv", *rows)
        # The last one: a teacher is a registered file, the student any file of the web.
        address = f"{site.url}/{name}.pkl#sha256={hashlib.sha256(data).hexdigest()}"
        (workspace.folder / "sheet.tsv").write_text(RELEASED.replace("published-student", address))
        yield workspace, site
    assert not list(tmp_path.rglob(MARK))


@pytest.mark.slow
def test_rows_are_fetched_imported_and_measured(published):
    workspace, site = published
    workspace.made("--configfile", "standin.yaml", "--", "results/standin/measurements.csv")
    rows = csv_rows(workspace.folder / "results/standin/measurements.csv")
    measured = {(row["run"], row["trial"]) for row in rows}
    assert measured == {(run, trial) for run in ("the-teacher", "the-student") for trial in "01"}
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
