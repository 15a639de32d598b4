"""The whole workflow on a tiny preset: products, second run, faults, kill -9 and restart."""

import hashlib
import json
import random
import re
import signal
import time

import pytest

from sida.config.lookup import ROOT
from sida.networks.file import load_network
from sida.workflow.archive.verify import verify
from sida.workflow.cli import main
from tests.eval.synthetic_output import csv_rows
from tests.workflow.workspace import Workspace, kill_group
from tools.store_study import store_study

TINY = ("--configfile", "tests/workflow/tiny.yaml")
# One worker makes the finished run and all of this file's tests use it.
pytestmark = [pytest.mark.xdist_group("finished-run"), pytest.mark.slow]
RUNS = ["data", "teacher-nfe35", "sid-a1.0", "sida-a1.0", "sid2a-a1.0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the tiny preset (about a minute)."""
    workspace = Workspace(tmp_path_factory.mktemp("finished"))
    workspace.output = workspace.done(*TINY)
    return workspace


def values(workspace: Workspace) -> dict[tuple[str, str, str], str]:
    """Measured values as written, by run, trial and metric: equal only if every digit is."""
    rows = csv_rows(workspace.folder / "results/tiny/measurements.csv")
    return {(row["run"], row["trial"], row["metric"]): row["value"] for row in rows}


def networks(workspace: Workspace) -> dict[str, str]:
    """Digest of all weights, bit for bit; the header is left out because it names the code version."""
    folder = workspace.folder / "results/tiny"
    digests = {}
    for path in sorted(folder.glob("*/*/network.safetensors")):
        data = path.read_bytes()
        weights = data[8 + int.from_bytes(data[:8], "little") :]
        digests[str(path.relative_to(folder))] = hashlib.sha256(weights).hexdigest()
    return digests


def test_run_makes_every_product_and_writes_nowhere_else(finished):
    results = finished.folder / "results/tiny"
    names = ["measurements.csv", "claims.md", "claims.json", "manifest.json", "index.html"]
    names += [f"tables/main.{suffix}" for suffix in ("tex", "csv", "md", "html")]
    for figure in ["convergence", "samples"]:
        names.append(f"figures/{figure}.csv")
        assert (results / f"figures/{figure}.pdf").read_bytes().startswith(b"%PDF")
        assert (results / f"figures/{figure}.png").read_bytes().startswith(b"\x89PNG")
    for name in names:
        assert (results / name).stat().st_size > 100, name
    assert {run for run, _, _ in values(finished)} == set(RUNS)
    assert {trial for _, trial, _ in values(finished)} == {"0", "1"}
    assert {path.name for path in finished.folder.iterdir() if not path.is_symlink()} <= {"results", ".snakemake"}


def test_progress_and_at_the_end_the_table_with_paths_are_shown(finished):
    for text in ["SiDA, α = 1.0", "results/tiny/index.html", "results/tiny/tables", "results/tiny/figures"]:
        assert text in finished.output
    assert "[distill sida-a1.0]" in finished.output
    assert len(finished.output.splitlines()) < 400  # jobs report without flooding
    for words in ("Select jobs", "Provided resources", "Conda environments"):  # Snakemake's about itself
        assert words not in finished.output
    page = (finished.folder / "results/tiny/index.html").read_text()
    for part in ("SiDA, α = 1.0", "data:image/png;base64", "--configfile tests/workflow/tiny.yaml"):
        assert part in page


def test_the_finished_folder_is_whole(finished):
    report = verify(finished.folder / "results/tiny")
    assert report.faults == []
    # One more parent for each student that starts from another's generator.
    assert report.counts["parents in the folder"] > report.counts["rows equal to their trials"] / 20
    made = report.counts["files of tables, figures and verdicts equal to those made again"]
    assert made == len([*finished.folder.glob("results/tiny/tables/*")]) + 3  # curves, and two files of verdicts
    manifest = json.loads((finished.folder / "results/tiny/manifest.json").read_text())
    assert manifest["preset"]["preset"] == "tiny"
    assert {"tables/main.tex", "index.html"} <= set(manifest["files"])


def test_second_run_does_nothing_and_says_so(finished):
    before = networks(finished)
    status, said = finished.forked(*TINY)
    assert (status, "Nothing to be done" in said) == (0, True), said
    assert networks(finished) == before


def test_jobs_and_the_summary_need_no_utf8_and_no_home_that_can_be_written(finished, tmp_path, monkeypatch):
    for name in ("manifest.json", "figures/samples.csv"):
        (finished.folder / "results/tiny" / name).unlink()
    for name, value in {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "HOME": "/proc/1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    said = finished.done(*TINY)
    assert "SiDA, ? = 1.0" in said
    assert (finished.folder / "results/tiny/manifest.json").exists()
    assert not verify(finished.folder / "results/tiny").faults


def planned(workspace: Workspace, *changes: str) -> set[str]:
    """Rules that a run with changed keys would run, apart from those that describe the whole."""
    return set(workspace.planned(*TINY, "--config", *changes)) - {"all", "manifest", "index"}


def test_only_what_a_changed_key_touches_would_run_again(finished):
    words = (ROOT / "tests/workflow/tiny-protocol.yaml").read_text().replace("label: FD", "label: Other")
    protocol = finished.folder / "results" / "words.yaml"
    protocol.write_text(words.replace("title: Digits, tiny test", "title: Other words"))
    specs = {path: path.stat().st_mtime_ns for path in (finished.folder / "results/tiny/specs").rglob("*.json")}
    assert finished.folder / "results/tiny/specs/students/sida-a1.0.json" in specs
    assert planned(finished, "protocol=results/words.yaml", "gpus=1") == set()
    # The collection of a table's rows has the digest of the table.
    assert planned(finished, "table_mode=audit") == {"collect_part", "table"}
    assert {path: path.stat().st_mtime_ns for path in specs} == specs


def interrupt_and_finish(workspace: Workspace, kills: int, sign: int, seed: int) -> None:
    """Starts the tiny preset, stops it ``kills`` times at random moments, then lets it end."""
    source = random.Random(seed)
    for _ in range(kills):
        process = workspace.start(*TINY)
        time.sleep(source.uniform(8, 25))
        if process.poll() is None:
            kill_group(process, sign)
    workspace.done(*TINY)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=["kill", "int", "term"])
def test_three_interruptions_end_with_the_same_numbers(finished, tmp_path, sign):
    workspace = Workspace(tmp_path)
    interrupt_and_finish(workspace, 3, sign, seed=time.time_ns())
    assert values(workspace) == values(finished)
    assert networks(workspace) == networks(finished)
    if sign == signal.SIGINT:
        assert "RuleException" not in (tmp_path / "run.log").read_text()


def test_a_finished_run_is_stored_and_shown_from_what_is_stored(finished, tmp_path):
    """`python -m tools.store_study`: the table made from the stored files is that of the run."""
    results = finished.folder / "results/tiny"
    stored = store_study(results, ROOT / "tests/workflow/tiny.yaml", tmp_path / "stored")
    assert {path.name for path in tmp_path.glob("*.png")} == {"convergence.png", "samples.png"}
    assert (stored / "claims.json").read_bytes() == (results / "claims.json").read_bytes()
    table = ["table", "main", "--measurements", str(stored / "measurements.csv"), "--out", str(tmp_path / "main.tex")]
    table += ["--runs", str(ROOT / "tests/workflow/tiny.tsv")]
    assert main(table) == 0
    shown = (tmp_path / "main.md").read_text()
    numbers = re.findall(r"\d+\.\d+ ± \d+\.\d+", (results / "tables/main.md").read_text())
    assert numbers
    assert all(number in shown for number in numbers)


def test_stored_networks_are_measured_again_from_another_folder(finished, tmp_path, monkeypatch, capsys):
    results, preset = finished.folder / "results/tiny", ROOT / "tests/workflow/tiny.yaml"
    monkeypatch.chdir(tmp_path)
    stored = store_study(results, preset, tmp_path / "stored", networks=True, add=True, half=True)
    said = capsys.readouterr().out
    for run in RUNS[2:]:
        assert main(["check", str(stored), run]) == 0
        half = load_network(stored / f"students/{run}/network.safetensors")[1].get("float16_of")
        assert (half is not None) == (f"{run}: float16" in said)
    lines = [row for row in csv_rows(stored / "measurements.csv") if row["run"] in RUNS[1:]]
    assert all(row["trained_on"].startswith("cpu (") for row in lines)
    assert "trained on cpu (" in capsys.readouterr().out
