"""The check of the pages' words finds faults of prose, by page and line, and none in code."""

import pytest
import yaml

from tools import prose

#: A sentence of 49 words.
LONG = f"{' '.join(f'hat-{a}{b}' for a in 'abcdefg' for b in 'abcdefg')}.\n"
SETTINGS = yaml.safe_load(prose.RULES.read_text())


def rules(page: str, text: str) -> list[tuple[int, str]]:
    """Line and rule of each finding."""
    return [(finding.line, finding.rule) for finding in prose.findings(page, text, SETTINGS)]


@pytest.mark.parametrize(
    ("sentence", "rule"),
    [
        ("What a mirror shows is turned.", "opening"),
        ("A damaged archive is one line.", "one line"),
        ("The sheet knows its rows.", "person"),
        ("It has colours, frames and hats.", "series"),
        ("A frame is read via its name.", "latin"),
        ("The hat will stay.", "future"),
        ("The the hat stays.", "lexical_illusions"),
        (LONG, "longest"),
    ],
)
def test_a_fault_is_found_at_its_line(sentence, rule):
    found = rules("docs/faq.md", f"# Hats\n\nA hat is red.\n{sentence}\n")
    assert (4, rule) in found, found


def test_code_tables_and_questions_have_none():
    text = "# Hats\n\nWhat is a hat?\n\n    the the hat will stay\n\n```sh\nthe the hat\n```\n\nThe `the the` stays.\n"
    assert rules("docs/faq.md", f"{text}| a hat | {LONG[:-1]} |\n") == []


def test_a_report_of_a_study_may_have_long_sentences():
    assert rules("docs/faq.md", LONG)
    assert not rules("studies/hats/README.md", LONG)
