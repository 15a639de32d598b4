"""The evaluation as a whole: one pass for all metrics, merging of shards, how busy the feature network is, memory.

1. FID, inception score, precision and recall of one trial in one pass, against a pass of its own for each metric and
   scipy's sqrtm: at least 3 times faster, same values.
2. Loading and merging 100 shards of 2048-dimensional statistics: within 10 s.
3. Share of the time in the feature network while pictures are decoded from a zip: at least 95 %.
4. Memory held after a pass for FID and inception score over 4 times as many images: at most 10 % more.

The feature network is a random TorchScript file with the published call signature (2048 features, 1008 classes), the
generator a random SongUNet: speed does not depend on what they have learned.
"""

from __future__ import annotations

import gc
import io
import itertools
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.frechet import by_square_root
from benchmarks.peers import write_network
from eval.features import get_extractor
from eval.features.registry import extract
from eval.measuring.protocol import load_protocol
from eval.measuring.references import load_references
from eval.measuring.sources import ImageFiles
from eval.measuring.trial import ImageBatch, TrialSums, compute_metrics, prefetch, run_pass
from eval.metrics.inception_score import inception_score
from eval.metrics.precision_recall import precision_recall
from eval.metrics.statistics import FeatureStatistics
from sida.files.atomic import write_json
from sida.machine import environment

IMAGES, REFERENCES, SIZE, BATCH = 2304, 500, 32, 64
BOUNDS = {"one_pass": 3.0, "merge_seconds": 10.0, "busy_share": 0.95, "memory_growth": 1.10}


def write_stand_in(folder: Path) -> Path:
    """A small network in the place of Inception."""
    torch.manual_seed(0)
    widths = (3, 48, 128, 2048)
    convolutions = [torch.nn.Conv2d(a, b, 3, stride=2) for a, b in itertools.pairwise(widths)]
    layers = [layer for convolution in convolutions for layer in (convolution, torch.nn.ReLU())]
    layers = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return write_network(folder / "inception.pt", layers, 75)


def make_generator() -> Callable[[int, int], torch.Tensor]:
    """``generate(begin, end)`` gives the uint8 images of these seeds."""
    from sida.networks import build_network
    from sida.sampling import generate

    kwargs = {"model_type": "SongUNet", "img_resolution": SIZE, "img_channels": 3, "label_dim": 0}
    kwargs |= {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": []}
    torch.manual_seed(0)
    net = build_network({"class": "EDMPrecond", "kwargs": kwargs})
    return lambda begin, end: next(iter(generate(net, range(begin, end), batch_size=BATCH))).images


def one_pass(generate: Callable[[int, int], torch.Tensor], network: Path, folder: Path) -> dict[str, Any]:
    """All metrics of a trial: ours against one pass per metric."""
    extractor = get_extractor("inception", path=network)
    real = torch.cat([generate(10**6 + i, 10**6 + i + BATCH) for i in range(0, REFERENCES, BATCH)])[:REFERENCES]
    np.savez(folder / "batch.npz", arr_0=real.permute(0, 2, 3, 1).numpy())
    rng = np.random.default_rng(0)
    rows = extractor(real).double().numpy()
    rows = np.concatenate([rows, rows[rng.integers(0, len(rows), 4000)] + 0.01 * rng.standard_normal((4000, 2048))])
    np.savez(folder / "stats.npz", mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    protocol = load_protocol(
        {
            "name": "benchmark",
            "num_samples": IMAGES,
            "trials": 1,
            "references": {
                "stats": {"kind": "statistics", "file": "stats.npz"},
                "batch": {"kind": "images", "file": "batch.npz"},
            },
            "metrics": [
                {"key": "fid", "kind": "frechet", "extractor": "inception", "reference": "stats"},
                {"key": "is", "kind": "inception_score", "extractor": "inception"},
                {"key": "precision", "kind": "precision", "extractor": "inception", "reference": "batch"},
                {"key": "recall", "kind": "recall", "extractor": "inception", "reference": "batch"},
            ],
        }
    )
    ranges = [(i, min(i + BATCH, IMAGES)) for i in range(0, IMAGES, BATCH)]

    def ours() -> dict[str, float]:
        references = load_references(protocol, {"inception": extractor}, {"*": str(folder)})
        batches = (ImageBatch(generate(a, b), None) for a, b in ranges)
        return compute_metrics(run_pass(batches, {"inception": extractor}, TrialSums(protocol)), references)[0]

    def theirs() -> dict[str, float]:
        """Each metric generates its own images and runs the network over them."""
        net = torch.jit.load(str(network))
        features = torch.cat([net(generate(a, b), return_features=True) for a, b in ranges]).double().numpy()
        with np.load(folder / "stats.npz") as stats:
            fid = by_square_root(features.mean(0), np.cov(features, rowvar=False, ddof=0), stats["mu"], stats["sigma"])
        probabilities = torch.cat([net(generate(a, b), no_output_bias=True) for a, b in ranges])
        score = inception_score(probabilities).mean
        generated = torch.cat([net(generate(a, b), return_features=True) for a, b in ranges])
        reference = torch.cat([net(part, return_features=True) for part in real.split(BATCH)])
        pair = precision_recall(reference, generated)
        return {"fid": fid, "is": score, "precision": pair.precision, "recall": pair.recall}

    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    values: dict[str, dict[str, float]] = {}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, function in (("theirs", theirs), ("ours", ours)):
            start = time.perf_counter()
            values[name] = function()
            seconds[name].append(time.perf_counter() - start)
    agree = all(abs(values["ours"][k] - v) <= 1e-5 * max(abs(v), 1e-3) for k, v in values["theirs"].items())
    ratio = min(seconds["theirs"]) / min(seconds["ours"])
    return {"seconds": seconds, "ratio": ratio, "values": values, "values_agree": agree}


def merge_100(folder: Path) -> float:
    """Seconds to load and merge 100 shards (ten files, ten times each)."""
    rng = np.random.default_rng(0)
    paths = []
    for index in range(10):
        path = folder / f"shard-{index}.safetensors"
        FeatureStatistics().update(rng.standard_normal((256, 2048)).astype(np.float32)).save(path)
        paths.append(path)
    start = time.perf_counter()
    total = FeatureStatistics()
    for index in range(100):
        total.merge(FeatureStatistics.load(paths[index % 10]))
    elapsed = time.perf_counter() - start
    assert total.count == 25_600
    return elapsed


def busy_share(network: Path, folder: Path) -> float:
    """Share of the wall time spent in the feature network while pictures are decoded from a zip."""
    from PIL import Image

    rng = np.random.default_rng(0)
    path = folder / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(1024):
            stream = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(stream, "PNG")
            archive.writestr(f"{index:05d}.png", stream.getvalue())
    protocol = load_protocol(
        {
            "name": "busy",
            "num_samples": 1024,
            "trials": 1,
            "metrics": [{"key": "is", "kind": "inception_score", "extractor": "inception"}],
        }
    )
    extractors = {"inception": get_extractor("inception", path=network)}
    source = ImageFiles(str(path), protocol)
    extract(next(iter(source.batches(range(64), 64))).images, extractors)  # the first call compiles
    source = ImageFiles(str(path), protocol)
    inside = 0.0
    items = prefetch(source.batches(range(1024), 64), 2)
    start = time.perf_counter()
    for batch in items:
        before = time.perf_counter()
        extract(batch.images, extractors)
        inside += time.perf_counter() - before
    return inside / (time.perf_counter() - start)


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    storages = {}
    for item in gc.get_objects():
        if type(item) in (torch.Tensor, torch.nn.Parameter):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
    return sum(storages.values())


def memory_growth() -> float:
    """Bytes of all live tensors after 8000 images over those after 2000, FID and inception score of digits."""
    from eval.features.registry import make_extractors
    from eval.measuring.sources import DataSource
    from sida.data import load_dataset

    held = []
    extractors = make_extractors(["digits"])
    source = DataSource(load_dataset({"name": "digits", "kind": "digits"}))
    metrics = [
        {"key": "fd", "kind": "frechet", "extractor": "digits", "reference": "data"},
        {"key": "is", "kind": "inception_score", "extractor": "digits"},
    ]
    content = {"name": "m", "trials": 1, "metrics": metrics, "references": {"data": {"kind": "dataset"}}}
    for count in (2000, 8000):
        sums = TrialSums(load_protocol(content | {"num_samples": count}))
        run_pass(source.batches(range(count), 250), extractors, sums)
        held.append(tensor_bytes())
        assert sums.count == count
    return held[1] / held[0]


def main(out: Path) -> bool:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = write_stand_in(folder)
        result = {
            "one_pass": one_pass(make_generator(), network, folder),
            "merge_seconds": merge_100(folder),
            "busy_share": busy_share(network, folder),
            "memory_growth": memory_growth(),
        }
    together: Any = result["one_pass"]
    kept = {
        "one_pass": together["ratio"] >= BOUNDS["one_pass"] and together["values_agree"],
        "merge_seconds": result["merge_seconds"] <= BOUNDS["merge_seconds"],
        "busy_share": result["busy_share"] >= BOUNDS["busy_share"],
        "memory_growth": result["memory_growth"] <= BOUNDS["memory_growth"],
    }
    lines = {
        "one_pass": f"all metrics of a trial of {IMAGES} images: {min(together['seconds']['ours']):.1f} s against "
        f"{min(together['seconds']['theirs']):.1f} s metric by metric, ratio {together['ratio']:.2f}, "
        f"values {'agree' if together['values_agree'] else 'DIFFER'}",
        "merge_seconds": f"100 shards of 2048 dimensions loaded and merged in {result['merge_seconds']:.1f} s",
        "busy_share": f"feature network busy {100 * float(result['busy_share']):.1f} % of the time, decoding a zip",
        "memory_growth": f"memory held for 4 times as many images: × {result['memory_growth']:.2f}",
    }
    for key, line in lines.items():
        print(f"  {'ok    ' if kept[key] else 'MISSED'} {line} (bound {BOUNDS[key]:g})")
    write_json(out, {"benchmark": "evaluation", **result, "bounds": BOUNDS, "kept": kept, "environment": environment()})
    return all(kept.values())
