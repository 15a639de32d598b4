"""A setting stands once: its class checks, and makes the schema and the table that the documentation shows."""

import dataclasses
import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import pytest
import yaml

from sida.cli.train import read_settings, read_spec
from sida.config.lookup import PLUGINS, ROOT
from sida.config.recipe import Recipe
from sida.config.samplers import Sampler
from sida.config.settings import CheckedAs, Count, Fraction, OneOf, Positive, Settings, from_mapping, from_texts
from sida.eval.measuring.protocol import Protocol, ReferenceSource
from sida.eval.metrics.kinds import METRIC_KINDS
from sida.eval.results.sheet import SheetRow
from sida.methods.registry import METHODS, DistillConfig
from sida.workflow.cli import main
from sida.workflow.preset.settings import PresetSettings
from sida.workflow.settings import ABOUT, PLACES, all_settings, descriptions, settings_of
from tests.refused import refused
from tests.workflow.workspace import PRESETS
from tools.site_pages import differences_text, entries, settings_table, settings_text
from tools.write_schemas import json_schema, written


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner.

    Attributes:
        p: A ``share``.
    """

    p: Fraction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer(Settings):
    """Outer.

    Attributes:
        size, count: Two numbers
            on two lines.
        class_: A word of Python, see :class:`sida.Outer`.
        kind: A name.
        inner: Kept as given.
    """

    size: Positive
    count: Count = 1
    class_: str = "x"
    kind: Annotated[str, OneOf(lambda: ["a", "b"], or_object=True)] = "a"
    inner: dict[str, Annotated[dict[str, Any], CheckedAs(Inner)]] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "here.size: must be above 0, got 0"),
        ({"size": float("nan")}, "here.size: must be a finite number, got NaN"),
        ({"size": "big"}, 'here.size: must be a number, got "big"'),
        ({"size": True}, "here.size: must be a number, got true"),
        ({}, "here.size: is missing; add it"),
        ({"size": 1, "class_": "y"}, "here.class_: unknown key (did you mean 'class'?)"),
        ({"size": 1, "count": 1.5}, "here.count: must be an integer, got 1.5"),
        ({"size": 1, "kind": "c"}, 'here.kind: must be one of a, b or module:object, got "c"'),
        ({"size": 1, "inner": {"x": {"p": 2}}}, "here.inner.x.p: must be between 0 and 1, got 2"),
        ({"size": 1, "inner": {"x": {"q": 2}}}, "here.inner.x.q: unknown key (known: p)"),
        ({"size": 1, "inner": [1]}, "here.inner: must be a mapping, got [1]"),
    ],
)
def test_a_fault_is_one_line_with_its_place(values, message):
    assert str(refused("", from_mapping, Outer, values, "here")) == message
    in_file = message.replace("here.", "file.yaml: ").replace("here:", "file.yaml:")
    assert str(refused("", from_mapping, Outer, values, "file.yaml:")) == in_file


def test_values_are_converted_and_inner_mappings_kept():
    inner = {"x": {"p": 1}}
    outer = from_mapping(Outer, {"size": 1, "class": "y", "kind": "my.module:thing", "inner": inner}, "here")
    assert isinstance(outer.size, float)
    assert (outer.class_, outer.kind, outer.inner) == ("y", "my.module:thing", inner)
    assert from_texts(Outer, {"size": "2", "count": "3", "class": "4"}, "here") == Outer(size=2.0, count=3, class_="4")
    with pytest.raises(ValueError, match=r"^count: must be at least 1, got 0$"):
        Outer(size=1.0, count=0)


def test_every_setting_has_a_description_from_its_docstring():
    assert descriptions(Outer)["count"] == descriptions(Outer)["size"] == "Two numbers on two lines."
    assert descriptions(Outer)["class_"] == "A word of Python, see `sida.Outer`."
    share = json_schema(Outer)["properties"]["inner"]["additionalProperties"]["properties"]["p"]
    assert share == {"type": "number", "minimum": 0, "maximum": 1, "description": "A `share`."}
    links = {cls: "" for cls, _ in PLACES.values()}
    for place, (cls, _) in PLACES.items():
        rows = settings_of(place, links)
        lines = settings_table(rows, {}).count("\n| `")
        assert lines == len(rows) == len(dataclasses.fields(cls)) == len(descriptions(cls)), place


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("lr=1e-4", 1e-4),
        ("weight_norm=off", "off"),
        ("name='1e4'", "1e4"),
        ("fp16=false", False),
        ("init=null", None),
        ("betas=[0, 0.9]", [0, 0.9]),
        ("augment.p=1e-1", 0.1),
    ],
)
def test_a_changed_setting_is_a_value_of_yaml(override, value):
    spec, _ = read_spec('{"dataset": {"kind": "digits"}}', [override])
    for key in override.partition("=")[0].split("."):
        spec = spec[key]
    assert (spec, type(spec)) == (value, type(value))


def test_a_wrong_setting_names_the_options_that_change_the_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = {"name": "a", "method": "sid", "dataset": {"name": "digits", "kind": "digits"}, "total_kimg": 1}
    Path("student.yaml").write_text(json.dumps({**spec, "batch_size": 8, "lr": 1e-4, "warmup_kimg": 0}))
    for words, options, fault in (
        (["batchsize=3"], {}, "student.yaml --set batchsize=3: batchsize: .*'batch_size'"),
        (["augment.q=1"], {"teacher": "t"}, "--set augment.q=1 --teacher t: augment.q: unknown key"),
        ([], {"teacher": None}, "student.yaml: teacher: is missing"),
    ):
        refused(fault, read_settings, Namespace(spec="student.yaml", set=words), DistillConfig, options)


def test_the_schemas_are_current():
    for path, text in written().items():
        assert path.read_text() == text, f"{path}: run `python -m tools.write_schemas`"


def test_each_section_of_the_sites_page_names_all_its_keys_and_tells_none_twice():
    text = settings_text()
    sections = dict(part.split("\n", 1) for part in f"\n{text}".split("\n## ")[1:])
    assert [*sections] == [*ABOUT]
    for place, (cls, _) in PLACES.items():
        keys = [f"`{field.name.rstrip('_')}`" for field in dataclasses.fields(cls)]
        assert all(key in sections[place] for key in keys), place
    assert text.count(descriptions(Recipe)["state_minutes"]) == 1
    assert "Equal to [recipe](#recipe): `total_kimg`" in sections["training"]


def test_settings_looks_up_a_key_a_place_and_a_word(capsys):
    def printed(*words):
        assert main(["settings", *words]) == 0
        return capsys.readouterr().out

    text = " ".join(printed("init_sigma").split())
    assert re.match("recipe.init_sigma number, above 0; .* default: null .* official 2.5: sid .EDM, EDM2.; sida", text)
    assert "sampler.init_sigma" in text
    assert printed("recipe.total_kimg").startswith("recipe.total_kimg\n")
    assert "needed" in printed("total_kimg")
    # A method that does not read a key has no official value of it.
    assert "gdd" not in printed("alpha")
    assert len(printed("recipe").splitlines()) > len(dataclasses.fields(Recipe))
    assert {line.split()[0] for line in printed("recipe", "--about", "rate").splitlines()} >= {"lr", "fake_score_lr"}
    places = printed()
    assert all(row.place in places for row in all_settings())


@pytest.mark.parametrize(
    ("words", "fault"),
    [(["init_sgma"], "'init_sigma'"), (["recipe.lrr"], "'recipe.lr'"), (["--about", "zebra"], "--about zebra: ")],
)
def test_an_unknown_key_is_refused_with_the_closest(words, fault, capsys):
    assert main(["settings", *words]) == 1
    error = capsys.readouterr().err
    assert fault in error
    assert error.count("\n") == 1


def test_the_switches_of_differences_exist():
    numbered = [entry for entry in entries() if entry["number"]]
    assert all(entry["disagreement"] in differences_text() for entry in entries())
    numbers = [entry["number"] for entry in numbered]
    assert len({*numbers}) == len(numbers) > 100
    classes = {"recipe": [Recipe], "sheet": [SheetRow], "protocol": [Protocol], "reference": [ReferenceSource]}
    classes |= {
        "sampler": [Sampler],
        "preset": [PresetSettings],
        "metric": [METRIC_KINDS[name] for name in METRIC_KINDS],
    }
    classes |= {"options": [method.option_class for method in METHODS.values()]}
    known = {kind: {f.name for c in some for f in dataclasses.fields(c)} for kind, some in classes.items()}
    for entry in numbered:
        for kind, name in re.findall(r"`([a-z]+): (\w+)", entry["switch"]):
            assert kind not in known or name in known[kind], entry


@pytest.mark.parametrize("folder", [".", "protocols"])
def test_schemas_accept_what_is_shipped_and_refuse_what_the_classes_refuse(folder):
    name = "protocol" if folder == "protocols" else "preset"
    shipped = (ROOT / "workflow" / "schemas" / f"{name}.schema.json").read_text()
    validator = jsonschema.Draft202012Validator(json.loads(shipped))
    paths = (
        PRESETS
        if folder == "."
        else sorted([*(ROOT / "config" / folder).glob("*.yaml"), *PLUGINS.glob(f"*/config/{folder}/*.yaml")])
    )
    documents = {path: yaml.safe_load(path.read_text()) for path in paths}
    assert len(documents) >= 4
    for path, document in documents.items():
        assert not list(validator.iter_errors(document)), path
    for change in ({"seeed": 1}, {"trials_per_job": 0, "trials": 0}, {"metrics": "fd", "tables": "main"}):
        assert list(validator.iter_errors({**document, **change}))
