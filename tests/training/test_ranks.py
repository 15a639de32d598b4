"""Several devices: losses are means over a device's own images, gradients averages over devices; with real gloo."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from sida.config.recipe import TeacherConfig
from sida.data import load_dataset
from sida.losses import SiDALoss
from sida.methods.distiller import Distiller
from sida.networks import build_network
from sida.training.batches import StepBatches, step_draws
from sida.training.logs import IterationRecord, TickMeter
from sida.training.ranks import Ranks
from sida.training.schedule import Schedule
from sida.training.teacher import TeacherTrainer
from tests.training.toy import NETWORK, TEACHER, fork, iterate, recipe, wait

RANKS, LOCAL = 2, 4
CPU = torch.device("cpu")
SHAPE = torch.Size((RANKS * LOCAL, 1, 8, 8))


class Recorder:
    """A reduction that keeps the gradients it is given and those it leaves."""

    def __init__(self, over_ranks: bool = False) -> None:
        self.over_ranks, self.local, self.reduced = over_ranks, [], []

    def __call__(self, gradient: torch.Tensor) -> None:
        self.local.append(gradient.clone())
        if self.over_ranks:
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
        self.reduced.append(gradient.clone())


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    net = build_network({**NETWORK, "kwargs": {**NETWORK["kwargs"], "dropout": 0.0}})
    for parameter in net.parameters():
        # The usual start has zeros, through which no gradient flows.
        torch.nn.init.normal_(parameter, std=0.2)
    return net


def distillation(parts: list[slice], reduce: Recorder, rank: int = 0, world_size: int = 1) -> Distiller:
    """One iteration on the given parts of a batch, one part per accumulation round."""
    teacher, fake_score, student = (network(seed) for seed in range(3))
    distiller = Distiller(
        teacher, fake_score, student, SiDALoss(), Schedule(0, 0),
        recipe(
            lr=1e-3, grad_clip_value=1.0, ema_half_life_kimg=RANKS * LOCAL / 1000, ema_rampup_ratio=None,
        ),
    )  # fmt: skip
    distiller.rank, distiller.world_size = rank, world_size
    for optimized in distiller.networks.values():
        optimized.reduce = reduce
    images, labels = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)), torch.eye(10)[: SHAPE[0]]
    (psi,) = step_draws(0, "psi", 0, 0, [SHAPE], CPU, "sigma_normal")
    (theta,) = step_draws(0, "generator", 0, 0, [SHAPE], CPU, "t")
    batches = [(images[part], labels[part]) for part in parts]
    draws = [{name: value[part] for name, value in given.items()} for given in (psi, theta) for part in parts]
    iterate(distiller, 0, batches, batches, draws)
    return distiller


def teaching(
    batch_size: int, reduce: Recorder, rank: int = 0, world_size: int = 1, batch_gpu: int | None = None
) -> TeacherTrainer:
    """One step of a teacher on the part of a batch that falls to a device."""
    config = TeacherConfig(**{**TEACHER, "batch_size": batch_size})
    batches = StepBatches(load_dataset(config.dataset), 0, batch_size, batch_gpu, CPU, rank, world_size)
    trainer = TeacherTrainer(config, network(3), batches)
    trainer.network.reduce = reduce
    trainer.iteration(0)
    return trainer


def parts_of(rank: int) -> slice:
    return slice(rank * LOCAL, (rank + 1) * LOCAL)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes that talk over gloo has seen and become."""
    folder = tmp_path_factory.mktemp("ranks")

    def process(rank: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
        record = {}
        for name in ("distiller", "teacher"):
            reduce = Recorder(over_ranks=True)
            if name == "distiller":
                trainer = distillation([parts_of(rank)], reduce, rank, RANKS)
            else:
                trainer = teaching(RANKS * LOCAL, reduce, rank, RANKS)
            record[name] = {"local": reduce.local, "reduced": reduce.reduced, "state": dict(trainer.state())}
        torch.save(record, folder / f"{rank}.pt")
        dist.destroy_process_group()

    children = [fork(lambda rank=rank: process(rank), folder / f"{rank}.log") for rank in range(RANKS)]
    assert [wait(child) for child in children] == [0] * RANKS, [p.read_text() for p in folder.glob("*.log")]
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    # Far from the factor of 2 that another contract would show, above the effect of ψ's weights without gradient, which
    # Adam's first step moves by their rounding.
    return float((one - other).abs().max()) < 1e-3 * float(other.abs().max())


@pytest.mark.parametrize("trainer", ["distiller", "teacher"])
def test_all_ranks_take_the_average_and_stay_equal(ranks, trainer):
    one, other = (record[trainer] for record in ranks)
    assert len(one["local"]) == len(other["local"]) > 0
    for first, second, reduced in zip(one["local"], other["local"], one["reduced"]):
        assert not close(first, second)
        assert torch.equal(reduced, (first + second) / RANKS)
    assert all(torch.equal(tensor, other["state"][name]) for name, tensor in one["state"].items())


def test_two_ranks_distil_as_one_device_with_two_rounds(ranks):
    """A device's pool is its own round, so two devices and two rounds are the same mathematics, pooling included."""
    alone = Recorder()
    distiller = distillation([parts_of(rank) for rank in range(RANKS)], alone)
    for step, reduced in enumerate(ranks[0]["distiller"]["reduced"]):
        assert close(reduced, alone.reduced[step]), step
    for name in ("fake_score/parameters", "ema/parameters"):
        difference = (distiller.state()[name] - ranks[0]["distiller"]["state"][name]).abs()
        assert float((difference > 1e-4).float().mean()) < 0.02


def test_two_ranks_teach_as_one_device_with_two_rounds(ranks):
    """Order, noise, augmentation and losses do not depend on who has which images."""
    alone = Recorder()
    trainer = teaching(RANKS * LOCAL, alone, batch_gpu=LOCAL)
    assert close(ranks[0]["teacher"]["reduced"][0], alone.reduced[0])
    assert close(ranks[0]["teacher"]["state"]["ema/parameters"], trainer.state()["ema/parameters"])


def test_draws_of_all_ranks_are_those_of_one_device():
    alone = step_draws(0, "psi", 64, 0, [SHAPE], CPU, "sigma_normal")[0]
    parts = [
        step_draws(0, "psi", 64, rank, [torch.Size((2, 1, 8, 8))] * 2, CPU, "sigma_normal", RANKS)
        for rank in range(RANKS)
    ]
    for name, whole in alone.items():
        assert torch.equal(torch.cat([given[name] for rounds in parts for given in rounds]), whole)


class Twin(Ranks):
    """Two processes of which the other one has counted and lost other numbers."""

    world_size = 2

    def add_up(self, tensor):
        tensor += torch.tensor([3.0, 8, 1, 5.0, 8, 2]).to(tensor)


def test_what_is_logged_is_of_all_ranks():
    meter = TickMeter(Twin())
    for nan in (0, 1):
        record = IterationRecord(losses={"sid": torch.tensor(1.0)}, grad_norms={"psi": torch.tensor(7.0)})
        record.samples, record.nan_samples, record.bad_gradients = 8, nan, 4
        meter.add(record, 16)
    values = meter.finish()
    assert values["losses"] == {"sid": 2.5}
    # Of averaged gradients, so already everyone's.
    assert (values["grad_norm"], values["bad_gradients"]) == ({"psi": 7.0}, 8)
    assert (values["samples"], values["nan_count"], values["steps"]) == (32, 4, 2)
