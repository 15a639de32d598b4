"""Each published row has a BibTeX entry, and BibTeX reads the entries."""

import re

import pytest

from eval.results.published import bibliography, cited_label, load_published, references
from eval.tables import to_latex
from eval.tables.files import make_table
from sida.errors import UserError


def test_each_row_of_the_papers_tables_has_an_entry():
    labels = {p.row_label for p in load_published().values() if re.fullmatch(r"table[1-7]", p.source)}
    without = [label for label in labels if cited_label(label)[1] is None]
    assert all(label.startswith("column header") for label in without)


@pytest.mark.parametrize(
    ("label", "name", "key"),
    [
        ("DMD2 (Yin et al., 2024a)", "DMD2", "yin2024dmd2"),
        ("G-distill (Meng et al., 2023) (w=0.3)", "G-distill (w=0.3)", "meng2022guided"),
        ("SiD2A, α=1.2 (ours)", "SiD2A, α=1.2 (ours)", "zhou2024sida"),
        ("GDD-I", "GDD-I", "zheng2024gdd"),
    ],
)
def test_labels_lose_their_citation_and_get_a_key(label, name, key):
    shown, entry = cited_label(label)
    assert (shown, entry.key) == (name, key)


def test_a_label_of_nobody_has_no_entry():
    assert cited_label("Class mean and noise") == ("Class mean and noise", None)


def test_entries_are_whole_and_citations_unique():
    entries = references()
    cited = [text for entry in entries.values() for text in entry.cited]
    assert len(cited) == len(set(cited))
    for key, entry in entries.items():
        assert entry.bibtex.count("{") == entry.bibtex.count("}"), key
        assert re.search(r"title = .*year = \{\d{4}\}", entry.bibtex, re.DOTALL), key
        assert "names =" not in entry.bibtex


def test_an_unknown_key_is_refused():
    with pytest.raises(UserError, match="nobody2024"):
        bibliography(["nobody2024"])


def test_printed_numbers_have_a_source_an_entry_and_no_protocol_to_compare_by():
    printed = [p for p in load_published().values() if p.id.startswith("printed-")]
    assert printed
    for number in printed:
        assert number.notes, number.id
        assert number.value > 0
        # EDM2's own presets have a protocol of this suite; the evaluations of all others are their own.
        assert number.identity.quoted == (number.method != "EDM2"), number.id
        assert cited_label(number.row_label)[1] is not None, number.id


def test_a_table_with_cite_compiles_alone_with_its_references():
    tex = to_latex(make_table("printed-imagenet256", mode="paper"))
    assert r"IMM~\cite{zhou2025imm}" in tex
    assert tex.index(r"\bibitem{zhou2025imm}") < tex.index(r"\begin{table}")
    assert tex.count(r"\bibitem") == 3
