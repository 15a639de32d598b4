"""`sida rates`: a device's rates from training logs beside the plan's, and `sida plan` takes them."""

import csv
import json
import re

import pytest

from sida.config.resources import ROOT
from sida.files.atomic import write_hashed_json
from tests.workflow.workspace import settings_of
from workflow.cli import sida_main
from workflow.planning.observed import RATES_FORMAT, card_of
from workflow.planning.rates import load_assumptions


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the small form of the preset `gpu`, as the workflow's jobs have it."""
    (tmp_path / "preset.json").write_text(json.dumps(settings_of("gpu-small")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("workflow.planning.observed.SECONDS", 0.01)
    return tmp_path


def trained(folder, name, speeds):
    log = folder / "results" / "gpu-small" / name / "train.jsonl"
    log.parent.mkdir(parents=True)
    ticks = [{"nimg": 100 * n, "img_per_s": speed, "memory_mb": 512} for n, speed in enumerate(speeds, start=1)]
    log.write_text("".join(json.dumps(tick) + "\n" for tick in ticks))


def test_the_table_has_the_median_rate_of_each_training_beside_the_plan(folder, capsys):
    trained(folder, "teachers/letters", [1, 40, 60, 50])
    trained(folder, "students/sid-a1.0", [1, 10])
    assert sida_main(["rates", "--preset", "preset.json"]) == 0
    found = json.loads((folder / "results/gpu-small/rates.json").read_text())
    assert (found["device"], found["card"], found["memory_gb"]) == ("CPU", "CPU", None)
    teacher, sid = found["trainings"]
    assert (teacher["name"], teacher["images_per_second"], teacher["memory_gb"]) == ("letters", 50, 0.5)
    assert teacher["operations_per_second"] == pytest.approx(50 * teacher["gflop_per_image"] * 1e9)
    assert (sid["name"], sid["images_per_second"]) == ("sid-a1.0", 10)
    assert sid["gflop_per_image"] > teacher["gflop_per_image"]
    assert min(found["extractors"]["glyphs16"], found["peak"]["float32"]) > 0
    with (folder / "results/gpu-small/tables/rates.csv").open(encoding="utf-8", newline="") as lines:
        shown = {(line["model"], line["column"]): float(line["measured"]) for line in csv.DictReader(lines)}
    assert (shown["letters", "Images/s"], shown["letters", "GB"]) == (50, 0.5)
    assert shown["letters", "Plan, CPU"] == pytest.approx(0.02e12 / (teacher["gflop_per_image"] * 1e9))
    assert shown["letters", "% of peak"] == pytest.approx(
        100 * teacher["operations_per_second"] / found["peak"]["float32"]
    )
    assert shown["glyphs16", "Images/s"] > 0
    assert "letters" in capsys.readouterr().out


def test_without_a_training_there_is_one_line(folder, capsys):
    assert sida_main(["rates", "--preset", "preset.json"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: results/gpu-small: no training there yet; run the preset first"


def write_rates(folder, **changes):
    path = folder / "results" / "gpu" / "rates.json"
    path.parent.mkdir(parents=True)
    trainings = [{"fp16": True, "operations_per_second": rate * 1e12} for rate in (200, 250, 260)]
    found = {"format": RATES_FORMAT, "device": "NVIDIA H100 80GB HBM3", "card": "H100", "trainings": trainings}
    write_hashed_json(path, found | changes)


PLAN = ["plan", "--preset", str(ROOT / "studies/gpu/preset.yaml"), "--fresh", "--json", "sid-a1.0"]


@pytest.mark.parametrize(
    ("arguments", "card", "rate"),
    [([], "H100", 250), (["--gpu", "H100"], "H100", 250), (["--gpu", "H200"], "H200", 180)],
)
def test_the_plan_takes_the_rates_of_the_card_they_are_of(folder, capsys, arguments, card, rate):
    write_rates(folder)
    assert sida_main([*PLAN, *arguments]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["gpu"], plan["tflops"]["float16"]) == (card, rate)


def test_rates_of_an_unknown_card_or_of_another_file_are_not_taken(folder, capsys):
    write_rates(folder, device="NVIDIA GeForce RTX 9090", card=None)
    assert sida_main(PLAN) == 0
    assert json.loads(capsys.readouterr().out)["gpu"] == "H200"
    path = folder / "results/gpu/rates.json"
    path.write_text(path.read_text().replace("250", "950"))
    assert sida_main(PLAN) == 1
    assert re.match("error: results/gpu/rates.json: .*sida rates", capsys.readouterr().err.strip().splitlines()[-1])


def test_a_card_is_found_by_the_parts_of_its_name():
    assumptions = load_assumptions()
    names = {
        "NVIDIA A100-SXM4-80GB": "A100-80",
        "NVIDIA GeForce RTX 4090": "RTX4090",
        "NVIDIA H200": "H200",
        "CPU": "CPU",
    }
    assert {name: card_of(name, assumptions) for name in names} == names
    assert card_of("NVIDIA GeForce RTX 2080 Ti", assumptions) is None
