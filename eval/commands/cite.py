"""``sida cite``: BibTeX of this suite, the papers and the metrics, or of the rows of a table."""

from __future__ import annotations

import argparse

HELP = "Print BibTeX entries: of this suite with its papers and metrics, or of the rows of a table."
EXAMPLES = """examples:
  sida cite                 (this suite, SiD, SiDA, GDD, their teachers, and the metrics)
  sida cite table1          (each row of Table 1)
  sida cite yin2024dmd2     (one entry, by its key)
"""
#: Keys that any use of this suite cites.
_ALWAYS = ("zhou2024sida", "zhou2024sid", "zheng2024gdd", "karras2022edm", "karras2024edm2")
_METRICS = ("heusel2017fid", "salimans2016is", "kynkaanniemi2019pr", "stein2023fddinov2", "parmar2021cleanfid")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="tables (layouts) or keys of entries")


def run(args: argparse.Namespace) -> int:
    """Prints the entries."""
    from eval.results.published import bibliography, references
    from eval.tables import make_table
    from eval.tables.latex import cited_keys
    from sida.config.resources import ROOT
    from sida.files.text_files import parse_yaml
    from sida.provenance import code_version

    if not args.names:
        about = parse_yaml((ROOT / "CITATION.cff").read_text(encoding="utf-8"), "CITATION.cff")
        authors = " and ".join(f"{{{author['name']}}}" for author in about["authors"])
        entry = (
            f"author = {{{authors}}},\n  title = {{{about['title']}}},\n  year = {{{str(about['date-released'])[:4]}}}"
        )
        # The address of the repository has one place: `repository-code` of CITATION.cff.
        entry += f",\n  url = {{{about['repository-code']}}}" if "repository-code" in about else ""
        print(f"@software{{sida_repro,\n  {entry}, version = {{{code_version()}}}}}\n")
    keys = [*_ALWAYS, *_METRICS] if not args.names else []
    for name in args.names:
        keys += [name] if name in references() else cited_keys(make_table(name, mode="paper"))
    print(bibliography(keys), end="")
    return 0
