"""Writes the pictures of the pages.

python -m tools.pictures
"""

from sida.config.lookup import ROOT
from sida.files.atomic import write_text
from tools.pictures import methods, row, score, workflow

for module in (methods, row, score, workflow):
    write_text(ROOT / f"docs/{module.__name__.rpartition('.')[2]}.svg", module.picture())
