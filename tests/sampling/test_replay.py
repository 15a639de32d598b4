"""Networks through recordings (a stand-in plays CUDA graphs): the same images, and recorded once where that pays."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from sida.errors import UserError
from sida.kernels import require_fused, unavailable_reason
from sida.machine import RecordingError
from sida.networks.edm_unet import UNetBlock
from sida.networks.unet import UNet
from sida.sampling import Drawer, generate, read_sampler
from sida.sampling import drawer as drawer_module
from sida.sampling.generate import Evaluations, _prefetched
from sida.sampling.job import SampleConfig, run_job
from tests.networks.made import random_network
from tests.sampling.test_generate import EDM2, make


class Recorder:
    """Runs the function on memory that stays the same, as a CUDA graph does."""

    def __init__(self):
        self.made = []

    def __call__(self, function, inputs):
        memory = {name: tensor.clone() for name, tensor in inputs.items()}
        outputs = dict(function(memory))
        self.made.append({name: tuple(tensor.shape) for name, tensor in inputs.items()})

        def replay(given):
            for name, tensor in given.items():
                memory[name].copy_(tensor)
            for name, tensor in function(memory).items():
                outputs[name].copy_(tensor)
            return outputs

        return replay


def images(*args, **kwargs):
    return torch.cat([batch.images for batch in generate(*args, **kwargs)])


SAMPLERS = ["one_step", "one_step:2", "heun:3", "heun:3,S_churn=2", "heun:3,guidance=1.5"]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("label_dim", [0, 10])
def test_replayed_networks_draw_the_same_bytes(sampler, label_dim):
    net, guide = make(label_dim), make(label_dim, seed=1)
    recorder = Recorder()
    replayed = images(net, range(70), sampler, 8, gnet=guide, evaluations=Evaluations(recorder))
    assert torch.equal(replayed, images(net, range(70), sampler, 8, gnet=guide))
    assert len(recorder.made) == (2 if "guidance" in sampler else 1)
    assert ("labels" in recorder.made[0]) == bool(label_dim)


def test_a_draw_of_few_evaluations_is_not_worth_a_recording_but_many_such_draws_are():
    net, recorder = make(), Recorder()
    evaluations = Evaluations(recorder)
    images(net, range(7), "one_step", 4, evaluations=evaluations)
    assert not recorder.made
    for _ in range(5):
        images(net, range(8), "one_step", 4, evaluations=evaluations)
    images(net, range(8), "one_step", 8, evaluations=evaluations)
    assert [made["x"][0] for made in recorder.made] == [4, 8]


def test_a_recording_sees_changed_weights_and_another_network_gets_its_own():
    net, recorder = make(), Recorder()
    evaluations = Evaluations(recorder)
    before = images(net, range(40), "one_step", 4, evaluations=evaluations)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    after = images(net, range(40), "one_step", 4, evaluations=evaluations)
    assert len(recorder.made) == 1
    assert torch.equal(after, images(net, range(40), "one_step", 4))
    assert not torch.equal(after, before)
    images(make(seed=3), range(40), "one_step", 4, evaluations=evaluations)
    assert len(recorder.made) == 2


def test_a_settled_copy_of_a_network_may_be_replayed():
    net = random_network("EDM2Precond", {**EDM2, "weight_norm": "always"}, std=1)
    floats = lambda evaluations: torch.cat(
        [b.images for b in generate(net, range(40), "one_step", 4, decode=torch.clone, evaluations=evaluations)]
    )
    assert torch.equal(floats(Evaluations(Recorder())), floats(Evaluations()))


def test_what_cannot_be_recorded_goes_on_kernel_by_kernel(capsys):
    def refuse(function, inputs):
        raise RecordingError("it looks at a value")

    net = make()
    assert torch.equal(
        images(net, range(40), "one_step", 4, evaluations=Evaluations(refuse)), images(net, range(40), "one_step", 4)
    )
    assert capsys.readouterr().err.startswith("CUDA graphs: it looks at a value; ")


def test_a_drawer_keeps_its_recordings_from_one_draw_to_the_next(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(drawer_module.Evaluations, "on", classmethod(lambda cls, device: cls(recorder)))
    drawer = Drawer(read_sampler("one_step"), make())
    for first in range(0, 160, 8):
        list(drawer.draw(range(first, first + 8), 8))
    assert len(recorder.made) == 1


def test_latents_are_drawn_ahead_in_order_and_faults_come_through():
    asked = threading.Event()

    def draw(start):
        if start == 5:
            asked.set()
            raise ValueError("broken")
        return start

    drawn = _prefetched(draw, range(10))
    assert [next(drawn) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert asked.wait(120)
    with pytest.raises(ValueError, match="broken"):
        next(drawn)


def test_fused_kernels_are_named_and_recorded_and_never_silent(tmp_path):
    from sida.networks.file import save_network

    sampler = read_sampler("one_step:kernels=fused")
    assert sampler.facts()["kernels"] == "fused"
    assert "kernels" not in read_sampler("one_step").facts()
    assert read_sampler("heun:18,kernels=fused").kernels == "fused"
    save_network(make(), tmp_path / "net.safetensors", {})
    job = {"network": str(tmp_path / "net.safetensors"), "seeds": "0-3", "device": "cpu"}
    with pytest.raises(UserError, match="'fused' computes on a GPU"):
        list(run_job(SampleConfig(**job, out=str(tmp_path / "fused"), sampler="one_step:kernels=fused")))
    assert not (tmp_path / "fused").exists()
    list(run_job(SampleConfig(**job, out=str(tmp_path / "torch"))))
    record = json.loads((tmp_path / "torch" / "samples.json").read_text())
    assert record["sampler"] == read_sampler("one_step").facts()


def test_fused_kernels_for_a_while_leave_a_network_as_it_was(monkeypatch):
    if unavailable_reason() is not None:
        pytest.skip(str(unavailable_reason()))
    net = make()
    block = next(module for module in net.modules() if isinstance(module, UNetBlock))
    unet = next(module for module in net.modules() if isinstance(module, UNet))
    before = [dict(vars(module)) for module in net.modules()]
    fused_kernels = require_fused().fused_kernels
    with fused_kernels(net):
        replaced = block.compute
        assert "_edm_block" in str(replaced)
        assert "_join_edm" in str(unet.join)
        with fused_kernels(net):
            assert block.compute is not replaced
        assert block.compute is replaced
    assert [dict(vars(module)) for module in net.modules()] == before
