"""Hook of the site: puts the board into ``docs/board.md``, where its mark stands."""

import os
import sys
from typing import Any

# mkdocs loads hooks without the folder of the repository.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from eval.report.board_page import board_fragment, board_rows

MARK = "<!-- board -->"


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Adds the board to its page."""
    return html.replace(MARK, board_fragment(board_rows())) if page.file.src_uri == "board.md" else html
