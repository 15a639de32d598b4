"""Values on a network to which the generator was exposed: marked, never bold, deciding nothing."""

import dataclasses
import hashlib
import re

import pytest
import yaml

from sida.assets.registry import load_registry
from sida.config import registries
from sida.config.feature_networks import BACKBONES, network_of
from sida.config.named_files import find_file
from sida.config.samplers import read_sampler
from sida.eval.claims.finding import Operand
from sida.eval.features import EXTRACTORS
from sida.eval.measuring.generators import exposure_of_decoder, exposure_of_parts
from sida.eval.results.identity import Identity, comparable, identity_of, joined, read_exposure, reason_against
from sida.eval.results.measurements import Measurements
from sida.eval.results.sheet import SheetRow, exposure_of, official_exposure, read_runs
from sida.eval.tables.build import build_table
from sida.eval.tables.latex import to_latex
from sida.eval.tables.layout import load_layout
from sida.eval.tables.render import to_html, to_markdown
from sida.methods import distill
from sida.methods.method import Exposure
from sida.methods.registry import METHODS, exposure_of_training
from sida.networks import build_network
from sida.networks.file import read_metadata, save_network
from sida.sampling import Drawer
from tests.eval.claims import evidence as made_up
from tests.plugins import needs
from tests.refused import refused
from tests.workflow.workspace import ROWS, study

FID = "frechet cov_ddof=0 extractor=inception"


def lines(run, value, settings=FID, metric="fid", **change):
    """Two trials of a generator."""
    known = {"reference_sha256": "a" * 64, "extractor_sha256": "b" * 64, "network_sha256": "", "settings": settings}
    return made_up.lines(run, [value, value + 1e-3], metric, **(known | change))


def of_rows(tmp_path, runs, measured, column=None, rows=None, mode="measured"):
    """A table of rows with a column of this metric."""
    columns = [{"head": "M", "field": "label"}, column or {"head": "fid", "metric": "fid", "direction": "lower"}]
    layout = {"columns": columns, "rows": rows or [{"run": name} for name in runs], "bold": {}}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(layout))
    return build_table(load_layout(tmp_path / "t.yaml"), Measurements([*measured]), runs, mode, made_up.STILL)


def table(tmp_path, met, row=None, mode="measured", rows=None, settings=FID, **change):
    """A table of an honest row (SiDA), a worse one, and the row `met`, whose values are lower than both."""
    ours = [SheetRow(name, name.title(), "sida", checkpoint="x") for name in ("honest", "worse")]
    runs = {run.run: run for run in (*ours, met, row) if run and met}
    measured = [*lines("honest", 2.0, settings), *lines("worse", 3.0, settings)]
    measured += [
        line for name in runs if name not in ("honest", "worse") for line in lines(name, 0.7, settings, **change)
    ]
    return of_rows(tmp_path, runs, measured, rows=rows, mode=mode)


def bold(made):
    return {cell.text for row in made.rows for cell in row.cells if cell.bold}


def external(**cells):
    return SheetRow("met", "Met", "external", **cells)


MET, HONEST = {"0.700"}, {"2.000"}
INCEPTION = external(saw="loss:inception")
#: A row and its values; which values are bold; the mark of the row and a word of the note below the table.
RANKED = [
    # It met the network of the metric.
    (external(saw="loss:FID"), {}, HONEST, "‡", ""),
    (external(saw="loss:inception_cpu"), {}, HONEST, "‡", ""),
    (external(saw="choice:dinov2 start:dinov2 loss:vgg16 loss:inception"), {}, HONEST, "‡", ""),
    (SheetRow("met", "Met", "sida", saw="loss:inception"), {}, HONEST, "‡", ""),
    (SheetRow("met", "Met", "data", saw="loss:inception"), {}, HONEST, "‡", ""),
    (external(saw="loss:inception", protocol="q.yaml", second_protocol="q.yaml"), {}, HONEST, "‡", ""),
    (INCEPTION, {"settings": "frechet cov_ddof=0 extractor=inception_cpu"}, HONEST, "‡", ""),
    (INCEPTION, {"settings": "kernel extractor=inception subsets=10"}, HONEST, "‡", ""),
    (INCEPTION, {"settings": "frechet extractor=mine.py:Wrapped"}, HONEST, "‡", ""),
    (INCEPTION, {"settings": "mean of.a.extractor=inception of.b.extractor=dinov2"}, HONEST, "‡", ""),
    # A score, or a number of another group: the record says it, and the sheet does not take it away.
    (external(), {"saw": "loss:inception"}, HONEST, "‡", ""),
    (external(saw="none"), {"saw": "loss:inception"}, HONEST, "‡", ""),
    (SheetRow("met", "Met", "sida"), {"saw": "loss:inception"}, HONEST, "‡", ""),
    # Nobody says anything: it may be an honest one, so that no other row is better than it.
    (external(), {}, set(), "", "not ranked"),
    (external(saw="unknown"), {}, set(), "", "not ranked"),
    (SheetRow("met", "Met", "mine:METHOD"), {}, set(), "", "not ranked"),
    # It has seen the held-out images, or a part of them; a row's word does not take it away.
    (external(saw="none"), {"held_out": "40/40"}, HONEST, "¶", "40 of 40"),
    (external(saw="none"), {"held_out": "3/60"}, HONEST, "¶", "3 of 60"),
    (external(saw="data:none"), {"held_out": "40/40"}, HONEST, "¶", "40 of 40"),
    (external(saw="data:held-out"), {"held_out": "unknown"}, HONEST, "¶", "has seen held-out images"),
    (external(saw="data:held-out"), {"held_out": "0/60"}, HONEST, "¶", "has seen held-out images"),
    (external(saw="none"), {"held_out": "unknown"}, set(), "¶", "held-out images in training is not stated"),
    # Honest ones: data sets have pictures twice, and a metric may have no held-out images.
    (external(saw="data:none"), {"held_out": "unknown"}, MET, "", ""),
    (external(saw="none"), {"held_out": "0/60"}, MET, "", ""),
    (external(saw="none"), {"held_out": "1/60"}, MET, "", ""),
    (external(saw="data:held-out"), {"held_out": ""}, MET, "", ""),
    (external(saw="none"), {}, MET, "", ""),
    (external(saw="loss:dinov2"), {}, MET, "", ""),
    (external(saw="start:inception"), {}, MET, "", ""),
    (external(saw="choice:inception"), {}, MET, "", ""),
    (external(saw="choice:dinov2"), {}, MET, "", "chosen by metrics on different networks"),
    (
        external(saw="loss:vgg16"),
        {},
        MET,
        "§",
        "§ fid of Met: trained by a network that learned from the same labels (vgg",
    ),
]
LATEX = {"‡": r"\ddagger", "¶": r"\mathparagraph", "§": r"\mathsection", "": "0.700"}


@pytest.mark.parametrize(("row", "change", "best", "mark", "word"), RANKED)
def test_only_an_honest_row_is_bold_and_the_others_are_marked(tmp_path, row, change, best, mark, word):
    made = table(tmp_path, row, **change)
    assert bold(made) == best
    assert {cell.mark for line in made.rows for cell in line.cells if cell.text == "0.700"} == {mark}
    assert mark in to_html(made)
    assert LATEX[mark] in to_latex(made)
    assert f"0.700 ± 0.001 {mark}".strip() in to_markdown(made).replace("**", "")
    assert word in to_markdown(made)
    assert ("chosen by metrics" in to_markdown(made)) == ("choice:dinov2" in (row.saw or ""))
    assert ("not ranked" in to_markdown(made)) == (best != MET)
    assert "`" not in "".join(made.notes)


@pytest.mark.parametrize("settings", [FID, "frechet cov_ddof=0 extractor=pixels"])
@pytest.mark.parametrize("column", ["extractor_sha256", "reference_sha256"])
def test_a_value_without_a_digest_is_not_bold(tmp_path, column, settings):
    for digest, best in (("c" * 64, {"0.700"}), ("", set())):
        change = {"settings": settings, column: digest}
        rows = [row for name, value in (("a", 2.0), ("b", 0.7)) for row in lines(name, value, **change)]
        said, unsaid = (of_rows(tmp_path, dict.fromkeys("ab", external(saw=saw)), rows) for saw in ("none", None))
        assert bold(said) == best
        assert ("no digest" in to_markdown(said)) == ("no digest" in to_markdown(unsaid)) == (not best)


def test_a_value_of_unknown_seeds_makes_two_of_other_seeds_not_alike(tmp_path):
    rows = []
    for (name, first), value in zip({"none": None, "a": 0, "b": 9}.items(), (0.9, 0.8, 0.7)):
        for row in lines(name, value, protocol=name):
            begin = first if first is None else first + row.trial * row.n
            last = begin if begin is None else begin + row.n - 1
            rows.append(dataclasses.replace(row, seed_first=begin, seed_last=last))
    made = of_rows(tmp_path, {row.run: external(saw="none") for row in rows}, rows)
    assert bold(made) == set()
    assert "first image seed: 0 != 9" in to_markdown(made)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_training_seeds_that_are_pooled_with_one_that_met_it_are_not_bold(tmp_path, place):
    seeds = {f"s{n}": SheetRow(f"s{n}", "Met", "sida", saw="loss:inception" if n == place else None) for n in range(3)}
    runs = {name: SheetRow(name, name, "sida", checkpoint="x") for name in ("honest", "worse")} | seeds
    measured = [*lines("honest", 2.0), *lines("worse", 3.0), *(line for name in seeds for line in lines(name, 0.7))]
    rows = [{"run": "honest"}, {"run": "worse"}, {"run": "s0", "pool": ["s1", "s2"]}]
    made = of_rows(tmp_path, runs, measured, rows=rows)
    assert bold(made) == {"2.000"}
    assert [row.cells[1].mark for row in made.rows] == ["", "", "‡"]


def test_published_numbers_follow_the_same_rule(tmp_path, monkeypatch):
    rows = [{"run": "honest"}, {"label": "GDD-I", "published": "table1-gdd-i-{metric}", "nfe": "1"}]
    monkeypatch.setattr(
        "sida.eval.results.published.published_exposures", lambda: {"GDD-I": read_exposure("loss:inception")}
    )
    for mode in ("paper", "audit"):
        made = table(tmp_path, None, mode=mode, rows=rows)
        assert bold(made) <= {"2.000"}
        assert [cell.mark for line in made.rows for cell in line.cells if cell.kind == "published"] == ["‡"]
    monkeypatch.setattr("sida.eval.results.published.published_exposures", dict)
    for mode in ("paper", "audit"):
        assert not bold(table(tmp_path, None, mode=mode, rows=rows))


def test_a_method_says_it_for_its_rows(monkeypatch, tmp_path):
    sida = METHODS["sida"]
    monkeypatch.setattr("sida.methods.sid.SIDA", dataclasses.replace(sida, saw=Exposure(loss=("inception",))))
    for saw in (None, "none", "loss:clip", "choice:dinov2"):
        assert "0.700" not in bold(table(tmp_path, SheetRow("met", "Met", "sida", saw=saw)))
    for name, method in METHODS.items():
        assert official_exposure(name) is not None, name
        assert all(network_of(network) for network in method.exposure.loss)
    # A method with another loss has no networks of the method that it derives from.
    with pytest.raises(ValueError, match="saw"):
        dataclasses.replace(sida, name="derived", loss=METHODS["sid"].loss)
    derived = dataclasses.replace(sida, name="derived", loss=METHODS["sid"].loss, saw=None)
    monkeypatch.setattr("sida.methods.sid.SIDA", derived)
    assert SheetRow("met", "Met", "sida").exposure is None
    assert "0.700" not in bold(table(tmp_path, SheetRow("met", "Met", "sida")))
    assert all(network_of(name) for name in {*EXTRACTORS, *BACKBONES} - {"pixels"})


def seen(tmp_path, rows, **changes):
    """What rows of the tiny preset met, by run."""
    plain = {"total_kimg": 1.0, "batch_size": 1, "lr": 1.0e-5}
    recipes = {"recipes/plain": plain, "recipes/gdd": plain | {"options": {"backbones": ["digits"]}}}
    return {name: row.exposure for name, row in study(tmp_path, recipes | changes, rows).runs.items()}


SID = ROWS["sid-a1.0"]


def test_a_part_of_unknown_origin_makes_the_exposure_unknown_unless_the_sheet_states_it():
    row = SheetRow("met", "Met", "dmd", checkpoint="x")
    stated = dataclasses.replace(row, saw="loss:dinov2")
    of = lambda saw, row: exposure_of(lines("met", 1.0, saw=saw)[0], row)
    assert of("", row) == of("none", row) == Exposure()
    assert of("unknown", row) is of("unknown", None) is None
    assert of("unknown", stated) == of("", stated) == read_exposure("loss:dinov2")


#: Folders of decoders by their files' contents, and whether their weights are the registered ones.
FILES = {"diffusion_pytorch_model.safetensors": b"registered", "config.json": b"{}"}
FOLDERS = {
    "registered": (FILES, True),
    "registered, without description": ({"diffusion_pytorch_model.safetensors": b"registered"}, True),
    "trained on": ({**FILES, "diffusion_pytorch_model.safetensors": b"registered, and trained on"}, False),
    "one byte": ({**FILES, "diffusion_pytorch_model.safetensors": b"registerex"}, False),
    "other name": ({"model.safetensors": b"registered", "config.json": b"{}"}, False),
    "pickle": ({"diffusion_pytorch_model.bin": b"registered", "config.json": b"{}"}, False),
    "nothing": ({}, False),
}


def small(channels):
    sizes = {"img_resolution": 4, "img_channels": channels, "hidden_size": 8, "depth": 1, "num_heads": 1}
    return build_network({"class": "SiTPrecond", "kwargs": sizes})


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("name", FOLDERS)
@needs("transformers")
def test_a_decoder_from_elsewhere_is_of_unknown_origin(tmp_path, monkeypatch, name, linked):
    content, registered = FOLDERS[name]
    asset = dataclasses.replace(load_registry()["sd-vae-ft-mse"], sha256=hashlib.sha256(b"registered").hexdigest())
    monkeypatch.setattr("sida.sampling.job.load_registry", lambda: {**load_registry(), asset.id: asset})
    (tmp_path / "vae").mkdir()
    for file, data in content.items():
        (tmp_path / "vae" / file).write_bytes(data)
    if linked:
        (tmp_path / "link").symlink_to("vae")
    drawn = lambda vae, channels: exposure_of_decoder(Drawer(read_sampler("one_step"), small(channels), vae=vae))
    assert drawn(str(tmp_path / ("link" if linked else "vae")), 4) == ("" if registered else "unknown")
    assert drawn("sd-vae-ft-ema", 4) == drawn(None, 4) == drawn(None, 3) == ""


def of_file(path, **header):
    """A small network's file with a header."""
    save_network(small(3), path, header)
    return str(path)


RELEASED = {"url": next(asset.url for asset in load_registry().values() if asset.url), "file": "net.pkl"}
#: Headers of networks by how they came here, and the exposure of their training in words.
NETWORKS = {
    "trained here": ({"method": "teacher"}, "none"),
    "distilled here": ({"method": "sida"}, str(METHODS["sida"].exposure)),
    "released": ({"origin": RELEASED}, "none"),
    "released, put by hand": ({"origin": {**RELEASED, "url": ""}}, "none"),
    "distilled from an unknown teacher": ({"method": "sida", "saw": "unknown"}, "unknown"),
    "a teacher from an unknown start": ({"method": "teacher", "saw": "unknown"}, "unknown"),
    "bare": ({}, "unknown"),
    "a file of torch": ({"origin": {"file": "net.pt", "url": None}}, "unknown"),
    "a file without an origin's address": ({"origin": {"file": "net.pt"}}, "unknown"),
    "a pipeline of diffusers": ({"origin": {"file": "ddpm", "url": "hf://someone/ddpm"}}, "unknown"),
    "another address": ({"origin": {**RELEASED, "url": f"{RELEASED['url']}.bak"}}, "unknown"),
    "the name of a released file": ({"origin": {"file": RELEASED["file"], "url": None}}, "unknown"),
    "a method of one's own": ({"method": "mine:METHOD"}, "unknown"),
    "a method of a name alone": ({"method": "fine-tuned"}, "unknown"),
    "an average": ({"method": "teacher", "parents": {"average 1 2": "0" * 64}}, "none"),
    "an origin that is no mapping": ({"origin": "edm"}, "unknown"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_guiding_network_and_a_teacher_are_parts_of_the_exposure(tmp_path, name):
    header, words = NETWORKS[name]
    assert exposure_of_training(header) == read_exposure(words)
    drawer = Drawer(read_sampler("heun"), small(3))
    of = lambda own, guide: exposure_of_parts(own, guide, drawer)
    guide = of_file(tmp_path / "guide.safetensors", **header)
    assert of({"method": "teacher"}, guide) == ("" if words == "none" else words)
    assert of({}, guide) == ("" if words == "none" else "unknown")
    assert of({"method": "sida"}, "null") == of({"method": "sida"}, None) == of({}, None) == ""
    assert of(header, None) == (words if "saw" in header else "")


@pytest.mark.parametrize("origin", [None, {"origin": {"file": "edm.pkl", "url": "https://example.org/edm.pkl"}}])
def test_students_of_a_teacher_that_nothing_states_say_so(tmp_path, origin):
    """Also their own students: a later start takes over the word."""
    header = {"method": "teacher"} if origin is None else origin
    spec = {"name": "s", "dataset": {"name": "digits", "kind": "digits"}, "total_kimg": 0.008, "batch_size": 8}
    spec |= {"method": "sid", "seed": 1, "tick_kimg": 0.008, "lr": 1e-4}
    sizes = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_channels": 4, "channel_mult": [1]}
    network = build_network({"class": "EDMPrecond", "kwargs": {**sizes, "model_type": "SongUNet", "num_blocks": 1}})
    save_network(network, teacher := tmp_path / "teacher.safetensors", header)
    first = distill({**spec, "teacher": str(teacher)}, tmp_path / "first")
    assert read_metadata(first).get("saw") == (None if origin is None else "unknown")
    if origin is not None:
        save_network(network, stated := tmp_path / "stated.safetensors", {"method": "teacher"})
        second = distill({**spec, "teacher": str(stated), "init": str(first)}, tmp_path / "second")
        assert read_metadata(second)["saw"] == "unknown"


def test_a_start_and_optional_judges_are_part_of_a_row(tmp_path):
    rows = {"first": SID | {"saw": "loss:inception"}, "second": ROWS["sid2a-a1.0"] | {"init": "first"}}
    rows |= {"third": SID | {"method": "gdd", "alpha": "", "recipe": "gdd", "saw": "none"}, "fourth": ROWS["sida-a1.0"]}
    losses = {name: row.loss for name, row in seen(tmp_path, rows).items()}
    assert losses == {"first": ("inception",), "second": ("inception",), "third": ("digits_backbone",), "fourth": ()}


def test_the_choice_of_a_start_is_not_that_of_the_row_that_starts_from_it(tmp_path):
    second = ROWS["sid2a-a1.0"] | {"init": "first", "recipe": "plain"}
    found = seen(tmp_path, {"first": SID | {"saw": "loss:inception"}, "second": second})
    assert found["first"].choice
    assert found["second"] == Exposure(loss=("inception",))


@needs("judges")
@pytest.mark.parametrize(("selection", "network"), [("fd", "digits"), ("fd_glyphs", "glyphs")])
def test_the_metric_that_chooses_a_file_is_part_of_a_row(tmp_path, selection, network):
    protocol = yaml.safe_load(find_file("protocols", "digits-split").read_text())
    protocol |= {"name": "own", "selection": selection, "watch": [selection]}
    outside = {"label": "D", "method": "external", "sampler": "one-step", "saw": "none", "checkpoint": "x"}
    rows = {"chosen": SID, "last": SID | {"recipe": "plain"}, "unknown": SID | {"saw": "unknown"}, "other": outside}
    found = seen(tmp_path, rows, protocol="own.yaml", **{"own.yaml": protocol})
    assert [*map(str, found.values())] == [f"choice:{network}", "none", "None", "none"]


def test_a_column_says_how_many_trainings_a_row_has(tmp_path):
    runs = {name: SheetRow(name, name, "sid") for name in ("a", "b", "c")} | {"data": SheetRow("data", "data", "data")}
    rows = [{"run": "data"}, {"run": "a"}, {"run": "b", "pool": ["c"]}]
    measured = [line for name in runs for line in lines(name, 1.0)]
    made = of_rows(tmp_path, runs, measured, {"head": "S", "field": "seeds"}, rows)
    assert [row.cells[1].text for row in made.rows] == ["", "1", "2"]


@pytest.mark.parametrize("words", ["loss:incepton", "lost:inception", "loss:", "data:some"])
def test_a_word_that_names_nothing_is_refused(tmp_path, words):
    (tmp_path / "runs.tsv").write_text(f"run\tlabel\tmethod\tsaw\na\tA\texternal\t{words}\n")
    refused(r"runs\.tsv:2: saw", read_runs, tmp_path / "runs.tsv")


def test_no_claim_is_decided_by_a_value_on_a_network_of_the_loss():
    measured, expected = [*lines("honest", 2.0), *lines("met", 0.7)], {"none": "supported"}
    for saw in ("none", "loss:inception", "unknown", None):
        evidence = made_up.made(measured, [SheetRow("honest", "H", "sida"), external(saw=saw)])
        found = made_up.outcome(evidence, rule="LT", metric="fid", a=Operand(run="met"), b=Operand(run="honest"))
        assert found == expected.get(saw, "not decided here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", Exposure()), (" none ", Exposure()), ("unknown", None), ("", None),
        ("loss:vgg16 start:mae loss:clip loss:vgg16", Exposure(loss=("vgg16", "clip"), start=("mae",))),
        ("choice:inception data:held-out", Exposure(choice=("inception",), data=("held-out",))),
    ],
)  # fmt: skip
def test_words_of_an_exposure_are_read_and_written(text, expected):
    assert read_exposure(text) == expected
    if expected is not None:
        assert read_exposure(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("vgg16", "'vgg16'.*loss:inception.*loss, start, choice, data"), ("loss:", "'loss:'"), ("lost:vgg16", "'lost"),
        ("data:some", "'data:some'.*data:none or data:held-out"), ("none data:none", "'none'"),
        ("loss:vgg15", "'vgg15'.*'vgg16'.*other"), ("loss:theirs", "'theirs' is in the plugin mine.*put its folder"),
    ],
)  # fmt: skip
def test_words_that_are_no_exposure_are_told_with_those_that_are(text, told, monkeypatch):
    monkeypatch.setattr(registries, "missing_plugins", lambda registry: {"theirs": "mine"})
    assert refused(told, read_exposure, text).where == "saw"


def test_exposures_add_up_without_naming_a_network_twice_and_are_told_without_data():
    one = Exposure(loss=("vgg16",), choice=("inception",), data=("none",))
    both = one | Exposure(loss=("clip", "vgg16"), start=("mae",))
    assert both == Exposure(loss=("vgg16", "clip"), start=("mae",), choice=("inception",), data=("none",))
    assert both.words == "loss vgg16, clip; start mae; choice inception"
    assert (Exposure().words, str(Exposure()), Exposure(data=("none",)).words) == ("none", "none", "none")


FRECHET = "frechet cov_ddof=1 extractor=inception"


def identity(**facts):
    known = {"protocol": "p", "settings": FRECHET, "reference": "1" * 64, "extractor": "2" * 64, "exposure": Exposure()}
    return Identity(**known | facts)


@pytest.mark.parametrize(
    ("held_out", "data", "reason"),
    [
        ("", ("held-out",), None),
        ("0/50", (), None),
        ("1/50", (), None),  # one in fifty: data sets have pictures twice
        ("2/50", (), r"\(2 of 50 that were looked for\)"),
        ("0/50", ("held-out",), "as its row says"),
        ("unknown", (), "not stated"),
        ("unknown", ("none",), None),
        ("2/50", ("none",), "2 of 50"),
    ],
)
def test_held_out_images_that_a_generator_has_seen_count_beyond_chance(held_out, data, reason):
    found = identity(held_out=held_out, exposure=Exposure(data=data))
    assert found.held_out_fault == reason_against(found)
    assert (found.held_out_fault is None) == (reason is None)
    assert reason is None or re.search(reason, found.held_out_fault)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        ({"exposure": None}, "not stated"),
        ({"exposure": None, "settings": "frechet extractor=pixels"}, None),  # no network, nothing to meet
        ({"exposure": Exposure(loss=("inception", "dinov2"))}, r"\(inception\)"),
        ({"exposure": Exposure(loss=("dinov2",))}, None),
        ({"exposure": Exposure(start=("inception",), choice=("inception",))}, None),
        ({"exposure": Exposure(loss=("dinov2",)), "settings": "frechet extractor=own:net"}, r"\(other\)"),
        ({"settings": "frechet extractor=own:net"}, None),
        ({"extractor": ""}, "no digest"),
        ({"reference": ""}, "no digest"),
        ({"reference": "", "settings": "inception_score extractor=inception splits=10"}, None),
        ({"reference": "", "settings": "own:Kind extractor=inception"}, None),
        ({"reference": "", "extractor": "", "quoted": True}, None),
        ({"reference": "", "extractor": "", "settings": "own:Kind"}, None),
    ],
)
def test_a_reason_against_a_value_is_that_of_its_networks_and_digests(facts, reason):
    found = reason_against(identity(**facts))
    assert (found is None) == (reason is None)
    assert reason is None or re.search(reason, found)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None), ({"protocol": "other"}, None), ({"exposure": None, "held_out": "1/50"}, None),
        ({"n": 50000}, "images per trial: 0 != 50,000"),
        ({"seed0": 0}, None),  # unknown on one side
        ({"classes": "uniform"}, "classes: none != uniform"),
        ({"resolution": "32"}, "resolution: none != 32"),
        ({"reference": "3" * 64}, "reference: 111111111111 != 333333333333"),
        ({"reference": "asset x"}, "reference: 111111111111 != x (no digest is known here; `sida assets fetch` it)"),
        ({"extractor": ""}, "feature network: 222222222222 != none"),
        ({"settings": "frechet cov_ddof=0 extractor=inception"}, "metric: cov_ddof=1 != cov_ddof=0"),
        ({"settings": "kernel extractor=inception"}, "metric: frechet cov_ddof=1 != kernel"),
        ({"n": 5, "classes": "x"}, "images per trial: 0 != 5; classes: none != x"),
        ({"quoted": True}, "protocol 'p' (0 images) against the protocol of another paper"),
    ],
)  # fmt: skip
def test_values_are_comparable_up_to_each_fact_that_differs(facts, reason):
    assert comparable(identity(), identity(**facts)) == reason
    assert (comparable(identity(**facts), identity()) is None) == (reason is None)


def test_seeds_that_are_known_on_both_sides_are_compared():
    assert comparable(identity(seed0=0), identity(seed0=1000)) == "first image seed: 0 != 1,000"
    assert comparable(identity(seed0=7), identity(seed0=7)) is None


def test_an_identity_has_the_facts_of_its_protocol():
    metrics = {"fd": {"kind": "frechet", "extractor": "x y", "nested": {"a": [1, 2], "b": None}, "none": None}}
    fields = {"metrics": metrics, "num_samples": 7, "seed0": 3, "resolution": 8, "channels": 1, "quantisation": "round"}
    protocol = {"name": "own", "fields": fields}
    for dist, labels, classes in (
        ("uniform", "", "uniform"), ("balanced", "", "balanced"), ("empirical", "abc", "abc"),
        ("empirical", "", "data"), ("", "", ""),
    ):  # fmt: skip
        found = identity_of({**protocol, "fields": fields | {"label_dist": dist, "labels": labels}}, "fd", "r", None)
        assert found == Identity(
            protocol="own", settings="frechet channels=1 extractor=x_y nested.a=[1,2] quantisation=round", n=7, seed0=3,
            classes=classes, resolution="8", reference="r",
        )  # fmt: skip
    empty = identity_of({}, "fd", None, "e")
    assert empty == Identity(protocol="", extractor="e")
    assert len({one.sha256 for one in (found, empty, identity())}) == 3
    assert identity(protocol="x", exposure=None, held_out="1/2").sha256 == identity().sha256


def test_one_digest_stands_for_itself_and_an_unknown_one_for_nothing():
    assert [joined(digests) for digests in ([], ["a"], ["a", ""], [""])] == ["", "a", "", ""]
    assert len({joined(["a", "b"]), joined(["b", "a"]), joined(["a", "b", "b"])}) == 3
    assert len(joined(["a", "b"])) == 64


@pytest.mark.parametrize(
    ("loss", "related"),
    [
        ((), set()), (("vgg16",), {"vgg16"}), (("vgg16", "clip"), {"vgg16"}), (("clip",), set()),
        (("inception", "vgg16"), set()),  # the network itself says more
    ],
)  # fmt: skip
def test_networks_of_the_same_labels_are_related_where_the_network_itself_did_not_train(loss, related):
    """Inception and VGG learned from ImageNet's labels, and CLIP from texts."""
    assert identity(exposure=Exposure(loss=loss)).related == related
    assert identity(exposure=Exposure(start=loss)).related == set()
