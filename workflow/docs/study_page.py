"""A stored study's page of tables, figures and verdicts, and its pictures."""

from __future__ import annotations

import json
from pathlib import Path

from eval.report.page import page_text, reduced
from workflow.docs.costs import PAPER, planned
from workflow.docs.study import Study


def study_page(study: Study, link: str) -> str:
    """The study's page: tables and verdicts built anew, with the stored pictures.

    Args:
        study: The study; its pictures lie in the folder above its data.
        link: The pictures' folder as the page links it.
    """
    for name in study.preset.config["tables"]:
        # Of a study that grows over sessions, tables of which no row is measured yet are left out.
        if study.rows_of("tables", name) & set(study.measured.runs):
            study.make_table(name)
    assert study.verdicts_file.is_file()  # the page shows the verdicts
    shown = [study.folder.parent / f"{name}.png" for name in study.preset.config["figures"]]
    there = [path for path in shown if path.is_file()]
    asked = {answer.experiment.id: answer.experiment.plan for answer in study.answers if answer.experiment.plan}
    costs = {name: f"{planned(study.root, PAPER, plan, 'gpu_hours')} hours of an H200" for name, plan in asked.items()}
    text = page_text(study.unpacked, there, link, study.facts["title"], answers=study.answers, costs=costs)
    made = study.unpacked / "tables"
    waiting = [f"Table {name}" for name in study.preset.config["tables"] if not (made / f"{name}.md").is_file()]
    waiting += [f"Figure {path.stem}" for path in shown if path not in there]
    heading = "\n## Not measured yet\n" if waiting else ""
    return text + heading + "".join(f"\n### {name}\n\nNot all of its rows are measured.\n" for name in waiting)


def draw(study: Study, results: Path, pictures: Path) -> None:
    """Draws the study's figures with the code of today; those whose rows are not all measured yet are left out.

    Grids of samples need the networks in ``results``; where rows were measured elsewhere, their earlier picture stays.
    """
    for name in study.preset.config["figures"]:
        if not study.rows_of("figures", name) <= set(study.measured.runs):
            continue
        spec = json.dumps(study.preset.specs.figure(name)).replace(study.preset.results, str(results))
        networks = [generator.get("network") for generator in json.loads(spec).get("generators", [])]
        if all(network is None or Path(network).is_file() for network in networks):
            study.make_figure(name, spec)
    drawn = {path.stem: path for path in (study.unpacked / "figures").glob("*.png")}
    for path in pictures.glob("*.png"):
        if path.stem in drawn or path.stem not in study.preset.config["figures"]:
            path.unlink()
    for name, path in sorted(drawn.items()):
        reduced(path, pictures / f"{name}.png")
