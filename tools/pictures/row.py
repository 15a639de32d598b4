"""The way of the demo's row sida-a1.0 from the sheet to a cell of the table, with the stored files of each step."""

import csv

from sida.config.lookup import ROOT
from sida.eval.tables.render import to_markdown
from sida.workflow.commands.archive import table_of
from sida.workflow.preset import load_preset
from sida.workflow.preset.specs import job_named
from tools.pictures import drawing
from tools.pictures.drawing import DATA, GREY, RESULT, WORK, arrow, box, text

_DEMO = ROOT / "studies/demo"
_RUN = "sida-a1.0"
_HEIGHT, _GAP, _SHOWN = 52, 30, ("method", "total_kimg", "batch_size", "lr")


def picture() -> str:
    """Text of the SVG file."""
    preset = load_preset(_DEMO / "preset.yaml")
    row = preset.rows[_RUN].cells
    spec = job_named(preset, "students", _RUN).spec
    with (_DEMO / "stored/measurements.csv").open(newline="", encoding="utf-8") as stream:
        trials = [line for line in csv.DictReader(stream) if (line["run"], line["metric"]) == (_RUN, "fd")]
    markdown = to_markdown(table_of(preset, "main", _DEMO / "stored")).splitlines()
    heads, cells = ([cell.strip() for cell in next(filter(has, markdown)).split("|")] for has in _LINES)
    size = (_DEMO / f"stored/students/{_RUN}/network.safetensors").stat().st_size / 1e6
    values = [f"{float(trial['value']):.3f}" for trial in trials]
    steps = (
        ("", "runs.tsv", f"run {row.run}, method {row.method}, teacher {row.teacher}, α {row.alpha}", GREY),
        (
            "first every sheet and layout is checked, then a spec is written",
            f"specs/students/{_RUN}.json",
            _settings(spec),
            GREY,
        ),
        (
            "rule distill trains the generator",
            f"students/{_RUN}/network.safetensors",
            f"{size:.1f} MB, after {int(trials[0]['kept_at']):,} images of training",
            WORK,
        ),
        (
            f"rule measure_0_{len(trials) - 1} draws and measures {len(trials)} × {int(trials[0]['n']):,} images",
            f"measurements/{_RUN}/trial-0.json … trial-{len(trials) - 1}.json",
            f"FD {values[0]}, {values[1]}, … {values[-1]}",
            DATA,
        ),
        (
            "rule collect writes a line for each trial and metric",
            "measurements.csv",
            f"{_RUN},sida,0,fd,{trials[0]['value']},{trials[0]['n']},…",
            DATA,
        ),
        (
            "rule table computes mean ± standard deviation",
            "tables/main.tex",
            f"{cells[2]}: {heads[4]} {cells[4].replace('**', '')}",
            RESULT,
        ),
    )
    parts, y = [], 8
    for label, file, content, colours in steps:
        if label:
            parts += [arrow(f"M40 {y - _GAP}", 40, y), text(50, y - 11, label, 11, anchor="start", grey=True)]
        parts += [box(8, y, 384, _HEIGHT, colours), text(200, y + 20, file, 11, mono=True, grey=True)]
        parts.append(text(200, y + 41, content, 11.5))
        y += _HEIGHT + _GAP
    return drawing.picture(f"The way of the row {_RUN} from the sheet to a cell", y - _GAP + 8, parts)


#: The lines of a Markdown table with its headings, and with the row.
_LINES = (lambda line: "Model" in line, lambda line: "SiDA, " in line)


def _settings(spec: dict[str, object]) -> str:
    return ", ".join(f"{key} {spec[key]}" for key in _SHOWN)
