"""Numbers of the documentation are computed: stored studies, their pages, and what stands between markers."""

import dataclasses
import json
import operator
import random
import re
import shutil

import pytest

from eval.claims import Evidence, decide, load_claims
from eval.claims.model import UNDECIDED
from eval.effects.contrast import difference
from eval.results import load
from eval.results.published import load_published
from eval.results.stored import store, stored_rows
from eval.results.summary import load_measurements
from sida.config.resources import ROOT
from sida.errors import UserError
from sida.files.atomic import read_jsonl
from sida.files.text_files import read_csv
from tests.eval.synthetic_output import write_csv
from tests.refused import refusing
from tests.studies.miniature.test_miniature import made_up, preset  # noqa: F401
from tests.workflow.test_docs_links import DOCS
from workflow.archive.verify import verify
from workflow.cli import eval_main as main
from workflow.docs.numbers import StudyNumbers
from workflow.docs.pages import MARKER, RepeatedRows, filled, paper_claims, repeated_table
from workflow.docs.study import Study, opened
from workflow.docs.words import in_words
from workflow.preset import Preset
from workflow.preset.spec_files import row_digest

ABOUT = {"preset": "studies/miniature/preset.yaml", "title": "A study"}
PAGES = [ROOT / "README.md", *DOCS]


@pytest.fixture(scope="module")
def stored(made_up, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("docs") / "miniature" / "data"
    store(made_up, folder, ABOUT, {})
    return folder


def test_stored_results_are_read_like_results(made_up, stored, preset):  # noqa: F811
    before, after = (load_measurements(folder) for folder in (made_up, stored))
    key = operator.attrgetter("run", "trial", "metric", "value", "n", "seed_first", "settings", "classes", "resolution")
    assert sorted(map(key, before.rows)) == sorted(map(key, after.rows))
    logs = [folder / "students/t30-sida/evaluations.jsonl" for folder in (made_up, stored)]
    assert read_jsonl(logs[0]) == read_jsonl(logs[1])
    claims = load_claims(ROOT / "studies/miniature/claims.yaml")
    verdicts = [
        {v.claim.id: v.outcome for v in decide(claims, Evidence(m, preset.runs, load_published(), f / "students"))}
        for m, f in ((before, made_up), (after, stored))
    ]
    assert verdicts[0] == verdicts[1]
    frames = load(stored)
    assert set(frames.measurements.run) == set(before.runs)
    assert {"fd", "weight_rms.fake_score"} <= set(frames.curves.quantity)
    report = verify(stored)
    assert not report.faults
    assert report.counts["rows whose trials are not stored"] == len(before.rows)
    assert (stored / "measurements.csv.gz").stat().st_size < 500_000


def test_damage_in_stored_measurements_is_found(stored, tmp_path):
    folder = tmp_path / "stored"
    shutil.copytree(stored, folder)
    packed = folder / "measurements.csv.gz"
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    packed.write_bytes(content)
    assert any("measurements.csv.gz" in fault for fault in verify(folder).faults)
    with pytest.raises(UserError, match=r"measurements\.csv\.gz.*damaged"):
        load(folder)


def test_rows_stay_stored_while_the_preset_asks_for_the_same(made_up, preset, tmp_path):  # noqa: F811
    """A study that was run in two halves, on two machines, of which the second has none of the first's files."""
    asked = {run: row_digest(preset, run) for run in preset.runs}
    first = ["t30-sid", "t30-sida", "teacher-t30"]
    measured = [line for line in stored_rows(made_up) if line["run"] in first]
    half, other = tmp_path / "half", tmp_path / "other"
    other.mkdir()
    for run in first[:2]:
        shutil.copytree(made_up / "students" / run, half / "students" / run)
    write_csv(half / "measurements.csv", measured)
    store(half, tmp_path / "data", ABOUT, asked)
    write_csv(other / "measurements.csv", [line | {"value": "1.5"} for line in measured if line["run"] == "t30-sid"])
    changed = asked | {"teacher-t30": "another"}

    store(other, tmp_path / "data", ABOUT, changed, add=True)
    after = load_measurements(tmp_path / "data")
    assert set(after.runs) == {"t30-sid", "t30-sida"}  # what is asked for otherwise now is gone
    assert {line.value for line in after.lines("t30-sid", "fd")} == {1.5}  # what was measured again is new
    before = load_measurements(made_up / "measurements.csv").estimate("t30-sida", "fd")
    assert after.estimate("t30-sida", "fd").mean == pytest.approx(before.mean, rel=1e-6)
    logs = [folder / "students/t30-sida/train.jsonl" for folder in (made_up, tmp_path / "data")]
    assert read_jsonl(logs[0]) == read_jsonl(logs[1])

    store(other, tmp_path / "data", ABOUT, changed)
    assert {line["run"] for line in stored_rows(tmp_path / "data")} == {"t30-sid"}


def test_a_rows_digest_sees_its_teacher_and_what_it_starts_from(preset):  # noqa: F811
    def digests(*path, value):
        config = json.loads(json.dumps(dataclasses.asdict(preset.settings)))
        place = config
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        other = Preset(config, "studies/miniature/preset.yaml")
        return {run for run in preset.runs if row_digest(other, run) != row_digest(preset, run)}

    assert digests("recipes", "restart", "total_kimg", value=21) == {"t30-restart", "t30-restart-s1", "t30-restart-s2"}
    assert {"t30-half", "t30-sid2a", "t30-restart"} < digests("recipes", "half-sid", "lr", value=1e-3)
    changed = digests("teachers", "t50b", "seed", value=7)
    assert changed == {"teacher-t50b", "t50b-sid", "t50b-sida"}


def test_numbers_of_a_study(stored, made_up, tmp_path):  # noqa: F811
    numbers = StudyNumbers(Study(stored, ROOT, tmp_path))
    measured = load_measurements(made_up / "measurements.csv")
    one = measured.estimate("t30-sida", "fd")
    assert numbers.trials("fd", "t30-sida") == f"{one.mean:.2f} ± {one.std:.2f}"
    means = [measured.estimate(f"t30-sida{s}", "accuracy").mean for s in ("", "-s1", "-s2")]
    assert numbers.seeds("accuracy", "t30-sida").startswith(f"{100 * sum(means) / 3:.1f} ± ")
    assert numbers.seeds("fd", "t100-sid") == f"{measured.estimate('t100-sid', 'fd').mean:.2f}"  # one seed: no spread
    assert numbers.generators == len(measured.runs)
    table = numbers.table("mini-table1")
    assert table.startswith("\n\n| Family")
    assert table.endswith("|\n\n")
    assert f"{measured.estimate('uncond-sida', 'fd').mean:.2f}\u00a0±\u00a0" in table
    assert not re.search(r"[^|] [^|]", re.sub(r"\| | \|", "|", table))
    assert numbers.logged("weight_rms.fake_score", "t30-sida") == "1.0400 ± 0.0000"
    lowest, end = (getattr(numbers, name)("fd", "t30-sida") for name in ("lowest", "end"))
    assert float(lowest.split()[0]) <= float(end.split()[0])


def test_every_open_claim_is_listed_with_the_seeds_that_it_needs(stored, tmp_path):
    study = Study(stored, ROOT, tmp_path)
    numbers = StudyNumbers(study)
    listed = dict(re.findall(r"^\| ([\w-]+): .* \| ([^|]*) \|$", numbers.undecided(), re.MULTILINE))
    assert list(listed) == [claim.id for claim in study.claims if numbers.word(claim.id) == "not decided"]
    trained = [claim.id for claim in study.claims if {part.rule for part in claim.parts} == {"TRAIN"}]
    measured = [name for name in trained if name in listed and ":" in numbers.answer(name)]
    assert measured
    assert all(re.search(r"\d \(\d+\)", listed[name]) for name in measured)


def test_effects_in_words():
    def found(what, value, **numbers):
        effect = {"what": what, "value": value, "signed": not what.startswith("ratio")}
        return {"verdict": UNDECIDED, "effect": effect, "numbers": numbers}

    assert in_words([found("fd", -0.9, low=-1.2, high=-0.6)]) == "FD 0.90 higher, 95 % interval 0.60 to 1.20"
    across = in_words([found("is", 0.7, low=-0.1, high=1.5)])
    assert across.endswith(" 0.70 higher, 95 % interval 0.10 lower to 1.50 higher")
    assert in_words([found("ratio of images", 1.2, low=1, high=1.5)]).startswith("ratio of images 1.20, 95 %")
    assert in_words([found("recall", 0.2), found("recall", -0.1)]) == "recall 0.10 lower to 0.20 higher (2 comparisons)"


def test_numbers_about_effects(stored, made_up, preset, tmp_path):  # noqa: F811
    study = Study(stored, ROOT, tmp_path)
    numbers, measured = StudyNumbers(study), load_measurements(made_up / "measurements.csv")
    rows = [run for run in preset.students() if run.teacher == preset.students()[0].teacher]
    groups = [names for run in rows if len(names := study.group(run.run)) > 2 and names[0] == run.run][:2]
    first, second = (names[0] for names in groups)
    expected = difference(*({"": [measured.estimate(name, "fd").mean for name in names]} for names in groups))
    text = f"{expected.value:+.2f} [{expected.low:.2f}, {expected.high:.2f}]".replace("-", "−")
    assert numbers.effect("fd", first, second) == text
    assert numbers.effect("fd", *(f"run={'|'.join(names)}" for names in groups)) == text
    assert len(study.group(f"{first},{second}")) == len(groups[0] + groups[1])
    variances = numbers.variances("fd", first, second)
    std, low, high = map(float, re.search(r"of one generator \| ([\d.]+) \(([\d.]+) to ([\d.]+)\)", variances).groups())
    assert low < std < high
    shares = re.findall(r"^\| (\d+) \| (\d+) %", numbers.trial_shares("fd", first, second), flags=re.MULTILINE)
    assert [trials for trials, _ in shares] == ["1", "2", "3", "5", "10"]
    assert [int(share) for _, share in shares] == sorted((int(share) for _, share in shares), reverse=True)
    claims = load_claims(ROOT / preset.settings.claims)
    claim = next(c.id for c in claims if c.parts and c.parts[0].rule == "TRAIN")
    assert f"| {claim} |" in numbers.power("5%")
    assert re.match(r"(Yes|No|Not decided): FD \d", numbers.answer(claim))
    assert numbers.word(claim) in ("yes", "no", "not decided")
    for rows, fault in (("recipe=nothing", "recipe=nothing"), ("recip=sid", "'recip'")):
        with refusing(fault):
            numbers.effect("fd", first, rows)


def test_every_claim_of_the_papers_has_its_counterparts_or_a_reason(stored, tmp_path):
    table = paper_claims(ROOT, {"miniature": Study(stored, ROOT, tmp_path)})
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| C-")]
    rows = {cells[0].partition(":")[0]: cells[1:] for cells in lines}
    papers = {c.id: c for c in load_claims(ROOT / "studies/papers/claims.yaml") if c.scope == "paper"}
    assert list(rows) == list(papers)
    mirrored = [claim for claim in load_claims(ROOT / "studies/miniature/claims.yaml") if "C-27" in claim.counterpart]
    text = " ".join(rows["C-27"])
    assert [text.count(f"[{claim.id}](miniature/README.md#") for claim in mirrored] == [1] * len(mirrored)
    assert re.search(r"\*\*(yes|no|not decided)\*\*: ", text)
    # Claims of another question stand in the last column, beside what small networks cannot decide.
    assert rows["C-28"][:3] == ["–", "–", "–"]
    assert "M-55" in rows["C-28"][3]
    assert "Not decidable at this size" in rows["C-34"][3]
    assert "**" not in rows["C-34"][3]  # no verdict beside it
    assert rows["C-75"][3] == papers["C-75"].reason


def test_the_lowest_of_equally_good_evaluations_lies_below_fresh_trials(stored, tmp_path):
    """Ten evaluations of a true FD that does not change, each with noise: the lowest is too low by 1.54 of its std."""
    shutil.copytree(stored, tmp_path / "data")
    study, noise = Study(tmp_path / "data", ROOT, tmp_path), random.Random(4)
    for log in study.folder.glob("students/*/evaluations.jsonl"):
        fd = study.measured.estimate(log.parent.name, "fd").mean
        values = [fd + 9, *(noise.gauss(fd, 0.2) for _ in range(10))]
        log.write_text("".join(json.dumps({"nimg": i, "fd": value}) + "\n" for i, value in enumerate(values)))
    numbers = StudyNumbers(study)
    above, low, high = _interval(numbers.above_lowest("fd"))
    assert above == pytest.approx(1.54 * 0.2, abs=0.05)
    assert low < above < high
    # By chance the lowest is early or late.
    _, low, high = _interval(numbers.above_lowest_early("fd"))
    assert low < 0 < high


def _interval(text):
    found = re.match(r"(\S+) \(95 % interval (\S+) to (\S+);", text.replace("−", "-"))
    return [float(number) for number in found.groups()]


@pytest.mark.slow
def test_every_marker_of_the_findings_can_be_computed(made_up, tmp_path):  # noqa: F811
    """By made-up results of the same rows: the page's markers name runs, metrics and claims that exist."""
    page = (ROOT / "studies" / "README.md").read_text()
    # Rows of the same settings as those that are stored, so that they may be compared with rows of other studies.
    asked = json.loads((ROOT / "studies/miniature/stored/stored.json").read_text())["rows"]
    store(made_up, tmp_path / "data", ABOUT, asked)
    with opened(ROOT, [path.parent for path in sorted((ROOT / "studies").rglob("stored/stored.json"))]) as studies:
        studies["miniature"] = Study(tmp_path / "data", ROOT, tmp_path)
        once = filled(page, studies, ROOT, "findings.md")
        assert once != page
        assert filled(once, studies, ROOT, "findings.md") == once
    assert "Not computed yet" not in once


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ('miniature.sedes("fd", "t30-sida")', r"page:2: .*'seeds'"),
        ('miniature.seeds("fd", "t30-sidaa")', r"page:2: .*'t30-sidaa'.*'t30-sida'"),
        ('miniature.word("M-99")', "page:2: .*'M-99'"),
        ('miniatur.word("M-01")', "page:2: .*'miniature'"),
        ("miniature.generatos", "page:2: .*'generators'"),
        ('miniature.seeds("fd")', "page:2: "),
        ("miniature seeds fd", "page:2: .*expression"),
        ("miniature._study", "page:2: "),
        ('miniature.logged("weight_rms.student", "t30-sida")', "'weight_rms.student'"),
    ],
)
def test_faulty_markers_name_page_and_line(stored, tmp_path, words, fault):
    study = Study(stored, ROOT, tmp_path)
    with refusing(fault):
        filled(f"text\n<!--= {words} -->1<!--/-->\n", {"miniature": study}, ROOT, "page")
    with refusing("has no end"):
        filled("<!--= measured('demo') -->8\n", {}, ROOT, "page")


def test_the_command_fills_markers_and_check_changes_nothing(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("The demo has <!--= measured('demo') -->3<!--/--> rows.\n")
    assert main(["docs", "--check", str(page)]) == 1
    assert "line 1 differs" in capsys.readouterr().out
    assert "-->3<!" in page.read_text()
    assert main(["docs", str(page)]) == 0
    rows = len((ROOT / "studies/demo/runs.tsv").read_text().splitlines()) - 1
    assert page.read_text() == f"The demo has <!--= measured('demo') -->{rows}<!--/--> rows.\n"


def test_a_page_that_is_missing_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("workflow.docs.pages.schemas", lambda root: pytest.fail("it works first"))
    assert main(["docs", "--check", str(tmp_path / "x.md")]) == 1
    assert "x.md: no such page" in capsys.readouterr().err


def test_the_page_of_a_study_is_made_from_its_stored_files(stored, tmp_path):
    shutil.copy(ROOT / "studies" / "miniature" / "mini-figure1.png", stored.parent)
    (tmp_path / "unpacked").mkdir()
    text = Study(stored, ROOT, tmp_path / "unpacked").page("../miniature")
    assert text.startswith("# A study\n")
    assert text.count("\n### Table mini-table") == 8
    assert "(../miniature/mini-figure1.png)" in text
    assert "M-72" in text
    assert "not measured" not in text


#: Two pages count the jobs of large presets by dry runs, which takes a minute.
LARGE = [path for path in PAGES if path.name in ("cost.md", "cluster.md")]


@pytest.mark.parametrize(
    "paths",
    [
        pytest.param([path for path in PAGES if path not in LARGE], id="quick"),
        pytest.param(LARGE, marks=pytest.mark.slow, id="large"),
    ],
)
def test_every_number_between_markers_is_as_computed(paths, capsys):
    assert main(["docs", "--check", *map(str, paths)]) == 0, capsys.readouterr().out


def test_no_result_is_typed_into_the_findings():
    """Outside of markers the page has no decimals but settings, no spreads, shares and verdicts."""
    text = MARKER.sub("", (ROOT / "studies" / "README.md").read_text())
    found = re.findall(r"\d+\.\d+|±|\d+ ?%|[✓✗–] [MD]-\d+", text)
    assert set(found) <= {"1.0", "1.2", "1.5", "0.25", "0.9", "95 %", "99 %"}  # α, β₁ and intervals


STUDIES = ROOT / "studies"
FILES = ("miniature/claims", "miniature/afternoon-claims", "adm/claims", "letters/claims", "demo/claims")


@pytest.fixture(scope="module")
def repeated():
    folders = [STUDIES / "miniature/stored", STUDIES / "miniature/afternoon/stored"]
    with opened(ROOT, folders) as studies:
        first, second = studies.values()
        yield RepeatedRows.of(first, second), repeated_table(first, second, ("one", "two"))


def test_rules_add_the_scatter_that_the_table_of_repeated_rows_prints(repeated):
    found, _ = repeated
    for file in FILES:
        (known,) = {id(c.repeats): c.repeats for c in load_claims(STUDIES / f"{file}.yaml")}.values()
        assert known.rows <= len(found.moved)
        for metric in ("fd", "fd_pixel", "is", "precision", "recall", "accuracy"):
            assert known.std[metric] == pytest.approx(found.std(metric), abs=0.0011), f"{file}: {metric}"


def test_the_table_has_each_row_that_moved_with_its_change(repeated):
    found, table = repeated
    assert all(f"(`{run}`)" in table for run in found.moved)
    u, v = found.moved["t10-sida"]["fd"]
    assert f"| {u:.2f} | {v:.2f} | −{100 * (1 - v / u):.1f} % |" in table
    assert "data" not in found.moved


@pytest.mark.parametrize("path", STUDIES.glob("*/quoted.csv"), ids=lambda path: path.parent.name)
def test_quoted_fids_are_published_numbers(path):
    published = load_published()
    quoted = [record for _, record in read_csv(path)[1]]
    assert len(quoted) >= 8
    for record in quoted:
        assert record["source"]
        assert published[record["published"]].value == float(record["fid"])
