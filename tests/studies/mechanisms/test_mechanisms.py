"""The study `mechanisms`: its pages, pictures and the first page have the numbers of its stored rows."""

import itertools
import json
import math
import statistics
from statistics import mean, stdev

import pytest
import scipy.stats

from sida.config.lookup import ROOT
from sida.eval.contrasts import chances
from sida.files.atomic import read_jsonl
from studies.mechanisms import leads, pictures, tables
from studies.mechanisms.leads import (
    COLOUR,
    DIGITS,
    FASHION,
    LATER,
    SPLIT,
    WIDE,
    in_words,
    lead,
    lead_of,
    percent,
    ratio_in_words,
)

FOLDER = ROOT / "studies/mechanisms"
PAGE, PREDICTIONS, SETTINGS, POWER, COLOURED, HELD_OUT, LATER_PAGE = (
    (FOLDER / f"{name}.md").read_text()
    for name in ("README", "predictions", "settings", "power", "colour", "held-out", "later")
)
FIRST, FAQ = ((ROOT / name).read_text() for name in ("README.md", "docs/faq.md"))
#: Cells of the digits that the verdicts name.
SHORT = [("d10", 0.3), ("d10", 0.01), ("d40", 0.3), ("d200", 3.0)]
CELLS, TRAININGS = leads.cells_of(DIGITS), leads.trainings_of(DIGITS)


def span(values, digits=2):
    """The least and the largest of values, once if they are equal as text."""
    return " to ".join(dict.fromkeys(f"{end(values):.{digits}f}" for end in (min, max)))


def of_part(part, images=None, weight=0.0, teacher="d10"):
    """Lead of a part's trainings over a cell's: of SiD with weight 0."""
    sides = CELLS[teacher, weight], TRAININGS[f"digits-{part}", teacher]
    return lead(*(leads.values_of(DIGITS, runs, images=images) for runs in sides))


def recalls(runs, data=DIGITS):
    return leads.values_of(data, {run: {} for run in runs}, "recall")


def test_the_tables_are_on_the_pages(capsys):
    tables.main()
    text = PAGE + SETTINGS + POWER + COLOURED + HELD_OUT + LATER_PAGE
    names = {data.name for data in (DIGITS, SPLIT, LATER, *WIDE, FASHION, COLOUR)}
    for line in capsys.readouterr().out.splitlines():
        assert line in text or line in names, line
    short = tables.short_table()
    assert short in FIRST
    assert short in PAGE


def test_the_page_on_held_out_digits_says_what_its_pairs_show():
    cells, means, teachers = leads.cells_of(SPLIT), leads.means_of(SPLIT), ("d10", "d10b")

    def words(metric, images=None):
        both = (in_words(lead_of(SPLIT, cells, teacher, 0.3, metric, images)) for teacher in teachers)
        return " and ".join(text.removesuffix(" °") for text in both)

    assert (
        f"SiDA leads by {words('fd')} to training images and by {words('fd_heldout')} to held-out ones, wh" in HELD_OUT
    )
    assert f"real training digits have an FD of {means['data', 'fd_heldout']:.1f}." in HELD_OUT
    other, at_end = words("fd_glyphs_heldout"), words("fd", SPLIT.end)
    assert f"it leads by {other} to held-out images. At the end it leads by {at_end} to training images." in HELD_OUT
    assert f"hardly draw digits it is {words('fd')}, and {words('fd_heldout')} to held-out digits:" in PAGE
    good = [
        in_words(lead_of(SPLIT, cells, "d200", 0.3, metric, images)).removesuffix(" °")
        for metric, images in (("fd", None), ("fd_heldout", None), ("fd_glyphs_heldout", None), ("fd", SPLIT.end))
    ]
    assert f"it is {words('fd')} below SiD's from two weak teachers, and {good[0]} from a good one" in FAQ
    assert f"From one of 200 thousand images it is {good[0]}, and {good[1]} to held-out digits" in PAGE
    assert f"lead by {good[0]} to training images, by {good[1]} to held-out ones, and by {good[2]} to these" in HELD_OUT
    assert f"at the end by {good[3]} to training images." in HELD_OUT
    papers = [
        " and ".join(in_words(lead_of(SPLIT, cells, teacher, 0.01, metric)).removesuffix(" °") for teacher in teachers)
        for metric in ("fd", "fd_heldout")
    ]
    assert f"With their 0.01 (λ_D 1) it is {papers[0]}, and {papers[1]} to held-out digits." in PAGE
    assert f"SiDA leads by {papers[0]} to training images and by {papers[1]} to held-out ones; its" in HELD_OUT
    sid, sida = ([run for teacher in teachers for run in cells[teacher, weight]] for weight in (0.0, 0.3))
    of = lambda metric, runs=sida, digits=2: span([means[run, metric] for run in runs], digits)
    shares = f"{of('copies')} in the features of `glyphs` and {of('copies_pixel')} in pixels, is below 0.5; "
    assert f"{shares}{of('copies_tail', digits=3)} are nearer than the nearest 5 %" in HELD_OUT
    assert max(means[run, metric] for run in sida for metric in ("copies", "copies_pixel")) < 0.5
    assert f"{of('recall')} against {of('recall', sid)} of held-out images." in HELD_OUT


def test_sentences_on_held_out_parts_are_those_of_the_stored_rows():
    cells, trainings, means, teachers = (
        leads.cells_of(SPLIT),
        leads.trainings_of(SPLIT),
        leads.means_of(SPLIT),
        ("d10", "d10b"),
    )

    def words(part, show, metric="fd", images=None, weight=0.0):
        pairs = ((cells[teacher, weight], trainings[f"digits-{part}", teacher]) for teacher in teachers)
        sides = ((leads.values_of(SPLIT, runs, metric, images) for runs in pair) for pair in pairs)
        return " and ".join(show(lead(*side)).removesuffix(" °") for side in sides)

    both = " and ".join
    runs = {
        part: [run for teacher in teachers for run in trainings[f"digits-{part}", teacher]]
        for part in ("alone", "generated-strong")
    }
    sida = [run for teacher in teachers for run in cells[teacher, 0.3]]
    generated, of_sida = (
        [share for run in side for share in quarters_of(SPLIT, run)] for side in (runs["generated-strong"], sida)
    )
    shares = [f"{percent(min(side))} to {percent(max(side))} %" for side in (generated, of_sida)]
    assert f"the term {shares[0]} of the gradient (SiDA's {shares[1]})" in FIRST
    assert f"the term {shares[0]} of the gradient (SiDA's {shares[1]})" in PAGE
    assert f"the term has {shares[0]} of the generator's gradient in the quarters of the trainings; SiDA's" in HELD_OUT
    assert 0.3 < min(generated) < max(generated) < 0.65
    kept, at_end = (words("generated-strong", ratio_in_words, images=images) for images in (None, 50))
    assert f"FD is {kept} times SiD's, at the end {at_end} times." in FIRST
    assert f"the kept networks have {kept} times SiD's FD, and {at_end} times at the end" in PAGE
    assert f"kept networks have {kept} times SiD's FD, and at the end each of the eight is above SiD's" in HELD_OUT
    for teacher in teachers:
        for run, curve in trainings["digits-generated-strong", teacher].items():
            assert curve[50] > max(sid[50] for sid in cells[teacher, 0.0].values())
            assert all(
                means[run, key] > max(means[sid, key] for sid in cells[teacher, 0.0]) for key in ("fd", "fd_heldout")
            )
    alone, last = (words("alone", in_words, images=images) for images in (None, 50))
    highest = max(means[run, "recall"] for run in runs["alone"])
    assert (
        f"the adversarial term alone is {alone} below SiD, at the end {last}, and its recall is at most {highest:.3f}."
        in FIRST
    )
    assert f"The adversarial term alone leads by {alone}, at the end by {last}." in PAGE
    ratios = words("alone", ratio_in_words, weight=0.3)
    assert f"Its FD is {ratios} times SiDA's, and its recall at most {highest:.3f};" in PAGE
    held_out = words("alone", in_words, "fd_heldout")
    curves = [curve for teacher in teachers for curve in trainings["digits-alone-from-sid", teacher].values()]
    start, lowest, last = (
        both(f"{at(curve):.1f}" for curve in curves)
        for at in (lambda c: c[0], lambda c: min(c.values()), lambda c: c[50])
    )
    assert f"FD falls from {start} to {lowest} after 15 thousand images, and ends at {last}, " in HELD_OUT
    assert all(min(curve, key=curve.get) == 15 and curve[0] > curve[50] > 1.1 * min(curve.values()) for curve in curves)
    assert (
        f"It leads SiD by {alone} to training images and by {held_out} to held-out ones. Its FD is {ratios} times"
        in HELD_OUT
    )


def test_verdicts_of_four_trainings_a_side_are_those_of_the_stored_rows():
    cells, trainings, means = leads.cells_of(SPLIT), leads.trainings_of(SPLIT), leads.means_of(SPLIT)
    words = lambda teacher, metric: in_words(lead_of(SPLIT, cells, teacher, 0.3, metric))
    to_training, to_held_out = (" and ".join(words(t, m) for t in ("d10", "d10b")) for m in ("fd", "fd_heldout"))
    added = [
        means[f"{t}-w0.3-s{seed}", "fd"] for t, seeds in (("d10", (842, 844)), ("d10b", (846, 848))) for seed in seeds
    ]
    verdict = f"| 11 | holds: {to_training} to training images, {to_held_out} to held-out ones;"
    assert f"{verdict} FD of the new trainings of SiDA is {span(added)} |" in HELD_OUT
    good = f"| 12 | holds: {words('d200', 'fd')} to training images, {words('d200', 'fd_heldout')} to held-out ones |"
    assert good in HELD_OUT
    assert all(lead_of(SPLIT, cells, "d200", 0.3, metric).high < 0.07 for metric in ("fd", "fd_heldout"))
    by_mean = [
        means[run, "fd"] / mean(means[sid, "fd"] for sid in cells[teacher, 0.0])
        for teacher in ("d10", "d10b")
        for run in trainings["digits-generated-strong", teacher]
    ]
    assert f"FD of each kept network is at least {min(by_mean):.2f} times SiD's, and p against SiDA" in HELD_OUT
    kept, last = (
        {key: p for key, (*_, p) in tables.part_leads(SPLIT, images).items() if p is not None} for images in (None, 50)
    )
    assert max(kept.values()) < 1e-4
    generated = " and ".join(tables.p_in_words(last["digits-generated-strong", t]) for t in ("d10", "d10b"))
    assert f"p against SiDA is below 0.0001 from both teachers, at the end {generated}." in PAGE
    assert last["digits-alone", "d10"] < 1e-4
    alone = tables.p_in_words(last["digits-alone", "d10b"])
    assert f"p against SiDA is below 0.0001 from both teachers, at the end below 0.0001 and {alone}." in PAGE
    assert 2 * max(last.values()) < 0.001


def test_the_page_on_later_leads_says_what_its_pairs_show():
    cells, means = leads.cells_of(LATER), leads.means_of(LATER)
    words = lambda metric, images=None: in_words(lead_of(LATER, cells, "d40", 0.3, metric, images)).removesuffix(" °")
    kept, held_out, last = words("fd"), words("fd_heldout"), words("fd", LATER.end)
    answer = f"SiDA leads by {kept} to training images and by {held_out} to held-out ones, where real"
    assert f"{answer} training digits have an FD of {means['data', 'fd_heldout']:.1f}" in LATER_PAGE
    assert f"at the end it leads by {last} to training images." in LATER_PAGE
    unseen = lead_of(LATER, cells, "d40", 0.3, "fd_glyphs_heldout")
    assert unseen.low < 0 < unseen.high
    sid, sida = cells["d40", 0.0], cells["d40", 0.3]
    of_pairs = lambda images: " and ".join(
        percent(1 - theirs[images] / ours[images]) for ours, theirs in zip(sid.values(), sida.values(), strict=True)
    )
    grown = f"{of_pairs(50)} % after 50 thousand images and {of_pairs(100)} % after 100 thousand"
    assert f"**The lead is larger at the end than half way**, {grown}." in LATER_PAGE
    assert f"it is {grown}; by kept networks {kept}, and {held_out} to held-out images" in PAGE
    rises = sorted(curve[LATER.end] / min(curve.values()) - 1 for curve in sid.values())
    assert f"rises by {percent(rises[0])} and {percent(rises[1])} % to the end" in LATER_PAGE
    of = lambda metric, runs: span([means[run, metric] for run in runs])
    recall = f"from {of('recall', sid)} to {of('recall', sida)} of held-out images"
    assert f"**Recall falls by 0.20**, {recall}, while precision rises." in LATER_PAGE
    assert (
        f"{of('copies', sida)} in the features of `glyphs`, is below 0.5; {of('copies_tail', sida)} are" in LATER_PAGE
    )
    quarters = ("{}, {}, {} and {} %".format(*map(percent, quarters_of(LATER, run))) for run in sida)
    assert f"The term has {', and '.join(quarters)} of the generator's gradient" in LATER_PAGE


def quarters_of(data, run):
    """Mean share of the adversarial term in each quarter of a training, by its images."""
    shares, end = leads.shares_of(data, run).items(), data.end
    return [mean(share for at, share in shares if end / 4 * n < at <= end / 4 * (n + 1)) for n in range(4)]


def test_the_page_on_colour_pictures_says_what_its_pairs_show():
    cells, means, end = leads.cells_of(COLOUR), leads.means_of(COLOUR), COLOUR.end
    pairs = [*zip(cells["t10", 0.0], cells["t10", 0.3], strict=True)]
    both = lambda texts: " and ".join(texts)
    ratios = {key: [means[sida, key] / means[sid, key] for sid, sida in pairs] for key in ("fd", "fd_heldout")}
    kept, held_out = (both(f"{ratio:.2f}" for ratio in values) for values in ratios.values())
    last = both(f"{cells['t10', 0.3][sida][end] / cells['t10', 0.0][sid][end]:.2f}" for sid, sida in pairs)
    answer = (
        f"have {kept} times SiD's FD to training pictures, and {held_out} times to held-out ones; at {end} thousand"
    )
    assert f"{answer} images they have {last} times." in COLOURED
    better = [*zip(cells["t40", 0.0], cells["t40", 0.3], strict=True)]
    kept, held_out = (both(f"{means[sida, key] / means[sid, key]:.2f}" for sid, sida in better) for key in ratios)
    last = both(f"{cells['t40', 0.3][sida][end] / cells['t40', 0.0][sid][end]:.2f}" for sid, sida in better)
    answer = (
        f"{kept} times SiD's FD to training pictures, and {held_out} times to held-out ones; at {end} thousand images"
    )
    assert f"{answer} they have {last} times." in COLOURED
    wide = lead_of(COLOUR, cells, "t40", 0.3)
    assert f"The interval of the lead, {percent(wide.low)} to {percent(wide.high)} %," in COLOURED
    one = lead_of(COLOUR, cells, "t10", 0.3)
    assert f"from {percent(one.low)} to {percent(one.high)} %" in COLOURED
    words = in_words(one).removesuffix(" °")
    assert words in next(line for line in PAGE.splitlines() if line.startswith("- **On colour pictures"))
    of_pairs = zip(*([f"{100 * (1 - ratio):.1f}".replace("-", "−") for ratio in values] for values in ratios.values()))
    told = ", and ".join(f"{both(leads_here)} %" for leads_here in of_pairs)
    assert f"the leads to training and held-out pictures are {told} |" in COLOURED
    quarters = [[*map(percent, quarters_of(COLOUR, sida))] for _, sida in pairs]
    told = ", and ".join(f"{', '.join(first)} and {fourth} %" for *first, fourth in quarters)
    assert f"the adversarial term has {told} of the generator's gradient" in COLOURED
    against = lambda key, digits: ", and ".join(
        f"{means[sida, key]:.{digits}f} against {means[sid, key]:.{digits}f}" for sid, sida in pairs
    )
    assert f"**In pixels the pairs differ**: from that teacher SiDA has {against('fd_pixel', 1)}." in COLOURED
    assert f"recall is {against('recall', 2)} |" in COLOURED


@pytest.mark.parametrize(("data", "teacher"), [(DIGITS, "d10"), (FASHION, "t10")])
@pytest.mark.parametrize("at_end", [False, True])
def test_a_lead_is_welchs_of_logarithms(data, teacher, at_end):
    """By another way: the ratio of geometric means, and the interval by SciPy."""
    cells, images = leads.cells_of(data), data.end if at_end else None
    sides = [[math.log(v) for v in leads.values_of(data, cells[teacher, w], images=images)] for w in (3.0, 0.0)]
    found = lead_of(data, cells, teacher, 3.0, images=images)
    assert found.value == pytest.approx(1 - math.exp(mean(sides[0]) - mean(sides[1])))
    test = scipy.stats.ttest_ind(*sides, equal_var=False)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((1 - math.exp(interval.high), 1 - math.exp(interval.low)))
    assert found.p == pytest.approx(test.pvalue)
    assert found.is_open is (data is FASHION)


def test_the_map_shows_each_cell_by_both_protocols_with_open_marks_for_two_trainings():
    for data in (DIGITS, FASHION):
        cells = leads.cells_of(data)
        figure, records = pictures.map_of_leads([(data, cells), (data, cells)])
        shown = {(record["teacher"], record["weight"], record["images"]): record for record in records}
        pairs = [(teacher, weight) for teacher, weight in cells if weight]
        assert {key[:2] for key in shown} == {*pairs}
        for teacher, weight in pairs:
            for images, at in (("kept networks", None), (1000 * data.end, data.end)):
                one = lead_of(data, cells, teacher, weight, images=at)
                record = shown[teacher, weight, images]
                assert [record[key] for key in ("value", "low", "high")] == [one.value, one.low, one.high]
        marks = [container.lines[0] for container in figure.axes[0].containers]
        assert len(marks) == 2 * len(pairs)
        is_open = [mark.get_markerfacecolor() == "white" for mark in marks]
        assert sum(is_open) == 2 * sum(lead_of(data, cells, *pair).seeds == 2 for pair in pairs) > 0
        named = figure.axes[0].texts[-1].get_text()
        for teacher, weight in {(t, w) for t in data.grades for w in data.weights[1:]} - {*pairs}:
            line = next(line for line in named.splitlines() if line.startswith(f"weight {weight:g}:"))
            assert f"{data.grades[teacher]}k" in line


def test_the_picture_of_the_first_page_has_the_leads_of_its_table():
    _, records = pictures.rows_of_leads()
    shown = {
        (record["data"], record["teacher"], record["weight"], record["metric"], record["images"]): record
        for record in records
    }
    for data, teacher, weight in tables.SHORT:
        cells = leads.cells_of(data)
        for metric, images, key in (
            ("fd", None, "kept networks"),
            ("fd", data.end, 1000 * data.end),
            ("fd_heldout", None, "kept networks"),
        ):
            one = lead_of(data, cells, teacher, weight, metric, images)
            record = shown.pop((data.name, teacher, weight, metric, key), None)
            assert (record is None) == (one is None)
            assert one is None or [record[name] for name in ("value", "low", "high")] == [one.value, one.low, one.high]
    assert not shown


def test_the_answer_is_that_of_the_stored_rows():
    kept = {(teacher, weight): lead_of(DIGITS, CELLS, teacher, weight) for teacher, weight in SHORT}
    light, middle, strong = (kept[key] for key in (("d10", 0.3), ("d40", 0.3), ("d200", 3.0)))
    heavy, papers = (lead_of(DIGITS, CELLS, "d10", weight) for weight in (3.0, 0.01))
    weak = f"With weight 0.3 it is {percent(light.value)} % from the weakest of three teachers"
    others = f"{percent(middle.value)} % from the next; from the best, where of the weights only 3 was trained, it is"
    assert f"{weak} and {others} {in_words(strong)}:" in PAGE
    small = (
        f"it is {in_words(papers).removesuffix(' °')} with their 0.01 (two trainings, λ_D 1), {in_words(light)} with"
    )
    assert f"{small} 0.3, and {in_words(heavy)} with 3." in PAGE
    alone, generated = ([in_words(of_part(part, images)) for images in (None, 50)] for part in ("alone", "generated"))
    assert f"SiDA leads by {generated[0]}, at the end by {generated[1]}." in PAGE
    sides = TRAININGS["digits-generated", "d10"], CELLS["d10", 0.3]
    shares = ([share for run in runs for share in quarters_of(DIGITS, run)] for runs in sides)
    parts = (f"{percent(min(of_side))} to {percent(max(of_side))} %" for of_side in shares)
    share = f"here the term has {next(parts)} of the gradient, in SiDA {next(parts)}"
    assert share in PAGE
    assert f"The adversarial term alone leads by {alone[0]}, at the end by {alone[1]}." in PAGE
    of_alone = recalls(TRAININGS["digits-alone", "d10"])
    assert (
        f"Its FD is {ratio_in_words(of_part('alone', weight=0.3))} times SiDA's, and its recall {span(of_alone)}."
        in PAGE
    )
    recall = {weight: f"{mean(recalls(CELLS['d10', weight])):.2f}" for weight in DIGITS.weights}
    assert f": from {recall[0.0]} to {recall[0.3]} and to {recall[3.0]}, by " in PAGE
    assert f"With 0.01 it rises to {recall[0.01]}." in PAGE
    cells = leads.cells_of(FASHION)
    found, held_out = (in_words(lead_of(FASHION, cells, "t10", 3.0, metric)) for metric in ("fd", "fd_heldout"))
    assert found.endswith("°")
    found, held_out = found.removesuffix(" °"), held_out.removesuffix(" °")
    assert f"two trainings a side: a lead of {found}, and of {held_out} to held-out images." in PAGE


def test_sentences_on_times_are_those_of_the_stored_curves():
    gaps = [lead_of(DIGITS, CELLS, "d40", 0.3, images=images).value for images in (35, 40, 45, 50)]
    crossing = 35 + 5 * gaps[0] / (gaps[0] - gaps[1])
    rises = [100 * (later - earlier) for earlier, later in itertools.pairwise(gaps)]
    growth = f"grows by {min(rises):.0f} to {max(rises):.0f} points an evaluation (5 thousand images)"
    assert f"passes 0 after {crossing:.0f} thousand images and {growth} when" in PAGE
    behind = [at for at in DIGITS.images if lead_of(DIGITS, CELLS, "d40", 0.3, images=at).value < 0]
    assert f"SiDA is behind from {behind[0]} up to {behind[-1]} thousand images." in PAGE
    reached = {}
    for teacher, weight in (("d10", 0.3), ("d10", 3.0), ("d40", 0.3), ("d200", 3.0)):
        sid = CELLS[teacher, 0.0].values()
        level = math.exp(mean(math.log(min(curve.values())) for curve in sid))
        after = [tables.first_below(curve, level) for curve in CELLS[teacher, weight].values()]
        reached[teacher, weight] = after, sorted(min(curve, key=curve.get) for curve in sid)
    assert {*reached["d10", 0.3][0]} == {*reached["d10", 3.0][0]} == {"10"}
    of_sid = reached["d10", 0.3][1]
    assert "after 10 thousand images with weights 0.3 and 3, SiD after {} to {}.".format(*ends(of_sid)) in PAGE
    after, of_sid = reached["d40", 0.3]
    assert "there after {} to {}, SiD after {} to {};".format(*ends(after), *ends(of_sid)) in PAGE
    after, of_sid = reached["d200", 3.0]
    assert sorted(after) == ["45", "45", "50", "—"]
    assert {*of_sid} == {50}
    assert "after 45, 45 and 50 in three of four trainings, SiD after 50." in PAGE
    cost = json.loads((FOLDER / "mechanisms-digits/cost.json").read_text())
    sid = statistics.median(each["SiD"] / each["SiDA"] for each in cost["rounds"])
    assert f"SiD's iteration takes {sid:.2f} times SiDA's" in PAGE


def ends(values):
    return min(values), max(values)


def test_sentences_on_digits_are_those_of_the_stored_rows():
    kept = {weight: leads.values_of(DIGITS, CELLS["d10", weight]) for weight in DIGITS.weights}
    assert f"SiD stays near it, with {span(kept[0.0], 1)}." in PAGE
    assert f"recorded after that choice, with {kept[0.3][2]:.2f} and {kept[0.3][3]:.2f}." in PAGE
    assert [len(runs) for runs in kept.values()] == [4, 2, 4, 4]
    same = [percent(lead_of(DIGITS, CELLS, teacher, 3.0).value) for teacher in ("d10", "d200")]
    assert "Weight 3 by itself falls from {} to {} %.".format(*same) in PAGE
    light, heavy = (in_words(lead_of(DIGITS, CELLS, "d10", weight, "fd_pixel")) for weight in (0.3, 3.0))
    assert f"{light} with weight 0.3 from the weakest teacher, and {heavy} with 3." in PAGE
    last = [curve[50] for curve in CELLS["d10", 3.0].values()]
    assert f"scatter** by {100 * stdev(last) / mean(last):.0f} % of FD at their end" in PAGE
    rises = sorted((100 * (c[50] / min(c.values()) - 1) for c in CELLS["d10", 3.0].values()), reverse=True)
    assert rises[-1] == 0
    assert "the others end {:.0f}, {:.0f} and {:.0f} % above.".format(*rises[:3]) in PAGE
    (gdd,), (mean_flow,) = (
        leads.values_of(DIGITS, TRAININGS[key]) for key in (("digits-gdd", "d10"), ("digits-meanflow", "None"))
    )
    assert f"keeps FD {gdd:.2f}, above SiDA's four with weight 0.3" in PAGE
    assert gdd > max(kept[0.3])
    assert f"it has FD {mean_flow:.2f} and recall {recalls(['meanflow-s495'])[0]:.2f}." in PAGE
    assert mean_flow < min(leads.values_of(DIGITS, CELLS["d40", 0.3]))
    assert mean_flow > max(leads.values_of(DIGITS, CELLS["d200", 0.0]))
    # Work in forward passes: three for an image of a teacher, 11 or 12½ of SiD or SiDA, six of MeanFlow.
    works = [(images * 3 + 50 * work) / 6 for images, work in ((10, 12.5), (40, 12.5), (200, 11))]
    assert f"after {works[0]:.0f} thousand images, the work of SiDA and the weakest" in PAGE
    assert f"whose work with its teacher is {works[2]:.0f} thousand images of MeanFlow's." in PAGE
    assert f"40 thousand are {works[1]:.0f} thousand of MeanFlow's images, SiD and that" in PREDICTIONS


def test_sentences_on_parts_are_those_of_the_stored_rows_and_of_the_measured_time():
    page = PAGE.split("## Parts\n")[1].split("\n## ")[0]
    both = [tables.part_leads(DIGITS, images) for images in (None, 50)]
    differ = [{part for (part, _), (*_, p) in found.items() if p is not None and p < 0.05} for found in both]
    assert differ[0] - differ[1] == {"digits-gamma"}
    assert differ[0] & differ[1] == differ[1] == {"digits-alone", "digits-generated"}
    of_gamma = [found["digits-gamma", "d10"] for found in both]
    words = [f"{ratio_in_words(of_sida)}, p {tables.p_in_words(p)}" for _, of_sida, p in of_gamma]
    assert f"γ = 1 differs by kept networks ({words[0]}) and not at the end ({words[1]})." in page
    weak, strong = ([c[50] / min(c.values()) for c in TRAININGS["digits-alone", t].values()] for t in ("d10", "d200"))
    assert {min(curve, key=curve.get) for curve in TRAININGS["digits-alone", "d10"].values()} == {20}
    assert {min(curve, key=curve.get) for curve in TRAININGS["digits-alone", "d200"].values()} == {0}
    assert f"after 20 thousand images and ends {span(weak)} times as high;" in page
    assert "is never below its start and ends at {:.2f} and {:.2f} times it,".format(*strong) in page
    assert max(weak) < 3 < min(strong)
    cost = json.loads((FOLDER / "mechanisms-digits/cost.json").read_text())
    for part, label in (("own-encoder", "own encoder"), ("separate-steps", "separate steps")):
        times = f"{ratio_in_words(of_part(part, weight=0.3))} times SiDA's FD"
        line = next(line for line in page.splitlines() if times in line and line.startswith("- **"))
        median = statistics.median(each[label] / each["SiDA"] for each in cost["rounds"])
        assert f"an iteration takes {median:.2f} times SiDA's" in line
    pooled = ratio_in_words(of_part("sample", weight=0.3))
    assert f"has two trainings, {pooled.removesuffix(' °')} times SiDA's FD: not decided." in page


def test_sentences_on_ten_times_the_width_are_those_of_the_stored_rows():
    cells = [leads.cells_of(data) for data in WIDE]
    runs = {w: {run: c for found in cells for run, c in found["d10", w].items()} for w in (0.0, 0.3, 3.0)}
    sida = runs[0.3] | runs[3.0]
    assert (len(runs[0.0]), len(sida)) == (4, 8)
    kept, last = ([leads.values_of(WIDE[0], one, images=at) for one in (sida, runs[0.0])] for at in (None, 50))
    assert (
        f"eight trainings have FD {span(kept[0])}, SiD's four {span(kept[1])}; at the end {span(last[0])} and" in PAGE
    )
    assert f"at the end {span(last[0])} and {span(last[1])}." in PAGE
    assert all(min(curve.values()) == curve[50] for curve in sida.values())
    excluding = [
        (data.rate, weight)
        for data, found in zip(WIDE, cells)
        for weight in (0.3, 3.0)
        for at in (None, 50)
        if lead_of(data, found, "d10", weight, images=at).low > 0
    ]
    assert {*excluding} == {("", 0.3)}
    means, teacher = leads.means_of(WIDE[0]), leads.teacher_fd(WIDE[0], "d10")
    assert f"its FD is {teacher:.1f} and its accuracy {100 * means['teacher-d10', 'accuracy']:.0f} %" in PAGE
    above = " to ".join(f"{100 * (end(last[1]) / teacher - 1):.0f}" for end in (min, max))
    assert f"SiD, which ends {above} % above its teacher's FD" in PREDICTIONS
    fast = cells[1]
    lower = min(curve[50] for curve in fast["d10", 0.0].values())
    gaps = " and ".join(f"{100 * (1 - curve[50] / lower):.0f}" for curve in fast["d10", 0.3].values())
    assert f"({gaps} % against the lower SiD)" in PREDICTIONS
    recall = lambda runs: recalls(runs, WIDE[0])
    assert f"**SiDA's recall is {span(recall(sida))}**, SiD's {span(recall(runs[0.0]))}." in PAGE
    pairs = [" and ".join(f"{value:.2f}" for value in sorted(recall(fast["d10", w]))) for w in (3.0, 0.0)]
    assert f"with weight 3 at the higher rate it is {pairs[0]}, SiD's {pairs[1]}." in PREDICTIONS


def test_curves_on_fashion_mnist_are_those_of_the_stored_logs():
    cells = leads.cells_of(FASHION)
    curves = {run: curve for found in cells.values() for run, curve in found.items()}
    for run, curve in curves.items():
        values = " | ".join(f"{curve[at]:.2f}" for at in sorted(curve))
        assert f"| {values} |" in next(line for line in PAGE.splitlines() if line.startswith(f"| `{run}`"))
    pairs = [*zip(cells["t10", 0.0].values(), cells["t10", 3.0].values())]
    at_end = " and ".join(f"{100 * (1 - sida[48] / sid[48]):.0f}" for sid, sida in pairs)
    assert f"the lead at 48 thousand images is {at_end} %, not 15 %." in PREDICTIONS
    assert percent(lead_of(FASHION, cells, "t10", 3.0, images=12).value) == "−2"
    kept = leads.values_of(FASHION, cells["t10", 3.0])
    assert f"these two differ by {100 * (max(kept) / min(kept) - 1):.1f} % of FD" in PAGE
    line = tables.time_table(FASHION).splitlines()[-1]
    assert line.endswith("| 12, 18 | 18, 30 |")
    assert "after 12 and 18 thousand images, SiDA there after 18 and 30." in PAGE


def test_shares_of_the_adversarial_term_are_those_of_the_logs():
    first, *later = (f"{100 * tick['share']['adversarial']:.2f}" for tick in read_jsonl(FOLDER / "bench-share.jsonl"))
    assert f"{first} % before the first step, and {', '.join(later[:-1])} and {later[-1]} % after" in SETTINGS
    for other in ("fashion/README.md", "fashion/anew.md", "scratch/README.md", "other-teachers/README.md"):
        said = f"was {min(later)} to {max(later)} % of the gradient early in one training"
        assert said in (ROOT / "studies" / other).read_text()
    runs = ("t10-w3-s302", "t10-w3-s304")
    shares = [[100 * share for share in leads.shares_of(FASHION, run).values()] for run in runs]
    assert "has {} of".format(" and ".join(f"{min(one):.0f} to {max(one):.0f} %" for one in shares)) in PREDICTIONS
    quarters = ["{}, {}, {} and {} %".format(*map(percent, quarters_of(FASHION, run))) for run in runs]
    assert f"{quarters[0]} in the quarters of the first training, {quarters[1]} in those of the second" in PREDICTIONS


@pytest.mark.slow
def test_shares_on_digits_are_those_of_the_logs():
    words = lambda values: f"{percent(min(values))} to {percent(max(values))}"
    found = {key: [quarters_of(DIGITS, run) for run in runs] for key, runs in CELLS.items() if key[1]}
    doses = [words([share for parts in found["d10", weight] for share in parts]) for weight in DIGITS.weights[1:]]
    assert "is {} % with weight 0.01, {} % with 0.3, and {} % with 3.".format(*doses) in SETTINGS
    weak, strong = (
        " and ".join(words([parts[place] for parts in found[teacher, 3.0]]) for place in (0, -1)) + " %"
        for teacher in ("d10", "d200")
    )
    assert all(parts[0] > parts[-1] for teacher in ("d10", "d200") for parts in found[teacher, 3.0])
    said = f"{weak} in all four from the teacher of 10 thousand images, and {strong} in all four"
    assert f"{said} from that of 200 thousand." in PREDICTIONS
    first = " and ".join(f"{100 * next(iter(leads.shares_of(DIGITS, run).values())):.1f}" for run in CELLS["d10", 0.01])
    assert f"but {first} % in the term's first record of each training on digits" in PREDICTIONS


def test_verdicts_of_predictions_are_those_of_the_stored_rows():
    both = lambda *cell: [in_words(lead_of(DIGITS, CELLS, *cell, images=images)) for images in (50, None)]
    weak, strong = both("d10", 3.0), both("d200", 3.0)
    assert f"weight 3 leads by {weak[0]} from the teacher of 10 thousand images, an interval" in PREDICTIONS
    assert f"below 30 %; kept by {weak[1]}." in PREDICTIONS
    assert lead_of(DIGITS, CELLS, "d10", 3.0, images=50).low < 0.3 < lead_of(DIGITS, CELLS, "d10", 3.0).low
    assert f"contains 0, as predicted: {strong[0]}, kept {strong[1]}." in PREDICTIONS
    at_end, kept = (
        [percent(lead_of(DIGITS, CELLS, *cell, images=images).value) for cell in SHORT] for images in (50, None)
    )
    assert f"({at_end[0]} and {at_end[2]} % with weight 0.3, {at_end[3]} % with weight 3; kept" in PREDICTIONS
    assert f"kept {kept[0]}, {kept[2]}, and {kept[3]} %)" in PREDICTIONS
    assert f"{at_end[1]} against {at_end[0]} %, as predicted (kept {kept[1]} against {kept[0]} %)" in PREDICTIONS
    own = [ratio_in_words(of_part("own-encoder", images, 0.3)) for images in (50, None)]
    assert f"at the end {own[0]} and kept {own[1]}, and" in PREDICTIONS
    sid = [curve[50] for curve in CELLS["d10", 0.0].values()]
    assert sum(curve[50] > max(sid) for curve in TRAININGS["digits-alone", "d10"].values()) == 1
    assert f"FD is {in_words(of_part('alone'))} lower." in PREDICTIONS
    generated = [in_words(of_part("generated", images)) for images in (50, None)]
    assert f"with a lead of {generated[0]}, kept {generated[1]}." in PREDICTIONS
    gamma = [tables.p_in_words(tables.part_leads(DIGITS, images)["digits-gamma", "d10"][2]) for images in (None, 50)]
    assert f"(p {gamma[0]}, corrected for six parts) and is open at the end (p {gamma[1]})." in PREDICTIONS


def test_power_is_that_of_the_scatter_found():
    lines = [
        [cell.strip(" %") for cell in line.split("|")[1:-1]] for line in tables.power_table(DIGITS).splitlines()[2:]
    ]
    if_equal = [int(line[6]) for line in lines if line[0] != "M-16"]
    assert f"the rules had a chance of {min(if_equal)} to {max(if_equal)} % to decide if a part makes no" in PAGE
    assert max(int(line[7]) for line in lines if line[0] in ("M-15", "M-17")) <= 12
    scatter = {
        key: [100 * tables.log_std(leads.values_of(DIGITS, runs, images=images)) for images in (None, 50)]
        for key, runs in CELLS.items()
    }
    of = lambda weight: [one for (_, w), both in scatter.items() if w == weight for one in both]
    assert f"SiD scatters by {span(of(0.0), 0)} %, SiDA of weight 0.3 by {span(of(0.3), 0)} %" in POWER
    assert "from the weakest teacher by {:.0f} and {:.0f} %.".format(*scatter["d10", 3.0]) in POWER
    low, high = (math.sqrt(3 / scipy.stats.chi2.ppf(share, 3)) for share in (0.975, 0.025))
    assert f"reaches from {low:.2f} to {high:.1f} times the value." in POWER


def test_the_chance_of_a_rule_is_by_its_own_range():
    shared, own = (
        tables.log_std(leads.values_of(DIGITS, runs))
        for runs in (CELLS["d10", 0.3], TRAININGS["digits-own-encoder", "d10"])
    )
    decided = chances(0.0, (own, shared), (4, 4), math.log(1 / 1.1), math.inf)
    line = next(line for line in tables.power_table(DIGITS).splitlines() if "| M-14 |" in line)
    assert line.split(" | ")[6] == f"{100 * sum(decided):.0f} %"
