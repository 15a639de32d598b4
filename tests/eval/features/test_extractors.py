"""Extractors: digits, pixels, Inception and DINOv2 stand-ins of the published call signatures; DINOv2's code."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from sida.assets.registry import load_registry
from sida.config.lookup import ALLOW, ROOT
from sida.data import load_dataset
from sida.eval.features import extractor_entry, get_extractor
from sida.eval.features.digits import DIGITS_NETWORK, weights_digest
from sida.eval.features.registry import EXTRACTORS, extractor_class
from sida.files.atomic import sha256_file, sha256_json
from sida.files.tensors import read_tensors
from tests.assets.fault_server import write_registry
from tests.data.test_archive import write_zip
from tests.eval.metric_networks import (
    HUBCONF,
    NormedInception,
    OddInception,
    ReusedInception,
    WideInception,
    load_script,
    pictures,
    write_inception,
)
from tests.near import assert_near, relative_error, same_bits
from tests.refused import refused
from tools.train_digits import DigitsTraining, split, train_digits


@pytest.fixture(scope="module")
def digits():
    return load_dataset({"name": "digits", "kind": "digits"})


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    return write_inception(tmp_path_factory.mktemp("inception") / "inception.pt")


def test_digits_network_has_the_recorded_held_out_accuracy(digits):
    _, metadata = read_tensors(DIGITS_NETWORK)
    assert metadata["held_out_accuracy"] >= 0.98
    assert metadata["dataset_sha256"] == digits.sha256
    assert DIGITS_NETWORK.stat().st_size < 1_000_000
    settings = DigitsTraining(**metadata["settings"])
    train, held_out = split(settings)
    assert sorted(torch.cat([train, held_out]).tolist()) == list(range(len(digits)))
    features, logits = get_extractor("digits").features_and_logits(digits.images(held_out))
    accuracy = (logits.argmax(1) == digits.class_indices[held_out]).double().mean().item()
    assert accuracy == pytest.approx(metadata["held_out_accuracy"], abs=1e-6)
    assert features.shape == (settings.held_out, 256)
    assert features.dtype == torch.float32


def test_digits_features_do_not_depend_on_the_batch(digits):
    extractor, images = get_extractor("digits"), digits.images(range(40))
    whole = extractor(images)
    assert_near(torch.cat([extractor(part) for part in images.split(7)]), whole)
    assert_near(extractor.features_and_logits(images)[0], whole)


def test_training_the_digits_network_is_deterministic():
    trained = [train_digits(DigitsTraining(epochs=1, seed=seed)) for seed in (0, 0, 1)]
    first, second, other = (weights_digest(weights) for weights, _ in trained)
    assert first == second != other
    assert trained[0][1]["held_out_accuracy"] > 0.5  # after one epoch only


def test_pixels():
    images = torch.tensor([[[[0, 255], [51, 204]]]], dtype=torch.uint8)
    extractor = get_extractor("pixels")
    assert_near(extractor(images), torch.tensor([[-1.0, 1.0, -0.6, 0.6]]))
    assert extractor.features_and_logits(images)[1] is None


def test_images_that_do_not_fit():
    extractor = get_extractor("digits")
    refused("must be uint8", extractor, torch.zeros(1, 1, 8, 8))
    refused(r"\(N, C, H, W\)", extractor, torch.zeros(1, 8, 8, dtype=torch.uint8))
    refused(r"shape \(N, 1, 8, 8\)", extractor, torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_inception_gives_the_same_from_one_pass_as_from_two(script, monkeypatch):
    images = pictures(9)
    one = get_extractor("inception", path=script)
    features, logits = one.features_and_logits(images)
    net = load_script(script)
    assert_near(features, net(images, return_features=True))
    expected = net(images, no_output_bias=True)
    assert_near(torch.softmax(logits, 1), expected)
    assert (one.num_features, one.num_classes) == (12, 7)
    biased = net(images)
    assert relative_error(biased, expected) > 1e-3  # the bias matters, so the test above can fail
    calls = []
    monkeypatch.setattr(one, "_net", lambda *args, run=one._net, **kwargs: calls.append(kwargs) or run(*args, **kwargs))
    one.features_and_logits(images)
    assert calls == [{"return_features": True}]


@pytest.mark.parametrize(
    "name", ["digits", "glyphs", "digits_backbone", "clothes_residual", "pixels", "inception", "dinov2"]
)
@pytest.mark.usefixtures("dinov2")
def test_float_images_have_the_features_of_bytes_and_a_gradient(name, script, digits):
    extractor = get_extractor(name, **({"path": script} if name == "inception" else {}))
    images = pictures(6) if name in ("inception", "dinov2") else digits.images(range(6))
    real = images.float().requires_grad_()
    features = extractor.differentiable(real)
    assert_near(features, extractor(images))
    features.square().sum().backward()
    # Half a byte in the direction of the gradient moves the features as it says.
    step = 0.05 * real.grad / real.grad.abs().max()
    with torch.no_grad():
        after, before = (extractor.differentiable(real + sign * step).square().sum() for sign in (1, -1))
    assert float(after - before) == pytest.approx(2 * float((step * real.grad).sum()), rel=0.05)


def test_grey_images_are_repeated(script):
    extractor = get_extractor("inception", path=script)
    grey = pictures(3, channels=1)
    assert_near(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))
    refused("1 or 3 channels, got 2", extractor, torch.zeros(1, 2, 8, 8, dtype=torch.uint8))


def test_inception_that_can_neither_be_explained_nor_folded_is_refused(tmp_path):
    odd = write_inception(tmp_path / "odd.pt", OddInception)
    refused("use the published file", get_extractor, "inception", path=odd)
    # Inception whose convolutions cannot be folded is refused.
    path = write_inception(tmp_path / "inception.pt", ReusedInception)
    get_extractor("inception", path=path)
    refused("--extractor-option inception.path", get_extractor, "inception_cpu", path=path)


def test_a_broken_inception_file_is_one_line(tmp_path):
    path = tmp_path / "broken.pt"
    path.write_bytes(b"PK\x03\x04 cut off")
    refused("not a TorchScript network", get_extractor, "inception", path=path)
    refused("no such feature network", get_extractor, "inception", path=tmp_path / "missing.pt")


def test_the_clean_variant_is_clean_fids_resize_and_features(tmp_path):
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    script = write_inception(tmp_path / "inception-2015-12-05.pt", WideInception)
    clean, plain = get_extractor("inception_clean", path=script), get_extractor("inception", path=script)
    images, resize = pictures(2), build_resizer("clean")
    theirs = np.stack([resize(image.permute(1, 2, 0).numpy()) for image in images]).transpose(0, 3, 1, 2)
    expected = InceptionV3W(str(tmp_path), download=False)(torch.from_numpy(theirs))
    assert_near(clean(images), expected)
    assert clean.sha256 != plain.sha256
    assert clean.features_and_logits(images)[1] is None
    other = write_inception(tmp_path / "other.pt", WideInception)
    refused("inception-2015-12-05.pt", get_extractor, "inception_clean", path=other)


@pytest.mark.usefixtures("dinov2")
def test_dinov2_resizes_in_float_and_its_variant_by_pillow():
    extractor = get_extractor("dinov2")
    images = pictures(4, size=48)
    features = extractor(images)
    assert features.shape == (4, extractor.num_features) == (4, 10)
    # Preprocessing by hand: float bicubic with antialiasing, /255, ImageNet's mean and std.
    resized = torch.nn.functional.interpolate(images.float(), size=(224, 224), mode="bicubic", antialias=True) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = extractor._net((resized - mean[:, None, None]) / std[:, None, None])
    assert_near(features, expected)
    pillow = get_extractor("dinov2_pil")
    difference = relative_error(pillow(images), expected)
    assert 1e-6 < difference < 0.1
    assert pillow.sha256 != extractor.sha256


def test_faults_of_options_name_the_extractor():
    glyphs = DIGITS_NETWORK.with_name("glyphs.safetensors")
    for name, path in (("digits", glyphs), ("glyphs", DIGITS_NETWORK)):
        refused(rf"{path}: .*option", get_extractor, name, path=path)
    refused("no option 'pth'", get_extractor, "digits", pth="x")
    refused("no option 'flor' .did you mean 'floor'", get_extractor, "docs.examples.spectrum:Spectrum", flor=1)
    refused("no extractor 'Spectre' .did you mean 'Spectrum'", get_extractor, "docs.examples.spectrum:Spectre")
    refused(r"nor a subclass of .*\.features\.base\.Extractor", get_extractor, "docs.examples.spectrum:source_sha256")


def test_named_classes_exist_and_their_assets_are_registered():
    for name in EXTRACTORS:
        assert extractor_class(name).name == name
        assert set(extractor_entry(name).assets) <= set(load_registry())


def test_inception_on_a_processor_folds_what_follows_a_convolution(tmp_path):
    path = write_inception(tmp_path / "inception.pt", NormedInception)
    plain, folded = (get_extractor(name, path=path) for name in ("inception", "inception_cpu"))
    images = pictures(17)
    expected, logits = plain.features_and_logits(images)
    features, found = folded.features_and_logits(images)
    assert features.shape == expected.shape
    assert_near(features, expected)
    assert_near(found, logits)
    # 16 images at a time, so that memory does not grow with the batch.
    assert same_bits(features[:16], folded(images[:16]))


WEIGHTS, CODE = EXTRACTORS["dinov2"].assets
ARCHIVE = {"id": CODE, "kind": "code", "target": "repo/abc.zip"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A registry and a cache without network; the user has allowed the code of this archive alone."""
    rows = ARCHIVE, {"id": WEIGHTS, "kind": "extractor", "target": "w.pth"}
    monkeypatch.setenv("SIDA_ASSETS", str(write_registry(tmp_path / "assets.tsv", *rows)))
    monkeypatch.setenv("SIDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SIDA_OFFLINE", "1")
    monkeypatch.setenv(ALLOW, str(tmp_path / "cache/repo/abc.zip"))
    (tmp_path / "cache" / "repo").mkdir(parents=True)
    return tmp_path / "cache"


def put(cache: Path, files: dict[str, str], weights: dict[str, torch.Tensor]) -> None:
    """Puts an archive and weights into the cache by hand, as new ones."""
    write_zip(cache / "repo/abc.zip", {f"dinov2-abc/{name}": text for name, text in files.items()})
    torch.save(weights, cache / "w.pth")
    (cache / "assets.lock").unlink(missing_ok=True)


def conv() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"patch.{name}": value for name, value in torch.nn.Conv2d(3, 10, 14, stride=14).state_dict().items()}


def test_the_code_is_of_one_commit_and_no_branch():
    asset = load_registry(ROOT / "config/assets.tsv")[CODE]
    commit = asset.url.rpartition("/")[2].removesuffix(".zip")
    assert (len(commit), commit in asset.target) == (40, True)


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
    assert_near(other(pictures(2)), extractor(pictures(2)))


def test_code_that_is_not_the_registered_one_needs_a_permission(cache, monkeypatch):
    put(cache, {"hubconf.py": f"open({str(cache / 'was-here')!r}, 'w')\n{HUBCONF}"}, conv())
    monkeypatch.setenv(ALLOW, "")
    refused(rf"abc.zip: .* digest .* {ALLOW}=/.*abc.zip$", get_extractor, "dinov2")
    assert not (cache / "was-here").exists()
    # With a hash in the registry it is this code and no other.
    known = ARCHIVE | {"sha256": sha256_file(cache / "repo/abc.zip")}
    write_registry(cache.parent / "assets.tsv", known, {"id": WEIGHTS, "kind": "extractor", "target": "w.pth"})
    get_extractor("dinov2")


def test_the_registered_code_needs_no_permission(cache, monkeypatch):
    """As after the first download of a new machine: GitHub's archive has another hash each time, its files have not."""
    files = {"hubconf.py": HUBCONF, "pack/part.py": "X = 1"}
    put(cache, files | {"setup.py": "1 / 0", "README.md": "any"}, conv())
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    monkeypatch.setattr("sida.eval.features.dinov2.CODE_SHA256", sha256_json(hashes))
    monkeypatch.setenv(ALLOW, "")
    assert get_extractor("dinov2").num_features == 10
    put(cache, files | {"pack/more.py": "X = 2"}, conv())
    refused(rf"abc.zip: .* digest .* {ALLOW}=", get_extractor, "dinov2")


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"hubconf.py": HUBCONF, "../../../evil.py": "x"}, "not an archive of a repository"),
        ({"hubconf.py": "", **{f"p/{i}.py": "" for i in range(2001)}}, "holds more than"),
    ],
)
def test_an_archive_that_is_no_repository_is_one_line_and_writes_nothing(cache, files, fault):
    put(cache, files, conv())
    refused(f"abc.zip: .*{fault}", get_extractor, "dinov2")
    assert not list(cache.parent.rglob("*.py"))


def test_code_without_the_network_and_weights_of_another_are_one_line(cache):
    put(cache, {"hubconf.py": ""}, conv())
    refused("abc: cannot load 'dinov2_vitl14'", get_extractor, "dinov2")
    put(cache, {"hubconf.py": HUBCONF}, {"other": torch.zeros(2)})
    refused("w.pth: does not hold", get_extractor, "dinov2")
