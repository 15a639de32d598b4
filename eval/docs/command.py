"""From command-line options to pages that agree with stored results."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.docs.markers import filled
from eval.docs.study import draw, opened
from eval.stored import store
from sida.errors import UserError
from sida.io import write_text
from sida.preset import Preset

ROOT = Path(__file__).resolve().parents[2]


def write_docs(args: argparse.Namespace, root: Path = ROOT) -> list[str]:
    """Writes (or with ``--check`` only names) what is stale; returns a line for each page.

    Raises:
        UserError: Faulty options, stored studies or markers.
    """
    kept = _store(args, root) if args.store else None
    pages = [Path(page) for page in args.pages] or [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    data = sorted((root / "docs").glob("*/data"))
    changed = []
    with opened(root, data) as studies:
        if kept is not None:
            draw(studies[kept.stem], Path(args.store), kept.with_suffix(""))
        texts = {}
        for name, study in studies.items():
            page = root / "docs" / f"{name}.md"
            texts[page] = study.page(page.with_suffix(""), name)
        for page in dict.fromkeys([*texts, *pages]):
            if page.suffix != ".md" or not (page in texts or page.is_file()):
                raise UserError(f"{page}: no such page (*.md)")
            old = page.read_text(encoding="utf-8") if page.is_file() else ""
            new = texts[page] if page in texts else filled(old, studies, root, str(page))
            if new != old:
                changed.append(f"{page}: {_first_difference(old, new)}")
                if not args.check:
                    write_text(page, new)
    return changed


def _store(args: argparse.Namespace, root: Path) -> Path:
    """Keeps results beside their page, as far as they are text; returns the page."""
    if not args.config or not args.page:
        raise UserError(
            "--store needs --config (the preset) and --page (docs/NAME.md, with its data in docs/NAME/data)"
        )
    if args.check:
        raise UserError("--store and --check exclude each other")
    page = root / args.page
    if page.suffix != ".md" or page.parent != root / "docs":
        raise UserError(f"--page {args.page}: must be docs/NAME.md")
    title = args.title or Preset.load(root / args.config).config["title"]
    store(args.store, page.with_suffix("") / "data", {"preset": args.config, "title": title})
    return page


def _first_difference(old: str, new: str) -> str:
    for number, (before, after) in enumerate(zip(old.splitlines(), new.splitlines()), start=1):
        if before != after:
            return f"line {number} differs: {after.strip()[:100]}"
    return "lines were added or left out"
