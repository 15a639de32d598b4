"""Faults of a training that are known before or at its first step, and the plain facts of a step."""

import contextlib
import shutil
from types import SimpleNamespace

import pytest
import torch

from sida.data import load_dataset
from sida.errors import UserError
from sida.methods import distill
from sida.noise import unit_noise
from sida.training import TeacherConfig, train_teacher
from sida.training.batches import StepBatches
from sida.training.evaluation import evaluation_facts
from sida.training.processes import ALONE, StopRequest
from sida.training.run_folder import RunFolder, check_shapes
from sida.training.schedule import Phase, Schedule, linear_decay, points_passed
from sida.training.steps import OptimizerStep
from tests.refused import refused
from tests.training.toy import DATASET, EDM2, GIVEN, MADE, STUDENT, TEACHER

SHORT = {**TEACHER, "total_kimg": 0.032, "snapshot_kimg": None}


@pytest.mark.parametrize(
    ("settings", "processes", "told"),
    [
        ({"batch_size": 16}, 3, "16 images cannot be shared by 3 processes"),
        ({"batch_size": 16, "batch_gpu": 4}, 8, "16 images in micro-batches of 4 cannot be shared by 8 processes"),
        ({"batch_size": 16, "batch_gpu": 4}, 4, None),
        ({"batch_size": 16}, 16, None),
    ],
)
def test_a_batch_is_shared_by_processes_or_refused(settings, processes, told):
    config = TeacherConfig(**{**TEACHER, **settings})
    arguments = config, load_dataset(DATASET), torch.device("cpu"), SimpleNamespace(rank=0, world_size=processes)
    if told:
        refused(rf"^own\.batch_size: {told}; start a number that divides them", StepBatches, *arguments, "own")
        return
    batches = StepBatches(*arguments)
    assert (batches.per_device, batches.micro_batch) == (16 // processes, settings.get("batch_gpu", 16 // processes))


def test_a_network_without_augmentation_refuses_it(tmp_path):
    refused(r"teacher\.augment: EDM2 networks take no augmentation; set it to null", train_teacher,
            {**SHORT, "network": EDM2}, tmp_path)  # fmt: skip


def test_a_monitor_that_does_not_accept_its_arguments_is_told():
    evaluation = {"every_kimg": 1, "monitor": "tests.training.toy:make_monitor", "kwargs": {"samples": 8, "sample": 9}}
    refused(
        r"own\.kwargs: tests.training.toy:make_monitor does not accept them",
        evaluation_facts,
        evaluation,
        DATASET,
        "own",
    )
    facts = evaluation_facts({**evaluation, "kwargs": {"samples": 8}, "patience": None}, DATASET, "own")
    assert facts.keys() == {"every_kimg", "monitor", "kwargs", "source_sha256"}


@pytest.mark.parametrize(
    ("values", "settings", "told"),
    [
        (["nan"], {}, r"^distill toy: the evaluation at image 0 gave fd = nan, not a number"),
        (
            [1.0, 3.0, 3.1],
            {"on_divergence": "stop"},
            r"diverging at image 32: fd = 3.1 is 3.1 times its best \(1 at image 0",
        ),
    ],
)
def test_an_evaluation_that_is_no_number_or_far_above_the_best_stops_a_run(teacher, tmp_path, values, settings, told):
    GIVEN.clear()
    MADE.clear()
    evaluation = {"every_kimg": 0.016, "monitor": "tests.training.toy:make_curve", "kwargs": {"values": values}}
    spec = {**STUDENT, "teacher": teacher, "total_kimg": 0.048, "snapshot_kimg": None, "warmup_kimg": 1}
    refused(told, distill, {**spec, "evaluation": evaluation, "pictures": 0, **settings}, tmp_path)
    assert len(GIVEN) == len(values)


def test_a_state_and_a_record_for_a_folder_that_is_gone_are_told(tmp_path):
    with contextlib.suppress(UserError), RunFolder(tmp_path / "run", "digest") as files:
        shutil.rmtree(tmp_path / "run")
        refused(r"run: is gone: ", files.log, "train", {"nimg": 32})
        files.save({"nimg": 32, "finished": False}, {"x": torch.zeros(3)}, {})
        refused(r"run: is gone: ", files.wait)


@pytest.mark.parametrize("name", ["img_resolution", "img_channels", "label_dim"])
def test_a_network_for_other_images_is_refused(name):
    net = SimpleNamespace(**{"img_resolution": 8, "img_channels": 1, "label_dim": 10, name: 3})
    refused(rf"place.*{name}", check_shapes, net, load_dataset(DATASET), "place")


def test_names_of_a_steps_streams_and_draws():
    step = OptimizerStep("psi", None, None, "fake")
    assert (step.repeats, step.every, step.generates, step.real_images) == (1, 1, True, False)
    assert step.streams() == ["fake"]
    assert OptimizerStep("psi", None, None, "fake", repeats=3).streams() == ["fake", "fake-2", "fake-3"]
    assert [*step.draws_for(1, "fresh")] == [*step.draws_for(3, "fixed")] == ["z"]
    assert [*step.draws_for(3, "fresh")] == ["z", "noise of step 2", "noise of step 3"]
    real = OptimizerStep("teacher", None, None, "teacher", draws={"noise": unit_noise}, generates=False)
    assert [*real.draws_for(3, "fresh")] == ["noise"]


@pytest.mark.parametrize(
    ("schedule", "nimg", "expected"),
    [
        (Schedule(), 100_000, Phase(False, 1.0, 0.0, 1.0)),
        (Schedule(), 100_001, Phase(True, 1.0, 0.0, 1.0)),
        (Schedule(), 200_001, Phase(True, 0.5, 0.5, 1.0)),
        (Schedule(sid_share=0.8), 200_001, Phase(True, 0.8, pytest.approx(0.2), 1.0)),
        (Schedule(0, 0), 0, Phase(True, 0.5, 0.5, 1.0)),
        (Schedule(0, None), 10**9, Phase(True, 1.0, 0.0, 1.0)),
    ],
)
def test_phases_begin_behind_their_images(schedule, nimg, expected):
    phase = schedule.at(nimg)
    assert phase == expected
    terms = ("sid", "adversarial", "adversarial_sid", "other")
    assert [phase.weight(name) for name in terms] == [
        phase.sid_weight,
        phase.adversarial_weight,
        phase.adversarial_weight,
        1.0,
    ]
    assert schedule.begun == 1000 * max(schedule.warmup_kimg, schedule.adversarial_kimg or 0)


@pytest.mark.parametrize(
    ("every", "per_decade", "at"),
    [
        (100.0, None, [100, 200, 300]),
        (100.0, 1, [100, 1000, 10_000]),
        (100.0, 2, [100, 317, 1000]),
        (1.0, 3, [1, 3, 5, 10]),
    ],
)
def test_events_are_passed_at_their_images_and_not_before(every, per_decade, at):
    for number, nimg in enumerate(at, 1):
        assert points_passed(nimg, every, per_decade) == number
        assert points_passed(nimg - 1, every, per_decade) == number - 1


def test_a_decay_that_starts_at_the_end_is_none():
    assert [linear_decay(share, 1.0, 0.1) for share in (0.0, 1.0, 1.5)] == [1, 1, 1]


def test_a_request_ends_a_process_by_its_rank():
    assert StopRequest.NONE < StopRequest.SAVE < StopRequest.MAKE_ROOM < StopRequest.STOP
    for request in (StopRequest.NONE, StopRequest.SAVE):
        request.enforce()
    for request in (StopRequest.MAKE_ROOM, StopRequest.STOP):
        with pytest.raises(KeyboardInterrupt):
            request.enforce()
    assert ALONE.agree(StopRequest.SAVE) == StopRequest.SAVE
    assert (ALONE.from_first(lambda: 4), ALONE.rank, ALONE.world_size) == (4, 0, 1)


def test_the_last_line_of_a_training_is_about_all_of_it(tmp_path, capsys):
    """However soon it comes after the one before."""
    train_teacher(SHORT, tmp_path)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if " img/s " in line]
    assert line.startswith("[teacher toy]  32/32 img  100 %  ")
    assert "  denoising " in line
