"""The registry and its command: every row can be used, every mistake is one line."""

import json

import pytest

from sida.assets.registry import load_registry, names_on_hub
from sida.config.lookup import ROOT
from sida.eval.results.sheet import read_runs
from sida.files.atomic import sha256_file
from sida.networks import build_network
from sida.networks.official_pickles import write_official
from sida.workflow.cli import main
from sida.workflow.commands.assets import SHOWN_FEATURES
from tests.assets.fault_server import use_registry, write_registry
from tests.eval.metric_networks import write_inception
from tests.refused import command, refused
from tests.training.toy import NETWORK

GOOD = {"id": "net", "kind": "network", "url": "https://example.org/net.pkl", "target": "a/net.pkl"}


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
        ({"target": "other", "url": "https://example.org/2"}, "same target but different URLs"),
    ],
)
def test_mistakes_in_a_row_are_named_with_their_place(tmp_path, change, reason):
    path = write_registry(tmp_path / "assets.tsv", {**GOOD, "id": "other", "target": "other"}, {**GOOD, **change})
    assert refused(reason, load_registry, path).where == (str(path) if "URLs" in reason else f"{path}:3")
    path.write_text("id\tkind\turl\n")
    refused(f"{path}:1: the columns must be", load_registry, path)


def test_the_command_fetches_records_lists_and_verifies(site, tmp_path, monkeypatch, capsys):
    shop = tmp_path / "cache"
    rows = [{**GOOD, "id": n, "url": site.add(n, n.encode() * 9), "target": f"t/{n}"} for n in ("one", "two")]
    use_registry(monkeypatch, tmp_path, *rows)
    for name in ("a.json", "b.json"):
        assert command("assets", "fetch", "one", "--record", tmp_path / name).strip() == str(shop / "t/one")
    record = (tmp_path / "a.json").read_text()
    assert record == (tmp_path / "b.json").read_text()
    assert str(shop) not in record
    assert [(r["id"], r["target"], r["size"]) for r in json.loads(record)] == [("one", "t/one", 27)]
    lines = command("assets", "list").splitlines()
    assert [line.split()[3] for line in lines[1:3]] == ["here", "link"]
    assert "1 verified, 0 wrong or missing" in command("assets", "verify")
    assert main(["assets", "verify", "two"]) == 1
    assert "MISSING  two" in capsys.readouterr().out
    (shop / "t/one").write_bytes(b"other")
    assert main(["assets", "verify"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_a_description_says_what_is_inside_files_that_are_here(tmp_path, monkeypatch):
    rows = [{**GOOD, "id": "net", "target": "net.pkl"}, {**GOOD, "id": "absent", "target": "absent.pkl"}]
    rows += [{**GOOD, "id": "inception", "kind": "extractor", "target": "inception.pt"}]
    use_registry(monkeypatch, tmp_path, *rows)
    folder = tmp_path / "cache"
    folder.mkdir()
    write_official(folder / "net.pkl", build_network(NETWORK))
    write_inception(folder / "inception.pt")
    net, inception = json.loads(command("assets", "describe", "net", "absent", "inception"))
    assert net["sha256"] == sha256_file(folder / "net.pkl")
    assert net["size"] == (folder / "net.pkl").stat().st_size
    assert (net["class_in_file"], net["network"]["class"]) == (NETWORK["class"], NETWORK["class"])
    assert len(net["source_sha256"]) == 64
    assert any(name.startswith("torch.nn.modules.") for name in net["inert"])
    assert {len(values) for values in inception["features"].values()} == {1 + SHOWN_FEATURES}
    assert len({*map(tuple, inception["features"].values())}) == 4


# The sheet of the authors' checkpoints fits the registry; tests/workflow/test_preset.py checks its preset

RUNS = {run.run: run for run in read_runs(ROOT / "studies/papers/runs/released.tsv")}
REGISTRY = load_registry(ROOT / "config/assets.tsv")


def test_every_released_network_is_measured_and_every_file_has_a_link_or_an_explanation():
    assert all(asset.urls or (asset.source and asset.note) for asset in REGISTRY.values())
    networks = {asset.id for asset in REGISTRY.values() if asset.kind in ("network", "gdd-network", "state-dict")}
    assert networks == {run.checkpoint for run in RUNS.values() if run.method != "teacher"}


def test_alpha_agrees_with_the_id_and_the_label():
    for run in RUNS.values():
        if run.method in ("teacher", "dmd2", "ect") or run.method.startswith("gdd"):
            assert run.alpha is None
        elif run.run.startswith("edm2"):
            assert run.alpha == 1.0
        else:
            assert run.run.endswith({1.0: "-a1", 1.2: "-a1.2"}[run.alpha])
            assert run.label.endswith(f"α={run.alpha:.1f}")
    # The authors' page calls this file α = 1.2; the other link of that title has no file.
    assert "/alpha1/" in REGISTRY["afhq64-sid-a1"].url
    assert REGISTRY["afhq64-sid-a1.2"].urls == ()


def test_guided_teachers_use_the_guide_of_their_own_ema_length():
    for run in RUNS.values():
        if run.guide and not REGISTRY[run.guide].note.startswith("guide, less trained"):
            length = REGISTRY[run.checkpoint].url.rsplit("-", 1)[1]
            assert REGISTRY[run.guide].url.endswith(f"-uncond-2147483-{length}")


def test_autoguided_teachers_have_a_less_trained_guide_and_the_strength_of_edm2():
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
        row = RUNS[run]
        assert REGISTRY[row.checkpoint].url.endswith(f"/edm2-{network}.pkl")
        assert REGISTRY[row.guide].url.endswith(f"/edm2-{guide}.pkl")
        assert row.sampler == f"heun-32-guidance-{strength:g}"


def test_a_hub_that_is_not_reached_is_told_as_such(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def unreached(*arguments, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(hub.HfApi, "model_info", unreached)
    monkeypatch.setattr("sida.assets.registry.hub_offline", lambda: False)
    refused("check the connection", names_on_hub, "owner/name", None)
