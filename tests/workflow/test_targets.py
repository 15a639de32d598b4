"""What rules make and need, asked without Snakemake: each table and figure without the others."""

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import yaml

from eval.measuring.protocol import load_protocol
from eval.tables import load_layout
from sida.config.resources import ROOT, base_name, find, names
from tests.refused import refusing
from tests.workflow.workspace import settings_of
from workflow.preset import Preset
from workflow.preset.files import find_preset
from workflow.preset.specs import find_needs
from workflow.preset.targets import Targets, any_of, source_of

DEMO = settings_of("demo")


@pytest.fixture(scope="module")
def demo():
    return Targets(Preset.load(ROOT / "studies/demo/preset.yaml"), paper=False)


def test_products_of_the_demo(demo):
    products = demo.products()
    assert len(products) == len(set(products)) == 1 + 5 + 2 * 3 + 2 + 1
    assert products[0] == "results/demo/measurements.csv"
    assert {"results/demo/tables/main.tex", "results/demo/figures/samples.png"} < set(products)
    assert "results/demo/paper.pdf" not in products
    assert "results/demo/paper.pdf" in Targets(demo.preset, paper=True).products()
    short = demo.short
    assert {"tables/main.tex", "students/sida-a1.0/network.safetensors", "measurements/data/trial-9.json"} < set(short)
    assert not any(name.startswith("results") for name in short)


def test_what_trainings_need(demo):
    teacher = "results/demo/teachers/digits-short/network.safetensors"
    sid = "results/demo/students/sid-a1.0/network.safetensors"
    needs = demo.training("sid2a-a1.0")
    assert needs == {"data": [], "teacher": teacher, "guide": [], "generators": [sid], "method": [], "measuring": []}
    assert demo.parents == {"sid-a1.0"}
    assert demo.teacher("digits-short") == []
    assert demo.generator("teacher-nfe35") == [teacher]
    assert demo.generator("data") == []


def test_what_tables_and_figures_need(demo):
    assert demo.shown("tables", "main")["measurements"] == "results/demo/collected/tables/main.csv"
    samples = demo.shown("figures", "samples")
    assert "measurements" not in samples
    assert samples["networks"] == demo.networks(run for run in demo.rows if run != "data")
    assert demo.trials(["data"]) == [f"results/demo/measurements/data/trial-{trial}.json" for trial in range(10)]


def test_downloads_come_first():
    released = Targets(Preset.load(ROOT / "studies/papers/released.yaml"), paper=False)
    run = released.preset.runs["cifar10-uncond-sida-a1"]
    imported, *assets = released.generator(run.run)
    assert imported == released.preset.network(run)
    assert released.assets_of(run.run) == ["fid-ref-cifar10", "inception"]
    assert assets == [f"results/released/assets/{name}.json" for name in released.assets_of(run.run)]
    assert released.checkpoint(run.checkpoint) == [f"results/released/assets/{run.checkpoint}.json"]
    needed = {"fid-ref-img512", "inception", "dinov2-vitl14", "dinov2-code", "sd-vae-ft-mse", "sd-vae-ft-mse-config"}
    assert needed | {"labels-imagenet"} == set(released.assets_of("edm2-xs-sida"))
    published = Targets(Preset.load(ROOT / "studies/papers/published.yaml"), paper=False)
    assert published.measurements == []


def test_trials_are_cut_into_shards():
    shards = Targets(Preset({**DEMO, "shard_size": 1000}, "demo.yaml"), paper=False).shards("data", "3")
    bounds = ("0-1000", "1000-2000", "2000-2500")
    assert shards == [f"results/demo/statistics/data/trial-3/shard-{bound}.safetensors" for bound in bounds]


def test_code_of_one_s_own_is_an_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docs/examples", tmp_path / "mine")
    sheet = (ROOT / "studies/demo/runs.tsv").read_text()
    own = "\tmine.matching:METHOD\tdigits-short\t\t\tsid\t"
    sheet = sheet.replace("\tsida\tdigits-short\t\t1.0\tsida\t", own)
    (tmp_path / "own.tsv").write_text(sheet)
    targets = Targets(Preset({**DEMO, "runs": "own.tsv"}, "demo.yaml"), paper=False)
    assert targets.training("sida-a1.0")["method"] == ["mine/matching.py"]
    assert source_of("mine.nowhere:f") is None
    (tmp_path / "mine" / "__init__.py").write_text("")
    assert source_of("mine:f") == "mine/__init__.py"


def test_a_pattern_of_names():
    assert re.fullmatch(any_of({"a1.0", "b"}), "a1.0")
    assert not re.fullmatch(any_of({"a1.0", "b"}), "a1x0")
    assert not re.fullmatch(any_of([]), "")


CONFIG, PAPERS, AFTERNOON = ROOT / "config", ROOT / "studies/papers", ROOT / "studies/afternoon"
STUDENTS = ("sid-a1.0", "sida-a1.0", "sid2a-a1.0")


@pytest.mark.parametrize(
    ("preset", "layout", "measured", "networks"),
    [
        ("demo", CONFIG / "figures/convergence.yaml", {"teacher-nfe35", *STUDENTS}, {*STUDENTS}),
        ("demo", CONFIG / "figures/samples.yaml", set(), {"data", "teacher-nfe35", *STUDENTS}),
        ("demo", PAPERS / "tables/table1.yaml", set(), set()),
        ("released", PAPERS / "tables/table1.yaml", {"cifar10-uncond-sida-a1"}, set()),
        ("released", PAPERS / "tables/table4.yaml", {"edm2-xs-sid"}, set()),
        ("afternoon", AFTERNOON / "tables/digits-table8.yaml", set(), {"t30-sid", "t30-sida"}),
    ],
)
def test_a_layout_names_the_rows_that_it_shows(preset, layout, measured, networks):
    """Curves and settings read logs, grids networks; columns and variables are filled in."""
    needs = find_needs(layout, Preset.load(find_preset(preset)).runs)
    assert measured <= set(needs.measured)
    assert networks <= set(needs.networks)
    assert measured or not needs.measured


def test_a_faulty_layout_needs_every_row_and_leaves_the_message_to_the_builder(demo, tmp_path):
    layout = tmp_path / "x.yaml"
    layout.write_text("columns: [{head: A, field: label}]\nrows: [{each: {method: gdd}}]\n")
    for path in (layout, tmp_path / "none.yaml"):
        assert find_needs(path, demo.preset.runs).measured == list(demo.preset.runs)


def put(path: Path, text: str = "a: 1\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_preset_s_own_folder_comes_before_the_current_one_and_the_checkout(tmp_path, monkeypatch):
    own, here = tmp_path / "study", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert find("protocols", "cifar10") == ROOT / "config/protocols/cifar10.yaml"
    assert find("protocols", "cifar10", [own]) == ROOT / "config/protocols/cifar10.yaml"
    put(here / "config/protocols/cifar10.yaml")
    assert find("protocols", "cifar10", [own]) == Path("config/protocols/cifar10.yaml")
    mine = put(own / "protocols/cifar10.yaml")
    assert find("protocols", "cifar10", [own]) == mine
    assert find("protocols", "protocols/cifar10.yaml", [own]) == mine
    assert find("runs", "studies/demo/runs.tsv") == ROOT / "studies/demo/runs.tsv"
    put(own / "tables/other.yaml")
    assert {"main", "other"} <= set(names("tables", [own]))


def test_unknown_names_and_paths_are_one_line():
    with refusing(r"^x.yaml: protocol: .*'cifar01' .*'cifar10'"):
        find("protocols", "cifar01", where="x.yaml: protocol")
    with refusing(r"^no such file 'mine/p.yaml'; "):
        find("protocols", "mine/p.yaml")


def test_a_layout_of_one_s_own_may_extend_the_one_of_the_same_name(tmp_path):
    main = put(tmp_path / "tables/main.yaml", "extends: main.yaml\ntitle: Mine\n")
    layout, shared = load_layout(main), load_layout(ROOT / "config/tables/main.yaml")
    assert (layout.title, layout.columns) == ("Mine", shared.columns)


def test_a_preset_carries_its_data_sets_protocol_and_layouts(tmp_path, monkeypatch):
    study, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    elsewhere.mkdir()
    document = settings_of("demo")
    document |= {"runs": "runs.tsv", "dataset": "mine", "protocol": "mine", "tables": ["mine"]}
    document["datasets"] = {"mine": {"kind": "zip", "path": "data/mine.zip", "resolution": 8, "label_dim": 10}}
    preset_file = put(study / "preset.yaml", yaml.safe_dump(document))
    shutil.copy(ROOT / "studies/demo/runs.tsv", study / "runs.tsv")
    put(study / "protocols/mine.yaml", (ROOT / "config/protocols/digits.yaml").read_text())
    put(study / "tables/mine.yaml", "extends: main.yaml\n")
    put(study / "data/mine.zip", "")
    monkeypatch.chdir(elsewhere)
    preset = Preset.load(preset_file)
    spec = preset.specs.measurement("sida-a1.0")
    place = {"name": "mine", "path": str(study / "data/mine.zip")}
    assert spec["dataset"] == document["datasets"]["mine"] | place
    assert load_protocol(spec["protocol"]).name == "digits"
    assert Path(preset.protocol_of(preset.runs["sida-a1.0"])) == study / "protocols/mine.yaml"
    assert preset.layout("tables", "mine") == study / "tables/mine.yaml"
    # Settings as JSON mean the same without the folder: the builder of Table 8 gets them so.
    assert Preset(dataclasses.asdict(preset.settings)).runs == preset.runs
    with refusing(r"'mien'.*'mine'"):
        Preset(document | {"dataset": "mien"}, "preset.yaml", [study])


def test_a_name_may_have_a_dot(tmp_path):
    mine = put(tmp_path / "protocols/my.v2.yaml")
    assert find("protocols", "my.v2", [tmp_path]) == find("protocols", "protocols/my.v2.yaml", [tmp_path]) == mine
    with refusing(r"'my.v3' .*'my.v2'"):
        find("protocols", "my.v3", [tmp_path])
    assert [base_name(name) for name in ("v1.2", "lay/v1.2.yaml", "main")] == ["v1.2", "v1.2", "main"]


def test_a_layout_by_its_path_makes_a_product_of_its_name(tmp_path):
    document = settings_of("demo")
    put(tmp_path / "lay/mine.yaml", "extends: ../../config/tables/main.yaml\n")
    preset = Preset({**document, "tables": ["lay/mine.yaml"]}, "demo.yaml", [tmp_path])
    assert f"{preset.results}/tables/mine.tex" in Targets(preset, False).tables_and_figures()
    assert preset.layout("tables", "mine") == tmp_path / "lay/mine.yaml"
    with refusing(r"tables: 'main' and 'lay/main.yaml' "):
        Preset({**document, "tables": ["main", "lay/main.yaml"]}, "demo.yaml", [tmp_path])
