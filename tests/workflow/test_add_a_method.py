"""docs/add.md: a generator of one's own becomes a row by a line in the sample sheet."""

import re
import runpy
import shutil
import sys

import pytest

from sida.config.lookup import ROOT
from sida.eval.measuring.measure import measure
from sida.eval.results.trial_files import collect, write_csv
from sida.eval.tables.build import make_table
from sida.eval.tables.render import to_markdown
from sida.workflow.preset import Preset, load_preset
from sida.workflow.preset.jobs import measurement
from sida.workflow.preset.specs import Jobs, content_digest
from tests.eval.metric_networks import write_network
from tests.workflow.workspace import TINY, Workspace, settings_of, study

EXAMPLES = ROOT / "docs" / "examples"
PROTOCOL = "tests/workflow/tiny-protocol.yaml"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A working directory whose configuration and examples may be changed, and the word that the page asks for."""
    page = (ROOT / "docs" / "add.md").read_text()
    (word,) = set(re.findall(r"SIDA_ALLOW_CODE=(\S+) snakemake", page))
    monkeypatch.setenv("SIDA_ALLOW_CODE", word)
    workspace = Workspace(tmp_path)
    (tmp_path / "config").unlink()
    shutil.copytree(ROOT / "config", tmp_path / "config")
    shutil.copytree(EXAMPLES, tmp_path / "docs" / "examples")
    return workspace


def test_python_function_and_stored_images_become_rows(workspace, monkeypatch):
    """As the jobs measure and collect them, in this process."""
    folder = workspace.folder
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["noisy_digits.py", "mine.npz", "400"])
    runpy.run_path(str(EXAMPLES / "noisy_digits.py"), run_name="__main__")
    with open("docs/examples/my-digits.tsv", "a") as sheet:
        sheet.write("stored\tMine\tThe same, stored\texternal\tmine.npz\t\t1\n")
    preset = load_preset(workspace.config("docs/examples/my-digits.yaml", protocol=PROTOCOL))
    values = {}
    for run in preset.runs:
        records = measure(measurement(preset, run).spec, folder / "measurements" / run, [0, 1])
        values[run] = {
            (record["trial"], key): record["metrics"][key] for record in records for key in record["metrics"]
        }
    # A file with the images of seeds 0, 1, 2, ... is the same generator; batches of other sizes round sums otherwise.
    assert values["stored"] == pytest.approx(values["noisy"], rel=1e-6)
    assert len(values["noisy"]) == 2 * 6
    mean = {run: (found[0, "fd"] + found[1, "fd"]) / 2 for run, found in values.items()}
    assert mean["data"] < mean["noisy"] / 2
    write_csv("measurements.csv", collect("measurements"))
    table = make_table(preset.layout("tables", "mine"), "measurements.csv", preset.settings.runs)
    text = re.sub(" +", " ", to_markdown(table))
    assert "| Mine | Class mean and noise | 1 |" in text
    assert "The same, stored | 1 |" in text


def test_changed_code_of_a_method_and_of_a_network_trains_again(tmp_path, monkeypatch):
    """By the digests of their jobs, as workflows do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("SIDA_ALLOW_CODE", "own_method,own_network")
    for example, name in (("matching", "own_method"), ("flow", "own_network")):
        shutil.copy(EXAMPLES / f"{example}.py", tmp_path / f"{name}.py")
    changes = {"teachers/digits-short/network/class": "own_network:FlowPrecond", "figures": []}
    changes |= {"rows/sid-a1.0/method": "own_method:METHOD", "rows/sid-a1.0/alpha": ""}

    def digests(edited=None):
        if edited:
            with open(edited, "a") as source:
                source.write("# changed\n")
        content_digest.cache_clear()
        jobs = Jobs(study(tmp_path, changes))
        return jobs.digest("teachers", "digits-short"), jobs.digest("students", "sid-a1.0")

    before = digests()
    teacher, student = digests("own_method.py")
    assert (teacher == before[0], student == before[1]) == (True, False)
    assert digests("own_network.py")[0] != teacher


def external(tmp_path, *rows, **cells) -> Preset:
    """The example's preset with one row, given by its cells, or with several."""
    made = {
        f"mine{number or ''}": {"label": "Mine", "method": "external"} | row
        for number, row in enumerate(rows or [cells])
    }
    return study(tmp_path, {"protocol": PROTOCOL, "tables": ["main"]}, made, "docs/examples/my-digits.yaml")


def test_network_file_with_a_sampler_is_measured(tmp_path):
    path = write_network(tmp_path / "mine.safetensors", settings_of(TINY)["teachers"]["digits-short"]["network"])
    spec = measurement(external(tmp_path, sampler="one-step", checkpoint=path), "mine").spec
    assert (spec["network"], spec["nfe"]) == (path, 1)
    (record,) = measure(spec, tmp_path / "out", [0])
    assert record["method"] == "external"
    assert record["metrics"]["fd"] > 10


def test_pickled_networks_are_imported_first_and_those_of_one_name_apart(tmp_path):
    preset = external(tmp_path, sampler="one-step", checkpoint="downloads/mine.pkl")
    assert preset.imports == {"mine": "downloads/mine.pkl"}
    assert measurement(preset, "mine").spec["network"] == "results/my-digits/checkpoints/mine/network.safetensors"
    preset = external(tmp_path, *({"sampler": "one-step", "checkpoint": f"{x}/network-snapshot.pkl"} for x in "ab"))
    folders = {row.network.name: row.cells.checkpoint for row in preset.rows.values()}
    assert preset.imports == folders
    assert sorted(folders.values()) == ["a/network-snapshot.pkl", "b/network-snapshot.pkl"]


@pytest.mark.parametrize(
    ("cells", "sampler"),
    [
        ({"checkpoint": "a.b:c"}, {"kind": "python", "callable": "a.b:c"}),
        ({"checkpoint": "folder/of.images"}, {"kind": "images", "path": "folder/of.images"}),
        ({"checkpoint": "x.npz", "nfe": 4}, {"kind": "images", "path": "x.npz"}),
    ],
)
def test_rows_without_a_network(tmp_path, cells, sampler):
    preset = external(tmp_path, **cells)
    spec = measurement(preset, "mine").spec
    assert (spec["network"], spec["sampler"], spec["nfe"]) == (None, sampler, cells.get("nfe"))
    assert preset.imports == {}
