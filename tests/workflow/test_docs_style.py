"""The form of the pages: sizes of the style page and of the glossary."""

from __future__ import annotations

import re

from sida.config.resources import ROOT


def test_the_style_page_is_one_page_with_thirty_examples():
    lines = (ROOT / "docs" / "style.md").read_text().splitlines()
    assert len(lines) <= 60
    assert sum(line.startswith("| ") for line in lines) == 31


def test_the_glossary_has_at_most_forty_terms_in_a_few_words():
    parts = re.split(r"^### (.*)$", (ROOT / "docs" / "glossary.md").read_text(), flags=re.M)[1:]
    terms = dict(zip(parts[::2], parts[1::2], strict=True))
    assert 30 <= len(terms) <= 40
    for term, text in terms.items():
        assert 0 < len(text.split("\n## ")[0].split()) <= 45, f"{term} is not explained in two sentences"
