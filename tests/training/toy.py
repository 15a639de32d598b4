"""A teacher and students small enough to train in a second, and a monitor that needs no feature network."""

import contextlib
import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest
import torch

from sida.config.recipe import METHOD_SETTINGS
from sida.data import Dataset, load_dataset
from sida.files.atomic import read_jsonl
from sida.methods import METHODS, distill
from sida.methods.distillation import make_trainer
from sida.methods.registry import DistillConfig, recipe_of, resolve_recipe
from sida.networks.file import load_network, read_metadata
from sida.training.iteration import Trainer
from tests.near import assert_same, is_copy

DATASET = {"name": "digits", "kind": "digits", "max_size": 200}
NETWORK = {
    "class": "EDMPrecond",
    "kwargs": {
        "model_type": "SongUNet", "img_resolution": 8, "img_channels": 1, "label_dim": 10, "augment_dim": 9,
        "model_channels": 4, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.1,
    },
}  # fmt: skip
EDM2 = {
    "class": "EDM2Precond",
    "kwargs": {
        "img_resolution": 8, "img_channels": 1, "label_dim": 10, "use_fp16": False, "model_channels": 8,
        "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8, "logvar_channels": 8,
    },
}  # fmt: skip
#: What both trainings have.
TRAINING = {
    "name": "toy", "dataset": DATASET, "total_kimg": 0.4, "batch_size": 16, "lr_decay_start": 0.5, "lr_final": 0.1,
    "ema_half_life_kimg": 0.05, "ema_rampup_ratio": 0.5, "augment": {"p": 0.2}, "snapshot_kimg": 0.2,
}  # fmt: skip
TEACHER = {**TRAINING, "network": NETWORK, "lr": 2e-3, "tick_kimg": 0.1, "pictures": 0}
STUDENT = {
    **TRAINING, "method": "sida", "batch_gpu": 8, "lr": 1e-3, "lambda_adv": 1.0, "warmup_kimg": 0.05,
    "adversarial_kimg": 0.1, "grad_clip_value": 1.0, "tick_kimg": 0.04,
    "evaluation": {"every_kimg": 0.1, "monitor": "tests.training.toy:make_monitor", "kwargs": {"samples": 32}},
}  # fmt: skip
TIMES = ("seconds", "img_per_s", "memory_mb")
#: Rounding of logged numbers after some iterations; kernels of other processors differ by up to 2e-6.
LOGGED = 1e-4


def of_method(method, spec):
    """The spec for another method, without the settings that this one does not read."""
    unread = METHOD_SETTINGS - METHODS[method].settings
    return {key: value for key, value in spec.items() if key not in unread} | {"method": method}


SID_STUDENT = of_method("sid", STUDENT)
#: What short students of all methods have.
COMMON = {
    **{key: value for key, value in STUDENT.items() if key not in ("augment", "grad_clip_value")},
    "total_kimg": 0.048, "warmup_kimg": 0, "adversarial_kimg": 0, "evaluation": None, "snapshot_kimg": None,
}  # fmt: skip


def iterate(trainer, nimg, batches, generator_batches=None, draws=None):
    """An iteration on given micro-batches; the generator's step may have others."""
    of_generator = generator_batches or batches
    trainer.batches = lambda stream, nimg, with_images: of_generator if stream == "generator" else batches
    return trainer.iteration(nimg, draws)


def make_monitor(samples):
    """``fd``: distance of the mean image from the data's."""
    dataset = load_dataset(DATASET)
    real = dataset.images(range(len(dataset))).double().mean(0)

    def monitor(generate):
        images, _ = generate(range(1000, 1000 + samples))
        return {"fd": float((images.double().mean(0) - real).abs().mean())}

    return monitor


def make_census(samples):
    """A monitor that records the share of each class among the images."""

    def monitor(generate):
        _, classes = generate(range(samples))
        return {"fd": 1.0, "classes": (torch.bincount(classes, minlength=10) / samples).tolist()}

    return monitor


#: One entry for each value that :func:`make_curve` gave, also before a crash, and for each time it was called.
GIVEN: list = []
MADE: list = []


def make_curve(values):
    """A monitor that gives one value after the other as ``fd``; ``nan`` and ``inf`` as words, which JSON has."""
    MADE.append(values)

    def monitor(generate):
        GIVEN.append(float(values[len(GIVEN)]))
        return {"fd": GIVEN[-1]}

    return monitor


class CrashError(Exception):
    """Stands for a process that dies."""


def raising(error):
    """A function that fails."""

    def fail(*_, **__):
        raise error

    return fail


def vector(net):
    """All parameters of a network, one after the other."""
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def assert_same_training(one, other, steps, lr=STUDENT["lr"]):
    """Asserts that two ways to one gradient moved parameters alike.

    Adam divides by a gradient's size: the few weights without one move by rounding, each step by up to ``lr``.
    """
    difference = (vector(one) - vector(other)).abs()
    assert (difference > 0.05 * lr).float().mean() < 0.02
    assert difference.max() <= 2.2 * lr * steps


@contextlib.contextmanager
def before_iterations(act):
    """Trainings call ``act(nimg)`` before each iteration."""
    original = Trainer.iteration

    def acting(self, nimg):
        act(nimg)
        return original(self, nimg)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "iteration", acting)
        yield


def interrupt_after(run, spec, folder, nimg, **minutes):
    """Runs ``distill`` or ``train_teacher`` until ``nimg`` images, keeping a state after each iteration.

    ``state_minutes`` keeps others.
    """

    def crash(seen):
        if seen >= nimg:
            raise CrashError

    with before_iterations(crash), pytest.raises(CrashError):
        run({**spec, "state_minutes": 0, **minutes}, folder)


def results(folder):
    """What must be equal between two runs: the network's bytes, and the logs without times."""
    found = {path.name: path.read_bytes() for path in sorted((folder / "snapshots").glob("*.safetensors"))}
    for name in ("train", "evaluations"):
        records = read_jsonl(folder / f"{name}.jsonl")
        found[name] = [{k: v for k, v in record.items() if k not in TIMES} for record in records]
    return {**found, "network": (folder / "network.safetensors").read_bytes()}


def states(folder):
    """Files of a run's states, the newest last."""
    return sorted((folder / "state").glob("[!.]*.safetensors"))


#: Logs that the suite wrote at e4b8f19b. A change that is meant to change numbers writes them again: RECORD=1.
RECORDED = Path(__file__).with_name("recorded_logs.json")


def assert_recorded(name, folder):
    """Checks a run's network, and all numbers of its logs but times, against ``recorded_logs.json``, up to rounding."""
    logs = {key: value for key, value in results(folder).items() if key in ("train", "evaluations")}
    logs["network_rms"] = float(vector(load_network(folder / "network.safetensors")[0]).square().mean().sqrt())
    recorded = json.loads(RECORDED.read_text())
    if os.environ.get("RECORD"):
        RECORDED.write_text(json.dumps(recorded | {name: logs}, indent=1) + "\n")
        recorded[name] = logs
    assert_same(logs, recorded[name], LOGGED)


def fork(task, log):
    """A child process that runs a task, needs no time to start, and prints to a file; its exit status is the task's."""

    def run():
        # pytest's streams belong to the parent.
        sys.stdout = sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115
        sys.exit(task())

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    return process


def wait(process):
    """Exit status of a child, which is given five minutes; minus the signal that ended it."""
    process.join(300)
    assert process.exitcode is not None, "a process hangs"
    return process.exitcode


def recipe(**given):
    """A resolved recipe of SiDA without clipping, for trainers that a test puts together."""
    device = {"device": "cuda"} if given.get("kernels", "torch") != "torch" else {}
    return recipe_of("sida", **{"grad_clip_value": 0.0, "eps": 1e-8, "fp16": False, **device, **given})


def student_trainer(spec):
    """The trainer of a spec (or its configuration) on the CPU, without batches."""
    config = DistillConfig(**spec) if isinstance(spec, dict) else spec
    recipe = resolve_recipe(config, read_metadata(config.teacher)["network"])
    return make_trainer(recipe, load_dataset(config.dataset), torch.device("cpu"))


def own_betas_of_the_generator(spec):
    """Checks that ``generator_betas`` are those of the generator alone."""
    others = {}
    for given in (None, (0.25, 0.75)):
        trainer = student_trainer({**spec, "betas": (0.5, 0.875), "generator_betas": given})
        assert trainer.generator.adam.betas == (given or (0.5, 0.875))
        others[given] = {name: network.adam.betas for name, network in trainer.networks.items() if name != "generator"}
    assert others[None] == others[0.25, 0.75]


def resumes(spec, losses, folder, monkeypatch, cls=None):
    """Checks that a run that was interrupted after 32 images ends as one that was not, with these losses."""
    straight, resumed = folder / "straight", folder / "resumed"
    distill(spec, straight)
    interrupt_after(distill, spec, resumed, 32)
    # The state says which images the run has seen: they are not read again.
    monkeypatch.setattr(Dataset, "sketch", None)
    distill(spec, resumed)
    assert results(resumed) == results(straight)
    logs = read_jsonl(straight / "train.jsonl")
    assert {name for record in logs for name in record["losses"]} == losses
    assert all(record["nan_count"] == record["bad_gradients"] == 0 for record in logs)
    net, metadata = load_network(straight / "network.safetensors")
    assert metadata["network"]["class"] == (cls or "EDMPrecond")
    start, _ = load_network(spec["teacher"])
    assert not is_copy([*net.parameters()], [*start.parameters()])
