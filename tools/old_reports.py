"""Lists sentences about other projects that were checked long ago: python -m tools.old_reports

Pages end such a sentence, or the paragraph of several, with a version and ``read DATE`` or ``read until DATE``.
"""

import datetime
import re
from collections.abc import Iterator

from sida.config.lookup import ROOT

#: Days after which a sentence should be checked again.
DAYS = 120
_READ = re.compile(r"\bread\b[^.|]*?\b(\d{4}-\d\d-\d\d)\b")


def reports() -> Iterator[tuple[str, datetime.date]]:
    """Place (``page:line``) and date of each sentence."""
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "plugins").glob("*/*.md")]):
        for number, line in enumerate(page.read_text(encoding="utf8").splitlines(), 1):
            for date in _READ.findall(line):
                yield f"{page.relative_to(ROOT)}:{number}", datetime.date.fromisoformat(date)


def old_reports(today: datetime.date) -> list[str]:
    """A line for each sentence that is older than :data:`DAYS` on a day."""
    ages = ((place, (today - date).days) for place, date in reports())
    return [f"{place}: another project was read {age} days ago; read it again" for place, age in ages if age > DAYS]


if __name__ == "__main__":
    for line in old_reports(datetime.date.today()):
        print(line)
