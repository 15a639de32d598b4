"""The registry and its command: every row can be used, every mistake is one line."""

import json

import pytest

from eval.results.sheet import read_runs
from sida.assets.registry import ASSET_COLUMNS, load_registry
from sida.config.resources import ROOT
from tests.assets.fault_server import write_registry
from tests.refused import command, refused
from workflow.cli import main

GOOD = {"id": "net", "kind": "network", "url": "https://example.org/net.pkl", "target": "a/net.pkl"}


def test_the_shipped_registry_is_valid_and_has_what_the_papers_need():
    registry = load_registry(ROOT / "config/assets.tsv")
    assert all(asset.urls or (asset.source and asset.note) for asset in registry.values())
    for needed in ("inception", "dinov2-vitl14", "sd-vae-ft-mse", "fid-ref-img512", "ref-batch-imagenet64"):
        assert registry[needed].url.startswith("https://")
    for name in ("cifar10", "ffhq64", "afhqv2", "imagenet64"):
        assert registry[f"fid-ref-{name}"].url.endswith(".npz")
    # The authors' page calls this file α = 1.2; the other link of that title has no file.
    assert "/alpha1/" in registry["afhq64-sid-a1"].url
    assert registry["afhq64-sid-a1.2"].urls == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "Net"}, "id 'Net'"),
        ({"kind": "netwrk"}, "did you mean 'network'"),
        ({"url": "ftp://x/y"}, "must be https"),
        ({"mirrors": "https://a/b c"}, "must be https"),
        ({"size": "12 MB"}, "size '12 MB'"),
        ({"target": "/etc/passwd"}, "inside the cache"),
        ({"target": "a/../../b"}, "inside the cache"),
        ({"id": "other"}, "used twice"),
    ],
)
def test_mistakes_in_a_row_are_named_with_their_line(tmp_path, change, reason):
    path = write_registry(tmp_path / "assets.tsv", {**GOOD, "id": "other", "target": "other"}, {**GOOD, **change})
    assert f"{path}:3" in str(refused(reason, load_registry, path))


@pytest.fixture
def shop(site, tmp_path, monkeypatch):
    """A registry with two files on a local server, and an empty cache."""
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    rows = [{**GOOD, "id": n, "url": site.add(n, n.encode() * 9), "target": f"t/{n}"} for n in ("one", "two")]
    monkeypatch.setenv("SIDA_ASSETS", str(write_registry(tmp_path / "assets.tsv", *rows)))
    return tmp_path / "cache"


def test_the_command_fetches_lists_and_verifies(shop, capsys):
    assert command("assets", "fetch", "one").strip() == str(shop / "t/one")
    lines = command("assets", "list").splitlines()
    assert [line.split()[3] for line in lines[1:3]] == ["here", "link"]
    assert "1 verified, 0 wrong or missing" in command("assets", "verify")
    assert main(["assets", "verify", "two"]) == 1
    assert "MISSING  two" in capsys.readouterr().out
    (shop / "t/one").write_bytes(b"other")
    assert main(["assets", "verify"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_what_was_fetched_is_recorded_without_dates_and_paths(shop, tmp_path):
    for name in ("a.json", "b.json"):
        assert main(["assets", "fetch", "one", "--record", str(tmp_path / name)]) == 0
    record = json.loads((tmp_path / "a.json").read_text())
    assert [(r["id"], r["target"], r["size"]) for r in record] == [("one", "t/one", 27)]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert str(shop) not in (tmp_path / "a.json").read_text()


def test_two_urls_of_a_target_and_wrong_columns_are_refused(tmp_path):
    other = {**GOOD, "id": "n2", "url": "https://example.org/2"}
    for columns, fault in ((ASSET_COLUMNS, "same target but different URLs"), (ASSET_COLUMNS[:-1], "columns must be")):
        refused(fault, load_registry, write_registry(tmp_path / "assets.tsv", GOOD, other, columns=columns))


# The sheet of the authors' checkpoints fits the registry; tests/workflow/test_studies.py checks its preset


@pytest.fixture(scope="module")
def runs():
    return {run.run: run for run in read_runs(ROOT / "studies/papers/runs/released.tsv")}


@pytest.fixture(scope="module")
def registry():
    return load_registry(ROOT / "config/assets.tsv")


def test_every_released_network_is_measured(runs, registry):
    networks = {asset.id for asset in registry.values() if asset.kind in ("network", "gdd-network", "state-dict")}
    assert networks == {run.checkpoint for run in runs.values() if run.method != "teacher"}


def test_alpha_agrees_with_the_id_and_the_label(runs):
    for run in runs.values():
        if run.method in ("teacher", "dmd2", "ect") or run.method.startswith("gdd"):
            assert run.alpha is None
        elif run.run.startswith("edm2"):
            assert run.alpha == 1.0
        else:
            assert run.run.endswith({1.0: "-a1", 1.2: "-a1.2"}[run.alpha])
            assert run.label.endswith(f"α={run.alpha:.1f}")


def test_guided_teachers_use_the_guide_of_their_own_ema_length(runs, registry):
    for run in runs.values():
        if run.guide and not registry[run.guide].note.startswith("guide, less trained"):
            length = registry[run.checkpoint].url.rsplit("-", 1)[1]
            assert registry[run.guide].url.endswith(f"-uncond-2147483-{length}")


def test_autoguided_teachers_have_a_less_trained_guide_and_the_strength_of_edm2(runs, registry):
    """Network, guide and strength of NVlabs/edm2:generate_images.py."""
    stated = {
        "teacher-edm2-img64-s-autog": ("img64-s-1073741-0.045", "img64-xs-0134217-0.110", 1.7),
        "teacher-edm2-img64-s-autog-dino": ("img64-s-1073741-0.105", "img64-xs-0134217-0.175", 2.2),
        "teacher-edm2-s-autog": ("img512-s-2147483-0.070", "img512-xs-0134217-0.125", 2.1),
        "teacher-edm2-s-autog-dino": ("img512-s-2147483-0.120", "img512-xs-0134217-0.165", 2.45),
        "teacher-edm2-xxl-autog": ("img512-xxl-0939524-0.075", "img512-m-0268435-0.155", 2.05),
        "teacher-edm2-xxl-autog-dino": ("img512-xxl-0939524-0.130", "img512-m-0268435-0.205", 2.3),
        "teacher-edm2-s-uncond-autog": ("img512-s-uncond-2147483-0.070", "img512-xs-uncond-0134217-0.110", 2.85),
        "teacher-edm2-s-uncond-autog-dino": ("img512-s-uncond-2147483-0.090", "img512-xs-uncond-0134217-0.125", 2.9),
    }
    for run, (network, guide, strength) in stated.items():
        row = runs[run]
        assert registry[row.checkpoint].url.endswith(f"/edm2-{network}.pkl")
        assert registry[row.guide].url.endswith(f"/edm2-{guide}.pkl")
        assert row.sampler == f"heun-32-guidance-{strength:g}"
