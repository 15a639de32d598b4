"""Sheets, settings, layouts and numbers: what a stranger may hand over as text."""

from __future__ import annotations

import shutil
from pathlib import Path

from eval.claims import load_claims
from eval.figures.layout import load_figure_layout
from eval.measuring.protocol import load_protocol
from eval.results.published import load_published
from eval.results.sheet import read_runs
from eval.results.summary import MEASUREMENT_COLUMNS, load_measurements
from eval.tables.latex import escape
from eval.tables.layout import load_layout
from sida.assets import load_registry
from sida.config.recipe import Recipe, TeacherConfig
from sida.config.resources import ROOT
from sida.config.settings import from_mapping, load_spec, load_yaml
from sida.methods.registry import DistillConfig
from tests.eval.synthetic_output import measurement_lines, write_csv
from tests.readers.changes import CSV_BOMBS, JSON_BOMBS, YAML_BOMBS, encoded, json_text, lines, tokens
from tests.readers.frame import Reader
from workflow.preset.files import PresetSettings

CONFIG = ROOT / "config"
#: Signs that mean something to YAML.
YAML = tokens(
    b": ", b"- ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"<<: *a", b"!!python/name:os.system ", b"!!int ", b"!!set ",
    b"|\n", b"? ", b"\n", b"\n  ", b"# ", b'"', b"'", b"---\n", b".nan", b".inf", b"2001-01-01", b"0x1f", b"1:2:3",
    b"~",
)  # fmt: skip


def copied(*paths: str, name: str = ""):
    """Writes copies of files of the checkout, one of them under another name."""

    def write(folder: Path) -> None:
        for path in paths:
            shutil.copy(ROOT / path, folder / (name or Path(path).name))

    return write


def write_sheets(folder: Path) -> None:
    """The demo's sheet, and rows as the workflow hands them on."""
    copied("studies/demo/runs.tsv", name="demo.tsv")(folder)
    rows = '{"runs": [{"run": "a", "label": "A", "method": "sid", "alpha": 1.2, "seed": 3, "family": "One"}]}'
    (folder / "rows.json").write_text(rows)


def read_sheet(path: Path, folder: Path) -> None:
    """All rows, and their labels as LaTeX."""
    for run in read_runs(path):
        escape(run.label)


def write_assets(folder: Path) -> None:
    """The first rows of the registry of downloads."""
    rows = (CONFIG / "assets.tsv").read_text().splitlines(keepends=True)
    (folder / "assets.tsv").write_text("".join(rows[:8]))


def read_training(path: Path, folder: Path) -> None:
    """Recipes, a teacher's spec or a student's, as the verbs read them."""
    spec = load_spec(str(path))
    if path.stem == "tiny-teacher":
        from_mapping(TeacherConfig, spec, path.name)
    elif path.stem == "tiny-student":
        from_mapping(DistillConfig, {"teacher": "teacher.safetensors", **spec}, path.name)
    else:
        for name, recipe in spec.items():
            from_mapping(Recipe, recipe, f"{path.name}: {name}")


def read_preset(path: Path, folder: Path) -> None:
    """The settings alone; what they name is not there."""
    from_mapping(PresetSettings, load_yaml(path), f"{path.name}:")


def read_layouts(path: Path, folder: Path) -> None:
    """By their names."""
    (load_figure_layout if path.stem in ("convergence", "samples") else load_layout)(path)


def write_claims(folder: Path) -> None:
    """The first claims of the paper's."""
    text = (ROOT / "studies/papers/claims.yaml").read_text()
    (folder / "claims.yaml").write_text("- id:".join(text.split("- id:")[:7]).rstrip(" "))


def write_numbers(folder: Path) -> None:
    """Measurements, and published numbers."""
    rows = list(measurement_lines())[:12]
    write_csv(folder / "measurements.csv", rows)
    assert set(rows[0]) <= set(MEASUREMENT_COLUMNS)
    published = sorted((ROOT / "results" / "published").glob("*.csv"))[0]
    (folder / "published.csv").write_text("".join(published.read_text().splitlines(keepends=True)[:10]))


def read_numbers(path: Path, folder: Path) -> None:
    """Measurements are averaged; published numbers lie in a folder."""
    if path.name == "published.csv":
        (folder / "p").mkdir()
        shutil.copy(path, folder / "p" / path.name)
        load_published(folder / "p")
        return
    found = load_measurements(path)
    for run in found.runs:
        found.nfe(run)


LAYOUTS = (
    "config/tables/main.yaml", "studies/papers/tables/table2.yaml", "config/figures/convergence.yaml",
    "config/figures/samples.yaml",
)  # fmt: skip
PROTOCOLS = ("config/protocols/digits.yaml", "config/protocols/cifar10.yaml")
SPECS = ("studies/papers/recipes/cifar10.yaml", "docs/examples/tiny-teacher.yaml", "docs/examples/tiny-student.yaml")
_SHEET = (lines, encoded, CSV_BOMBS, tokens(b"\t", b'"', b"\n", b"#", b"run", b"label", b"sid", b"="))
_YAML = (YAML, lines, encoded, YAML, lines, YAML_BOMBS)
_NUMBERS = (lines, encoded, CSV_BOMBS, tokens(b",", b'"', b"\n", b"nan"))

READERS = (
    Reader("sample sheet", write_sheets, read_sheet, (*_SHEET, json_text, JSON_BOMBS)),
    Reader("asset registry", write_assets, lambda path, _: load_registry(path), _SHEET, cases=50),
    Reader("training settings", copied(*SPECS), read_training, _YAML, cases=50),
    Reader("preset", copied("studies/demo/preset.yaml", name="demo.yaml"), read_preset, _YAML, cases=25),
    Reader("protocol", copied(*PROTOCOLS), lambda path, _: load_protocol(path), _YAML, cases=50),
    Reader("layout", copied(*LAYOUTS), read_layouts, _YAML, cases=25),
    Reader("claims", write_claims, lambda path, _: load_claims(path), _YAML, cases=15),
    Reader("measured and published numbers", write_numbers, read_numbers, _NUMBERS),
)  # fmt: skip
