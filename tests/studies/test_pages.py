"""Stored rows are those of today's settings, and numbers of small studies' pages are those of stored measurements."""

import json
import math
import statistics
from statistics import mean, pstdev, stdev, variance

import pytest
import scipy.stats

from sida.config.lookup import ROOT
from sida.eval.results.csv_files import read_csv
from sida.eval.results.logs import read_log
from sida.eval.results.stored import read_stored, stored_rows
from sida.files.atomic import read_jsonl
from sida.workflow.preset import load_preset
from sida.workflow.preset.stored_rows import row_digest
from studies.mechanisms import leads, pictures

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
    assert f"rises from {terms['sid'][0]:.1f} to {terms['sid'][-1]:.1f}," in page
    assert f"falls to {min(sid):.2f} at two thirds of the images and then rises to {sid[-1]:.2f}" in page
    assert sid.index(min(sid)) == 2 * (len(sid) - 1) / 3
    assert f"from {min(terms['discriminator']):.0f} to {max(terms['discriminator']):.0f} and" in page
    assert f"from {min(terms['adversarial']):,.0f} to {max(terms['adversarial']):,.0f}, without" in page
    assert f"at each of six evaluations, from {sida[0]:.1f} to {sida[-1]:.2f}" in page
    assert sida == sorted(sida, reverse=True)
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
    # Another kind of processor rounds differently.
    assert fd[:5] == pytest.approx(values_of(ROOT / "studies/demo/stored")["sida-a1.0"], rel=1e-3)


def test_shares_of_the_adversarial_term_are_those_of_the_log():
    ticks = read_jsonl(ROOT / "studies/mechanisms/bench-share.jsonl")
    first, *later = (f"{100 * tick['share']['adversarial']:.2f}" for tick in ticks)
    page = (ROOT / "studies/mechanisms/README.md").read_text()
    assert f"{first} % before the first step, and {', '.join(later[:-1])} and {later[-1]} % after" in page
    for other in ("fashion/README.md", "fashion/anew.md", "scratch/README.md", "other-teachers/README.md"):
        assert (
            f"was {min(later)} to {max(later)} % of the generator's gradient" in (ROOT / "studies" / other).read_text()
        )


def test_curves_of_the_mechanisms_are_those_of_the_stored_logs():
    folder = ROOT / "studies/mechanisms"
    page = (folder / "README.md").read_text()
    for run in {row["run"] for row in stored_rows(folder / "stored")}:
        values = [f"{record['fd']:.2f}" for record in read_log(folder / "stored/students" / run / "evaluations.jsonl")]
        assert f"| {' | '.join(values)} |" in next(line for line in page.splitlines() if line.startswith(f"| `{run}`"))
    shares, words = [], []
    for run in ("t10-w3-s302", "t10-w3-s304"):
        ticks = [record.get("share", {}) for record in read_log(folder / f"stored/students/{run}/train.jsonl")]
        shares.append([100 * share["adversarial"] for share in ticks if "adversarial" in share])
        quarters = [shares[-1][part * len(shares[-1]) // 4 : (part + 1) * len(shares[-1]) // 4] for part in range(4)]
        means = [f"{sum(part) / len(part):.0f}" for part in quarters]
        words.append(f"{', '.join(means[:3])} and {means[3]} %")
    ranges = " and ".join(f"{min(share):.0f} to {max(share):.0f} %" for share in shares)
    assert f"has {ranges} of" in page
    assert f"{words[0]} in the quarters of the first training, {words[1]} in those of the second" in page


def test_leads_of_the_mechanisms_are_those_of_the_stored_logs():
    folder = ROOT / "studies/mechanisms"
    page = (folder / "README.md").read_text().replace("−", "-")
    logs = [
        [[record["fd"] for record in read_log(folder / "stored/students" / run / "evaluations.jsonl")] for run in runs]
        for runs in (("t10-w0-s301", "t10-w0-s303"), ("t10-w3-s302", "t10-w3-s304"))
    ]
    for point, images in ((2, 12), (4, 24), (8, 48)):
        sid, sida = ([log[point] for log in of_method] for of_method in logs)
        leads = " and ".join(f"{100 * (1 - b / a):.0f}" for a, b in zip(sid, sida))
        difference = sum(sida) / 2 - sum(sid) / 2
        half = scipy.stats.t.ppf(0.975, 2) * math.sqrt((variance(sid) + variance(sida)) / 2)
        interval = f"{difference:+.2f} ({difference - half:+.2f} to {difference + half:+.2f})"
        assert f"| {images} thousand | {leads} % | {interval} |" in page


def test_tables_of_the_mechanisms_are_those_of_the_stored_rows(capsys):
    page = (ROOT / "studies/mechanisms/README.md").read_text() + (ROOT / "README.md").read_text()
    leads.main()
    for line in capsys.readouterr().out.splitlines():
        assert line in page or line in {data.name for data in (leads.DIGITS, *leads.WIDE, leads.FASHION)}, line
    # A lead by another way: the ratio of geometric means, and Student's interval by SciPy.
    for data in (leads.DIGITS, leads.FASHION):
        cells, end = leads.cells_of(data), data.images[-1]
        (teacher, _), *_ = cells
        sides = [[math.log(curve[end]) for curve in cells[teacher, weight].values()] for weight in (0.0, 3.0)]
        found = leads.lead_of(cells, teacher, 3.0, end)
        assert found.value == pytest.approx(1 - math.exp(mean(sides[1]) - mean(sides[0])))
        for equal, ends in ((True, (found.low, found.high)), (False, found.welch)):
            test = scipy.stats.ttest_ind(sides[1], sides[0], equal_var=equal).confidence_interval(0.95)
            assert ends == pytest.approx((1 - math.exp(test.high), 1 - math.exp(test.low)))


def test_the_picture_of_the_mechanisms_shows_each_cell_with_a_lead_and_names_the_others():
    for data in (leads.DIGITS, leads.FASHION):
        cells = leads.cells_of(data)
        figure, records = pictures.map_of_leads([(data, cells), (data, cells)])
        shown = {(record["teacher"], record["weight"]): record["value"] for record in records}
        pairs = [(teacher, weight) for teacher, weight in cells if weight]
        assert set(shown) == set(pairs)
        for teacher, weight in pairs:
            assert shown[teacher, weight] == leads.lead_of(cells, teacher, weight, data.images[-1]).value
        named = figure.axes[0].texts[-1].get_text()
        for teacher, weight in {(t, w) for t in data.grades for w in data.weights[1:]} - set(pairs):
            line = next(line for line in named.splitlines() if line.startswith(f"weight {weight:g}:"))
            assert f"{data.grades[teacher]}k" in line


def mean_shares(run):
    """Mean share of the adversarial term in the quarters of a training, in per cent."""
    shares = [100 * share for share in leads.shares_of(leads.DIGITS, run).values()]
    return [mean(shares[part * len(shares) // 4 : (part + 1) * len(shares) // 4]) for part in range(4)]


@pytest.mark.slow
def test_sentences_on_the_mechanisms_are_those_of_the_stored_rows():
    page, stored = (ROOT / "studies/mechanisms/README.md").read_text(), leads.HERE / leads.DIGITS.stored
    cells = leads.cells_of(leads.DIGITS)
    ends = {weight: sorted(curve[50] for curve in cells["d10", weight].values()) for weight in (0.0, 3.0)}
    assert f"SiD ends at {ends[0.0][0]:.1f} to {ends[0.0][-1]:.1f}, near its teacher" in page
    assert f"SiDA's trainings with weight 3 end at {ends[3.0][0]:.1f} to {ends[3.0][-1]:.1f}" in page
    assert f"scatter by {100 * stdev(ends[3.0]) / mean(ends[3.0]):.0f} % at their end" in page
    rises = sorted((curve[50] / min(curve.values()) - 1 for curve in cells["d10", 3.0].values()), reverse=True)
    assert rises[-1] == 0
    assert f"the others end {100 * rises[0]:.0f}, {100 * rises[1]:.0f} and {100 * rises[2]:.0f} % above" in page
    quarters = {teacher: [mean_shares(run) for run in cells[teacher, 3.0]] for teacher in ("d10", "d200")}
    words = lambda values: f"{min(values):.0f} to {max(values):.0f}"
    shares = [words([share for run in cells["d10", w] for share in mean_shares(run)]) for w in (0.01, 0.3, 3.0)]
    in_words = f"{shares[0]} % with weight 0.01, {shares[1]} % with 0.3, and {shares[2]} % with 3"
    assert f"share of the generator's gradient in the quarters of the trainings is {in_words}" in page
    weak, strong = (
        " and ".join(words([parts[place] for parts in quarters[teacher]]) for place in (0, -1)) + " %"
        for teacher in quarters
    )
    falls = {teacher: sum(parts[0] > parts[-1] for parts in trainings) for teacher, trainings in quarters.items()}
    assert falls["d10"] == len(quarters["d10"]) == len(quarters["d200"]) == 4
    weak_words = f"{weak} in all four from the teacher of 10 thousand images"
    assert f"{weak_words}, and falls in {falls['d200']} of four from that of 200 thousand ({strong})" in page
    weak, strong = (leads.lead_of(cells, teacher, 3.0, 50) for teacher in quarters)
    light, papers = (leads.lead_of(cells, "d10", weight, 50) for weight in (0.3, 0.01))
    middle = leads.lead_of(cells, "d40", 0.3, 50)
    ratio = lambda one: f"{leads.percent(one.value)} % ({leads.percent(one.low)} to {leads.percent(one.high)})"
    assert f"SiDA leads by {ratio(light)} with weight 0.3, from that of 40 thousand by {ratio(middle)} with" in page
    assert f"with weight 0.3, from that of 200 thousand by {ratio(strong)} with weight 3." in page
    falls = f"{leads.percent(light.value)} and {leads.percent(middle.value)} % with weight 0.3"
    assert f"({falls}, {leads.percent(strong.value)} % with weight 3)" in page
    assert f"the interval contains 0 ({' to '.join(map(leads.percent, (strong.low, strong.high)))})" in page
    assert f"Welch's is not ({' to '.join(map(leads.percent, weak.welch))})" in page
    doses = (
        f"{ratio(papers)} with the papers' weight 0.01 (two seeds), {ratio(light)} with 0.3, and {ratio(weak)} with 3"
    )
    assert f"the lead is {doses}" in page
    assert f"{leads.percent(papers.value)} against {leads.percent(light.value)} %, as predicted" in page
    assert [len(cells["d10", weight]) for weight in (0.01, 0.3)] == [2, 4]
    in_pixels = leads.lead_of(leads.cells_of(leads.DIGITS, "fd_pixel"), "d40", 0.3, 50)
    assert f"and its lead in pixels is {ratio(in_pixels)}." in page
    fashion = leads.lead_of(leads.cells_of(leads.FASHION), "t10", 3.0, 48)
    below = lambda one: f"{leads.percent(one.value)} % below"
    weights = (*ends, 0.3)
    recall = {weight: [mean(values_of(stored, "recall")[run]) for run in cells["d10", weight]] for weight in weights}
    low_high = lambda weight: f"{min(recall[weight]):.2f} to {max(recall[weight]):.2f}"
    assert f"Recall is {low_high(3.0)} with weight 3, and {low_high(0.3)} with weight 0.3." in page
    papers_recall = {f"{mean(values_of(stored, 'recall')[run]):.2f}" for run in cells["d10", 0.01]}
    assert f"With weight 0.01 it is {' to '.join(sorted(papers_recall))}." in page
    recalls = [
        mean(values_of(stored, "recall")[run]) for run in leads.trainings_of(leads.DIGITS)["digits-alone", "d10"]
    ]
    assert f"and recall is {max(recalls):.2f} or less" in page
    later = " and ".join(f"{cells['d10', 0.3][f'd10-w0.3-s{seed}'][50]:.2f}" for seed in (435, 436))
    assert f"two of its four trainings were recorded after that choice, with {later}." in page
    first = " and ".join(
        f"{100 * next(iter(leads.shares_of(leads.DIGITS, run).values())):.1f}" for run in cells["d10", 0.01]
    )
    assert f"but {first} % in the term's first record of each training on digits" in page
    same = " to ".join(leads.percent(leads.lead_of(cells, teacher, 3.0, 50).value) for teacher in ("d10", "d200"))
    assert f"weight 3 by itself falls from {same} %" in page
    text = (ROOT / "README.md").read_text()
    alone, generated = (
        ratio(leads.lead([*ends[0.0]], [curve[50] for curve in leads.trainings_of(leads.DIGITS)[part, "d10"].values()]))
        for part in ("digits-alone", "digits-generated")
    )
    by_term = f"From the first teacher the adversarial term alone leads by {alone}"
    assert f"{by_term}, and SiDA with generated images in place of real ones by {generated}." in text
    assert (
        f"On Fashion-MNIST SiDA's FD ends {below(fashion)} SiD's from a weak teacher (two seeds, not decided)" in text
    )
    assert fashion.welch[0] < 0 < fashion.welch[1]
    answer = (ROOT / "docs/faq.md").read_text()
    assert f"SiDA's FD ends {below(light)} SiD's from a weak one, and {below(strong)} from a good one" in answer
    assert strong.low < 0 < strong.high


def test_sentences_on_ten_times_the_width_are_those_of_the_stored_rows():
    page = (ROOT / "studies/mechanisms/README.md").read_text()
    curves = {w: [curve for d in leads.WIDE for curve in leads.cells_of(d)["d10", w].values()] for w in (0.0, 0.3, 3.0)}
    sid, sida = ([curve[50] for curve in group] for group in (curves[0.0], curves[0.3] + curves[3.0]))
    span = lambda values: f"{min(values):.2f} to {max(values):.2f}"
    assert (len(sid), len(sida)) == (4, 8)
    below = (1 - max(sida) / min(sid), 1 - min(sida) / max(sid))
    first_page = (ROOT / "README.md").read_text()
    assert (
        f"SiDA's FD ends {' to '.join(f'{100 * share:.0f}' for share in below)} % below SiD's (eight trainings"
        in first_page
    )
    assert f"SiDA's eight trainings end at FD {span(sida)}, SiD's four at {span(sid)}." in page
    assert all(min(curve.values()) == curve[50] for w in (0.3, 3.0) for curve in curves[w])
    means, teacher = leads.means_of(leads.WIDE[0]), leads.teacher_fd(leads.WIDE[0], "d10")
    assert f"its FD is {teacher:.1f} and its accuracy {100 * means['teacher-d10', 'accuracy']:.0f} %" in page
    above = " to ".join(f"{100 * (end(sid) / teacher - 1):.0f}" for end in (min, max))
    assert f"SiD, which ends {above} % above its teacher's FD" in page
    fast = leads.cells_of(leads.WIDE[1])
    lower = min(curve[50] for curve in fast["d10", 0.0].values())
    ends = " and ".join(f"{100 * (1 - curve[50] / lower):.0f}" for curve in fast["d10", 0.3].values())
    assert f"({ends} % against the lower SiD)" in page
    recall = lambda runs: [means[run, "recall"] for run in runs]
    runs = lambda w: [run for d in leads.WIDE for run in leads.cells_of(d)["d10", w]]
    of_sida = span(recall(runs(0.3) + runs(3.0)))
    assert f"**SiDA's recall is {of_sida}**, SiD's {span(recall(runs(0.0)))}." in page
    pairs = [" and ".join(f"{value:.2f}" for value in sorted(recall(fast["d10", w]))) for w in (3.0, 0.0)]
    assert f"Recall with weight 3 at the higher rate is {pairs[0]}, SiD's {pairs[1]}." in page


def test_sentences_on_replaced_parts_are_those_of_the_stored_rows_and_of_the_measured_time():
    folder = ROOT / "studies/mechanisms"
    page = (folder / "README.md").read_text().split("### By what")[1].split("\n## ")[0]
    cells, trainings = leads.cells_of(leads.DIGITS), leads.trainings_of(leads.DIGITS)
    ends = lambda curves: [curve[50] for curve in curves.values()]
    low_high = lambda values: f"{min(values):.2f} to {max(values):.2f}"

    def times(part, weight=0.3, teacher="d10"):
        return leads.ratio(ends(cells[teacher, weight]), ends(trainings[f"digits-{part}", teacher]))

    alone = trainings["digits-alone", "d10"]
    assert {min(curve, key=curve.get) for curve in alone.values()} == {20}
    lowest = low_high([curve[20] for curve in alone.values()])
    assert f"lowest after 20 thousand images ({lowest}) and rises to {low_high(ends(alone))} at the end" in page
    assert sum(end < min(ends(cells["d10", 0.0])) for end in ends(alone)) == 3
    assert f"That is {times('alone', 0.0)} times SiD's and {times('alone')} times SiDA's" in page
    strong = ", ".join(f"{value:.2f}" for value in ends(trainings["digits-alone", "d200"]))
    assert f"200 thousand images it ends at {strong}: {times('alone', 0.0, 'd200')} times SiD's" in page
    assert f"FD ends at {times('generated', 0.0)} times SiD's" in page
    cost = json.loads((folder / "mechanisms-digits/cost.json").read_text())
    for part, label in (("own-encoder", "own encoder"), ("separate-steps", "separate steps")):
        line = next(line for line in page.splitlines() if f"FD ends at {times(part)} times SiDA's" in line)
        median = statistics.median(each[label] / each["SiDA"] for each in cost["rounds"])
        assert f"an iteration takes {median:.2f} times SiDA's" in line.replace("An iteration", "an iteration")
    assert f"ends at {times('gamma')} times SiDA's FD" in page
    assert f"Pooling by sample ends at {times('sample')} times." in page
    (gdd,), (mean_flow,) = trainings["digits-gdd", "d10"].values(), trainings["digits-meanflow", "None"].values()
    whole = (folder / "README.md").read_text()
    assert (
        f"ends at FD {gdd[50]:.2f}, above SiDA's four with weight 0.3; its lowest is {min(gdd.values()):.2f}." in whole
    )
    recall = mean(values_of(leads.HERE / leads.DIGITS.stored, "recall")["meanflow-s495"])
    assert f"it ends at FD {mean_flow[109]:.2f}, with recall {recall:.2f}." in whole
    assert max(ends(cells["d10", 0.3])) < gdd[50]
    assert mean_flow[109] < min(ends(cells["d40", 0.3]))
    sid = statistics.median(each["SiD"] / each["SiDA"] for each in cost["rounds"])
    assert f"SiD's iteration takes {sid:.2f} times SiDA's" in (folder / "README.md").read_text()
