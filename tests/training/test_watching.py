"""What a training shows of itself and when it ends: points, plateaus, divergence, pictures."""

import time

import numpy as np
import pytest
from PIL import Image

from sida.files.atomic import read_jsonl
from sida.methods import distill
from sida.networks.file import read_metadata
from sida.training import train_teacher
from sida.training.logs import IterationRecord, TickMeter
from tests.data import test_archive
from tests.refused import refused
from tests.training.toy import GIVEN, MADE, STUDENT, TEACHER, interrupt_after, results


def following(teacher, values, **changes):
    """The spec of a student whose evaluations give these values, from the first one on."""
    GIVEN.clear()
    MADE.clear()
    evaluation = {"every_kimg": 0.032, "monitor": "tests.training.toy:make_curve", "kwargs": {"values": list(values)}}
    more = changes.pop("evaluation", {})
    spec = {**STUDENT, "teacher": teacher, "warmup_kimg": 0.01, "adversarial_kimg": 0.05, "snapshot_kimg": None}
    return {**spec, "evaluation": {**evaluation, **more}, **changes}


@pytest.mark.slow
def test_evaluations_on_a_logarithmic_scale(teacher, tmp_path):
    distill(following(teacher, range(9, 1, -1), evaluation={"every_kimg": 0.02, "per_decade": 4}), tmp_path)
    # The first multiples of 16 at or behind 20, 35.6, 63.2, 112.5, 200, 355.7 images; first and last always.
    seen = [record["nimg"] for record in read_jsonl(tmp_path / "evaluations.jsonl")]
    assert seen == [0, 32, 48, 64, 128, 208, 368, 400]
    # What measures (feature networks, references) is made once.
    assert len(MADE) == 1


def test_evaluations_draw_classes_as_often_as_the_data_have_them(teacher, tmp_path):
    labels = [*[3] * 24, *[7] * 7, 9]
    made = test_archive.pictures(len(labels), channels=1)
    path = test_archive.write_zip(tmp_path / "few.zip", test_archive.members(made, labels))
    spec = {**STUDENT, "teacher": teacher, "total_kimg": 0.016, "dataset": {"name": "few", "kind": "zip", "path": path}}
    monitor = {"every_kimg": 1, "monitor": "tests.training.toy:make_census", "kwargs": {"samples": 400}}
    distill({**spec, "evaluation": monitor}, tmp_path / "run")
    shares = read_jsonl(tmp_path / "run" / "evaluations.jsonl")[-1]["classes"]
    expected = [labels.count(number) / len(labels) for number in range(10)]
    assert shares == pytest.approx(expected, abs=0.1)
    assert [share > 0 for share in shares] == [share > 0 for share in expected]


#: The first two come before image 50, where the last phase begins; the best that counts is 5.
FALLING = [1.0, 1.0, 9.0, 5.0, 4.9, 5.1, 4.8, 4.0, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3]


def test_a_plateau_ends_the_run_also_a_resumed_one_and_the_best_network_is_kept(teacher, tmp_path, capsys):
    spec = following(teacher, FALLING, evaluation={"patience": 3, "min_improvement": 0.1}, state_minutes=1e6)
    for stop in (96, 176):
        interrupt_after(distill, spec, tmp_path / "resumed", stop, state_minutes=1e6)
    distill(spec, tmp_path / "resumed")
    GIVEN.clear()
    capsys.readouterr()
    metadata = read_metadata(distill(spec, tmp_path / "run"))
    said, ours = capsys.readouterr().err, results(tmp_path / "run")
    assert "[distill toy] ends at image 192: 3 evaluations after the best one that counts" in said
    assert [record["fd"] for record in ours["evaluations"]] == FALLING[:7]
    assert ours["evaluations"][-1]["nimg"] == ours["train"][-1]["nimg"] == metadata["last_nimg"] == 192
    assert (metadata["nimg"], metadata["fd"]) == (0, 1.0)
    # The finished run is known as such, although it is not as long as it might have been.
    distill(spec, tmp_path / "run")
    assert "already trained" in capsys.readouterr().err
    theirs = results(tmp_path / "resumed")
    assert (ours["train"], ours["evaluations"]) == (theirs["train"], theirs["evaluations"])


def test_the_time_of_a_tick_ends_behind_its_values_for_which_a_gpu_works():
    class Late(float):
        def __float__(self):
            time.sleep(0.1)
            return 1.0

    meter = TickMeter()
    meter.add(IterationRecord({"sid": Late()}), 16)
    assert meter.finish()["seconds"] >= 0.1


def make_interrupted():
    """A monitor whose second evaluation is interrupted."""

    def monitor(generate):
        GIVEN.append(1.0)
        if len(GIVEN) == 2:
            raise KeyboardInterrupt
        return {"fd": 1.0}

    return monitor


def test_the_time_of_an_interrupted_evaluation_is_none_of_a_tick(teacher, tmp_path, monkeypatch):
    clock = time.perf_counter
    # The second evaluation takes an hour.
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 3600 * (len(GIVEN) > 1))
    monitor = {"monitor": f"{__name__}:make_interrupted", "kwargs": {}}
    spec = following(teacher, [], evaluation=monitor, tick_kimg=0.064, total_kimg=0.064)
    with pytest.raises(KeyboardInterrupt):
        distill(spec, tmp_path)
    distill(spec, tmp_path)
    (tick,) = read_jsonl(tmp_path / "train.jsonl")
    assert tick["seconds"] < 3600


@pytest.mark.slow
def test_a_diverging_run_says_so_or_stops(teacher, tmp_path, capsys):
    # 5.6 is less than three times the best value, 31 is not the first above.
    values = [5.0, 4.0, 2.0, 5.6, 6.4, 31.0, 2.5, 40.0, *[1.0] * 8]
    distill(following(teacher, values, total_kimg=0.24), tmp_path / "said")
    lines = [line for line in capsys.readouterr().err.splitlines() if "diverging" in line]
    assert lines == [
        "distill toy: diverging at image 128: fd = 6.4 is 3.2 times its best (2 at image 64)",
        "distill toy: diverging at image 224: fd = 40 is 20.0 times its best (2 at image 64)",
    ]
    spec = following(teacher, values, on_divergence="stop", total_kimg=0.24)
    refused(f"^{lines[0].partition(' (')[0]}", distill, spec, tmp_path / "stopped")
    # Nothing is lost: the same run goes on from its last state when it is told to, and measures there again.
    GIVEN.pop()
    distill({**spec, "on_divergence": "say"}, tmp_path / "stopped")
    assert results(tmp_path / "said") == results(tmp_path / "stopped")


def test_a_nan_storm_stops_a_run_or_is_its_result(teacher, tmp_path, capsys):
    spec = following(teacher, FALLING, lr=1e25, state_minutes=1e6)
    refused(r"[1-9]\d* % of the samples .*max_nan_share: 0.1", distill, spec, tmp_path / "share")
    GIVEN.clear()
    spec |= {"max_nan_share": 1.0}
    capsys.readouterr()
    refused(r"every step up to image \d+ had NaN or infinite gradients", distill, spec, tmp_path / "stopped")
    assert "distill toy: diverging at image" in capsys.readouterr().err
    GIVEN.clear()
    # What shall show that it diverges.
    spec |= {"on_divergence": "publish"}
    metadata = read_metadata(distill(spec, tmp_path / "run"))
    found, said = results(tmp_path / "run"), capsys.readouterr().err
    last = found["train"][-1]
    assert last["bad_steps"] == last["steps"] > 0
    assert metadata["last_nimg"] == last["nimg"] == found["evaluations"][-1]["nimg"] < 400
    assert f"ends at image {last['nimg']:,}: every step up to image" in said
    GIVEN.clear()
    interrupt_after(distill, spec, tmp_path / "cut", last["nimg"] - 16, state_minutes=1e6)
    distill(spec, tmp_path / "cut")
    assert results(tmp_path / "cut")["network"] == found["network"]


@pytest.mark.slow
def test_an_evaluation_without_a_number_stops_a_run_or_is_part_of_its_result(teacher, tmp_path, capsys):
    values = [5.0, 4.0, "nan", "inf", 3.0, "nan"]
    told = r"the evaluation at image 64 gave fd = nan, not a number"
    refused(told, distill, following(teacher, values), tmp_path / "stopped")
    spec = following(teacher, values, on_divergence="publish", total_kimg=0.16)
    metadata = read_metadata(distill(spec, tmp_path / "run"))
    assert (metadata["nimg"], metadata["fd"], metadata["last_nimg"]) == (128, 3.0, 160)
    logged = [record["fd"] for record in read_jsonl(tmp_path / "run/evaluations.jsonl")]
    assert logged == [5.0, 4.0, None, None, 3.0, None]
    assert "diverging at image 64: fd = inf" in capsys.readouterr().err
    nothing = following(teacher, ["nan"] * 20, on_divergence="publish", total_kimg=0.064)
    assert read_metadata(distill(nothing, tmp_path / "nothing"))["nimg"] == 64


def test_images_that_are_not_finite_stop_a_run_or_are_an_evaluation_without_a_number(teacher, tmp_path, monkeypatch):
    # The average's weights become so large that its images overflow.
    monkeypatch.setattr("sida.training.iteration.ema_beta", lambda nimg, *more: -1e30 if nimg == 16 else 1.0)
    spec = {**STUDENT, "teacher": teacher, "total_kimg": 0.064, "snapshot_kimg": 0.032, "warmup_kimg": 0.0}
    spec["evaluation"] = {**STUDENT["evaluation"], "every_kimg": 0.032}
    refused("gives NaN or infinity for seed", distill, spec, tmp_path / "stopped")
    metadata = read_metadata(distill({**spec, "on_divergence": "publish"}, tmp_path / "run"))
    assert (metadata["nimg"], metadata["last_nimg"]) == (0, 64)
    first, *others = read_jsonl(tmp_path / "run/evaluations.jsonl")
    assert [record["nimg"] for record in others] == [32, 64]
    assert isinstance(first["fd"], float)
    assert all(record.keys() == first.keys() and record["fd"] is None for record in others)
    assert {path.suffix for path in (tmp_path / "run/snapshots").iterdir()} == {".safetensors"}


@pytest.mark.slow
def test_pictures_of_fixed_seeds_beside_each_snapshot(teacher, tmp_path):
    spec = {**STUDENT, "teacher": teacher, "evaluation": None, "total_kimg": 0.096, "snapshot_kimg": 0.048}
    for name, pictures in (("with", None), ("without", 0)):
        distill({**spec, "warmup_kimg": 0.0, "pictures": pictures}, tmp_path / name)
    assert results(tmp_path / "with") == results(tmp_path / "without")
    assert not list((tmp_path / "without/snapshots").glob("*.png"))
    names = ["network-0000000048.png", "network-0000000096.png"]
    first, last = (np.asarray(Image.open(tmp_path / "with/snapshots" / name)) for name in names)
    assert first.shape == (64, 64)
    assert 0 < np.abs(first.astype(int) - last).mean() < 128
    train_teacher({**TEACHER, "pictures": 2, "total_kimg": 0.032, "snapshot_kimg": 0.032}, tmp_path / "teacher")
    assert Image.open(tmp_path / "teacher/snapshots/network-0000000032.png").size == (16, 16)
