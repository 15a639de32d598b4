"""Products that are dated in the future: nothing is made again for ever, and nothing that changed is passed over."""

import os
import time

import pytest

from tests.workflow.workspace import Workspace
from workflow.checks import fix_times
from workflow.preset.spec_files import content_digest

DAY = 86_400


def dated(path, seconds):
    """A file that is dated so many seconds from now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() + seconds,) * 2)
    return path


def test_what_is_dated_in_the_future_is_dated_now_and_nothing_else(tmp_path, capfd):
    results, elsewhere = tmp_path / "results/demo", dated(tmp_path / "mine.zip", DAY)
    ahead = [dated(results / name, DAY) for name in ("a.csv", "samples/a/.snakemake_timestamp", "students/a/b/c")]
    kept = [dated(results / "past", -DAY), dated(results / "other clock", 20)]
    (results / "link").symlink_to(elsewhere)
    os.utime(results / "students", (time.time() + DAY,) * 2)
    before = {path: path.stat().st_mtime_ns for path in (*kept, elsewhere)}
    clock = dated(results / ".workflow.lock", 0)
    assert fix_times(results, clock) == 4
    assert "results/demo: 4 files were dated in the future; they are dated now" in capfd.readouterr().err
    for path in (*ahead, results / "students"):
        assert abs(path.stat().st_mtime - time.time()) < 50
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert fix_times(results, clock) == 0
    assert capfd.readouterr().err == ""


def test_what_time_it_is_is_the_disks_to_say(tmp_path):
    """A server's clock runs a day ahead of this machine's: what it dated a minute ago is no file of the future."""
    path, clock = dated(tmp_path / "a.csv", DAY - 60), dated(tmp_path / ".workflow.lock", DAY)
    before = path.stat().st_mtime_ns
    assert fix_times(tmp_path, clock) == 0
    assert path.stat().st_mtime_ns == before


def test_a_layout_is_told_by_what_it_says_and_what_it_extends(tmp_path):
    base, layout = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text("title: Results\ncolumns: []\n")
    layout.write_text("extends: base.yaml\ncaption: one\n")
    digests = [content_digest(layout)]
    for path, text in ((layout, "extends: base.yaml\ncaption: two\n"), (base, "title: Others\ncolumns: []\n")):
        path.write_text(text)
        content_digest.cache_clear()
        digests.append(content_digest(layout))
    assert len(set(digests)) == 3
    dated(layout, DAY)
    layout.write_text("# a remark\n" + layout.read_text())
    content_digest.cache_clear()
    assert content_digest(layout) == digests[-1]
    assert content_digest(None) is None


@pytest.mark.slow
def test_products_of_the_future_are_made_again_once_and_changes_count(tmp_path):
    """As of large files: of small ones Snakemake knows the hash too, and does not ask for times alone."""
    workspace = Workspace(tmp_path)
    (tmp_path / "mine/tables").mkdir(parents=True)
    changes = {"preset": "mine", "tables": ["table8"], "claims": None}
    config = workspace.config("studies/papers/published.yaml", "mine/preset.yaml", figures=[], paper=False, **changes)
    layout = tmp_path / "mine/tables/table8.yaml"
    layout.write_text((tmp_path / "studies/papers/tables/table8.yaml").read_text())
    target = ("--max-checksum-file-size", "0", "--configfile", config, "--", "index.html")

    def run(*options):
        return workspace.done(*options, *target)

    run()
    table = tmp_path / "results/mine/tables/table8.md"
    dated(table, DAY)
    assert "1 files were dated in the future" in run()
    assert "Nothing to be done" in run()
    # All of them: a change of what they are made from is newer than none of them.
    for path in (tmp_path / "results/mine").rglob("*"):
        os.utime(path, (time.time() + DAY,) * 2)
    text = layout.read_text()
    layout.write_text(text.replace("Memory in GB.", "Memory in GB. Changed."))
    assert layout.read_text() != text
    run()
    assert "Changed." in table.with_suffix(".tex").read_text()
    assert "Nothing to be done" in run()
