"""From command-line options to pages that agree with stored results."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.report.docs.markers import filled
from eval.report.docs.study import draw, opened
from eval.report.stored import store
from sida.errors import UserError
from sida.io import write_text
from sida.preset import Preset

ROOT = Path(__file__).resolve().parents[3]


def write_docs(args: argparse.Namespace, root: Path = ROOT) -> list[str]:
    """Writes (or with ``--check`` only names) what is stale; returns a line for each page.

    Raises:
        UserError: Faulty options, stored studies or markers.
    """
    kept = _store(args, root) if args.store else None
    everything = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    pages = list(
        dict.fromkeys([Path(page).resolve() for page in args.pages] or [*everything, *([kept] if kept else [])])
    )
    changed = []
    with opened(root, sorted((root / "docs").glob("*/data"))) as studies:
        if kept is not None:
            draw(studies[kept.stem], Path(args.store), kept.with_suffix(""))
        for page in pages:
            about = studies.get(page.stem) if page.parent == root / "docs" else None
            if page.suffix != ".md" or not (about or page.is_file()):
                raise UserError(f"{page}: no such page (*.md)")
            old = page.read_text(encoding="utf-8") if page.is_file() else ""
            name = str(page.relative_to(root)) if page.is_relative_to(root) else str(page)
            new = about.page(page.with_suffix(""), page.stem) if about else filled(old, studies, root, name)
            if new != old:
                changed.append(f"{name}: {_first_difference(old, new)}")
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
