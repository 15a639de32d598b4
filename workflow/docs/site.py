"""Pages of the site: the Markdown of the repository with the files that it links, and a reference of the API."""

from __future__ import annotations

import ast
import os
import pkgutil
import re
import shutil
import sys
from pathlib import Path

from sida.config.resources import ROOT
from sida.files.atomic import write_text

#: Packages whose docstrings become the reference.
_PACKAGES = ("sida", "eval", "workflow")
_STYLE = "docs/images/site.css"
#: Pages with a newcomer's words, first in the search; the reference of the API is last.
_FIRST = ("docs/faq.md", "docs/add-a-method.md")
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
_CODE = re.compile(r"(^```.*?^```|^(?: {4}|\t)[^\n]*$)", re.M | re.S)


def write_pages(out: Path, root: Path = ROOT) -> list[Path]:
    """Writes all pages below a new folder, laid out as in the repository, so that relative links stay valid.

    Args:
        out: Folder; made anew.
        root: Checkout.

    Returns:
        The pages.
    """
    shutil.rmtree(out, ignore_errors=True)
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "studies").rglob("*.md")]
    # Texts that the pages of studies begin with.
    pages = [page for page in pages if page.name != "about.md"]
    pages += [root / "config" / "README.md", root / "tests" / "golden" / "README.md"]
    for page in pages:
        name = page.relative_to(root)
        opening = "---\nsearch: {boost: 4}\n---\n" if name.as_posix() in _FIRST else ""
        write_text(out / name, opening + _with_links(page.read_text(encoding="utf-8"), page, root, out))
    write_text(out / "gallery.md", _gallery(root, out))
    shutil.copyfile(root / _STYLE, out / _STYLE)
    return pages + _reference(out, root)


def _gallery(root: Path, out: Path) -> str:
    """A page with all pictures of the studies, each study under a link to its page; copies the pictures."""
    lines = ["# Gallery", "", "All figures of the studies; each name leads to the page that explains them.", ""]
    folders: dict[Path, list[Path]] = {}
    for picture in sorted((root / "studies").rglob("*.png")):
        folders.setdefault(picture.parent.relative_to(root), []).append(picture.relative_to(root))
    for folder, pictures in folders.items():
        page = next((f for f in (folder, *folder.parents) if (root / f / "README.md").is_file()), Path())
        lines += [f"## [{folder.relative_to('studies')}]({page.as_posix()}/README.md)", ""]
        for picture in pictures:
            (out / picture).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / picture, out / picture)
            lines += [f"![{picture.stem}]({picture.as_posix()})", ""]
    return "\n".join(lines)


def _with_links(text: str, page: Path, root: Path, out: Path) -> str:
    """Copies the files that a page links; a link to a folder becomes its README, or plain text."""

    def linked(match: re.Match[str]) -> str:
        label, target = match.groups()
        name, _, anchor = target.partition("#")
        file = Path(os.path.normpath(page.parent / name))
        if not name or re.match("[a-z]+:", target) or not file.is_relative_to(root):
            return match[0]
        if file.is_dir():
            if not (file / "README.md").is_file():
                return label.strip("[]")
            return f"{label}({name.rstrip('/')}/README.md{'#' + anchor if anchor else ''})"
        copied = out / file.relative_to(root)
        if file.suffix != ".md" and file.is_file() and not copied.exists():
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copied)
        return match[0]

    parts = _CODE.split(text)
    return "".join(part if number % 2 else _LINK.sub(linked, part) for number, part in enumerate(parts))


def _reference(out: Path, root: Path) -> list[Path]:
    """A page for each room of each package, which mkdocstrings fills, and a page that lists them."""
    made = []
    opening = "The packages by room; `sida.load`, `eval.score` and the like: [Python](../docs/python.md)."
    listed = ["# API", "", opening, ""]
    for package in _PACKAGES:
        rooms = sorted(module.name for module in pkgutil.iter_modules([str(root / package)]))
        for room in [room for room in rooms if room != "__main__"]:
            page, source = out / "api" / package / f"{room}.md", root / package / room
            source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
            about = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n")[0]
            # The documentation's own pages come first in the search.
            write_text(page, f"---\nsearch: {{boost: 0.1}}\n---\n# {package}.{room}\n\n::: {package}.{room}\n")
            listed.append(f"- [{package}.{room}]({package}/{room}.md): {about.replace('``', '`')}")
            made.append(page)
    write_text(out / "api" / "README.md", "\n".join([*listed, ""]))
    return made


if __name__ == "__main__":
    print(f"{len(write_pages(Path(sys.argv[1])))} pages")
