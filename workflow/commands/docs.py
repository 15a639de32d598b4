"""``sida-eval docs``: writes the pages of stored studies, and every number between markers in the documentation."""

from __future__ import annotations

import argparse

from workflow.commands.plan import preset_argument

HELP = "Recompute every number of the documentation: pages of stored results, and numbers between markers."
EXAMPLES = """examples:
  sida-eval docs                      write the pages of all stored studies and all numbers between markers
  sida-eval docs --check              change nothing; name stale pages
  sida-eval docs --store results/miniature --preset miniature --page studies/miniature/README.md
                                      first store the results of a run beside the page (studies/miniature/stored)

Markers look like <!--= miniature.seeds("fd", "t30-sida") -->5.43 ± 0.15<!--/-->; they are invisible in rendered pages.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "pages", nargs="*", metavar="PAGE.md", help="pages (default: README.md, and all of docs and studies)"
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 where something is stale")
    parser.add_argument("--store", metavar="DIR", help="first store these results of a preset beside its page")
    preset_argument(parser, "with --store: the preset; several in quotes, later ones on top")
    parser.add_argument(
        "--add", action="store_true", help="with --store: keep stored rows that these results do not have"
    )
    parser.add_argument("--networks", action="store_true", help="with --store: store the networks, too")
    parser.add_argument("--title", help="with --store: headline of the page (default: the preset's title)")
    parser.add_argument("--page", metavar="PAGE.md", help="with --store: the page about the preset")


def run(args: argparse.Namespace) -> int:
    """Writes or checks."""
    from workflow.docs.pages import write_docs

    changed = write_docs(
        args.pages,
        check=args.check,
        results=args.store,
        config=args.preset,
        page=args.page,
        title=args.title,
        add=args.add,
        networks=args.networks,
    )
    for line in changed:
        print(line)
    if args.check and changed:
        print("stale; update with: sida-eval docs")
        return 1
    print("every number is up to date" if not changed else "written")
    return 0
