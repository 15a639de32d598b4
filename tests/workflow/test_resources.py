"""One lookup for names and paths: the preset's own folder, the current folder's config, the checkout's."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml

from eval.measuring.protocol import load_protocol
from eval.tables import load_layout
from sida.config.resources import ROOT, base_name, find, names
from sida.errors import UserError
from tests.workflow.workspace import settings_of
from workflow.preset import Preset
from workflow.preset.targets import Targets


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
    with pytest.raises(UserError, match=r"^x.yaml: protocol: no protocol 'cifar01' \(did you mean 'cifar10'\?\)$"):
        find("protocols", "cifar01", where="x.yaml: protocol")
    with pytest.raises(UserError, match=r"^no such file 'mine/p.yaml'; give a protocol by its name or path$"):
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
    assert spec["dataset"] == {
        "name": "mine",
        "kind": "zip",
        "path": str(study / "data/mine.zip"),
        "resolution": 8,
        "label_dim": 10,
    }
    assert load_protocol(spec["protocol"]).name == "digits"
    assert Path(preset.protocol_of(preset.runs["sida-a1.0"])) == study / "protocols/mine.yaml"
    assert preset.layout("tables", "mine") == study / "tables/mine.yaml"
    # Settings as JSON mean the same without the folder: the builder of Table 8 gets them so.
    assert Preset(dataclasses.asdict(preset.settings)).runs == preset.runs
    with pytest.raises(UserError, match=r"no data set 'mien'.*\(did you mean 'mine'\?\)"):
        Preset(document | {"dataset": "mien"}, "preset.yaml", [study])


def test_a_name_may_have_a_dot(tmp_path):
    mine = put(tmp_path / "protocols/my.v2.yaml")
    assert find("protocols", "my.v2", [tmp_path]) == find("protocols", "protocols/my.v2.yaml", [tmp_path]) == mine
    with pytest.raises(UserError, match=r"^no protocol 'my.v3' \(did you mean 'my.v2'\?\)$"):
        find("protocols", "my.v3", [tmp_path])
    assert [base_name(name) for name in ("v1.2", "lay/v1.2.yaml", "main")] == ["v1.2", "v1.2", "main"]


def test_a_layout_by_its_path_makes_a_product_of_its_name(tmp_path):
    document = settings_of("demo")
    put(tmp_path / "lay/mine.yaml", "extends: ../../config/tables/main.yaml\n")
    preset = Preset({**document, "tables": ["lay/mine.yaml"]}, "demo.yaml", [tmp_path])
    assert f"{preset.results}/tables/mine.tex" in Targets(preset, False).tables_and_figures()
    assert preset.layout("tables", "mine") == tmp_path / "lay/mine.yaml"
    with pytest.raises(UserError, match=r"tables: 'main' and 'lay/main.yaml' would both make 'main'; rename or remove"):
        Preset({**document, "tables": ["main", "lay/main.yaml"]}, "demo.yaml", [tmp_path])
