"""Values on a network that the generator met: marked, never bold, deciding nothing."""

import dataclasses

import pytest
import yaml

from eval.claims.evidence import Evidence
from eval.claims.rules import load_claims
from eval.claims.write import decide
from eval.features import EXTRACTORS
from eval.results.sheet import SheetRow, read_runs
from eval.results.summary import Measurement, Measurements
from eval.tables.build import build_table
from eval.tables.latex import to_latex
from eval.tables.layout import load_layout
from eval.tables.render import to_html, to_markdown
from sida.config.families import BACKBONES
from sida.config.resources import ROOT
from sida.config.saw import Saw, network_of, read_saw
from sida.methods.registry import METHODS, official_saw
from tests.refused import refused
from workflow.preset import Preset

FID = "frechet cov_ddof=0 extractor=inception"
METRICS = {"fid": FID, "fd_dinov2": "frechet cov_ddof=0 extractor=dinov2"}


def lines(run, value, settings=FID, metric="fid", **change):
    """Two trials of a generator."""
    about = {"protocol": "p", "settings": settings, "classes": "data", "resolution": "32", "n": 10}
    files = {"reference_sha256": "a" * 64, "extractor_sha256": "b" * 64, "network_sha256": ""}
    made = {"device": "cpu", "code_version": "0", "date": "2035-01-01", "nfe": 1}
    for trial in (0, 1):
        seeds = {"seed_first": 10 * trial, "seed_last": 10 * trial + 9}
        row = {"run": run, "method": "external", "trial": trial, "metric": metric, "value": value + trial / 1000}
        yield Measurement(**(about | files | made | seeds | row | change))


def table(tmp_path, met, row=None, mode="measured", columns=("fid",), rows=None, **change):
    """A table of an honest row (SiDA) and the row `met`, whose values are lower."""
    runs = {"honest": SheetRow("honest", "Honest", "sida", checkpoint="x"), met.run: met} if met else {}
    runs |= {row.run: row} if row else {}
    settings = change.pop("settings", METRICS["fid"])
    measured = [
        *lines("honest", 2.0, settings),
        *(line for n in runs if n != "honest" for line in lines(n, 0.7, settings, **change)),
    ]
    layout = {
        "columns": [{"head": "M", "field": "label"}, *({"head": c, "metric": c, "direction": "lower"} for c in columns)]
    }
    layout |= {"rows": rows or [{"run": name} for name in runs], "bold": {}}
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(layout))
    return build_table(load_layout(path), Measurements(measured), runs, mode)


def bold(made):
    return {cell.text for row in made.rows for cell in row.cells if cell.bold}


def external(**cells):
    return SheetRow("met", "Met", "external", **cells)


SAID = ("loss:FID", "loss:inception_cpu", "choice:dinov2 start:dinov2 loss:vgg16 loss:inception")


@pytest.mark.parametrize(
    ("row", "change"),
    [
        *((external(saw=words), {}) for words in SAID),
        (external(), {}),  # nobody says anything
        (external(saw="unknown"), {}),
        (SheetRow("met", "Met", "mine:METHOD"), {}),
        (SheetRow("met", "Met", "sida", saw="loss:inception"), {}),
        (SheetRow("met", "Met", "data", saw="loss:inception"), {}),
        (external(saw="loss:inception", protocol="q.yaml", second_protocol="q.yaml"), {}),
        (external(saw="loss:inception"), {"settings": "frechet cov_ddof=0 extractor=inception_cpu"}),
        (external(saw="loss:inception"), {"settings": "kernel extractor=inception subsets=10"}),
        (external(saw="loss:inception"), {"settings": "frechet extractor=mine.py:Wrapped"}),
        (external(saw="loss:inception"), {"settings": "mean of.a.extractor=inception of.b.extractor=dinov2"}),
        # A score, or a number of another group: the record says it, and the sheet does not take it away.
        (external(), {"saw": "loss:inception"}),
        (external(saw="none"), {"saw": "loss:inception"}),
        (SheetRow("met", "Met", "sida"), {"saw": "loss:inception"}),
    ],
)
def test_a_row_that_met_the_network_of_the_metric_is_not_bold(tmp_path, row, change):
    made = table(tmp_path, row, **change)
    assert "0.700" not in bold(made)
    unknown = row.seen is None and "saw" not in change
    # An unknown row may be an honest one, so that no other row is better than it.
    assert bold(made) == (set() if unknown else {"2.000"})
    assert {cell.mark for line in made.rows for cell in line.cells if cell.text == "0.700"} == {"" if unknown else "‡"}
    assert ("0.700 ± 0.001 ‡" in to_markdown(made), r"\ddagger" in to_latex(made), "‡" in to_html(made)) == (
        not unknown,
    ) * 3
    assert "not ranked" in to_markdown(made)


def test_an_honest_row_is_bold(tmp_path):
    for saw in ("none", "loss:dinov2", "start:inception", "choice:inception", "loss:vgg16"):
        assert bold(table(tmp_path, external(saw=saw))) == {"0.700"}, saw
    assert "§ fid of Met: trained by a network that learned from the same labels (vgg16)" in to_markdown(
        table(tmp_path, external(saw="loss:vgg16"))
    )
    assert "chosen by metrics on different networks" in to_markdown(table(tmp_path, external(saw="choice:dinov2")))


@pytest.mark.parametrize(
    ("saw", "held_out", "best", "why"),
    [
        ("none", "40/40", {"2.000"}, "40 of 40"),
        ("none", "3/60", {"2.000"}, "3 of 60"),  # a part of them
        ("data:none", "40/40", {"2.000"}, "40 of 40"),  # a row's word does not take it away
        ("data:held-out", "unknown", {"2.000"}, "data:held-out"),
        ("data:held-out", "0/60", {"2.000"}, "data:held-out"),
        ("none", "unknown", set(), "nobody says whether"),  # it may be an honest one
        ("data:none", "unknown", {"0.700"}, ""),
        ("none", "0/60", {"0.700"}, ""),
        ("none", "1/60", {"0.700"}, ""),  # data sets have pictures twice
        ("data:held-out", "", {"0.700"}, ""),  # the metric has no held-out images
    ],
)
def test_a_row_that_has_seen_the_held_out_images_is_not_bold(tmp_path, saw, held_out, best, why):
    made = table(tmp_path, external(saw=saw), held_out=held_out)
    assert bold(made) == best
    assert {cell.mark for row in made.rows for cell in row.cells if cell.text == "0.700"} == ({"¶"} if why else {""})
    assert ("not ranked" in to_markdown(made)) == bool(why)
    assert why in to_markdown(made)
    assert r"\P" in to_latex(made) if why else "¶" not in to_html(made)


@pytest.mark.parametrize("column", ["extractor_sha256", "reference_sha256"])
def test_a_value_without_a_digest_is_not_bold(tmp_path, column):
    path, runs = tmp_path / "t.yaml", {"a": external(saw="none"), "b": external(saw="none")}
    columns = [{"head": "M", "field": "label"}, {"head": "FID", "metric": "fid", "direction": "lower"}]
    path.write_text(yaml.safe_dump({"columns": columns, "rows": [{"run": "a"}, {"run": "b"}], "bold": {}}))
    for digest, best in (("c" * 64, {"0.700"}), ("", set())):
        rows = [row for name, value in (("a", 2.0), ("b", 0.7)) for row in lines(name, value, **{column: digest})]
        made = build_table(load_layout(path), Measurements(rows), runs, "measured")
        assert bold(made) == best
        assert ("no digest" in to_markdown(made)) == (not best)
        unsaid = dict.fromkeys("ab", external())
        of_unsaid = to_markdown(build_table(load_layout(path), Measurements(rows), unsaid, "measured"))
        assert ("no digest" in of_unsaid) == (not best)


def test_training_seeds_that_are_pooled_with_one_that_met_it_are_not_bold(tmp_path):
    seed = SheetRow("met-1", "Met", "sida", saw="loss:inception")
    rows = [{"run": "honest"}, {"run": "met", "pool": ["met-1"]}]
    assert bold(table(tmp_path, SheetRow("met", "Met", "sida"), seed, rows=rows)) == {"2.000"}


def test_published_numbers_follow_the_same_rule(tmp_path, monkeypatch):
    rows = [{"run": "honest"}, {"label": "GDD-I", "published": "table1-gdd-i-{metric}", "nfe": "1"}]
    monkeypatch.setattr("eval.results.published.published_saw", lambda: {"GDD-I": read_saw("loss:inception")})
    for mode in ("paper", "audit"):
        assert bold(table(tmp_path, None, mode=mode, rows=rows)) <= {"2.000"}
    monkeypatch.setattr("eval.results.published.published_saw", dict)
    for mode in ("paper", "audit"):
        assert not bold(table(tmp_path, None, mode=mode, rows=rows))


def test_a_method_says_it_for_its_rows(monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, "sida", dataclasses.replace(METHODS["sida"], saw=Saw(loss=("inception",))))
    for saw in (None, "none", "loss:clip", "choice:dinov2"):
        assert "0.700" not in bold(table(tmp_path, SheetRow("met", "Met", "sida", saw=saw)))
    for name, method in METHODS.items():
        assert official_saw(name) is not None, name
        assert all(network_of(network) for network in method.saw.loss)
    # Words that another method was given say nothing about another loss.
    derived = dataclasses.replace(METHODS["dmd"], name="derived", loss=METHODS["sid"].loss)
    monkeypatch.setitem(METHODS, "derived", derived)
    assert SheetRow("met", "Met", "derived").seen is None
    assert "0.700" not in bold(table(tmp_path, SheetRow("met", "Met", "derived")))
    assert all(network_of(name) for name in {*EXTRACTORS, *BACKBONES} - {"pixels"})


def test_a_start_and_optional_judges_are_part_of_a_row(tmp_path):
    sheet = "run\tlabel\tmethod\tteacher\tinit\talpha\trecipe\tsampler\tsaw\n"
    sheet += "first\tA\tsid\tdigits\t\t1.0\tr\tone\tloss:inception\nsecond\tB\tsid2a\tdigits\tfirst\t1.0\tr\tone\t\n"
    sheet += "third\tC\tgdd\tdigits\t\t\tg\tone\tnone\nfourth\tD\tsida\tdigits\t\t1.0\tr\tone\t\n"
    (tmp_path / "runs.tsv").write_text(sheet)
    settings = {"preset": "x", "runs": "runs.tsv", "dataset": "digits", "protocol": "digits"}
    settings |= {
        "samplers": {"one": {"kind": "one_step"}},
        "recipes": {
            "r": {"total_kimg": 1.0, "batch_size": 1, "lr": 1.0e-5},
            "g": {"total_kimg": 1.0, "batch_size": 1, "lr": 1.0e-5, "options": {"backbones": ["digits"]}},
        },
    }
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(settings | {"teachers": {"digits": {"checkpoint": "x"}}}))
    rows = Preset.load(tmp_path / "p.yaml").runs
    assert rows["second"].seen.loss == ("inception",)
    assert rows["third"].seen.loss == ("digits_backbone",)
    assert (rows["fourth"].saw, rows["fourth"].seen.loss) == (None, ())


@pytest.mark.parametrize(("selection", "network"), [("fd", "digits"), ("fd_glyphs", "glyphs")])
def test_the_metric_that_chooses_a_file_is_part_of_a_row(tmp_path, selection, network):
    sheet = "run\tlabel\tmethod\tteacher\tinit\talpha\trecipe\tsampler\tsaw\tcheckpoint\n"
    sheet += "chosen\tA\tsid\tdigits\t\t1.0\tr\tone\t\t\nlast\tB\tsid\tdigits\t\t1.0\tl\tone\t\t\n"
    sheet += "unknown\tC\tsid\tdigits\t\t1.0\tr\tone\tunknown\t\nother\tD\texternal\t\t\t\t\tone\tnone\tx\n"
    (tmp_path / "runs.tsv").write_text(sheet)
    protocol = yaml.safe_load((ROOT / "config/protocols/digits-split.yaml").read_text())
    protocol |= {"name": "own", "selection": selection, "watch": [selection]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(protocol))
    recipe = {"total_kimg": 1.0, "batch_size": 1, "lr": 1.0e-5}
    settings = {"preset": "x", "runs": "runs.tsv", "dataset": "digits", "protocol": "own.yaml"}
    settings |= {"samplers": {"one": {"kind": "one_step"}}, "teachers": {"digits": {"checkpoint": "x"}}}
    settings |= {"recipes": {"r": recipe | {"evaluation": {"every_kimg": 1, "num_samples": 100}}, "l": recipe}}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(settings))
    rows = Preset.load(tmp_path / "p.yaml").runs
    assert str(rows["chosen"].seen) == f"choice:{network}"
    assert [str(rows[name].seen) for name in ("last", "unknown", "other")] == ["none", "None", "none"]


def test_a_column_says_how_many_trainings_a_row_has(tmp_path):
    runs = {name: SheetRow(name, name, "sid") for name in ("a", "b", "c")} | {"data": SheetRow("data", "data", "data")}
    path = tmp_path / "t.yaml"
    rows = [{"run": "data"}, {"run": "a"}, {"run": "b", "pool": ["c"]}]
    columns = [{"head": "Seeds", "field": "seeds"}, {"head": "FID", "metric": "fid"}]
    path.write_text(yaml.safe_dump({"columns": columns, "rows": rows}))
    made = build_table(load_layout(path), Measurements([x for name in runs for x in lines(name, 1.0)]), runs)
    assert [row.cells[0].text for row in made.rows] == ["", "1", "2"]


@pytest.mark.parametrize("words", ["loss:incepton", "lost:inception", "loss:"])
def test_a_word_that_names_nothing_is_refused(tmp_path, words):
    (tmp_path / "runs.tsv").write_text(f"run\tlabel\tmethod\tsaw\na\tA\texternal\t{words}\n")
    refused(r"runs\.tsv:2: saw", read_runs, tmp_path / "runs.tsv")


def test_no_claim_is_decided_by_a_value_on_a_network_of_the_loss(tmp_path):
    claim = {
        "id": "c",
        "statement": "t",
        "parts": [{"rule": "LT", "metric": "fid", "a": {"run": "met"}, "b": {"run": "honest"}}],
    }
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"about": "x", "claims": [claim]}))
    undecided = "not decided here"
    for saw, outcome in (
        ("none", "supported"),
        ("loss:inception", undecided),
        ("unknown", undecided),
        (None, undecided),
    ):
        runs = {"honest": SheetRow("honest", "H", "sida"), "met": external(saw=saw)}
        evidence = Evidence(Measurements([*lines("honest", 2.0), *lines("met", 0.7)]), runs)
        assert decide(load_claims(tmp_path / "claims.yaml").claims, evidence)[0].outcome == outcome


def test_the_held_out_mean_is_over_judges_that_no_row_met(tmp_path):
    """Unknown is not none, and one judge is no panel."""
    judges = ("inception", "dinov2", "clip_fdr", "mae_fdr")

    def shown(saw):
        rows = {"a": SheetRow("a", "A", "sida"), "b": external(saw=saw)}
        measured = [row for place, judge in enumerate(judges) for run in ("a", "met") for row in lines(
            run, 1.0 + place, f"ratio extractor={judge}", judge)]  # fmt: skip
        columns = [{"head": "M", "field": "label"}, {"head": "Mean", "metric": "m", "held_out": list(judges)}]
        path = tmp_path / "t.yaml"
        path.write_text(yaml.safe_dump({"columns": columns, "rows": [{"run": "a"}, {"run": "met"}], "bold": {}}))
        made = build_table(load_layout(path), Measurements(measured), rows | {"met": rows["b"]}, "measured")
        return made.rows[0].cells[1].plain[:3]

    assert shown("none") == "2.5"
    assert shown("loss:inception") == "3.0"
    assert shown("loss:inception start:dinov2") == "3.5"
    assert shown("loss:inception loss:clip start:dinov2") == shown("unknown") == "–"
