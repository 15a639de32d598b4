"""Micro-batches as recordings: the same numbers as kernel by kernel, with augmentation and accumulation.

A recording of CUDA kernels needs a GPU; here a stand-in runs the function again on the memory in which a recording
would, so that all around it is tested. On a GPU the same tests record for real.
"""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sida.data import AugmentPipe
from sida.machine import RecordingError, restored
from sida.methods.sid import SiDALoss, SiDLoss
from sida.sampling.guidance import GuidedDenoiser
from sida.training import batches as of_training
from sida.training.iteration import Distiller, StudentTrainer
from sida.training.optimizer import OptimizedNetwork
from sida.training.schedule import Schedule
from sida.training.steps import GraphRunner, OptimizerStep
from tests.near import same_bits
from tests.networks.made import random_network
from tests.training.toy import NETWORK, iterate, recipe

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
AUGMENT = AugmentPipe.from_config({"p": 0.5})


class StandIn:
    """As :class:`sida.machine.Recording`, but the function itself runs each time, always on the same memory.

    As before a recording it runs twice at first, and what it may not change gets its values back.
    """

    made = 0

    def __init__(self, function, inputs, pool=None, protected=()):
        type(self).made += 1
        self.function, self.inputs = function, {name: tensor.clone() for name, tensor in inputs.items()}
        with torch.random.fork_rng([]), restored(protected):
            function(self.inputs)
            self.outputs = dict(function(self.inputs))

    def __call__(self, inputs):
        for name, tensor in inputs.items():
            self.inputs[name].copy_(tensor)
        outputs = self.function(self.inputs)
        for name, tensor in outputs.items():
            self.outputs[name].copy_(tensor)
        return self.outputs


@pytest.fixture
def recordings(monkeypatch):
    """Replays wherever training is, and says how many recordings were made."""
    if GPU:
        return None
    StandIn.made = 0
    monkeypatch.setattr("sida.training.steps.Recording", StandIn)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    return StandIn


def nets():
    teacher, fake_score = (random_network(NETWORK["class"], NETWORK["kwargs"], seed).to(DEVICE) for seed in range(2))
    return [teacher, fake_score, copy.deepcopy(teacher)]


def distiller(loss, replayed: bool, augment=None, networks=None, **more) -> Distiller:
    schedule = Schedule(warmup_kimg=0.006, adversarial_kimg=0.012)
    settings = recipe(lr=1e-3, lambda_adv=1.0, seed=4, cuda_graphs=replayed, **more)
    made = Distiller(*(networks or nets()), loss, schedule, settings, augment=augment)
    return replaying(made) if replayed else made


def replaying(made: StudentTrainer) -> StudentTrainer:
    """The trainer with recordings; on a GPU its recipe gives it some."""
    if not GPU:
        networks = [*made.networks.values()]
        made._run = GraphRunner(networks, made.generator, made.generator_steps, made.through_all)
    return made


def batches(nimg: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    source = torch.Generator().manual_seed(nimg)
    labels = lambda: torch.eye(10)[torch.randint(10, (3,), generator=source)].to(DEVICE)
    return [((torch.randn(3, 1, 8, 8, generator=source) * 0.5).to(DEVICE), labels()) for _ in range(2)]


def train(made: Distiller, steps: int = 5) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    losses = []
    for step in range(steps):
        nimg = 6 * step
        record = iterate(made, nimg, batches(nimg), batches(nimg + 1000))
        losses.append({name: float(value) for name, value in record.losses.items()} | {"nan": int(record.nan_samples)})
    return made.state(), losses


def guided():
    """Networks of which the teacher is guided."""
    teacher, fake_score, generator = nets()
    guide = random_network(NETWORK["class"], NETWORK["kwargs"], 2).to(DEVICE)
    return [GuidedDenoiser(teacher, guide, 1.5), fake_score, generator]


def counting():
    """Networks that count their calls in training mode; those before a recording do not count."""

    def count(module, given):
        module.calls += int(module.training)

    made = nets()
    for net in made[1:]:
        net.register_buffer("calls", torch.zeros((), dtype=torch.int64, device=DEVICE))
        net.register_forward_pre_hook(count)
    return made


def assert_replayed_like_plain(loss, augment=None, networks=nets, **more):
    state, losses = train(distiller(loss, replayed=False, augment=augment, networks=networks(), **more))
    again, replayed = train(distiller(loss, replayed=True, augment=augment, networks=networks(), **more))
    assert replayed == losses
    for name, value in state.items():
        assert same_bits(value, again[name]), name


@pytest.mark.parametrize(
    ("loss", "augment", "networks"),
    [
        (SiDALoss(), AUGMENT, counting),
        pytest.param(SiDALoss(), None, guided, marks=pytest.mark.slow),
        pytest.param(SiDLoss(), None, nets, marks=pytest.mark.slow),
    ],
    ids=["sida augmented", "sida guided", "sid"],
)
def test_replayed_rounds_give_the_same_numbers(recordings, loss, augment, networks):
    assert_replayed_like_plain(loss, augment, networks)
    if recordings is not None:
        # ψ's rounds look the same in all phases, θ's change once; with augmentation ψ's are two recordings.
        assert recordings.made == (2 if augment else 1) + 2


@pytest.mark.parametrize("noise", ["fresh", pytest.param("fixed", marks=pytest.mark.slow)])
def test_rounds_of_generators_of_several_steps_are_replayed(recordings, noise):
    assert_replayed_like_plain(SiDLoss(), num_steps=2, noise=noise)
    if recordings is not None:
        # ψ's rounds for one step and for two, and θ's, one of them in both phases.
        assert recordings.made == 2 + 3


def test_two_steps_on_the_same_real_images_are_replayed_too(recordings):
    def steps(net):
        error = lambda given: net.net(given.images + given.draws["z"], 1.0, given.class_labels) - given.images
        common = {"stream": "generator", "real_images": True, "generates": False}
        for name, loss in (("magnitude", torch.abs), ("square", torch.square)):
            terms = lambda given, name=name, loss=loss: {name: loss(error(given))}
            yield OptimizerStep("generator", net, terms, **common)

    found = []
    for replayed in (False, True):
        net = OptimizedNetwork(nets()[2], 1e-3, (0.0, 0.999), 1e-8)
        made = StudentTrainer([*steps(net)], Schedule(0, None), recipe(cuda_graphs=replayed))
        found.append(train(replaying(made) if replayed else made, 2))
    assert found[0][1] == found[1][1]
    assert same_bits(found[0][0]["generator/parameters"], found[1][0]["generator/parameters"])


def test_a_loss_that_looks_at_values_goes_on_kernel_by_kernel(recordings, monkeypatch, capsys):
    class Curious(SiDLoss):
        def generator_terms(self, true_score, fake_score, given):
            if not given.images.isfinite().all():
                raise AssertionError
            return super().generator_terms(true_score, fake_score, given)

    if recordings is not None:

        def refuse(self, *args):
            raise RecordingError("a step's kernels cannot be recorded (a value was asked for)")

        monkeypatch.setattr(StandIn, "__init__", refuse)
    assert_replayed_like_plain(Curious())
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cuda_graphs:")]
    assert line.startswith("cuda_graphs: a step's kernels cannot be recorded (")
    assert line.endswith("kernel by kernel")


class Questions(TorchDispatchMode):
    """Counts operations whose result a GPU would have to be waited for."""

    ASKING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique", "aten.equal")

    def __init__(self):
        super().__init__()
        self.calls = self.asked = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        self.asked += str(function).startswith(self.ASKING)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", [SiDALoss(), SiDALoss(pool="sample"), SiDLoss()], ids=["sida", "pooled", "sid"])
def test_a_round_asks_for_no_value(monkeypatch, loss):
    def asked():
        made, questions = distiller(loss, replayed=False), Questions()
        run = made._run

        def watched(*given):
            with questions:
                return run(*given)

        made._run = watched
        train(made, steps=3)
        assert questions.calls
        return questions.asked

    # On a processor the masks of NaN ask, which shows that the count sees it.
    assert GPU or asked()
    monkeypatch.setattr(of_training, "ASYNC_DEVICES", {"cpu", "cuda"})
    assert not asked()


@pytest.mark.skipif(not GPU, reason="needs a GPU")
@pytest.mark.parametrize("kernels", ["torch", "fused"])
def test_a_step_never_waits_for_the_gpu(kernels):
    made = Distiller(*guided(), SiDALoss(), Schedule(0, 0), recipe(lr=1e-3, kernels=kernels))
    for nimg in (6, 12):
        iterate(made, nimg, batches(nimg))
    given = batches(18)
    torch.cuda.set_sync_debug_mode("error")
    try:
        iterate(made, 18, given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
