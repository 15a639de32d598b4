"""Predictions were committed before the results they are about: by the history of the repository."""

import datetime
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from sida.config.resources import ROOT
from workflow.docs.study import opened


def git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def committed(root: Path, path: str) -> dict[str, str]:
    """When each claim got the prediction that it has now, to the minute in UTC; prose may change later."""
    since: dict[str, str] = {}
    before: dict[str, str] = {}
    # The file's name at each commit stands behind it; with --reverse, git forgets names from before a move.
    words = git(root, "log", "--follow", "--name-only", "--format=%H %aI", "--", path).split()
    for commit, when, name in reversed([*zip(words[::3], words[1::3], words[2::3], strict=True)]):
        time = datetime.datetime.fromisoformat(when).astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%MZ")
        listed = (yaml.safe_load(git(root, "show", f"{commit}:{name}") or "{}") or {}).get("experiments", [])
        now = {claim: verdict for entry in listed for claim, verdict in entry["predicted"].items()}
        since = {claim: since[claim] if before.get(claim) == now[claim] else time for claim in now}
        before = now
    return since


def commit(root: Path, predicted: dict[str, str], time: str) -> None:
    (root / "e.yaml").write_text(yaml.safe_dump({"experiments": [{"predicted": predicted}]}))
    git(root, "add", "e.yaml")
    who = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
    git(root, *who, "commit", "-q", "--date", time, "-m", "x")


def test_a_changed_prediction_counts_from_its_change(tmp_path):
    git(tmp_path, "init", "-q")
    commit(tmp_path, {"T-1": "supported", "T-2": "supported"}, "2026-01-01T10:00:30+0100")
    commit(tmp_path, {"T-1": "supported", "T-2": "undecided", "T-3": "undecided"}, "2026-01-01T10:00:00Z")
    assert committed(tmp_path, "e.yaml") == {
        "T-1": "2026-01-01T09:00Z",
        "T-2": "2026-01-01T10:00Z",
        "T-3": "2026-01-01T10:00Z",
    }


STORED = [path.parent for path in sorted((ROOT / "studies").rglob("stored/stored.json"))]


@pytest.mark.parametrize("folder", STORED, ids=lambda path: path.parent.name)
def test_predictions_were_committed_before_their_rows_were_measured(folder):
    if git(ROOT, "rev-parse", "--is-shallow-repository").strip() != "false":
        pytest.skip("no history here")
    with opened(ROOT, [folder]) as studies:
        (study,) = studies.values()
        if not study.preset.settings.experiments:
            pytest.skip("asks nothing")
        since = committed(ROOT, str(Path(study.preset.settings.experiments).resolve().relative_to(ROOT)))
        claims = {record["id"]: record for record in json.loads(study.verdicts_file.read_text())["claims"]}
        times = {row.run: row.date for row in study.measured.rows}
        # A question asked of stored measurements says that its prediction is none.
        for answer in (answer for answer in study.answers if not answer.experiment.stored):
            for claim in answer.experiment.claims:
                assert claim in since, f"the prediction of {claim} was not committed"
                # A comparison is open until its last row is measured.
                rows = claims[claim]["rows"]
                if not rows or claims[claim]["unmeasured"]:
                    continue
                last = max(times[row] for row in rows)
                assert last >= since[claim][: len(last)], f"{claim} was predicted {since[claim]}, measured {last}"
