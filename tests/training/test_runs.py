"""Whole runs: what they write, and that interruptions of every kind leave no trace in it."""

import builtins
import errno
import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from sida.data import load_dataset
from sida.files.atomic import read_jsonl, sha256_file
from sida.methods import distill
from sida.methods.registry import DistillConfig
from sida.networks.file import load_network
from sida.training import TeacherConfig, train_teacher
from sida.training.loop import Run
from sida.training.processes import Interruption, StopRequest
from sida.training.steps import EagerRunner
from sida.workflow.cli import main
from tests.near import same_bits
from tests.refused import command, refused
from tests.training.toy import (
    STUDENT,
    TEACHER,
    assert_recorded,
    before_iterations,
    fork,
    interrupt_after,
    raising,
    results,
    states,
    wait,
)


@pytest.fixture(scope="module")
def student_spec(teacher):
    evaluation = {**STUDENT["evaluation"], "every_kimg": 0.05}
    return {**STUDENT, "teacher": teacher, "total_kimg": 0.2, "snapshot_kimg": 0.1, "evaluation": evaluation}


@pytest.fixture(scope="module")
def uninterrupted(student_spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    distill(student_spec, folder)
    return folder


def test_teacher_files(teacher):
    """Resumed ones: test_states.py."""
    ticks = read_jsonl(Path(teacher).with_name("train.jsonl"))
    assert [tick["nimg"] for tick in ticks] == [112, 208, 304, 400]
    assert ticks[-1]["losses"]["denoising"] < ticks[0]["losses"]["denoising"]
    net, metadata = load_network(teacher)
    assert (metadata["method"], metadata["nimg"], metadata["last_nimg"]) == ("teacher", 400, 400)
    assert metadata["dataset"]["sha256"] == load_dataset(TEACHER["dataset"]).sha256
    assert not net.training


def test_settings_name_the_folder_of_a_run():
    opened = lambda kind, spec, outdir=None: str(Run.from_settings(kind, spec, outdir, "spec").folder)
    assert opened(TeacherConfig, TEACHER) == "results/local/teachers/toy"
    assert opened(DistillConfig, {**STUDENT, "teacher": "t"}) == "results/local/students/toy"
    assert opened(TeacherConfig, {**TEACHER, "outdir": "here"}) == "here"
    assert opened(TeacherConfig, {**TEACHER, "outdir": "here"}, "there") == "there"
    refused(r"spec.outdir: must be the path of a folder, got 3", opened, TeacherConfig, {**TEACHER, "outdir": 3})


def test_student_files(uninterrupted, teacher):
    _, metadata = load_network(uninterrupted / "network.safetensors")
    evaluations, ticks = (read_jsonl(uninterrupted / f"{name}.jsonl") for name in ("evaluations", "train"))
    assert [e["nimg"] for e in evaluations] == [0, 64, 112, 160, 208]
    best = min(evaluations, key=lambda e: e["fd"])
    assert (metadata["nimg"], metadata["fd"], metadata["last_nimg"]) == (best["nimg"], best["fd"], 208)
    assert metadata["parents"] == {"teacher": sha256_file(teacher), "init": None}
    assert (metadata["method"], metadata["sampler"]) == ("sida", {"kind": "one_step", "init_sigma": 2.5})
    assert metadata["code_version"]
    assert metadata["device"].startswith("cpu (")
    assert len(metadata["config_sha256"]) == 64
    # ψ alone, then SiD, then both; every tick carries what it must.
    assert "sid" not in ticks[0]["losses"]
    assert {"denoising", "discriminator", "sid", "adversarial"} == set(ticks[-1]["losses"])
    for tick in ticks:
        assert tick["nan_count"] == tick["bad_gradients"] == 0
        assert {"nimg", "losses", "grad_norm", "img_per_s", "memory_mb", "seconds"} <= tick.keys()
        assert tick["weight_rms"].keys() == {"fake_score", "generator"}
    kernels = torch.cat([p.detach().flatten() for p in load_network(teacher)[0].parameters() if p.ndim >= 2])
    assert ticks[0]["weight_rms"]["generator"] == pytest.approx(float(kernels.square().mean().sqrt()))
    names = {f"network-0000000{nimg}.{kind}" for nimg in (112, 208) for kind in ("png", "safetensors")}
    assert {path.name for path in (uninterrupted / "snapshots").iterdir()} == names


def test_logs_are_those_of_earlier_versions(teacher, uninterrupted):
    assert_recorded("teacher", Path(teacher).parent)
    assert_recorded("sida", uninterrupted)


@pytest.mark.parametrize("minutes", [0, pytest.param(1e9, marks=pytest.mark.slow)])
def test_crashes_leave_no_trace(tmp_path, uninterrupted, student_spec, monkeypatch, capsys, minutes):
    """With a state after each iteration, and with states at evaluations only.

    The clock jumps by up to a week at each call, and the file system has no links.
    """
    real, source = time.time, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: real() + source.uniform(-7, 7) * 86400)
    for name in ("link", "symlink"):
        monkeypatch.setattr(os, name, raising(PermissionError(errno.EPERM, "Operation not permitted")))
    for moment in sorted(random.Random(minutes).sample(range(0, 208, 16), 4)):
        interrupt_after(distill, student_spec, tmp_path, moment, state_minutes=minutes)
    capsys.readouterr()
    distill({**student_spec, "state_minutes": minutes}, tmp_path)
    assert re.search(r"resumes at \d+ of \d+ images", capsys.readouterr().err)
    assert results(tmp_path) == results(uninterrupted)


@pytest.mark.slow
def test_a_network_names_every_machine_and_every_code_that_trained_it(tmp_path, student_spec, monkeypatch):
    for device, code, moment in (("one", "a", 96), ("two", "a", 160), ("one", "b", 192)):
        monkeypatch.setattr("sida.training.loop.device_name", lambda _, name=device: name)
        monkeypatch.setattr("sida.training.loop.code_version", lambda name=code: name)
        interrupt_after(distill, student_spec, tmp_path, moment)
    distill(student_spec, tmp_path)
    facts = load_network(tmp_path / "network.safetensors")[1]
    assert (facts["device"], facts["code_version"]) == ("one and two", "a and b")


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_each_step_of_a_save(tmp_path, uninterrupted, student_spec, after):
    """Before or after its file gets its name."""
    log, run, replace = tmp_path / "log", tmp_path / "run", os.replace

    def killed_at(call):
        calls = []

        def dying(source, target):
            calls.append(target)
            if len(calls) < call or after:
                replace(source, target)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = dying
        return distill({**student_spec, "state_minutes": 0}, run) and 0

    # The first two calls are the logs'.
    for call in (3, 4, 5, 6, 7, 8):
        assert wait(fork(lambda call=call: killed_at(call), log)) == -signal.SIGKILL, log.read_text()
    distill(student_spec, run)
    assert results(run) == results(uninterrupted)
    # Nothing is left of the killed processes.
    assert [path for path in run.rglob(".*") if path.name != ".lock"] == []


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 75),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_signals_keep_the_state(tmp_path, uninterrupted, student_spec, capsys, number, status):
    with before_iterations(lambda nimg: nimg == 96 and signal.raise_signal(number)):
        assert main(["distill", "--spec", json.dumps(student_spec), "--out", str(tmp_path)]) == status
    assert "Traceback" not in capsys.readouterr().err
    # Kept where it stopped, not at the last event: nothing is lost.
    assert int(states(tmp_path)[-1].stem) == 112
    distill(student_spec, tmp_path)
    assert results(tmp_path) == results(uninterrupted)


def test_only_an_insistent_ctrl_c_ends_a_run_at_once(monkeypatch):
    """A scheduler may send what it has again and again while a large state is written."""
    with Interruption() as interruption:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert interruption.request is StopRequest.STOP
        later = time.monotonic() + 6
        monkeypatch.setattr(time, "monotonic", lambda: later)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_second_process_waits_and_takes_over_the_result(tmp_path, uninterrupted, student_spec, capsys):
    def slow():
        with before_iterations(lambda nimg: time.sleep(0.05)):
            return distill(student_spec, tmp_path) and 0

    child = fork(slow, tmp_path / "log")
    while not (tmp_path / "train.jsonl").exists():
        time.sleep(0.005)
    distill(student_spec, tmp_path)
    assert wait(child) == 0
    assert capsys.readouterr().err.count("another process is at work on this run; waiting") == 1
    assert results(tmp_path) == results(uninterrupted)


def test_a_seed_decides_the_result_which_is_the_last_network_without_evaluations(tmp_path, student_spec):
    short = {**student_spec, "total_kimg": 0.032, "warmup_kimg": 0.0, "evaluation": None}
    nets = [load_network(distill({**short, "seed": seed}, tmp_path / str(seed))) for seed in (0, 1)]
    assert not same_bits(*(next(net.parameters()) for net, _ in nets))
    assert all("fd" not in metadata and metadata["nimg"] == 32 for _, metadata in nets)


def test_a_teacher_is_named_by_its_folder_too_and_decides_the_same_run(tmp_path, teacher, student_spec):
    short = {**student_spec, "total_kimg": 0.016, "warmup_kimg": 0.0, "evaluation": None, "snapshot_kimg": None}
    named = {"file": teacher, "folder": str(Path(teacher).parent)}
    networks = {kind: distill({**short, "teacher": name}, tmp_path / kind) for kind, name in named.items()}
    assert networks["file"].read_bytes() == networks["folder"].read_bytes()
    refused("folder without network.safetensors", distill, {**short, "teacher": str(tmp_path)}, tmp_path / "other")


def test_a_teacher_that_does_not_fit_leaves_no_folder(tmp_path, student_spec):
    unlabelled = {**student_spec, "dataset": {**student_spec["dataset"], "labels": False}}
    refused("teacher.*label_dim", distill, unlabelled, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_be_read_once_is_one_line(tmp_path, teacher, student_spec, monkeypatch):
    """As when a file was renamed over on another machine while this one had it open."""
    original, stale = builtins.open, os.strerror(errno.ESTALE)

    def failing(file, *arguments, **options):
        if str(file) == teacher:
            raise OSError(errno.ESTALE, stale, teacher)
        return original(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", failing)
    refused(f"{teacher}.*{stale}", command, "distill", "--spec", json.dumps(student_spec), "--out", tmp_path / "run")


def test_command_line_overrides(tmp_path, student_spec, teacher, capsys):
    spec = json.dumps({**student_spec, "method": "sid", "teacher": "elsewhere"})
    arguments = ["--set", "total_kimg=0.04", "--set", "lr=1e-4", "--set", "evaluation=null"]
    run = ["distill", "--spec", spec, "--out", str(tmp_path / "run"), "--method", "sida", "--teacher", teacher]
    assert main([*run, *arguments]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "network.safetensors")
    _, metadata = load_network(tmp_path / "run" / "network.safetensors")
    assert (metadata["method"], metadata["nimg"]) == ("sida", 48)
    refused("--set lr: must be key=value", command, *run, "--set", "lr")
    refused("--set method: .*--method; give one", command, *run, "--set", "method=gdd")
    refused(r"--set lrr=2 .*: lrr: unknown key \(did you mean 'lr'\?\)", command, *run, "--set", "lrr=2")


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_a_training_out_of_memory_names_a_remedy_with_which_it_resumes(tmp_path, teacher, monkeypatch, kind):
    brief = {"total_kimg": 0.064, "tick_kimg": 0.016, "snapshot_kimg": None, "state_minutes": 0, "batch_gpu": 8}
    student = {**STUDENT, "teacher": teacher, "warmup_kimg": 0.0, "adversarial_kimg": 0.0, "evaluation": None}
    run, spec = (train_teacher, {**TEACHER, **brief}) if kind == "teacher" else (distill, {**student, **brief})
    run(spec, tmp_path / "plain")
    original, calls = EagerRunner.__call__, iter(range(10**6))

    def failing(*args, **kwargs):
        result = original(*args, **kwargs)
        if next(calls) == 7:  # in the middle of a step, after others have been taken
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(EagerRunner, "__call__", failing)
        refused("out of memory at image .*checkpointing.*batch_gpu", run, spec, tmp_path / "relieved")
    run({**spec, "checkpointing": True}, tmp_path / "relieved")
    assert results(tmp_path / "relieved") == results(tmp_path / "plain")
