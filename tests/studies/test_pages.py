"""Stored rows are those of today's settings, and numbers of small studies' pages are those of stored measurements."""

from statistics import mean, pstdev, stdev

import pytest

from sida.config.lookup import ROOT
from sida.eval.results.csv_files import read_csv
from sida.eval.results.logs import read_log
from sida.eval.results.stored import read_stored, stored_rows
from sida.workflow.preset import load_preset
from sida.workflow.preset.specs import row_digest

STEPS = {
    "one step": "n1",
    "two steps": "n2",
    "four steps": "n4",
    "two steps, equal work": "n2-work",
    "four steps, equal work": "n4-work",
}
OF_STEPS = {label: (f"{run}-s11", f"{run}-s12") for label, run in STEPS.items()}
SCRATCH = {
    "EDM teacher": "teacher-nfe35",
    "SiD": "sid",
    "SiDA": "sida",
    "GDD §": "gdd",
    "MeanFlow, equal images": "meanflow-images",
    "MeanFlow, equal work": "meanflow-work",
}
OF_SCRATCH = {label: (f"{run}-s21", f"{run}-s22") for label, run in SCRATCH.items()} | {
    "EDM teacher": ("teacher-s21", "teacher-s22")
}
OF_TEACHERS = {
    "teacher, transformer": ("teacher-sit",),
    "teacher, U-Net": ("teacher-unet",),
    "SiD, transformer": ("sit-sid-s201", "sit-sid-s202"),
    "SiDA maps, transformer": ("sit-sida-s203", "sit-sida-s204"),
    "SiDA tokens, transformer": ("sit-sida-tokens-s205", "sit-sida-tokens-s206"),
    "DMD2 heads, transformer": ("sit-dmd2-s207", "sit-dmd2-s208"),
    "SiD, U-Net": ("unet-sid-s209", "unet-sid-s210"),
    "SiDA maps, U-Net": ("unet-sida-s211", "unet-sida-s212"),
}
#: Page, its section, stored results, decimals, and the runs of each row of the section's table.
PAGES = [
    ("steps", "Results on digits", "stored", 2, OF_STEPS),
    ("steps", "Results on Fashion-MNIST", "steps-fashion/stored", 3, OF_STEPS),
    ("scratch", "Results on digits", "stored", 2, {label: (run, f"{run}-s1") for label, run in SCRATCH.items()}),
    ("scratch", "Results on Fashion-MNIST", "scratch-fashion/stored", 3, OF_SCRATCH),
    ("other-teachers", "Results", "stored", 3, OF_TEACHERS),
]
#: Further columns of these sections by their place: metric and decimals; a cell has the mean of each of the row's runs.
FURTHER_COLUMNS = {
    ("scratch", "Results on digits"): {-1: ("recall", 2)},
    ("scratch", "Results on Fashion-MNIST"): {-2: ("recall", 2)},
    ("steps", "Results on Fashion-MNIST"): {-1: ("fd_pixel", 1)},
    ("other-teachers", "Results"): {-3: ("fd_pixel", 1), -2: ("recall", 2), -1: ("precision", 2)},
}


def cells_by_label(text):
    rows = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| "))
    return {row[0]: row[1:] for row in rows}


def values_of(folder, metric="fd"):
    """Values of a metric in all trials, by run."""
    values: dict[str, list[float]] = {}
    for row in stored_rows(folder):
        if row["metric"] == metric:
            values.setdefault(row["run"], []).append(float(row["value"]))
    return values


def test_stored_rows_are_those_of_todays_settings():
    folders = [path.parent for path in (ROOT / "studies").rglob("stored/stored.json")]
    assert len(folders) > 8
    for folder in folders:
        stored = read_stored(folder)
        named = ROOT / stored["preset"]
        preset = load_preset(named if named.suffix else folder.parent / "preset.yaml")
        assert stored["rows"] == {run: row_digest(preset, run) for run in stored["rows"]}, folder


@pytest.mark.parametrize(("study", "section", "stored", "decimals", "runs_of"), PAGES)
def test_a_pages_numbers_are_those_of_its_stored_measurements(study, section, stored, decimals, runs_of):
    folder = ROOT / "studies" / study
    page = (folder / "README.md").read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    values, shown = values_of(folder / stored), cells_by_label(page)
    for label, runs in runs_of.items():
        expected = [f"{mean(values[run]):.{decimals}f} ± {stdev(values[run]):.{decimals}f}" for run in runs]
        assert [cell for cell in shown[label] if "±" in cell][:2] == expected, label
    for column, (metric, digits) in FURTHER_COLUMNS.get((study, section), {}).items():
        values = values_of(folder / stored, metric)
        for label, runs in runs_of.items():
            assert shown[label][column] == ", ".join(f"{mean(values[run]):.{digits}f}" for run in runs), (label, metric)


def test_fd_of_the_longer_recipe_with_two_seeds_are_stored_rows():
    page = (ROOT / "docs/measurements.md").read_text()
    table = cells_by_label(page.split("FD with two training seeds")[1].split("\n\nProcessors")[0])
    values = values_of(ROOT / "studies/scratch/stored")
    for label, run in (("EDM teacher, NFE 35", "teacher-nfe35"), ("SiD, α = 1.0", "sid"), ("SiDA, α = 1.0", "sida")):
        assert table[label] == [f"{mean(values[name]):.2f}" for name in (run, f"{run}-s1")], label


def test_fd_with_the_papers_weights_is_that_of_the_stored_row():
    folder = ROOT / "studies/demo"
    fd = values_of(folder / "stored") | values_of(folder / "demo-weights/stored")
    shown = {run: f"{mean(values):.2f} ± {stdev(values):.2f}" for run, values in fd.items()}
    for page in (ROOT / "README.md", folder / "README.md"):
        assert f"FD {shown['sida-papers']} (SiD {shown['sid-a1.0']}" in page.read_text(), page


def test_losses_and_curves_of_the_questions_are_those_of_the_demos_logs():
    page, folder = (ROOT / "docs/faq.md").read_text().replace("−", "-"), ROOT / "studies/demo/stored/students"
    terms = {}
    for run, term in (("sid-a1.0", "sid"), ("sida-a1.0", "discriminator"), ("sida-a1.0", "adversarial")):
        ticks = [record["losses"] for record in read_log(folder / run / "train.jsonl")]
        terms[term] = [losses[term] for losses in ticks if term in losses]
    curve = lambda run: [record["fd"] for record in read_log(folder / run / "evaluations.jsonl")]
    sid, sida = curve("sid-a1.0"), curve("sida-a1.0")
    first, lowest, last = terms["sid"][0], min(terms["sid"]), terms["sid"][-1]
    assert f"begins at {first:.1f}, falls to {lowest:.1f}, and ends at {last:.1f}," in page
    assert f"falls to {min(sid):.2f} at two thirds of the images and then rises to {sid[-1]:.2f}" in page
    assert sid.index(min(sid)) == 2 * (len(sid) - 1) / 3
    assert f"from {min(terms['discriminator']):.0f} to {max(terms['discriminator']):.0f} and" in page
    assert f"from {min(terms['adversarial']):,.0f} to {max(terms['adversarial']):,.0f}, without" in page
    assert (
        f"at each of four evaluations, from {sida[0]:.1f} to {min(sida):.2f}, and then rises to {sida[-1]:.2f}" in page
    )
    assert sida[:5] == sorted(sida[:5], reverse=True)
    assert sida[4:] == sorted(sida[4:])
    assert len(sida) == 1 + 6


def test_effects_of_a_protocols_choices_are_stored_measurements():
    page = (ROOT / "docs/protocol.md").read_text().split("## Choices and their effects")[1].split("\n## ")[0]
    table, rows = cells_by_label(page), [row for _, row in read_csv(ROOT / "benchmarks/choices.csv")[1]]
    of = lambda run, metric="fd": [float(row["value"]) for row in rows if (row["run"], row["metric"]) == (run, metric)]
    fd = of("default")
    assert f"FD {mean(fd):.3f} ± {stdev(fd):.3f} " in page
    digits = {label: cells[-1] for label, cells in table.items()}
    few, more, most = (mean(of(run)) for run in ("n-500", "n-10000", "n-50000"))
    assert digits["`num_samples`"].startswith(f"{few:.2f} at n = 500; {more:.2f} at 10,000")
    assert f"{most:.2f} at 50,000" in digits["`num_samples`"]
    one_split = mean(of("default", "is_one_split"))
    expected = {
        "`seed0`": f"{mean(of('seeds-later')):.3f}",
        "`ddof`": f"{pstdev(fd):.3f}",
        "aggregate": f"{min(fd[:3]):.3f}",
        "resizing": f"{mean(of('resized')):.2f}",
        "lossless images": f"{mean(of('jpeg-95')):.3f}",
        "`cov_ddof`": f"{mean(of('cov-ddof-1')):.4f}, by default {mean(fd):.4f}",
        "precision, recall `dtype`": f"recall {mean(of('default', 'recall_half')):.4f}",
        "precision, recall `k`": f"recall {mean(of('default', 'recall_k5')):.3f}",
        "`splits` of IS": f"{one_split:.3f} with 1, by default {mean(of('default', 'is')):.3f}",
    }
    for label, text in expected.items():
        assert digits[label].startswith(text), label
