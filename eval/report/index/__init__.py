"""``index.html``: all results of a preset on one page without other files or network access."""

from eval.report.index.write import write_index

__all__ = ["write_index"]
