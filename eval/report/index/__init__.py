"""``index.html``: everything that a preset found, on one page that needs no network and no other file."""

from eval.report.index.write import write_index

__all__ = ["write_index"]
