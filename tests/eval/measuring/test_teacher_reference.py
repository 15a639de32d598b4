"""Samples of a teacher as a reference: made once, resumed, of one identity, used by measurements and trainings."""

import json

import pytest
import torch
import yaml

from eval.commands import main
from eval.features.registry import make_extractors
from eval.measuring import extract
from eval.measuring.measure import measure
from eval.measuring.monitor import make_monitor, monitor_facts
from eval.measuring.protocol import load_protocol
from eval.measuring.reference_files import read_own
from eval.measuring.references import load_references
from sida.config.settings import load_yaml
from sida.errors import UserError
from sida.files.atomic import read_jsonl
from sida.files.tensors import read_tensors, write_tensors
from tests.eval.measuring.specs import DIGITS, metric, protocol
from tests.eval.metric_networks import write_network
from tests.eval.refused import refused
from tests.workflow.small import small
from workflow.preset import Preset
from workflow.preset.rehearsal import check_preset
from workflow.preset.targets import Targets

NETWORK = load_yaml("tests/workflow/tiny.yaml")["teachers"]["digits-short"]["network"]
METRICS = [
    metric("fd"),
    metric("fd_teacher", reference="teacher"),
    metric("precision_teacher", "precision", "pixels", "teacher", k=3),
]


def content(num_images: int = 100, **changes) -> dict:
    drawn = {"kind": "teacher", "sampler": {"kind": "heun", "num_steps": 3}, "num_images": num_images}
    references = {"data": {"kind": "dataset"}, "teacher": drawn}
    watch = ["fd", "fd_teacher", "precision_teacher"]
    return protocol(*METRICS, name="near", num_samples=60, references=references, watch=watch) | changes


@pytest.fixture
def spec(tmp_path):
    return {
        "network": write_network(tmp_path / "teacher.safetensors", NETWORK),
        "protocol": content(),
        "dataset": DIGITS,
    }


def test_one_file_has_both_kinds_of_metrics_and_extractors(tmp_path, spec, capsys):
    path = tmp_path / "r.safetensors"
    assert main(["reference", "--spec", json.dumps(spec), "--out", str(path)]) == 0
    assert "100 samples" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.part"))
    asked = load_protocol(content())
    made = make_extractors(asked.extractors())
    found = load_references(asked.part(["fd_teacher", "precision_teacher"]), made, {"teacher": str(path)})["teacher"]
    assert found.moments("digits")[2] == 100
    assert found.features("pixels").shape == (100, 64)
    # The distance of a generator to its own samples: smaller, and not zero, because the seeds differ.
    generator = {"run": "t", "method": "teacher", "sampler": {"kind": "heun", "num_steps": 3}, **spec}
    generator["references"] = {"teacher": str(path)}
    values = measure(generator, tmp_path / "m", [0])[0]["metrics"]
    assert 0 < values["fd_teacher"] < values["fd"] / 2
    assert values["precision_teacher"] > 0.5


def test_an_interrupted_reference_goes_on_to_the_same_file(tmp_path, spec, monkeypatch):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    extract.write_teacher_reference(whole, spec, "teacher")
    written, count = extract.write_own, 0

    def dies(path, own):
        nonlocal count
        written(path, own)
        count += 1
        if count == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(extract, "write_own", dies)
    with pytest.raises(KeyboardInterrupt):
        extract.write_teacher_reference(cut, spec, "teacher")
    assert not cut.exists()
    extract.write_teacher_reference(cut, spec, "teacher")
    assert count == 10
    assert cut.read_bytes() == whole.read_bytes()
    # A part of another teacher is not continued.
    monkeypatch.setattr(extract, "write_own", written)
    (tmp_path / "other.safetensors.part").write_bytes(whole.read_bytes())
    other = spec | {"network": write_network(tmp_path / "other-teacher.safetensors", NETWORK, seed=1)}
    extract.write_teacher_reference(tmp_path / "other.safetensors", other, "teacher")
    assert read_own(tmp_path / "other.safetensors", {}).sha256 != read_own(whole, {}).sha256


def test_the_identity_has_the_teacher_and_its_sampler(tmp_path, spec):
    changes = {
        "same": spec,
        "trials": spec | {"protocol": content(num_samples=80, trials=3)},
        "images": spec | {"protocol": content(num_images=120)},
    }
    digests = {}
    for name, one in changes.items():
        path = tmp_path / f"made-{name}.safetensors"
        extract.write_teacher_reference(path, one, "teacher")
        digests[name] = read_own(path, {}).sha256
    assert digests["same"] == digests["trials"]
    assert digests["same"] != digests["images"]  # of another teacher: the test above


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"sampler": None}, "sampler"),
        ({"num_images": None}, "num_images"),
        ({"sampler": {"kind": "data"}}, "sampler"),
        ({"sampler": {"kind": "heun", "guidance": 2}}, "sampler"),
        ({"sampler": {"kind": "heun", "steps": 2}}, "sampler"),
        ({"kind": "dataset"}, "sampler"),
    ],
)
def test_faults_of_the_setting_name_the_key(change, key):
    references = content()["references"]
    references["teacher"] |= change
    refused(rf"references\.teacher\.{key}[:.]", lambda: load_protocol(content(references=references)).sources)


def test_a_file_of_another_origin_is_refused(tmp_path, spec):
    few = spec | {"protocol": content(num_images=50)}
    extract.write_teacher_reference(tmp_path / "few.safetensors", few, "teacher")
    extract.write_reference(tmp_path / "data.safetensors", "digits", dataset=json.dumps(DIGITS))
    asked = load_protocol(content()).part(["fd_teacher"])
    made = make_extractors(["digits"])
    for name in ("few", "data"):
        with pytest.raises(UserError, match=rf"{name}\.safetensors: .*--spec"):
            load_references(asked, made, {"teacher": str(tmp_path / f"{name}.safetensors")})
    refused(r"references\.teacher: .*--reference teacher=FILE", load_references, asked, made)
    refused("'data'", extract.write_teacher_reference, tmp_path / "x.safetensors", spec, "data")


def test_files_of_the_first_format_are_read(tmp_path):
    path = tmp_path / "r.safetensors"
    extract.write_reference(path, "pixels", dataset=json.dumps(DIGITS), keep_features=True)
    new = read_own(path, {})
    tensors, header = read_tensors(path)
    names = {"features/pixels": "features"}
    old = {names.get(key, key.replace("statistics/pixels/", "statistics/")): value for key, value in tensors.items()}
    digest = header.pop("extractors")["pixels"]
    header |= {"format": "sida-reference/1", "extractor": "pixels", "extractor_sha256": digest}
    write_tensors(path, old, header)
    read = read_own(path, new.extractors)
    assert (read.sha256, read.count) == (new.sha256, new.count)
    assert torch.equal(read.features["pixels"], new.features["pixels"])


def test_a_training_watches_distances_to_its_teacher(tmp_path, spec):
    path = tmp_path / "r.safetensors"
    extract.write_teacher_reference(path, spec, "teacher")
    monitor = make_monitor(DIGITS, protocol=content(), references={"teacher": str(path)}, batch_size=20)

    def noise(seeds):
        return torch.randint(
            0, 256, (len(seeds), 1, 8, 8), generator=torch.Generator().manual_seed(seeds[0])
        ).byte(), None

    whole, joined = monitor(noise), monitor.join([monitor.part(noise, number, 2) for number in range(2)])
    for key in ("fd", "fd_teacher", "precision_teacher"):
        assert joined[key] == pytest.approx(whole[key], rel=1e-9)
    facts = [monitor_facts(content(num_images=images), references={"teacher": str(path)}) for images in (100, 100, 120)]
    assert facts[0] == facts[1] != facts[2]


def near(folder):
    """The smallest preset, whose student watches the distance to its teacher."""
    workspace, (option, config, *_) = small(folder)
    (folder / "near.yaml").write_text(yaml.safe_dump(content()))
    settings = yaml.safe_load((folder / config).read_text()) | {"protocol": "near.yaml", "tables": []}
    (folder / config).write_text(yaml.safe_dump(settings))
    return workspace, settings, (option, config, "--", "measurements.csv")


def test_a_row_without_a_teacher_is_named_before_the_first_job(tmp_path, monkeypatch):
    _, settings, _ = near(tmp_path)
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "small.tsv").open("a") as sheet:
        sheet.write("data\tData\tData\tdata\t\t\t\t\tdata\n")
    refused(
        r"small\.tsv: run .data.: teacher: .*name a teacher",
        lambda: check_preset(Preset(settings, "small.yaml")),
    )


def test_students_and_measurements_wait_for_the_samples_of_their_teacher(tmp_path, monkeypatch):
    _, settings, _ = near(tmp_path)
    monkeypatch.chdir(tmp_path)
    targets = Targets(Preset(settings, "small.yaml"), paper=False)
    path = "results/small/references/digits-short/near/teacher.safetensors"
    assert path in targets.training("sid")["measuring"]
    assert path in targets.generator("sid")
    assert path in targets.generator("teacher")
    assert targets.drawn("digits-short/near/teacher") == ["results/small/teachers/digits-short/network.safetensors"]
    # Without watched distances to the teacher a training does not wait.
    (tmp_path / "near.yaml").write_text(yaml.safe_dump(content(watch=["fd"])))
    targets = Targets(Preset(settings, "small.yaml"), paper=False)
    assert path not in targets.training("sid")["measuring"]


@pytest.mark.slow
def test_the_workflow_draws_it_once_for_all_rows_of_a_teacher(tmp_path):
    workspace, _, command = near(tmp_path)
    made = workspace.snakemake(*command)
    assert made.returncode == 0, made.stderr
    results = tmp_path / "results/small"
    assert len([*results.glob("references/*/*/*.safetensors")]) == 1
    assert made.stderr.count("drawing its samples") <= 1
    lines = read_jsonl(results / "students/sid/evaluations.jsonl")
    assert all(line["fd_teacher"] > 0 and line["precision_teacher"] >= 0 for line in lines)
    assert "fd_teacher" in (results / "measurements.csv").read_text()
