"""Disks that are full or may only be read: a file is whole or not there, one line says so, a rerun writes the same."""

import json
import os
import re

import pytest

from sida.cli.main import main as method_main
from tests import disks
from tests.eval.measuring.specs import data_spec, small_protocol
from tests.eval.metric_networks import write_network
from tests.training.toy import NETWORK
from workflow.cli import main as measuring_main

SPEC = json.dumps(data_spec(protocol=small_protocol(num_samples=40, trials=1)))
PUBLISHED = ["table", "studies/papers/tables/table8.yaml", "--mode", "paper"]


def writers(network, measured):
    """By what is written: the command without its place, and the place in a folder."""
    return {
        "trial": (measuring_main, ["measure", "--spec", SPEC, "--trials", "0"], "data"),
        "measurements.csv": (measuring_main, ["collect", str(measured)], "measurements.csv"),
        "table": (measuring_main, PUBLISHED, "table8.tex"),
        "samples": (method_main, ["sample", "--network", str(network), "--seeds", "0-39"], "samples"),
    }


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    sampler = {"kind": "one_step", "init_sigma": 2.5}
    return write_network(tmp_path_factory.mktemp("network") / "network.safetensors", NETWORK, sampler=sampler)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    assert measuring_main(["measure", "--spec", SPEC, "--out", str(folder / "data"), "--trials", "0"]) == 0
    return folder


def contents(folder):
    """All files of a folder by name, hidden ones too; how long something took is left out."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = {
        name: re.sub(rb'"(seconds|content_sha256)": ("\w+"|[0-9.e-]+)', b"", content) for name, content in found.items()
    }
    return {name: content for name, content in found.items() if name != "filler" and not name.endswith(".lock")}


@pytest.mark.parametrize("fault", ["full", "read-only"])
@pytest.mark.parametrize("what", ["trial", "measurements.csv", "table", "samples"])
def test_what_cannot_be_written_is_one_line_and_the_rerun_is_the_same(
    tmp_path, network, measured, monkeypatch, capsys, what, fault
):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    main, arguments, place = writers(network, measured)[what]
    assert main([*arguments, "--out", str(tmp_path / "alone" / place)]) == 0
    capsys.readouterr()
    with disks.small_disk(tmp_path / "disk") as disk:
        if fault == "full":
            filler = disks.fill(disk)
        else:
            disks.make_read_only(disk)
        assert main([*arguments, "--out", str(disk / place)]) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
        assert len(errors) == 1, errors
        assert errors[0].startswith("error: ")
        assert {"full": "No space left on device", "read-only": "Read-only file system"}[fault] in errors[0]
        assert contents(disk) == {}
        if fault == "full":
            os.unlink(filler)
        else:
            disks.make_read_only(disk, False)
        assert main([*arguments, "--out", str(disk / place)]) == 0
        assert contents(disk) == contents(tmp_path / "alone")
