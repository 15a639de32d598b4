"""Every command that reads what another one made: a damaged file is refused by name, or made again as it was."""

import json
import re
import shutil

import pytest
import torch

from eval.commands import main as measuring_main
from eval.features import digits
from sida.cli.main import main as method_main
from sida.errors import UserError
from sida.networks import build_network
from sida.networks.file import save_network
from tests.damage import DAMAGES
from tests.eval.measuring.test_measure import DIGITS, small_protocol
from tests.training.toy import NETWORK, STUDENT

SHEET = (
    "run\tfamily\tlabel\tmethod\tteacher\talpha\trecipe\tsampler\na\tOne Step\tSiD\tsid\tdigits\t1.0\tsid\tone-step\n"
)
NETWORK_FILE, TRIAL, CSV = "students/a/network.safetensors", "measurements/a/trial-1.json", "measurements.csv"
SHARD, IMAGES = "statistics/a/trial-0/shard-20-40.safetensors", "samples/shard-000016-000031.npz"


def commands(folder, out):
    """By name: the command line, from one stage's files to the next ones in another folder."""
    spec, network = ["--spec", str(folder / "spec.json")], ["--network", str(folder / NETWORK_FILE)]
    shards = [str(folder / "statistics/a/trial-0" / f"shard-{part}.safetensors") for part in ("0-20", "20-40")]
    student = {**STUDENT, "method": "sid", "total_kimg": 0.032, "teacher": str(folder / NETWORK_FILE)}
    student = {key: value for key, value in student.items() if key not in ("adversarial_kimg", "lambda_adv")}
    seeds = ["--seeds", "0-31", "--batch", "16", "--shard-size", "16"]
    inputs = ["--measurements", str(folder / CSV), "--runs", str(folder / "runs.tsv")]
    trial = ["--trials", "0-1", "--out", str(out / "measurements/a")]
    shard = ["--trials", "0", "--out", str(out / "statistics/a"), "--shard"]
    return {
        "measure": (measuring_main, ["measure", *spec, *trial]),
        "measure --shard 0-20": (measuring_main, ["measure", *spec, *shard, "0-20"]),
        "measure --shard": (measuring_main, ["measure", *spec, *shard, "20-40"]),
        "sample": (method_main, ["sample", *network, *seeds, "--out", str(out / "samples")]),
        "distill": (method_main, ["distill", "--spec", json.dumps(student), "--out", str(out / "students/b")]),
        "merge": (measuring_main, ["merge", *spec, "--trial", "0", "--out", str(out / "merged"), *shards]),
        "collect": (measuring_main, ["collect", str(folder / "measurements"), "--out", str(out / CSV)]),
        "table": (measuring_main, ["table", "--layout", "main", *inputs, "--out", str(out / "tables/main.tex")]),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A results folder, made by these commands."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    record = {"method": "sid", "sampler": {"kind": "one_step", "init_sigma": 2.5}}
    save_network(build_network(NETWORK), folder / NETWORK_FILE, record)
    (folder / "runs.tsv").write_text(SHEET)
    spec = {"run": "a", "method": "sid", "network": str(folder / NETWORK_FILE), "nfe": 1, "dataset": DIGITS}
    spec |= {"sampler": record["sampler"], "protocol": small_protocol(num_samples=40, trials=2), "threads": 1}
    (folder / "spec.json").write_text(json.dumps(spec))
    for command, (main, arguments) in commands(folder, folder).items():
        assert command == "distill" or main(arguments) == 0, command
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A copy to be damaged; only the spec names the network by its old place."""
    shutil.copytree(whole, tmp_path / "copy")
    spec = tmp_path / "copy/spec.json"
    spec.write_text(spec.read_text().replace(str(whole), str(tmp_path / "copy")))
    return tmp_path / "copy"


def contents(folder):
    """Files by name; locks, dates, how long something took and the hash of both are left out."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    changing = rb'"(seconds|content_sha256|date)": ("[^"]*"|[0-9.e-]+)'
    return {name: re.sub(changing, b"", content) for name, content in found.items()}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("command", "name"),
    [("measure", NETWORK_FILE), ("measure --shard", NETWORK_FILE), ("sample", NETWORK_FILE),
     ("distill", NETWORK_FILE), ("merge", SHARD), ("collect", TRIAL), ("table", CSV)],
)  # fmt: skip
def test_a_damaged_input_is_refused_by_its_name(folder, tmp_path, capsys, command, name, damage):
    for part in (0.3, 0.6, 0.99):
        before = (folder / name).read_bytes()
        DAMAGES[damage](folder / name, part)
        main, arguments = commands(folder, tmp_path / "out")[command]
        capsys.readouterr()
        assert main(arguments) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
        assert len(errors) == 1, errors
        assert errors[0].startswith(f"error: {folder / name}")
        assert "again" in errors[0]
        assert contents(tmp_path / "out" if (tmp_path / "out").exists() else tmp_path / "none") == {}
        # What was set aside is of no use any more.
        (folder / f"{name}.damaged").unlink(missing_ok=True)
        (folder / name).write_bytes(before)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("command", "name"), [("measure", TRIAL), ("measure --shard", SHARD), ("sample", IMAGES), ("collect", CSV)]
)
def test_a_damaged_output_is_made_again_as_it_was(folder, command, name, damage):
    before = contents(folder)
    # Within the images, not within what a zip says of dates and sizes twice.
    DAMAGES[damage](folder / name, 0.3)
    main, arguments = commands(folder, folder)[command]
    assert main(arguments) == 0
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("weights", "load"),
    [(digits.DIGITS_NETWORK, lambda path: digits.DigitsExtractor(path=path)),
     (digits.GLYPHS_NETWORK, lambda path: digits.GlyphsExtractor(path=path))],
    ids=["digits", "glyphs"],
)  # fmt: skip
def test_a_damaged_feature_network_of_the_package_is_refused(tmp_path, weights, load):
    """It would shift every measured value of an installation, all by the same amount."""
    copy = tmp_path / "weights.safetensors"
    shutil.copy(weights, copy)
    assert load(copy).sha256 == load(weights).sha256
    for damage in DAMAGES.values():
        shutil.copy(weights, copy)
        damage(copy)
        with pytest.raises(UserError, match=r"weights\.safetensors: .*(damaged|cut off)"):
            load(copy)
