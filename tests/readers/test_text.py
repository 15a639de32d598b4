"""Settings, sheets and other text that strangers wrote: one clear line, or plain values."""

import json
import os
import re

import pytest
import yaml

from sida.cli.train import read_spec
from sida.config import settings
from sida.config.lookup import ROOT
from sida.config.recipe import TeacherConfig
from sida.config.settings import from_mapping, load_spec, load_yaml
from sida.eval.measuring.monitor_settings import MONITOR
from sida.eval.results.measurements import load_measurements
from sida.eval.results.sheet import read_runs
from sida.files.atomic import by_content
from sida.files.text_files import yaml_text
from sida.training.run_folder import teacher_digest
from tests.eval.synthetic_output import measurement_lines, write_csv
from tests.refused import command, refusal, refused, refusing
from tests.training.toy import TEACHER

HEAD = "run\tlabel\tmethod"
read_spec_file = lambda path: load_spec(str(path))
#: A sheet of two rows.
SHEET = f"{HEAD}\na\tÄ first\tsid\nb\tsecond\tsida\n"


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252"])
def test_another_encoding_is_refused_with_what_to_do(tmp_path, encoding):
    assert "save it as UTF-8" in refusal(read_runs, written(tmp_path, "s.tsv", SHEET.encode(encoding)))


def test_a_byte_order_mark_and_the_line_ends_of_windows_are_no_fault(tmp_path):
    content = SHEET.replace("\n", "\r\n").encode("utf-8-sig")
    assert [run.label for run in read_runs(written(tmp_path, "s.tsv", content))] == ["Ä first", "second"]
    assert load_yaml(written(tmp_path, "s.yaml", "a: ä\r\n".encode("utf-8-sig"))) == {"a": "ä"}
    assert load_spec(str(written(tmp_path, "s.json", '{"a": 1}'.encode("utf-8-sig")))) == {"a": 1}


#: Mappings that each merge nine of the one before.
LAUGHS = "a0: &a0 {x: 1, y: 2}\n" + "\n".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}" for level in range(1, 60)
)
MANY = "[" * 500 + "]" * 500


@pytest.mark.parametrize(
    ("read", "name", "content", "told"),
    [
        (read_runs, "s.tsv", f"{HEAD}\n../x\tlabel\tsid\n", ":2: run: .*letters, digits and ._- after"),
        (read_runs, "s.tsv", f"{HEAD}\na\t{'x' * 200_000}\tsid\n", ":2: .*field larger"),
        (read_runs, "s.tsv", f'{HEAD}\na\t"label\tsid\n', ":2: .*not closed"),
        (read_runs, "s.tsv", f"{HEAD}\na\tla\x00bel\tsid\n", ":2: .*control character"),
        (read_runs, "s.tsv", f"{HEAD}\na\t=1+1\tsid\n", ":2: .*as a formula"),
        (read_runs, "s.tsv", f"{HEAD}\na\tlabel\tsid\tmore\n", ":2: .*4 cells but 3 columns"),
        (read_runs, "s.tsv", f"{HEAD}\tlabel\na\tone\tsid\ttwo\n", "two columns are called 'label'"),
        (read_runs, "s.tsv", f"{HEAD}\nSiD\tone\tsid\nsid\ttwo\tsid\n", "but for its case, as 'SiD'"),
        (read_runs, "s.json", '{"runs": 3}', "must be a list of rows"),
        (load_measurements, "m.csv", 'run,metric\na,"b\nc,d\n', "not valid CSV"),
        (load_yaml, "s.yaml", LAUGHS, "aliases stand for more"),
        (load_yaml, "s.yaml", "a: &a [*a]", "nested more than"),
        (load_yaml, "s.yaml", f"a: {MANY}", "nested"),
        (load_yaml, "s.yaml", "a: 1\nb: 2\na: 3", "key 'a' occurs twice"),
        (load_yaml, "s.yaml", "a: !!int x", "not valid YAML"),
        (load_yaml, "s.yaml", "a: !!binary aGk=", "of type bytes"),
        (load_yaml, "s.yaml", "a: b: c", ":1: not valid YAML"),
        (load_yaml, "s.yaml", "\x00a: 1", "control character"),
        (read_spec_file, "s.json", f'{{"a": {MANY}}}', "nested more than"),
        (read_spec_file, "s.json", '{"a": NaN}', "not a finite number"),
        (read_spec_file, "s.json", '{"a": 1, "a": 2}', "key 'a' occurs twice"),
        (read_spec_file, "s.json", f'{{"a": {"1" * 4000}}}', "too many digits"),
        (read_spec_file, "s.json", '{"a": "\\ud800"}', "half of a character"),
    ],
)
def test_text_that_grows_runs_or_says_two_things_is_one_line(tmp_path, monkeypatch, read, name, content, told):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        refused(told, read, written(tmp_path, name, content))
    assert os.listdir(tmp_path) == [name]


def test_yaml_with_aliases_as_people_use_them(tmp_path):
    text = (
        "base: &base {lr: 1, k: 2}\nbig: &big {<<: *base, lr: 3}\nboth: {<<: [*big, *base], z: 0}\nlist: [*big, *big]\n"
    )
    big = {"lr": 3, "k": 2}
    found = load_yaml(written(tmp_path, "s.yaml", text))
    assert found == {"base": {"lr": 1, "k": 2}, "big": big, "both": {**big, "z": 0}, "list": [big, big]}


def test_yaml_is_that_of_1_2_and_is_written_for_readers_of_both(tmp_path):
    texts = ["off", "yes", "24:00", "2026-01-01", "0777", "1_000", "1e-4", "007", "null", "<<", "", "0x1F", ".5"]
    values = {"a": 1e-4, "b": 2e3, "c": -7, "d": 31, "e": None, "f": True, "g": 0.5, "h": texts}
    plain = "a: 1e-4\nb: 2.0E+3\nc: -7\nd: 0x1f\ne: ~\nf: True\ng: .5\n"
    plain += "h: [off, yes, 24:00, 2026-01-01, 0777, 1_000, '1e-4', 007, 'null', '<<', '', '0x1F', '.5']\n"
    for text in (plain, yaml_text(values)):
        assert repr(load_yaml(written(tmp_path, "s.yaml", text))) == repr(values)
    assert yaml.safe_load(yaml_text({"h": texts})) == {"h": texts}


def test_settings_may_be_changed_by_plain_values_only():
    assert "nested" in refusal(read_spec, "{}", ["lr=" + "[" * 3000])
    assert "quote the value" in refusal(read_spec, "{}", ["lr=a: b: c"])


def test_numbers_beyond_every_use():
    for key, value, told in (
        ("seed", 2**64, "at most 64 bits"),
        ("lr", 1e300, "number of 32 bits"),
    ):
        assert refused(told, from_mapping, TeacherConfig, {**TEACHER, key: value}, "--spec").where == f"--spec.{key}"


def test_settings_made_in_python_are_those_of_a_file():
    spec = TEACHER | {"lr": 1, "power_ema": [0.1]}
    made, read = TeacherConfig(**spec), from_mapping(TeacherConfig, spec, "spec")
    assert repr(made) == repr(read)
    assert teacher_digest(made, "data") == teacher_digest(read, "data")


def test_a_text_too_long_for_a_path_names_no_file():
    text = "a/" + "b" * 300
    assert by_content({"x": [text]}) == {"x": [text]}
    assert "no such file" in refusal(load_yaml, text)


def test_a_trial_beyond_all_others_is_a_gap_not_a_list_of_gaps(tmp_path):
    rows = [{**row, "trial": 10**15 if row["trial"] else 0} for row in measurement_lines(trials=2)]
    assert "trial" in refusal(load_measurements, write_csv(tmp_path / "m.csv", rows))


def test_a_home_of_nobody_is_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "studies/papers/published.yaml").read_text()
    (tmp_path / "preset.yaml").write_text(re.sub("^runs:.*", "runs: '~nosuchuser/x.tsv'", text, flags=re.MULTILINE))
    for call in ("info ~nosuchuser/x", "plan ~nosuchuser/x.yaml", "plan preset.yaml"):
        with refusing("no such file|no preset", "~nosuchuser/x"):
            command(*call.split())


def test_arguments_of_the_monitor_have_types(tmp_path):
    spec = yaml.safe_load((ROOT / "docs/examples/tiny-student.yaml").read_text()) | {"teacher": "x"}
    for kwargs, fault in (({"trials": "x"}, "evaluation.kwargs.trials"), ({"trails": 2}, "trails.*'trials'")):
        kwargs |= {"dataset": {"name": "digits", "kind": "digits"}}
        spec |= {"evaluation": {"every_kimg": 0.1, "monitor": MONITOR, "kwargs": kwargs}}
        refused(fault, command, "distill", "--spec", json.dumps(spec), "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_equal_text_is_parsed_once_and_a_change_is_seen(tmp_path, monkeypatch):
    parsed, original = [], settings.parse_yaml
    monkeypatch.setattr(settings, "parse_yaml", lambda text, where: parsed.append(where) or original(text, where))
    path = written(tmp_path, "layout.yaml", "rows: [1, 2]\n")
    load_yaml(path)["rows"].append(3)
    assert load_yaml(path) == {"rows": [1, 2]}
    assert parsed == [str(path)]
    assert load_yaml(written(tmp_path, "layout.yaml", "rows: [1, 9]\n")) == {"rows": [1, 9]}
