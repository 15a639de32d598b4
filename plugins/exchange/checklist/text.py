"""A checklist as Markdown and as LaTeX, which compiles alone or in a document that inputs it (``checklist.tex``)."""

from collections.abc import Sequence
from pathlib import Path

from sida.eval.tables.latex import escape
from sida.eval.tables.render import markdown, markdown_cell, template
from sida.plugins.exchange.checklist.facts import Answer

#: Longest and shortest text, in characters, by which the widths of columns are shared.
_SHORTEST, _LONGEST = 8, 60


def to_markdown(title: str, answers: Sequence[Answer]) -> str:
    """The checklist as Markdown (GitHub's dialect)."""
    parts = [f"# {markdown(title)}"]
    for answer in answers:
        parts.append(f"## {markdown(answer.question)}")
        if answer.commands:
            parts.append("\n".join(f"    {command}" for command in answer.commands))
        parts.append("\n".join(f"- {markdown(line)}" for line in answer.lines))
        if answer.rows:
            lines = [answer.heads, ["---"] * len(answer.heads), *answer.rows]
            cells = (" | ".join(map(markdown_cell, line)) for line in lines)
            parts.append("\n".join(f"| {line} |" for line in cells))
    return "\n\n".join(part for part in parts if part) + "\n"


def to_latex(title: str, answers: Sequence[Answer]) -> str:
    """The checklist as LaTeX, every text of it escaped."""
    escaped = [
        {
            "question": escape(answer.question),
            "lines": [_breakable(escape(line)) for line in answer.lines],
            "commands": [escape(command) for command in answer.commands],
            "heads": [escape(head) for head in answer.heads],
            "rows": [[_breakable(escape(cell)) for cell in row] for row in answer.rows],
            "widths": _widths(answer),
        }
        for answer in answers
    ]
    text: str = template(Path(__file__).with_name("checklist.tex")).render(title=escape(title), answers=escaped)
    return text + "\n"


def _breakable(text: str) -> str:
    """Escaped text with places to break a line behind underscores and slashes."""
    return text.replace(r"\_", r"\_\allowbreak{}").replace("/", r"/\allowbreak{}")


def _widths(answer: Answer) -> list[str]:
    """Shares of the line's width, by the longest texts of the columns."""
    columns = zip(answer.heads, *answer.rows)
    longest = [min(max(max(map(len, column)), _SHORTEST), _LONGEST) for column in columns]
    return [f"{size / sum(longest):.3f}" for size in longest]
