"""The board: what is printed and what others send, what may be put into an order, and its page in a browser."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from fnmatch import fnmatchcase

import pytest
import yaml

from sida.assets.registry import load_registry
from sida.config.lookup import ROOT
from sida.config.settings import from_mapping
from sida.eval.results.csv_files import read_csv
from sida.eval.results.measurements import Estimate, measurements_text
from sida.eval.results.published import PUBLISHED, load_published, protocols
from sida.plugins.exchange.board import (
    TRAINING,
    About,
    agreement_of_two,
    printed_rows,
    rank_groups,
    read_sent,
    sent_rows,
)
from sida.plugins.exchange.board_page import board_rows, write_board
from tests.browser import browser, needs_chromium
from tests.eval.claims.evidence import lines
from tests.eval.conftest import _registered, recorded_cache  # noqa: F401
from tests.eval.synthetic_output import digest_of
from tests.refused import command, refused, refusing

ABOUT = {
    "origin": "Ada L., ada.example", "account": "github:ada", "generator": "Mine", "teacher": "EDM", "data": "yes",
    "date": "2026-11", "address": "arXiv 2410.14919", "conditioning": "unconditional",
}  # fmt: skip
BOB = {"origin": "Bob, bob.example", "account": "github:bob"}
NETWORK = "c" * 64


@pytest.fixture
def send(tmp_path):
    """Sends a score of CIFAR-10 with some changes as an exchanged record; returns the folder of all rows."""

    def write(name="ada", value=1.9, about=None, root="sent", values=None, metric="fid", **change):
        pinned = protocols()["cifar10"][metric]
        n = change.get("n", 50_000)
        facts = {
            "n": n, "protocol": "cifar10", "settings": pinned.settings, "classes": pinned.classes, "resolution": "32",
            "reference_sha256": digest_of(pinned.reference) if pinned.reference else "",
            "extractor_sha256": load_registry()["inception"].sha256,
            "network_sha256": NETWORK, "saw": "none", "date": "2026-11-27",
        } | change  # fmt: skip
        first = facts.pop("seed0", 0)
        rows = [
            dataclasses.asdict(line) | {"seed_first": first + trial * n, "seed_last": first + (trial + 1) * n - 1}
            for trial, line in enumerate(lines("mine", values or [value, value + 0.001], metric, **facts))
        ]
        measured, records = tmp_path / root / f"measured-{name}", tmp_path / root / f"records-{name}"
        measured.mkdir(parents=True)
        (measured / "measurements.csv").write_text(measurements_text(rows))
        said = ABOUT | (about or {})
        command("export", measured, "--to", "eee", records, "--origin", said["origin"] or "x")
        (record,) = records.rglob("*.json")
        folder = tmp_path / root / "sent" / name
        folder.mkdir(parents=True)
        record.rename(folder / "record.json")
        (folder / "about.yaml").write_text(yaml.safe_dump({k: v for k, v in said.items() if v is not None}))
        return folder.parent

    return write


def certainties(folder):
    return {row.origin: row.certainty for row in sent_rows(read_sent(folder))}


def test_the_board_has_every_printed_number_with_its_place_and_certainty():
    rows = printed_rows()
    board = [record for _, record in read_csv(PUBLISHED / "board.csv")[1]]
    further = [record for record in board if record["notes"].startswith("read 2026-11-27")]
    assert Counter(record["measured_by_authors"] for record in further) == {"true": 59, "false": 23}
    shown = {(row.generator, row.nfe, row.metric, row.text, row.certainty, row.date, row.address) for row in rows}
    for record in board:
        certainty = "authors" if record["measured_by_authors"] == "true" else "quoted"
        number = tuple(record[name] for name in ("row_label", "nfe", "metric", "value"))
        assert (*number, certainty, record["date"], record["address"]) in shown
    assert {(row.date, row.address) for row in rows if not row.origin} == {("2024-10", "arXiv 2410.14919")}
    assert all(row.address and row.exposure for row in rows)
    # One word for one fact.
    assert {row.data for row in rows} == {"yes", "no", ""}
    assert all(re.fullmatch(r"(20\d\d(-\d\d)?)?", row.date) for row in rows)


def test_images_seen_and_compute_stand_beside_the_numbers_that_print_them(tmp_path):
    ids, lines_of = load_published(), [record for _, record in read_csv(TRAINING)[1]]
    for line in lines_of:
        assert any(fnmatchcase(key, line["numbers"]) for key in ids), line
        assert line["address"], line
        assert line["images"] or line["compute"], line
    said = {(row.generator, row.data_set, row.conditioning): (row.images, row.compute) for row in printed_rows()}
    sida = "SiDA, α=1.0", "CIFAR-10 32×32"
    assert said[*sida, "unconditional"] == ("217.920 M", "8 V100, ~3.6 s per 1,000")
    assert said[*sida, "class-conditional"][0] == "293.184 M"
    assert said["FACM, LightningDiT-XL, 400 epochs", "ImageNet 256×256", "class-conditional"] == ("400 epochs", "")
    write_board(tmp_path / "board.html")
    page = (tmp_path / "board.html").read_text()
    assert "217.920 M" in page
    assert "8 H200, 0.21 s a step" in page


def test_only_comparable_rows_are_put_into_an_order(send):
    def beside(folder):
        """Printed rows that the first row may stand beside."""
        rows = board_rows(folder)
        group = next((group for group in rank_groups(rows) if 0 in group), [])
        return {rows[index].generator for index in group} - {"Mine"}

    assert beside(send()) == {"SiD, α=1.0", "SiD, α=1.2", "SiDA, α=1.0", "SiD2A, α=1.0", "SiD2A, α=1.2"}
    for number, change in enumerate(
        [
            {"about": {"conditioning": "class-conditional"}},
            {"about": {"conditioning": ""}},
            {"reference_sha256": "d" * 64},
            {"saw": "loss:inception"},
        ]
    ):
        assert "SiD, α=1.2" not in beside(send(root=f"root-{number}", **change)), change
    rows = printed_rows()
    assert not any(rows[index].identity.quoted for group in rank_groups(rows) for index in group)


def test_a_row_is_reproduced_by_another_groups_score_of_equal_identity(send):
    ada = ABOUT["origin"]
    folder = send()
    assert certainties(folder) == {ada: "self-reported"}
    # Other images and another network say nothing.
    send("seeds", seed0=10**6, protocol="other-seeds", about=BOB)
    send("network", network_sha256="e" * 64, about={"origin": "Cy, cy.example", "account": "github:cy"})
    assert set(certainties(folder).values()) == {"self-reported"}
    send("bob", value=1.905, about=BOB)
    assert certainties(folder)[ada] == "reproduced"


def test_a_row_that_another_group_cannot_repeat_is_marked(send):
    send()
    folder = send("bob", value=2.1, about=BOB)
    assert certainties(folder) == {ABOUT["origin"]: "not reproduced", "Bob, bob.example": "not reproduced"}
    (row, _) = sent_rows(read_sent(folder))
    assert "Bob, bob.example: better" in row.notes


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"origin": "ada l.,  Ada.example"},
        {"origin": "Ada\u3164 L\uffa0., elsewhere.example"},  # letters without a glyph
        {"origin": "Ａｄａ Ⅼ., elsewhere.example"},  # full width, a Roman numeral
        {"origin": "Ádá Ĺ, elsewhere.example"},  # accents
        {"origin": "𝐀𝐝𝐚-𝓛, elsewhere.example"},  # letters of mathematics
        {"origin": "ADA_L!, elsewhere.example"},
        {"origin": "The bench, ADA.EXAMPLE"},
        {"origin": "The bench，https://www.ada.example/"},
        {"origin": "Аda Ł., elsewhere.example", "account": "github:ADA-"},  # Cyrillic
        {"origin": "Somebody else, elsewhere.example", "account": "github:ada"},
    ],
)
def test_a_group_does_not_reproduce_its_own_row(send, about):
    send()
    other = {"account": "github:other"} if set(about) == {"origin"} else {}
    assert "reproduced" not in certainties(send("again", value=1.905, about=about | other)).values()


def test_a_row_that_has_the_name_of_one_group_and_the_account_of_another_makes_them_one(send):
    folder = send()
    send("eve", value=1.905, about={"origin": "Eve, eve.example", "account": "github:eve"})
    assert set(certainties(folder).values()) == {"reproduced"}
    send("bridge", about={"account": "github:eve"}, network_sha256="e" * 64)
    assert set(certainties(folder).values()) == {"self-reported"}


def test_the_name_of_a_strangers_protocol_is_no_path(send, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text((ROOT / "config/protocols/cifar10.yaml").read_text().replace("label: FID", "label: Read"))
    assert "Read" in own.read_text()
    assert [row.metric for row in sent_rows(read_sent(send(protocol=str(own))))] == ["fid"]


def test_a_look_alike_name_of_another_account_is_another_group_which_the_page_names(send):
    """Cyrillic and Latin letters are different ones: people see the account."""
    folder = send()
    send("again", value=1.905, about={"origin": "Аda L., elsewhere.example", "account": "orcid:0000-0002-1825-0097"})
    (row, _) = sent_rows(read_sent(folder))
    assert (row.certainty, "github:ada" in row.notes) == ("reproduced", True)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ([1.5, 1.501], [0.1, 900.0], "standard error above 5 %"),
        ([0.1, 900.0], [1.5, 1.501], "standard error above 5 %"),
        ([1.5, 1.501], [1.0, 2.1], "standard error above 5 %"),
        ([1.5], [1.501], "a single trial"),
        ([1.5, 1.501], [1.501, 1.5], "the same bits"),
        ([1.5, 1.501, 1.502], [1.49, 1.501, 1.503], "the same bits"),
    ],
)
def test_a_score_confirms_by_bounded_errors_and_other_bytes(send, ours, theirs, reason):
    send(values=ours)
    folder = send("bob", values=theirs, about=BOB)
    assert set(certainties(folder).values()) == {"self-reported"}
    for row in sent_rows(read_sent(folder)):
        assert reason in row.notes


@pytest.mark.parametrize(
    ("others", "certainty"),
    [
        ([1.905, 2.3, 2.4, 2.5, 2.6], "not reproduced"),
        ([1.905, 1.906, 2.3, 2.4], "not reproduced"),
        ([1.905, 1.906, 1.907, 2.3], "reproduced"),
    ],
)
def test_a_majority_of_groups_decides(send, others, certainty):
    folder = send()
    for number, value in enumerate(others):
        about = {"origin": f"Group {number}, g{number}.example", "account": f"gitlab:g{number}"}
        send(f"g{number}", value=value, about=about)
    assert certainties(folder)[ABOUT["origin"]] == certainty


def test_a_group_has_one_vote(send):
    folder = send()
    send("bob", value=2.3, about=BOB)
    for number in range(3):
        # The second and third have the account of the first, and other names.
        about = {"origin": f"Cy {number}, c{number}.example", "account": "github:cy"}
        send(f"cy-{number}", value=1.905 + number / 1000, about=about)
    assert certainties(folder)[ABOUT["origin"]] == "not reproduced"


@pytest.mark.parametrize(
    ("metric", "value", "limit"),
    [("is", 1e6, "1 to 1008"), ("is", 1008.5, "1 to 1008"), ("is", 0.5, "1 to 1008"), ("fid", -0.5, "0 or more")],
)
def test_no_value_is_beyond_the_range_of_its_metric(send, metric, value, limit):
    with refusing(rf"value.* is {limit}"):
        read_sent(send(values=[value, value], metric=metric))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"about": {"origin": ""}}, r"about.yaml: origin: .*a name"),
        ({"about": {"origin": "\u3164., x.example"}}, r"about.yaml: origin: must begin with a name"),
        ({"about": {"origin": "Ada\u200b L., x.example"}}, r"about.yaml: origin: holds a character without a glyph"),
        ({"about": {"teacher": "a\x9b31m"}}, r"about.yaml: teacher: holds a character without a glyph"),
        ({"about": {"account": "ada"}}, r"about.yaml: account: .*github:NAME"),
        ({"about": {"account": None}}, r"about.yaml: .*account.*missing"),
        ({"about": {"date": "27.11.2026"}}, r"about.yaml: date: .*2026-11"),
        ({"about": {"teacher": None}}, r"about.yaml: .*teacher.*missing"),
        ({"network_sha256": ""}, r"record.json: names no network by its digest.*network_sha256"),
        ({"about": {"network_sha256": "d" * 64}}, r"record.json: names two networks"),
        ({"saw": ""}, r"record.json: fid: networks used in training are not stated.*--saw"),
        ({"reference_sha256": ""}, r"record.json: fid: .*no digest"),
        ({"seed0": 10**6}, r"fid: is not protocol 'cifar10' .*seed: 1,000,000 != 0"),
        ({"n": 5000}, r"fid: is not protocol 'cifar10' .*images per trial: 5,000 != 50,000"),
        ({"origin": "Eve"}, r"record.json: was measured by Eve, not by Ada"),
    ],
)
def test_a_row_that_says_too_little_is_refused(send, change, told):
    refused(told, command, "board", "--sent", send(**change))


def test_files_that_do_not_belong_to_a_row_are_refused(send, tmp_path):
    folder = send()
    refused("none: no such folder", command, "board", "--sent", tmp_path / "none")
    record = (folder / "ada/record.json").read_text()
    (folder / "ada/record.json").write_text(
        record.replace('"value": 1.9,', '"value": -1.9,').replace("1.9, ", "-1.9, ")
    )
    refused(r"record\.json.*value", command, "board", "--sent", folder)
    (folder / "ada/record.json").write_text(record)
    for name, told in (("second.json", "must hold about.yaml and one row.json"), ("deep/x.json", "does not lie")):
        path = folder / "ada" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
        refused(told, command, "board", "--sent", folder)
        path.unlink()
    (folder / "stray.json").write_text("{}")
    refused("stray.json: does not lie", command, "board", "--sent", folder)
    (folder / "stray.json").unlink()
    (folder / "ada/record.json").rename(tmp_path / "away.json")
    (folder / "ada/record.json").symlink_to(tmp_path / "away.json")
    refused("record.json: is a link", command, "board", "--sent", folder)


def test_the_rows_of_this_repository_pass_and_the_page_shows_how_to_send_one():
    assert "all of them checked" in command("board")
    (block,) = re.findall(r"about\.yaml` beside it:\n\n((?: {8}.*\n)+)", (ROOT / "docs/board.md").read_text())
    assert from_mapping(About, yaml.safe_load(block), "docs/board.md").data == "yes"


def test_text_of_a_row_is_no_markup(send, tmp_path):
    folder = send(about={"generator": '<img src=x onerror="a()">', "teacher": "</script>|x"})
    command("board", tmp_path / "board.html", "--sent", folder)
    page = (tmp_path / "board.html").read_text()
    assert "<img" not in page
    assert page.count("</script>") == 2  # of the page's own scripts


@needs_chromium
@pytest.mark.slow
def test_the_page_is_used_in_a_browser(send, tmp_path):
    teacher = "EDM | of  ours"
    folder = send(about={"teacher": teacher})
    send("bob", value=1.905, about={**BOB, "teacher": teacher})
    count = write_board(tmp_path / "board.html", folder)
    visible = (
        "[...document.querySelectorAll('tbody tr:not(.group)')].filter((row) => row.offsetParent).map((row) => row."
    )
    with browser(tmp_path / "profile") as page:
        for width in (400, 1400):
            page.open(tmp_path / "board.html", width)
            assert page.run("document.documentElement.scrollWidth") <= width
            assert page.run(f"{visible}dataset.name).length") == count
            # Every cell lies within the window, and no text is cut off.
            assert (
                page.run(
                    "Math.max(...[...document.querySelectorAll('td, th')].map((c) => c.getBoundingClientRect().right))"
                )
                <= width
            )
            # Filters narrow the rows, and the number above them says so.
            for name, value in (("certainty", "reproduced"), ("data", "yes"), ("teacher", teacher), ("steps", "1")):
                chosen = f"document.querySelector('[name={name}]')"
                assert page.run(f"{chosen}.value = '{value}'; {chosen}.value") == value
            page.run("document.querySelector('form').dispatchEvent(new Event('input', {bubbles: true}))")
            assert page.run(f"{visible}dataset.name)") == ["Mine", "Mine"]
            assert page.run("document.querySelector('output').value") == "2"
            page.run("document.querySelector('[type=reset]').click(); new Promise((done) => setTimeout(done, 50))")
            assert page.run(f"{visible}dataset.name).length") == count
            # Sorting by value stays within groups; the rest is in the order of names.
            if width > 1000:
                page.run("document.querySelector('th[data-key=value] button').click()")
            else:
                page.run("document.querySelector('[name=sort]').value = 'value'")
                page.run("document.querySelector('form').dispatchEvent(new Event('input', {bubbles: true}))")
            order = page.run(f"{visible}dataset).map((d) => [d.group, +d.number, d.higher, d.name])")
            assert page.run("document.querySelectorAll('tr.group').length") == len({group for group, *_ in order})
            groups = {group: [row for row in order if row[0] == group] for group, *_ in order}
            for group, rows in groups.items():
                values = [-value if higher == "1" else value for _, value, higher, _ in rows]
                assert group == "" or values == sorted(values)
            assert [*groups][-1] == ""
            for key in ("steps", "year"):
                page.run(f"document.querySelector('[name=sort]').value = '{key}'")
                page.run("document.querySelector('form').dispatchEvent(new Event('input', {bubbles: true}))")
                given = page.run(f"{visible}dataset.{'order' if key == 'steps' else 'date'})")
                assert given == sorted(given, key=float if key == "steps" else str, reverse=key == "year")
        assert set(page.requests) == {(tmp_path / "board.html").as_uri()}


def test_two_groups_agree_within_the_noise_of_both():
    few, many = Estimate(2.0, 0.1, 4), Estimate(2.2, 0.3, 9)  # standard errors 0.05 and 0.1
    for here, there in ((few, many), (many, few)):
        found = agreement_of_two(here, there, "fid")
        assert found.tolerance == pytest.approx(3 * math.hypot(0.05, 0.1))
        assert found.outcome == "agrees"
