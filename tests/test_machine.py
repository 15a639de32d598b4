"""The machine: which GPU a command uses, and where numbers come from: versions and processors."""

import json

import numpy
import pytest
import torch

from sida import machine
from sida.machine import environment, take_device
from sida.sampling.job import open_device
from sida.workflow.cli import main
from tests.refused import refused


class TakenError(Exception):
    """Tells which device became the current one, where there is none to work on."""


def taken(device):
    raise TakenError(str(device))


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine that says it has two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])


@pytest.mark.parametrize(
    "words",
    [
        "sample --network net.safetensors --out samples --device cuda:1",
        "data encode --source images.zip --out latents.zip --device cuda:1",
        "reference --images images.zip --extractor digits --out f.safetensors --device cuda:1",
        "measure --spec measure.json --trials 0 --out measured",
    ],
)
def test_the_gpu_that_is_named_becomes_the_current_one(two_gpus, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The commands' files, which are looked at after the device.
    for name in ("net.safetensors", "images.zip"):
        (tmp_path / name).touch()
    sampler = {"kind": "python", "callable": "a:b"}
    spec = {"run": "a", "method": "m", "sampler": sampler, "protocol": "digits", "device": "cuda:1"}
    (tmp_path / "measure.json").write_text(json.dumps(spec))
    with pytest.raises(TakenError, match="cuda:1"):
        main(words.split())


@pytest.mark.parametrize("take", [open_device, lambda name: take_device(name, "spec")], ids=["sample", "train"])
def test_each_of_several_processes_takes_its_own_gpu(two_gpus, take, monkeypatch):
    # As torchrun starts the second one.
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TakenError, match="cuda:1"):
        take("cuda")


def test_a_name_without_a_number_keeps_the_current_gpu(two_gpus):
    for name in ("cuda", "cpu", "cpu:1"):
        assert take_device(name, "spec") == torch.device(name)


@pytest.mark.parametrize("name", ["cuda:01", "cpu:200", "cuda:\u0663", "cuda:2"])
def test_other_names_are_no_devices(two_gpus, name):
    fault = "the last GPU is cuda:1" if name == "cuda:2" else "is not a device"
    assert refused(fault, take_device, name, "spec").where == "spec.device"


NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU."
OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver."


@pytest.mark.parametrize(
    ("cuda", "error", "fault", "remedy"),
    [
        ("13.0", NO_DRIVER, "no NVIDIA driver", "use cpu"),
        ("13.0", OLD_DRIVER, "too old .found version 12040", "docs/cluster.md"),
        ("13.0", None, "CUDA_VISIBLE_DEVICES=7", "use cpu"),
        (None, None, "built without CUDA", "docs/cluster.md"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_refused_with_its_own_reason(monkeypatch, cuda, error, fault, remedy):
    def init():
        if error:
            raise RuntimeError(error)

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert remedy in refused(fault, take_device, "cuda", "spec").remedy


def test_a_card_for_which_torch_has_no_code_is_refused_before_the_work(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert "docs/cluster.md" in refused(r"no code for compute capability 7\.0", take_device, "cuda", "spec").remedy


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [((8, 6), "sm_89", False), ((8, 9), "sm_86", True), ((9, 0), "sm_89", False), ((12, 1), "sm_120", True)],
)
def test_code_of_a_capability_runs_from_its_minor_one_on(monkeypatch, capability, built, runs):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: [built])
    assert (machine.code_fault(0) == "") == runs


def test_a_job_has_the_cores_that_its_scheduler_gives_it(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {0, 5, 6})
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 64)
    assert machine.num_cores() == 3


def test_versions_are_those_of_the_packages():
    found = environment()
    assert (found["torch"], found["numpy"]) == (torch.__version__, numpy.__version__)
    # A manifest does not import torch, whose build it leaves out.
    assert environment(None)["torch"] == torch.__version__.partition("+")[0]


INTEL = "model name\t: Intel(R) Xeon(R) Processor\ncpu family\t: 6\nmodel\t\t: 167\n"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (INTEL * 2, "Intel Xeon Processor, family 6 model 167"),
        ("model name\t: AMD EPYC 7763 64-Core Processor  \n", "AMD EPYC 7763 64-Core Processor"),
        ("BogoMIPS\t: 50.00\n", "riscv64"),
    ],
)
def test_numbers_stand_beside_the_processors_that_rounded_them(monkeypatch, file, name):
    monkeypatch.setattr(machine.Path, "read_text", lambda path, **_: file)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine.platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(machine.torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(machine, "processor_name", machine.processor_name.__wrapped__)
    assert machine.device_name("cpu") == f"cpu (4 × {name}, 3 threads)"
    assert environment(None)["device"] == f"cpu (4 × {name})"
