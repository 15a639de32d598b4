"""DINOv2's code: a registered archive of one commit, unpacked by us, part of the extractor's digest."""

import sys
import zipfile
from pathlib import Path

import pytest
import torch

from eval.features import get_extractor
from eval.features.registry import EXTRACTORS
from sida.assets import load_registry
from sida.assets.registry import ASSET_COLUMNS
from sida.cli.main import main
from sida.config.plugins import ALLOW
from sida.config.resources import ROOT
from sida.files.atomic import sha256_file
from tests.eval.metric_networks import HUBCONF, pictures
from tests.refused import refused

WEIGHTS, CODE = EXTRACTORS["dinov2"].assets


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A registry and a cache without network; the user has allowed the code of this archive alone."""
    rows = [{"id": CODE, "kind": "code", "target": "repo/abc.zip"}]
    rows += [{"id": WEIGHTS, "kind": "extractor", "target": "w.pth"}]
    lines = ["\t".join(ASSET_COLUMNS), *("\t".join(row.get(name, "") for name in ASSET_COLUMNS) for row in rows)]
    (tmp_path / "assets.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("SIDA_ASSETS", str(tmp_path / "assets.tsv"))
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIDA_OFFLINE", "1")
    monkeypatch.setenv(ALLOW, str(tmp_path / "cache/repo/abc.zip"))
    (tmp_path / "cache" / "repo").mkdir(parents=True)
    return tmp_path / "cache"


def pack(cache: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(cache / "repo" / "abc.zip", "w") as file:
        for name, text in files.items():
            file.writestr(f"dinov2-abc/{name}", text)


def put(cache: Path, files: dict[str, str], weights: dict[str, torch.Tensor]) -> None:
    """Puts an archive and weights into the cache by hand, as new ones."""
    pack(cache, files)
    torch.save(weights, cache / "w.pth")
    (cache / "assets.lock").unlink(missing_ok=True)


def conv() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"patch.{name}": value for name, value in torch.nn.Conv2d(3, 10, 14, stride=14).state_dict().items()}


def test_the_code_is_of_one_commit_and_no_branch():
    asset = load_registry(ROOT / "config/assets.tsv")[CODE]
    commit = asset.url.rpartition("/")[2].removesuffix(".zip")
    assert (len(commit), commit in asset.target) == (40, True)
    assert set(EXTRACTORS["dinov2"].assets) == {WEIGHTS, CODE}


def test_the_registered_archive_works_offline_and_is_in_the_digest(cache):
    put(cache, {"hubconf.py": HUBCONF, "setup.py": "1 / 0", "pack/part.py": "X = 1"}, conv())
    extractor = get_extractor("dinov2")
    assert extractor(pictures(2)).shape == (2, 10)
    unpacked = cache / "repo" / "abc"
    assert sorted(p.name for p in unpacked.rglob("*.py")) == ["hubconf.py", "part.py"]
    (unpacked / "hubconf.py").write_text("raise RuntimeError('rot')")
    assert get_extractor("dinov2").sha256 == extractor.sha256
    put(cache, {"hubconf.py": HUBCONF, "pack/part.py": "X = 2"}, conv())
    other = get_extractor("dinov2")
    assert other.sha256 != extractor.sha256
    assert torch.equal(other(pictures(2)), extractor(pictures(2)))


def test_an_archive_without_a_registered_hash_needs_a_permission(cache, monkeypatch):
    put(cache, {"hubconf.py": f"open({str(cache / 'was-here')!r}, 'w')\n{HUBCONF}"}, conv())
    monkeypatch.setenv(ALLOW, "")
    refused(rf"abc.zip: .* sha256 .* {ALLOW}=/.*abc.zip$", get_extractor, "dinov2")
    assert not (cache / "was-here").exists()
    # With a hash in the registry it is this code and no other.
    registry = cache.parent / "assets.tsv"
    digest = sha256_file(cache / "repo/abc.zip")
    lines = [line.split("\t") for line in registry.read_text().splitlines()]
    lines[1][ASSET_COLUMNS.index("sha256")] = digest
    registry.write_text("\n".join(map("\t".join, lines)) + "\n")
    get_extractor("dinov2")


def test_an_archive_with_other_content_is_refused(cache):
    put(cache, {"hubconf.py": HUBCONF}, conv())
    get_extractor("dinov2")
    pack(cache, {"hubconf.py": "raise SystemExit"})
    refused(r"abc.zip: its sha256 .* is not the one in assets.lock", get_extractor, "dinov2")


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"setup.py": ""}, "no archive of a repository"),
        ({"hubconf.py": HUBCONF, "../../../evil.py": "x"}, "no archive of a repository"),
        ({"hubconf.py": "#" * 17_000_000}, "holds more than"),
        ({"hubconf.py": "", **{f"p/{i}.py": "" for i in range(2001)}}, "holds more than"),
    ],
)
def test_an_archive_that_is_no_repository_is_one_line_and_writes_nothing(cache, files, fault):
    put(cache, files, conv())
    refused(f"abc.zip: .*{fault}", get_extractor, "dinov2")
    assert not list(cache.parent.rglob("*.py"))


@pytest.mark.parametrize("name", ["facebookresearch/dinov2:main", "evil/repo:main"])
def test_no_branch_of_a_server_is_run(cache, name):
    refused(f"{name}: no such folder", get_extractor, "dinov2", repository=name)


def test_the_list_says_what_is_pinned_and_what_trusts_its_first_use(cache, capsys):
    put(cache, {"hubconf.py": HUBCONF}, conv())
    assert main(["assets", "fetch", CODE]) == 0
    capsys.readouterr()
    assert main(["assets", "list"]) == 0
    said = capsys.readouterr().out
    assert "sha256: 0 pinned in the registry, 1 pinned in assets.lock, 1 trusted at first use" in said
    assert main(["assets", "list", "--registry", str(ROOT / "config/assets.tsv")]) == 0
    inception = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("inception"))
    assert " registry " in inception
    assert "hubconf" not in sys.modules
