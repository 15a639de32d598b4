"""What published teachers were trained with: rates that rise and fall, post-hoc averages, ends."""

import copy
import dataclasses
import math

import pytest
import torch

from sida.config.settings import from_mapping
from sida.data import AugmentPipe, load_dataset
from sida.files.atomic import read_jsonl
from sida.machine import derive_seed
from sida.networks import build_network
from sida.networks.file import load_network, read_metadata
from sida.training import TeacherConfig, train_teacher
from sida.training.batches import StepBatches
from sida.training.logs import FAR_ABOVE_BEST, lost
from sida.training.teacher import TeacherTrainer
from sida.workflow.cli import main
from tests.near import assert_near, is_copy
from tests.refused import command, refused
from tests.training.toy import EDM2, NETWORK, TEACHER, assert_recorded, interrupt_after, results, vector

#: EDM2's way: no ramp-down but by the number of steps, and two averages.
EDM2_WAY = {
    "lr_decay_start": 1.0, "lr_final": 1.0, "lr_rampup_kimg": 0.1, "lr_ref_batches": 10, "data_order": "edm2",
    "power_ema": [0.1, 0.2], "snapshot_kimg": 0.05,
}  # fmt: skip


def weights(path) -> torch.Tensor:
    return vector(load_network(path)[0]).double()


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    train_teacher({**TEACHER, **EDM2_WAY}, folder)
    return folder


@pytest.fixture
def kept(averaged):
    """Averages at all snapshots of that run."""
    return sorted(map(str, (averaged / "snapshots").glob("*.safetensors")))


def test_all_of_edm2s_way_resumes_exactly(averaged, tmp_path):
    spec = {**TEACHER, **EDM2_WAY}
    for stop in (100, 300):
        interrupt_after(train_teacher, spec, tmp_path, stop)
    train_teacher(spec, tmp_path)
    assert results(tmp_path) == results(averaged)
    names = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    assert len(names) == 16
    assert names[0].endswith("-0.1.safetensors")
    # The result is the average that is named first.
    assert is_copy(weights(tmp_path / "network.safetensors"), weights(tmp_path / "snapshots" / names[-2]))
    assert read_metadata(tmp_path / "network.safetensors")["average_std"] == 0.1
    assert_recorded("teacher of EDM2", tmp_path)


def test_a_rate_that_has_not_risen_changes_nothing_and_one_that_falls_changes_less(tmp_path):
    spec = {**TEACHER, "snapshot_kimg": None, "lr_decay_start": 1.0, "total_kimg": 0.1}
    flat = {"ema_rampup_ratio": None, "ema_half_life_kimg": 1e-9}
    still, falling, steady = (
        weights(train_teacher({**spec, **flat, **more}, tmp_path / name))
        for name, more in {"still": {"lr_rampup_kimg": 1e9}, "falling": {"lr_ref_batches": 1}, "steady": {}}.items()
    )
    torch.manual_seed(derive_seed(TEACHER.get("seed", 0), "initialisation"))
    start = vector(build_network(TEACHER["network"]))
    assert_near(still, start)
    assert 0 < (falling - start).norm() < 0.8 * (steady - start).norm()


def test_an_average_made_afterwards_is_the_one_that_training_would_have_kept(kept, tmp_path, capsys):
    (tmp_path / "wanted").mkdir()
    train_teacher({**TEACHER, **EDM2_WAY, "power_ema": [0.14]}, tmp_path / "wanted")
    made = tmp_path / "made.safetensors"
    assert main(["average", *kept, "--std", "0.14", "--out", str(made)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert float(line.removeprefix("profile differs by ").split()[0]) < 0.05
    wanted, others = weights(tmp_path / "wanted/network.safetensors"), [weights(path) for path in kept[-2:]]
    error = (weights(made) - wanted).norm()
    assert error < 0.1 * min((other - wanted).norm() for other in others)
    metadata = read_metadata(made)
    assert (metadata["nimg"], metadata["average_std"]) == (400, 0.14)
    assert len(metadata["parents"]) == len(kept)
    # One that was kept comes back as it was.
    nimg = read_metadata(kept[4])["nimg"]
    until = [path for path in kept if read_metadata(path)["nimg"] <= nimg]
    assert main(["average", *until, "--std", "0.1", "--out", str(made)]) == 0
    assert_near(weights(made), weights(kept[4]), 1e-4)


def test_averages_of_other_runs_or_kinds_are_one_line(kept, tmp_path):
    other = {**TEACHER, "total_kimg": 0.016, "snapshot_kimg": None}
    plain = str(train_teacher(other, tmp_path / "plain"))
    foreign = str(train_teacher({**other, "power_ema": [0.1]}, tmp_path / "foreign"))
    for sources, told in (
        ([*kept, plain], f"{plain}: .*train with power_ema"),
        ([kept[0], foreign], f"another run than {foreign}; give averages of one run"),
        ([kept[0], kept[0]], f"{kept[0]}: .*give each once"),
        ([*kept, "--std", "1e-160"], "--std: .*at least 1e-06"),
        ([*kept, "--std", "0.2800000001"], "--std: .*below 0.28, got 0.2800000001"),
    ):
        refused(told, command, "average", "--std", "0.1", "--out", tmp_path / "x", *sources)
    twice = TEACHER | {"power_ema": [0.1, 0.1]}
    refused("power_ema: must be different numbers", from_mapping, TeacherConfig, twice, "x")


def test_a_teacher_that_diverged_is_not_published_silently(tmp_path):
    spec = {**TEACHER, "lr": 30.0, "lr_decay_start": 1.0, "lr_final": 1.0, "total_kimg": 0.16, "tick_kimg": 0.032}
    spec |= {"augment": None, "snapshot_kimg": None}
    for _ in range(2):
        refused("teacher toy: has diverged and is not published: its last .*publish", train_teacher, spec, tmp_path)
        assert not (tmp_path / "network.safetensors").exists()
    steps = len(read_jsonl(tmp_path / "train.jsonl"))
    # Whoever wants it may have it, without another step.
    assert read_metadata(train_teacher({**spec, "on_divergence": "publish"}, tmp_path))["nimg"] == 160
    assert len(read_jsonl(tmp_path / "train.jsonl")) == steps


def test_a_loss_is_lost_by_its_end_and_not_on_its_way():
    assert lost([64.0, 40.0, 500.0, 41.0], 64, False) is None
    assert "its lowest 40" in lost([64.0, 40.0, 500.0], 64, False)
    assert "without a network" in lost([1e6], 64, False)
    assert lost([None, 90.0], 64, False) is None
    assert lost([None], 64, False) is None
    # Where the loss is a logarithm, it may be zero or less, and its ratio says nothing.
    assert lost([64.0, 0.5, 8.0], 64, uncertainty=True) is None
    assert "its lowest -100" in lost([64.0, -100.0, -20.0], 64, uncertainty=True)
    # The error may rise by the same factor in both.
    for factor in (0.95, 1.05):
        rise = factor * FAR_ABOVE_BEST
        found = (
            lost([8.0, 4.0, 4 * rise], 64, False),
            lost([64.0, -100.0, 64 * math.log(rise) - 100], 64, uncertainty=True),
        )
        assert [reason is not None for reason in found] == [factor > 1] * 2


def teacher_trainer(network, **changes):
    """The trainer of a teacher, with its batches."""
    config = TeacherConfig(**{**TEACHER, **changes})
    batches = StepBatches(config, load_dataset(config.dataset), torch.device("cpu"))
    return TeacherTrainer(config, build_network(network), batches)


def test_a_variance_head_is_trained_with_its_network():
    trainer = teacher_trainer(EDM2, augment=None)
    before = copy.deepcopy(trainer.network.net)
    trainer.iteration(0)
    pairs = zip(trainer.network.net.named_parameters(), before.parameters(), strict=True)
    changed = {name for (name, after), start in pairs if not is_copy(after, start)}
    assert any("logvar" in name for name in changed)


def test_terms_of_a_step_without_weights_have_weight_one():
    records = []
    for weights in (None, lambda pixels: {"denoising": 1.0}):
        torch.manual_seed(0)
        trainer = teacher_trainer(NETWORK, augment=None)
        trainer.steps = [dataclasses.replace(step, weights=weights) for step in trainer.steps]
        record = trainer.iteration(0)
        records.append((float(record.losses["denoising"]), float(record.grad_norms["teacher"])))
    assert records[0] == pytest.approx(records[1], rel=1e-6)


@pytest.mark.parametrize("batch_gpu", [None, 4])
def test_each_image_of_a_teachers_step_is_augmented_once(monkeypatch, batch_gpu):
    counts, augment = [], AugmentPipe.__call__

    def counted(pipe, images, *rest, **more):
        counts.append(len(images))
        return augment(pipe, images, *rest, **more)

    monkeypatch.setattr(AugmentPipe, "__call__", counted)
    teacher_trainer(NETWORK, batch_gpu=batch_gpu).iteration(0)
    assert counts == ([4] * 4 if batch_gpu else [16])


@pytest.mark.parametrize(("network", "square"), [(NETWORK, 1e10), (EDM2, 0.0)], ids=["EDM", "EDM2"])
def test_infinite_gradients_become_what_the_familys_code_makes_of_them(network, square):
    """±1e5 in NVlabs/edm:training/training_loop.py, 0 in NVlabs/edm2:training/training_loop.py."""
    trained = teacher_trainer(network, augment=None, betas=(0.0, 0.5)).network
    for parameter in trained.net.parameters():
        parameter.grad = torch.full_like(parameter, -torch.inf)
    trained.step(1.0)
    assert set((2 * trained.adam.square).tolist()) == {square}
