"""Twenty questions of a newcomer: each has its answer in one section of one page (tests/questions.tsv)."""

import csv
import re

import pytest

from sida.config.lookup import ROOT

with open(ROOT / "tests/questions.tsv", encoding="utf-8", newline="") as _file:
    QUESTIONS = list(csv.DictReader(_file, delimiter="\t"))


def sections(page):
    """Text below each heading of a page, with that of its sub-headings, by the heading's anchor."""
    parts = re.split(r"^(#+) +(.*)$", (ROOT / page).read_text(encoding="utf-8"), flags=re.M)[1:]
    headings = [(len(level), title, text) for level, title, text in zip(*(parts[start::3] for start in range(3)))]
    texts = {}
    for number, (level, title, text) in enumerate(headings):
        anchor = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        texts[anchor] = text
        for deeper, _, more in headings[number + 1 :]:
            if deeper <= level:
                break
            texts[anchor] += more
    return texts


def test_there_are_twenty():
    assert len(QUESTIONS) == 20


@pytest.mark.parametrize("line", QUESTIONS, ids=lambda line: line["question"])
def test_the_section_has_the_answer(line):
    page, _, anchor = line["place"].partition("#")
    text = sections(page)[anchor]
    assert len(text.split()) > 10
    assert line["words"]
    assert [word for word in filter(None, line["words"].split(", ")) if word not in text] == []
