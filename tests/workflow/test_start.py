"""The start of a workflow: its words and preset, what is checked before the first job, and its lock."""

import errno
import getpass
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from sida.config.lookup import ALLOW, ROOT
from sida.training import train_teacher
from sida.workflow.checks import check_data, check_folder, check_scheduler, closed_results, give_cache
from sida.workflow.cli import main
from sida.workflow.commands.presets import list_presets
from sida.workflow.preset.files import find_preset, presets
from sida.workflow.preset.lock import NAME, PresetLock
from tests.assets.fault_server import use_registry
from tests.disks import make_read_only, small_disk
from tests.eval.synthetic_output import write_preset
from tests.refused import refused, refusing
from tests.training.toy import TEACHER, fork, raising, wait
from tests.workflow.workspace import Workspace, forked_snakemake, put, study

PUBLISHED = str(ROOT / "studies/papers/published.yaml")
PLANT = "import pathlib; pathlib.Path('was-here').touch()"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder and a home of this test."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(ALLOW, "")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def started(monkeypatch):
    """Words of the Snakemakes that `sida run` becomes: the same process, so signals and the status are theirs."""
    found: list[list[str]] = []

    def execve(program, words, environment):
        assert program == sys.executable
        assert environment["PYTHONSAFEPATH"] == "1"
        found.append(words[words.index("sida.workflow.snakemake") + 1 :])
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", execve)
    return found


def begin(*words: str) -> int:
    try:
        return main(["run", *words])
    except SystemExit as end:
        return int(end.code or 0)


def test_words_go_through_and_the_preset_is_named(folder, started, capsys):
    target = "tables/table8.tex"
    assert begin("published", "--cores", "3", target, "-n", "--", "--forcerun", "table", "--config", "seed=3") == 0
    words = started[0]
    after = words[words.index("--") + 1 :]
    assert after == [f"results/published/{target}"]
    assert words[words.index("--configfile") + 1] == PUBLISHED
    assert words[words.index("--cores") + 1] == "3"
    assert "--dry-run" in words
    assert words[-6:-2] == ["--forcerun", "table", "--config", "seed=3"]
    assert capsys.readouterr().out == f"preset published ({PUBLISHED}): {target}\n"


def test_a_folder_a_file_and_a_name_are_the_same(folder, started, monkeypatch):
    monkeypatch.setenv(ALLOW, str(folder / "study"))  # the study has a function of its own
    shutil.copytree(ROOT / "studies/papers", folder / "study")
    (folder / "study/published.yaml").rename(folder / "study/preset.yaml")
    for name in ("study", "study/", "study/preset.yaml"):
        assert begin(name, "-n") == 0
    assert {words[words.index("--configfile") + 1] for words in started} == {"study/preset.yaml"}


def refusal(capsys, started, *words: str) -> str:
    """The one line by which a run is refused before anything starts."""
    before = len(started)
    assert begin(*words) == 1
    assert len(started) == before
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_profile_is_one_of_ours_or_a_folder(folder, started, capsys):
    (folder / "mine").mkdir()
    assert begin("published", "--profile", "slurm") == begin("published", "--profile", "mine") == 0
    chosen = [words[words.index("--workflow-profile") + 1] for words in started]
    assert chosen == [str(ROOT / "profiles/slurm"), "mine"]
    assert "slurm" in refusal(capsys, started, "published", "--profile", "slrum")


def test_slurm_is_looked_for_before_jobs_wait_for_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    refused("has no sbatch", check_scheduler, "slurm")
    check_scheduler("local")


def test_snakemakes_options_follow_two_hyphens(folder, started, capsys):
    assert begin("demo", "--forcerun", "table") == 2
    assert "unrecognized arguments: --forcerun" in capsys.readouterr().err
    assert not started


def test_a_preset_is_no_program(folder, started, capsys):
    text = (ROOT / "studies/demo/preset.yaml").read_text()
    definitions = f"__definitions__:\n  - {PLANT!r}\n"
    (folder / "preset.yaml").write_text(f'"\\x5f_use_yte__": true\n{definitions}{text}')
    line = refusal(capsys, started, "preset.yaml", "-n")
    assert "preset.yaml: " in line
    assert "__use_yte__" in line
    assert not (folder / "was-here").exists()


def test_modules_in_records_need_a_permission_and_other_records_none(folder, started, capsys, monkeypatch):
    put(folder / ".snakemake/pip-deployments/snakemake_executor_plugin_x/__init__.py", PLANT)
    line = refusal(capsys, started, "published", "-n")
    assert ".snakemake/pip-deployments: " in line
    assert f"{ALLOW}=" in line
    monkeypatch.setenv(ALLOW, str(folder / ".snakemake"))
    assert begin("published", "-n") == 0
    # Records of a plain Snakemake, of another user or of a folder that moved are data.
    monkeypatch.setenv(ALLOW, "")
    shutil.rmtree(folder / ".snakemake/pip-deployments")
    monkeypatch.setenv("HOME", "/nonexistent")
    assert begin("published", "-n") == 0


def test_presets_are_listed_with_what_they_need(capsys):
    rows = list_presets()
    assert set(rows) == set(presets()) >= {"demo", "gpu", "afternoon", "paper", "published", "released", "sid2a"}
    assert (rows["demo"][1], rows["gpu"][1]) == ("a processor", "a GPU")
    refused("'publishd' .did you mean 'published'", find_preset, "publishd")
    for name, (about, _) in rows.items():
        assert about, f"{name}: a comment at its top says what it is and costs"
    assert main(["presets"]) == 0
    main_ones, _, parts = capsys.readouterr().out.partition("parts and variants")
    assert "needs a GPU" in main_ones
    assert "\nreleased " in main_ones
    for name in ("clean", "gpu-small", "teachers"):
        assert f"\n{name} " in parts
    # Names in a column, and the first sentence of each file.
    assert len({line.index(" needs ") for line in main_ones.splitlines() if re.match("[a-z0-9-]+ +needs ", line)}) == 1
    assert "One row:" in rows["sid2a"][0]
    assert "One row:" not in main_ones
    commands = [one.split() for about, _ in rows.values() for one in re.findall("`(sida [^`]+ [^`]+)`", about)]
    assert {words[2] for words in commands if words[1] != "settings"} >= {"paper", "sid2a", "released"}
    assert all(words[1] == "settings" or words[2] in rows for words in commands)


def test_a_table_outside_the_checkout_takes_its_sheet_from_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measured = str(write_preset(tmp_path / "results/demo") / "measurements.csv")
    table = ["table", "main", "--measurements", measured, "--out", "main.tex", "--runs"]
    assert main([*table, "demo"]) == 0
    assert "SiDA" in (tmp_path / "main.md").read_text()
    assert main([*table, "dem0"]) == 1
    assert "(did you mean 'demo'?)" in capsys.readouterr().err


DEMO = ROOT / "studies/demo/preset.yaml"


def test_snakemake_needs_a_folder_it_can_write(tmp_path, monkeypatch):
    check_folder(tmp_path)
    access, closed = os.access, {tmp_path}
    # Root may write anywhere but on a read-only disk, which only root can make.
    monkeypatch.setattr(os, "access", lambda path, mode: path not in closed and access(path, mode))
    refused(r"cannot be written, .* start it in a writable folder", check_folder, tmp_path)
    # Records that are there may lie in a folder of somebody else.
    (tmp_path / ".snakemake").mkdir()
    check_folder(tmp_path)
    closed.add(tmp_path / ".snakemake")
    refused("snakemake: cannot be written", check_folder, tmp_path)


def test_results_that_may_only_be_read_are_told(tmp_path):
    assert closed_results(tmp_path / "none") is None
    with small_disk(tmp_path / "demo") as disk:
        assert closed_results(disk) is None
        make_read_only(disk)
        assert closed_results(disk).startswith(f"{disk}: is read-only, ")
        refused(r"demo: cannot be written .*read-only file system", PresetLock(disk, ["snakemake"]).take)
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], rf"error: --configfile: .* {DEMO}"),
        (["--configfile", f"{ROOT}/config/demo.yaml"], r"error: --configfile: .*config/demo.yaml.*sida presets"),
        (["--configfile=nothing.yaml"], r"error: --configfile: .*'nothing.yaml'"),
        pytest.param(
            ["--configfile", PUBLISHED, "--", "results/published/tables/tabel3.tex"],
            r"tabel3.tex: .*'tables/table3.tex'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--configfile", PUBLISHED, "--", "tables/table3.tex"],
            r"tables/table3.tex: .* results/published/tables/table3",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["no preset", "no file", "no file after =", "no such product", "a short name"],
)
def test_a_faulty_command_is_one_line_and_never_the_demo(tmp_path, monkeypatch, words, fault):
    monkeypatch.setattr(sys, "argv", ["snakemake", *words])
    status, said = forked_snakemake(tmp_path, "-s", f"{ROOT}/Snakefile", "--cores", "1", "-n", *words)
    assert status == 1
    assert "Traceback" not in said
    assert re.search(fault, said), said
    assert not (tmp_path / "results").exists()


def test_settings_of_the_command_line_reach_report_page_and_manifest(tmp_path):
    """Their commands start the workflow again; without the settings they would be about other results."""
    workspace = Workspace(tmp_path)
    base = str(ROOT / "studies/papers/published.yaml")
    small = {"tables": ["table8"], "figures": [], "claims": None, "paper": False}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump({"base": base, **small}))
    changes = ["preset=other", "title=Two words"]
    planned = workspace.done("-n", "-p", "--configfile", "few.yaml", "--config", *changes)
    commands = [line for line in planned.splitlines() if "--configfile few.yaml --config preset=other " in line]
    assert len(commands) == 2  # of the page and of the manifest
    assert all("title=Two words" in line for line in commands)


def test_data_that_are_missing_end_a_run_before_any_job(tmp_path):
    data = {"kind": "folder", "path": "pictures", "resolution": 8, "channels": 1, "label_dim": 10, "num_images": 100}
    changes = {"preset": "mine", "dataset": "mine", "datasets": {"mine": data}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"base": str(ROOT / "studies/demo/preset.yaml"), **changes}))
    target = ("--configfile", "mine.yaml", "--", "results/mine/measurements/sid-a1.0/trial-0.json")
    workspace = Workspace(tmp_path)
    assert workspace.planned(*target)["distill_parent"] == 1
    status, said = workspace.forked(*target)
    assert status == 1
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: pictures: ")
    assert "sida data prepare" in line
    assert not (tmp_path / "results/mine/logs").exists()


def test_references_that_are_missing_are_told_before_the_trainings(tmp_path):
    protocol = yaml.safe_load((ROOT / "tests/workflow/tiny-protocol.yaml").read_text()) | {"watch": None}
    protocol["references"]["heldout"] = {"kind": "dataset", "dataset": "gone", "fixed": True}
    protocol["metrics"] = [protocol["metrics"][0] | {"key": "fd_heldout", "reference": "heldout"}]
    data = {"gone": {"kind": "zip", "path": "gone.zip", "resolution": 8, "channels": 1}}
    changes = {"datasets": data, "protocol": "p.yaml", "p.yaml": protocol, "tables": [], "figures": []}
    preset = study(tmp_path, changes)
    check_data(preset, ["teachers/digits-short", "students/sid-a1.0", "preset"])
    refused("^gone.zip: no such file .*sid-a1.0 is measured with it", check_data, preset, ["measurements/sid-a1.0"])


def test_a_user_without_a_name_and_a_home_gets_a_name_and_a_cache_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(pwd, "getpwuid", raising(KeyError("getpwuid(): uid not found")))
    give_cache()
    assert getpass.getuser()
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / ".snakemake/cache")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EACCES, "chmod g\\+w"), (errno.EROFS, "chmod g\\+w"), (errno.ELOOP, "remove it")]
)
def test_a_lock_that_may_not_be_written_is_not_to_be_removed(tmp_path, monkeypatch, number, remedy):
    def refuse(path, *arguments, **words):
        if path in (tmp_path / "results" / NAME, tmp_path / "student/.lock"):
            raise OSError(number, os.strerror(number))
        return opened(path, *arguments, **words)

    opened = os.open
    monkeypatch.setattr(os, "open", refuse)
    refused(f"{NAME}: cannot be opened .*{remedy}", PresetLock(str(tmp_path / "results"), []).take)
    if number != errno.ELOOP:
        refused(f"student: cannot be locked .*{remedy}", train_teacher, TEACHER, tmp_path / "student")


COMMAND = ["snakemake", "--cores", "2"]


@pytest.fixture
def results(tmp_path):
    """A preset's results."""
    return tmp_path / "results/demo"


def taken(results):
    held = PresetLock(results, COMMAND)
    held.take()
    return held


def test_the_second_is_refused_with_one_line_and_changes_nothing(results, tmp_path):
    first = taken(results)
    before = (results / NAME).read_bytes()
    refused(rf"\(process {os.getpid()} on {os.uname().nodename} since .*snakemake --cores 2", taken, results)
    assert (results / NAME).read_bytes() == before
    # Another preset's results is free, and so is this one afterwards.
    taken(tmp_path / "results/other").release()
    first.release()
    taken(results).release()


def test_a_killed_holder_holds_nothing_nor_do_its_jobs(results, tmp_path):
    """A job that goes on without its workflow has the same open files, but not this one."""

    def hold():
        taken(results)
        job = subprocess.Popen(["sleep", "60"], close_fds=False)
        (tmp_path / "job").write_text(str(job.pid))
        os.kill(os.getpid(), signal.SIGKILL)

    assert wait(fork(hold, tmp_path / "log")) == -signal.SIGKILL
    job = int((tmp_path / "job").read_text())
    taken(results).release()
    os.kill(job, signal.SIGKILL)


def test_what_a_file_says_stays_one_line(results):
    put(results / NAME, "[" * 200_000)
    held = taken(results)
    record = {"host": "node7", "pid": 12, "command": "snakemake\n\x1b[2Jerror: " + "x" * 10_000}
    (results / NAME).write_text(json.dumps(record))
    with refusing("process 12 on node7") as caught:
        taken(results)
    held.release()
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def test_a_second_workflow_ends_before_any_job(tmp_path):
    """The other holds the lock of this preset; what only looks is not refused."""
    workspace = Workspace(tmp_path)
    results = tmp_path / "results/published"
    held = taken(results)
    before = contents(results)
    target = ("--configfile", "studies/papers/published.yaml", "--", "results/published/tables/table8.tex")
    status, said = workspace.forked(*target)
    assert status == 1
    (line,) = [line for line in said.splitlines() if "error" in line.lower()]
    assert line.startswith(f"error: results/published: another workflow is at work here (process {os.getpid()} on ")
    assert workspace.planned(*target)["table"] == 1
    assert contents(results) == before
    held.release()


def contents(results):
    """What a results holds beside the lock; that one is touched now and then."""
    return {path: path.stat().st_mtime_ns for path in results.rglob("*") if path.name != NAME and path.is_file()}


@pytest.mark.slow
def test_an_entry_of_the_registry_that_names_another_file_is_fetched_again(tmp_path, monkeypatch):
    def register(content, url):
        put(tmp_path / "cache/a.npz", content)
        digest = hashlib.sha256(content.encode()).hexdigest()
        use_registry(
            monkeypatch, tmp_path, {"id": "a", "kind": "labels", "url": url, "sha256": digest, "target": "a.npz"}
        )

    workspace = Workspace(tmp_path)
    arguments = ("--configfile", "tests/workflow/tiny.yaml", "--", "results/tiny/assets/a.json")
    register("one", "https://example.org/a.npz")
    workspace.made(*arguments)
    # The place of a file with a hash is no other file.
    register("one", "https://example.com/a.npz")
    assert workspace.planned(*arguments) == {}
    register("two", "https://example.org/a.npz")
    assert workspace.planned(*arguments) == {"fetch": 1}
