"""Scores of anyone's images beside the rows of a table."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from sida.assets.registry import load_registry
from sida.config.lookup import ROOT
from sida.config.settings import load_spec
from sida.eval.measuring.protocol import load_protocol
from sida.eval.results.exchange import exchanged
from sida.eval.results.published import protocols
from sida.eval.results.trial_files import write_csv
from sida.eval.tables.scores import row_columns, table_protocol, unfitting
from sida.files.atomic import write_hashed_json
from sida.workflow.cli import main
from tests.eval.synthetic_output import csv_rows, digest_of, inputs_of
from tests.refused import refused
from tests.workflow.workspace import put

OPTIONS = ("--nfe", "4", "--family", "Two & More", "--saw", "loss:digits")
SHEET = "run\tfamily\tlabel\tmethod\tsampler\ntheirs\tOne Step\tTheirs\texternal\t\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scores of digits, one of them also as measurements with a sheet."""
    folder = tmp_path_factory.mktemp("scores")
    for name, more in (("theirs", ()), ("Mine", OPTIONS)):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (80, 8, 8), dtype=np.uint8)
        np.savez(folder / "images.npz", arr_0=pixels, arr_1=np.arange(80) % 10)
        command = ["score", str(folder / "images.npz"), "--protocol", "digits", "--num-samples", "40"]
        command += ["--dataset", '{"name": "digits", "kind": "digits"}', "--trials", "2", "--name", name, *more]
        assert main([*command, "--out", str(folder / f"{name}.json"), "--latex", str(folder / f"{name}.tex")]) == 0
    write_csv(folder / "measurements.csv", load_spec(str(folder / "theirs.json"))["measurements"])
    (folder / "runs.tsv").write_text(SHEET)
    return folder


def test_a_scores_row_is_the_line_that_the_table_with_it_has(folder, tmp_path):
    """Same columns, decimals and units: accuracy as per cent, precision without its spread."""
    command = ["table", "main", *inputs_of(folder), "--add", str(folder / "Mine.json")]
    assert main([*command, "--out", str(tmp_path / "main.tex")]) == 0
    comment, row = (folder / "Mine.tex").read_text().splitlines()
    assert comment == r"% Family & Model & NFE & FD & IS & Prec. & Rec. & Acc. \% & FD pixel"
    assert (tmp_path / "main.tex").read_text().splitlines().count(row) == 1
    assert row.startswith(r"Two \& More & Mine & $4$ & ")
    assert row.count(r"\ddagger") == 5  # all but the distance of pixels
    found = {(r["model"], r["column"]): r for r in csv_rows(tmp_path / "main.csv")}
    summary = json.loads((folder / "Mine.json").read_text())["summary"]
    assert float(found["Mine", "fd"]["measured"]) == pytest.approx(summary["fd"]["mean"])
    assert found["Mine", "fd"]["protocol"] == found["Theirs", "fd"]["protocol"] == "digits-n40"


def test_a_score_with_fewer_images_says_that_it_does_not_fit_its_table(folder, capsys):
    command = ["score", str(folder / "images.npz"), "--like", "main", "--num-samples", "40", "--name", "x"]
    assert main([*command, "--protocol", "digits"]) == 0
    told = "note: the row does not fit main: it has trials of 40 images, its protocol 'digits' has 2,500"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("stated", [[], ["--nfe", "1"], ["--family", "Mine"]], ids=["nothing", "nfe", "family"])
def test_nfe_and_family_that_nobody_states_are_noted(folder, capsys, stated):
    command = ["score", str(folder / "images.npz"), "--like", "main", "--num-samples", "20", *stated]
    assert main(command) == 0
    assert re.findall("note: .*(--nfe).*(--family)", capsys.readouterr().out) == [("--nfe", "--family")] * (not stated)


def test_a_score_asks_for_a_table_or_a_protocol_and_a_function_for_a_colon(folder, refusal):
    for arguments, told in (
        ([str(folder / "images.npz")], "--like"),
        (["mine.sample", "--like", "main"], "mine:sample"),
    ):
        error = refusal("score", *arguments)
        assert told in error


def test_a_table_gives_a_score_the_one_protocol_of_its_numbers(tmp_path):
    assert table_protocol("table1") == table_protocol("table2") == "cifar10"
    assert table_protocol("main") == "digits"
    refused("table8", table_protocol, "table8")
    for rows, told in (
        ("[{run: a}]", "no protocol"),
        ("[{published: table1-sida-a1.0-fid}, {published: table3-sid-a1.0-fid}]", "(cifar10, imagenet64)"),
    ):
        layout = put(tmp_path / "own.yaml", f"{{columns: [{{head: FID, metric: fid}}], rows: {rows}}}")
        assert "--protocol" in refused(re.escape(told), table_protocol, str(layout)).remedy
        assert unfitting(SimpleNamespace(protocol=load_protocol("digits")), str(layout)) == []


@pytest.mark.parametrize(
    ("protocol", "table", "told"),
    [
        ("cifar10", "table1", None), ("digits", None, None), ("imagenet64", "table1", "'imagenet64'.*'cifar10'"),
        ("digits", "table1", "2,500 images.*'cifar10' has 50,000"),
    ],
)  # fmt: skip
def test_a_score_of_another_protocol_or_of_fewer_images_does_not_fit_a_table(protocol, table, told):
    sentences = unfitting(SimpleNamespace(protocol=load_protocol(protocol)), table)
    assert len(sentences) == (told is not None)
    assert all(re.search(f"{table}.*{told}", sentence) for sentence in sentences)


def test_an_added_row_stands_in_the_papers_columns_and_is_bold_where_it_is_best(mine, tmp_path):
    """One value a cell, one bold value a column, and entries of the suite and the metrics in the bibliography."""
    for best, value in ((False, 1.9), (True, 1.1)):
        out, bib = tmp_path / "t.md", tmp_path / "r.bib"
        row = mine(value=value)
        assert main(["table", "table1", "--add", str(row), "--out", str(out), "--bib", str(bib)]) == 0
        lines = [
            [cell.strip() for cell in line.split("|")[1:-1]] for line in out.read_text().splitlines() if "|" in line
        ]
        assert lines[0] == ["Family", "Model", "NFE", "FID ↓", "IS ↑"]
        own = f"{value:.3f} ± 0.001"
        fids = [line[3] for line in lines if line[3].startswith("**")]
        assert fids == ([f"**{own}**"] if best else ["**1.499 ± 0.012**"])
        assert (
            lines[-1] == ["One Step", "Mine", "1", f"**{own}**" if best else own, "*not measured*"] or not lines[-1][0]
        )
        assert {"sida_repro", "heusel2017fid", "zhou2024sida"} <= set(re.findall(r"@\w+{(\w+),", bib.read_text()))


def test_a_score_may_have_braces_in_its_name(folder, tmp_path):
    record = load_spec(str(folder / "Mine.json"))
    record["measurements"] = [line | {"run": "Mine {small}"} for line in record["measurements"]]
    write_hashed_json(tmp_path / "row.json", record)
    for inputs in ([], inputs_of(folder)):
        command = ["table", "main", *inputs, "--add", str(tmp_path / "row.json"), "--out", str(tmp_path / "t.md")]
        assert main(command) == 0
        assert "| Mine {small} " in (tmp_path / "t.md").read_text()


def test_numbers_of_another_group_are_rows_with_their_origin_and_need_no_sheet(folder, tmp_path, capsys, refusal):
    lines = exchanged(load_spec(str(folder / "Mine.json"))["measurements"])
    theirs = tmp_path / "theirs.jsonl"
    theirs.write_text("".join(json.dumps({**line, "origin": "Ada L., ada.example"}) + "\n" for line in lines))
    out, added = tmp_path / "t.md", ["--add", str(theirs), "--out", str(tmp_path / "t.md")]
    beside = ["table", "main", "--measurements", str(folder / "measurements.csv"), *added]
    assert main(beside) == 0
    for words in ("| Mine (Ada L.) ", "| theirs ", "Measured by Ada L., ada.example, not by this suite: Mine."):
        assert words in out.read_text()
    assert main(["table", "main", *added]) == 0  # alone
    assert "| Mine (Ada L.) " in out.read_text()
    # Values of another identity find no place.
    theirs.write_text(theirs.read_text().replace('"n": 40', '"n": 20'))
    assert "images per trial: 20 != 40" in refusal(*beside)


def test_a_row_may_leave_blank_a_column_that_no_measurement_has(folder, tmp_path):
    layout = tmp_path / "small.yaml"
    columns = "[{head: Model, field: label}, {head: FD, metric: fd}, {head: CLIP, metric: clip, optional: true}]"
    layout.write_text(f"columns: {columns}\nrows:\n- {{run: theirs, blank: [clip], dash: [fd]}}\n")
    assert main(["table", str(layout), *inputs_of(folder), "--out", str(tmp_path / "t.md")]) == 0
    assert "CLIP" not in (tmp_path / "t.md").read_text()


def test_a_protocol_of_other_images_or_classes_has_no_row_in_a_table_of_published_numbers():
    assert [column.metric for column in row_columns(load_protocol("cifar10"), "table1") if column.metric] == [
        "fid",
        "is",
    ]
    refused(r"^--like table1: column 'is': .*digits", row_columns, load_protocol("digits"), "table1")
    refused(r"^--like table3: column 'fid': .*classes", row_columns, load_protocol("cifar10"), "table3")


def test_a_score_of_other_data_is_refused_beside_published_rows(folder, tmp_path, refusal):
    out = tmp_path / "t.tex"
    error = refusal("table", "table1", "--out", str(out), "--add", str(folder / "Mine.json"))
    for words in ("--add: 'Mine'", "column '", "images per trial: 40 != 50,000", "under protocol 'cifar10'"):
        assert words in error
    assert not out.exists()


@pytest.fixture
def mine(folder, tmp_path):
    """Writes a score under the protocol of Table 1 with some changes; returns its path."""

    def write(**change):
        pinned = protocols()["cifar10"]["fid"]
        name, n = change.get("extractor", "inception"), 50_000
        weights = change.get("weights", load_registry()["inception"].sha256)
        reference = {"name": "x", "sha256": change.get("reference", digest_of(pinned.reference))}
        fields = {"num_samples": n, "seed0": change.get("seed0", 0), "resolution": 32, "channels": 3}
        key, dist = change.get("key", "fid"), change.get("dist", "empirical")
        fields |= {"label_dist": dist, "labels": pinned.classes, "quantisation": "truncate", "allow_tf32": False}
        fields |= {"metrics": {key: {"kind": "frechet", "extractor": name, "cov_ddof": 0}}}
        record = load_spec(str(folder / "Mine.json"))
        for trial in record["measurements"]:
            number, value = trial["trial"], change.get("value", 1.9)
            seeds = change.get("seeds", [number * n, (number + 1) * n - 1])
            trial |= {"n": change.get("n", n), "seeds": seeds, "nfe": 1, "details": {}, "family": "One Step"}
            trial |= {"saw": change.get("saw", "none"), "sampler": {"kind": change.get("kind", "one_step")}}
            trial |= {"metrics": {key: value + change.get("step", 0.001) * (number - 0.5)}}
            trial |= {"protocol": {"name": "cifar10", "fields": fields}, "extractors": {name: weights}}
            trial |= {"metric_references": {key: reference}, "reference": reference}
        write_hashed_json(tmp_path / "mine.json", record)
        return tmp_path / "mine.json"

    return write


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extractor": "pixels"}, "metric: extractor=pixels != extractor=inception"),
        ({"reference": "asset fid-ref-cifar10"}, "mine.json: run 'Mine', trial 0: reference_sha256: must be a digest"),
        ({"seeds": [0, 49999]}, "seeds: [0, 49999] do not belong to trial 1"),
        ({"seeds": [], "seed0": None}, "is not a result of sida score"),
        ({"seeds": [0, 49999], "seed0": None}, "trials 0 and 1 have equal or overlapping seeds"),
        ({"step": 0}, "all 2 trials have the value 1.9"),
        ({"key": "fd"}, "none of the table's metrics (fid"),
    ],
)
def test_invented_records_find_no_place_in_table_1(mine, tmp_path, capsys, change, words):
    out = tmp_path / "t.tex"
    done = main(["table", "table1", "--add", str(mine(**change)), "--out", str(out)])
    assert (done, out.exists()) == (1, False)
    assert words in capsys.readouterr().err


def test_positions_of_files_are_no_seeds(mine, folder, tmp_path):
    """Nor those that earlier records have; the note on seeds names the rows that have none."""
    assert "seeds" not in load_spec(str(folder / "theirs.json"))["measurements"][0]
    for kind, told in (("one_step", "image seeds 0–99,999"), ("images", "50,000 images.")):
        assert main(["table", "table1", "--add", str(mine(kind=kind)), "--out", str(tmp_path / "t.md")]) == 0
        assert told in (tmp_path / "t.md").read_text()
        (line,) = [row for row in csv_rows(tmp_path / "t.csv") if row["model"] == "Mine" and row["measured"]]
        assert (line["seed_first"] == "") == (kind == "images")
    drawn = mine().rename(tmp_path / "drawn.json")
    record = load_spec(str(mine(kind="images")))
    write_hashed_json(
        tmp_path / "files.json", record | {"measurements": [m | {"run": "F"} for m in record["measurements"]]}
    )
    added = ["--add", str(drawn), "--add", str(tmp_path / "files.json")]
    assert main(["table", "table1", *added, "--out", str(tmp_path / "t.md")]) == 0
    assert "image seeds 0–99,999 (F: unknown)." in (tmp_path / "t.md").read_text()


def test_scores_that_cannot_stand_there_are_told(folder, tmp_path, refusal):
    out = tmp_path / "t.tex"
    record = load_spec(str(folder / "Mine.json"))
    for line in record["measurements"]:
        line["family"] = "=1+cmd|x"
    write_hashed_json(tmp_path / "evil.json", record)
    main_table = ["table", "main", "--out", str(out), *inputs_of(folder), "--add"]
    table1 = ["table", "table1", "--out", str(out), "--add"]
    images = ["score", str(folder / "images.npz"), "--protocol", "digits", "--num-samples", "20", "--like"]
    for words, command in (
        (["already called 'theirs'", "--name"], [*main_table, str(folder / "theirs.json")]),
        (["evil.json", "as a formula"], [*table1, str(tmp_path / "evil.json")]),
        (["table5", "protocol 'digits-n20'"], [*images, "table5"]),
        (["--like", "no-such"], [*images, "no-such"]),
        (["--like", "no-such"], [*images[:2], "--like", "no-such"]),
        (["(CSV)", "--measurements", "--runs"], [*table1, str(ROOT / "studies/demo/stored/measurements.csv")]),
        (["samples.png: is one picture", "--out"], [*table1, str(ROOT / "studies/demo/samples.png")]),
        (["runs.tsv: is a text", "--out"], [*table1, str(ROOT / "studies/demo/runs.tsv")]),
    ):
        line = refusal(*command)
        assert [word for word in words if word not in line] == []
        assert "damaged" not in line
    assert not out.exists()
