"""The same work by this suite, clean-fid, torch-fidelity and torchmetrics (``make peers`` installs the last two).

A server for each tool imports torch and the tool, then forks a process for each measurement, in turns. The clock
counts; processor seconds (user and system, child processes included) stand beside it, each as the least and the median
of the rounds. ``command`` is a whole command with its start-up. All tools run one network: a nearly free one, or the
architecture of Inception with seeded random weights, so no published number comes from here. Bounds, by the least time
of the clock: every peer takes 1.2 times as long as the suite (1.3 with Inception), and the suite's peak memory is the
lowest.

Measurements are kept one by one: after an interruption the same command runs the missing ones. The last file is the
table of ``docs/measurements.md``.
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

OURS, TOOLS = "sida", ("cleanfid", "torch_fidelity", "torchmetrics")
SUBSETS, SIZE = 20, 1000
PICTURES = {"command": (5000, 32), "small": (1000, 32), "large": (500, 256), "inception": (32, 64), "all": (2000, 32)}
#: Title, tools that can do it, and the relative difference of values that is allowed (1: other subsets are drawn).
WORKS: dict[str, tuple[str, tuple[str, ...], float]] = {
    "command": ("a command with its start-up: FID of 5,000 + 5,000 PNGs of 32×32", TOOLS[:2], 1e-3),
    "small": ("1,000 + 1,000 PNGs of 32×32, network nearly free, FID", TOOLS, 1e-3),
    "large": ("500 + 500 PNGs of 256×256, the same", TOOLS, 1e-3),
    "inception": ("Inception, 32 + 32, FID", TOOLS, 1e-3),
    "frechet": ("Fréchet distance, 2,048 dimensions", TOOLS, 1e-6),
    "neighbours": ("precision and recall, 6,000 × 6,000", ("torch_fidelity",), 1e-3),
    "all": ("FID + IS + KID + P/R of 2,000 + 2,000 (clean-fid: FID + KID; torchmetrics: no P/R)", TOOLS, 1),
    "kernel": ("KID, 20 subsets of 1,000 from 2,000 + 2,000", TOOLS, 1),
    "moments": ("mean and covariance of 10,000 × 2,048", TOOLS, 1e-6),  # clean-fid adds the mean in float32
}


class Network(nn.Module):
    """Resizes, any layers to 2,048 features, and class probabilities with or without the output's bias."""

    def __init__(self, layers: nn.Module, size: int) -> None:
        super().__init__()
        self.layers, self.size, self.output = layers, size, nn.Linear(2048, 1008)

    def forward(  # noqa: D102
        self, img: torch.Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> torch.Tensor:
        x = nn.functional.interpolate(img.to(torch.float32), size=(self.size, self.size), mode="bilinear")
        features = self.layers((x - 128) / 128)
        if return_features:
            return features
        logits = nn.functional.linear(features, self.output.weight) if no_output_bias else self.output(features)
        return torch.softmax(logits, 1)


def write_network(path: Path, layers: nn.Module, size: int) -> Path:
    """Writes such a network as TorchScript."""
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(Network(layers, size).eval().requires_grad_(False)).save(str(path))
    return path


def write_inception(path: Path, inception: bool) -> None:
    """Writes a network as TorchScript; Inception's layers are those of torch-fidelity with random weights."""
    torch.manual_seed(0)
    layers: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(768, 2048), nn.ReLU())
    if inception:
        import torch_fidelity.feature_extractor_inceptionv3 as blocks

        c = blocks.BasicConv2d
        stem = [c(3, 32, kernel_size=3, stride=2), c(32, 32, kernel_size=3), c(32, 64, kernel_size=3, padding=1)]
        stem += [nn.MaxPool2d(3, 2), c(64, 80, kernel_size=1), c(80, 192, kernel_size=3), nn.MaxPool2d(3, 2)]
        body = [blocks.InceptionA(192, 32), blocks.InceptionA(256, 64), blocks.InceptionA(288, 64)]
        body += [blocks.InceptionB(288), *(blocks.InceptionC(768, width) for width in (128, 160, 160, 192))]
        body += [blocks.InceptionD(768), blocks.InceptionE_1(1280), blocks.InceptionE_2(2048)]
        layers = nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for module in layers.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean, 0, 0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    write_network(path, layers, 299 if inception else 16)


def write_pictures(folder: Path, count: int, size: int, seed: int) -> None:
    """Writes PNGs of smooth noise."""
    folder.mkdir()
    random = torch.Generator().manual_seed(seed)

    def write(index: int, coarse: torch.Tensor) -> None:
        fine = nn.functional.interpolate(coarse[None], size=(size, size), mode="bicubic")[0] * 255
        array = (fine + 8 * torch.rand(fine.shape)).clamp(0, 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(array).save(folder / f"{index:05d}.png", compress_level=1)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count), torch.rand(count, 3, 6, 6, generator=random) * (0.9 + 0.1 * seed)))


def prepare(folder: Path) -> None:
    """Writes networks, pictures and features."""
    folder.mkdir(parents=True)
    write_inception(folder / "free.pt", inception=False)
    write_inception(folder / "inception.pt", inception=True)
    for work, (count, size) in PICTURES.items():
        for side in (0, 1):
            write_pictures(folder / f"{work}-{side}", count, size, side)
    metric = {"key": "fid", "kind": "frechet", "extractor": "inception", "reference": "images"}
    pair = {"name": "pair", "num_samples": PICTURES["command"][0], "trials": 1, "label_dist": "uniform"}
    pair |= {"cov_ddof": 1, "references": {"images": {"kind": "given"}}, "metrics": [metric]}
    (folder / "pair.yaml").write_text(json.dumps(pair))
    rng = np.random.default_rng(0)
    mixing = (rng.standard_normal((2048, 2048)) / 45 * np.arange(1, 2049)[:, None] ** -0.3).astype(np.float32)
    for side in (0, 1):
        rows = np.maximum(rng.standard_normal((10000, 2048), dtype=np.float32) @ mixing + 0.3 + 0.02 * side, 0)
        np.save(folder / f"features-{side}.npy", rows)
        np.savez(folder / f"moments-{side}.npz", mu=rows.mean(0, dtype=np.float64), sigma=np.cov(rows, rowvar=False))


def ours(work: str, folder: Path) -> Callable[[], Any]:
    """The work by this suite."""
    from sida.eval.measuring.references import write_reference
    from sida.eval.measuring.score import score_images
    from sida.eval.metrics.frechet import frechet_distance
    from sida.eval.metrics.kernel_distance import kernel_distance
    from sida.eval.metrics.precision_recall import neighbour_shares
    from sida.eval.metrics.statistics import FeatureStatistics

    data = _data(work, folder)
    if work == "frechet":
        return lambda: frechet_distance(*data)
    if work == "neighbours":
        return lambda: list(neighbour_shares(*data, 3, "float32")[:2])
    if work == "kernel":
        return lambda: kernel_distance(data[0], data[1], SUBSETS, SIZE, 0)
    if work == "moments":

        def moments() -> Any:
            statistics = FeatureStatistics()
            for batch in torch.from_numpy(data[0]).split(64):
                statistics.update(batch)
            return _summary(statistics.mean, statistics.cov)

        return moments

    pictures, count, network = _pictures(work, folder)
    name = "inception_cpu" if work == "inception" else "inception"
    metrics = [{"key": "fid", "kind": "frechet", "extractor": name, "reference": "real"}]
    if work == "all":
        metrics += [{"key": "is", "kind": "inception_score", "extractor": name}]
        metrics += [
            {"key": key, "kind": key, "extractor": name, "reference": "real"} for key in ("precision", "recall")
        ]
        kernel: dict[str, Any] = {"subsets": SUBSETS, "subset_size": SIZE}
        metrics += [{"key": "kid", "kind": "kernel", "extractor": name, "reference": "real", **kernel}]
    settings = {"cov_ddof": 1, "metrics": metrics, "references": {"real": {"kind": "dataset"}}}
    protocol = {"name": "peers", "num_samples": count, "trials": 1, **settings}
    options = {"path": str(network)}

    def score() -> Any:
        given: dict[str, Any] = {"against": pictures[0]}
        if work == "all":  # a comparison of two sets has no inception score
            reference = folder / f"reference-{os.getpid()}.safetensors"
            write_reference(reference, name, images=pictures[0], options=options, keep_features=True)
            given = {"references": {"real": str(reference)}}
        given["extractors"] = {name: options}
        found = score_images(pictures[1], protocol, allow_duplicates=True, **given)
        return dict(found.records[0]["metrics"])

    return score


def clean_fid(work: str, folder: Path) -> Callable[[], Any]:
    """The work by clean-fid, without its resizing, which is another protocol."""
    from cleanfid import fid

    data = _data(work, folder)
    if work == "frechet":
        return lambda: fid.frechet_distance(*data)
    if work == "kernel":
        return lambda: fid.kernel_distance(*data, SUBSETS, SIZE)
    if work == "moments":
        return lambda: _summary(np.mean(data[0], axis=0), np.cov(data[0], rowvar=False))
    pictures, _, network = _pictures(work, folder)

    def score() -> Any:
        net = torch.jit.load(str(network)).eval()
        common: dict[str, Any] = {"mode": "legacy_tensorflow", "verbose": False}
        common |= {} if work == "command" else {"num_workers": 0}
        common |= {"device": torch.device("cpu"), "custom_feat_extractor": lambda x: net(x, return_features=True)}
        values = {"fid": fid.compute_fid(*pictures, **common)}
        if work == "all":
            net_of = common.pop("custom_feat_extractor")
            features = [fid.get_folder_features(path, net_of, **common) for path in pictures]
            values["kid"] = fid.kernel_distance(*features, SUBSETS, SIZE)
        return values

    return score


def fidelity_extractor(network: Path) -> type[nn.Module]:
    """Class of torch-fidelity for a :class:`Network` in a file."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    class Extractor(FeatureExtractorBase):
        def __init__(self, name: str, features_list: Any, **kwargs: Any) -> None:
            super().__init__(name, features_list)
            self.net = torch.jit.load(str(network)).eval()

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            features = self.net(x, return_features=True)
            known = {"2048": features, "logits_unbiased": features @ self.net.output.weight.T}
            return tuple(known[name] for name in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "2048", "logits_unbiased"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits_unbiased" if metric == "isc" else "2048"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

    return Extractor


def torch_fidelity(work: str, folder: Path) -> Callable[[], Any]:
    """The work by torch-fidelity."""
    import torch_fidelity
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    data = _data(work, folder)
    kid = {"kid_subsets": SUBSETS, "kid_subset_size": SIZE}
    if work == "frechet":
        first, second = ({"mu": data[i], "sigma": data[i + 1]} for i in (0, 2))
        return lambda: fid_statistics_to_metric(first, second, False)["frechet_inception_distance"]
    if work == "moments":
        return lambda: _summary(*fid_features_to_statistics(torch.from_numpy(data[0])).values())
    if work in ("kernel", "neighbours"):
        sets = [torch.from_numpy(rows) for rows in data]
        if work == "kernel":
            return lambda: kid_features_to_metric(*sets, verbose=False, **kid)["kernel_inception_distance_mean"]
        return lambda: list(prc_features_to_metric(*sets[::-1], verbose=False).values())[:2]  # theirs: first generated
    pictures, _, network = _pictures(work, folder)

    def score() -> Any:
        torch_fidelity.register_feature_extractor("peers", fidelity_extractor(network))
        asked: dict[str, Any] = {"fid": True, "cuda": False, "cache": False, "verbose": False}
        if work == "all":
            asked |= {"isc": True, "kid": True, "prc": True, "samples_shuffle": False, **kid}
        found = torch_fidelity.calculate_metrics(
            input1=pictures[1], input2=pictures[0], feature_extractor="peers", **asked
        )
        short = {"frechet_inception_distance": "fid", "inception_score_mean": "is", "precision": "precision"}
        short |= {"kernel_inception_distance_mean": "kid", "recall": "recall"}
        return {short[key]: value for key, value in found.items() if key in short}

    return score


def torchmetrics(work: str, folder: Path) -> Callable[[], Any]:
    """The work by torchmetrics, which leaves reading pictures to its user: here torch's loader."""
    from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    data = _data(work, folder)
    if work == "frechet":
        tensors = [torch.from_numpy(array) for array in data]
        return lambda: float(_compute_fid(*tensors))

    class Features(nn.Module):
        num_features = 2048

        def __init__(self, path: Path | None, logits: bool = False) -> None:
            super().__init__()
            self.logits = logits
            self.net: Any = None if path is None else torch.jit.load(str(path)).eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = x if self.net is None else self.net(x, return_features=True)
            return features @ self.net.output.weight.T if self.logits else features

    kid: dict[str, Any] = {"subsets": SUBSETS, "subset_size": SIZE}
    if work == "kernel":

        def kernel() -> float:
            metric = KernelInceptionDistance(feature=Features(None), **kid)
            for real in (True, False):
                metric.update(torch.from_numpy(data[0 if real else 1]), real=real)
            return float(metric.compute()[0])

        return kernel
    if work == "moments":

        def moments() -> Any:
            metric = FrechetInceptionDistance(feature=Features(None))
            for batch in torch.from_numpy(data[0]).split(64):
                metric.update(batch, real=True)
            count = metric.real_features_num_samples
            mean = metric.real_features_sum / count
            return _summary(mean, (metric.real_features_cov_sum - count * torch.outer(mean, mean)) / (count - 1))

        return moments
    pictures, _, network = _pictures(work, folder)

    def score() -> Any:
        metrics: dict[str, Any] = {"fid": FrechetInceptionDistance(feature=Features(network))}
        if work == "all":
            metrics["kid"] = KernelInceptionDistance(feature=Features(network), **kid)
            metrics["is"] = InceptionScore(feature=Features(network, logits=True))
        for real, path in zip((True, False), pictures):
            files: Any = sorted(Path(path).iterdir())
            loader: Any = torch.utils.data.DataLoader(files, 64, collate_fn=_read)
            for batch in loader:
                for key, metric in metrics.items():
                    if key != "is":
                        metric.update(batch, real=real)
                    elif not real:
                        metric.update(batch)
        found = {key: metric.compute() for key, metric in metrics.items()}
        return {key: float(value[0] if isinstance(value, tuple) else value) for key, value in found.items()}

    return score


def _read(paths: list[Path]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in paths])


def _pictures(work: str, folder: Path) -> tuple[list[str], int, Path]:
    """Folders of a work, images in each, and its network."""
    network = folder / ("inception.pt" if work == "inception" else "free.pt")
    return [str(folder / f"{work}-{side}") for side in (0, 1)], PICTURES[work][0], network


def _data(work: str, folder: Path) -> list[Any]:
    if work == "frechet":
        files = [np.load(folder / f"moments-{side}.npz") for side in (0, 1)]
        return [file[key] for file in files for key in ("mu", "sigma")]
    if work in ("neighbours", "kernel", "moments"):
        rows = {"kernel": 2 * SIZE, "neighbours": 6000, "moments": 10_000}[work]
        return [
            np.load(folder / f"features-{side}.npy")[:rows].copy() for side in ((0,) if work == "moments" else (0, 1))
        ]
    return []


def _summary(mean: Any, cov: Any) -> list[float]:
    return [float(np.asarray(mean).mean()), float(np.trace(np.asarray(cov))), float(np.linalg.norm(np.asarray(cov)))]


def _spent() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


MAKERS = {OURS: ours, "cleanfid": clean_fid, "torch_fidelity": torch_fidelity, "torchmetrics": torchmetrics}


def once(work: str, tool: str, folder: Path) -> dict[str, Any]:
    """Runs a work by one tool in this process."""
    run = MAKERS[tool](work, folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = _spent(), time.perf_counter()
    with torch.no_grad():
        value = run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = {"cpu": _spent() - cpu, "wall": time.perf_counter() - wall}
    return {**spent, "peak_mb": peak / 1e3, "above_mb": (peak - before) / 1e3, "value": value}


def serve(tool: str, folder: Path) -> None:
    """Answers each name of a work on a line of standard input with a line of JSON, from a process of its own."""
    warnings.simplefilter("ignore")
    imports: dict[str, Callable[[], object]] = {
        OURS: lambda: importlib.import_module("sida.eval.measuring.score"),
        "cleanfid": lambda: importlib.import_module("cleanfid.fid"),
        "torch_fidelity": lambda: importlib.import_module("torch_fidelity"),
        "torchmetrics": lambda: importlib.import_module("torchmetrics.image.fid"),
    }
    imports[tool]()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("null", file=answers, flush=True)  # ready
    for line in sys.stdin:
        imported = _mapped_mb()
        if (child := os.fork()) == 0:
            found = once(line.strip(), tool, folder)
            # A fork maps the files of the imports when it needs them; a user's process has mapped all of them.
            found["peak_mb"] += max(0, imported - _mapped_mb())
            print(json.dumps(found), file=answers, flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print("null", file=answers, flush=True)


def _mapped_mb() -> float:
    """Memory of this process that holds files, such as libraries."""
    return int(Path("/proc/self/status").read_text().partition("RssFile:")[2].split()[0]) / 1e3


def command(tool: str, folder: Path) -> dict[str, Any] | None:
    """Time and value of a whole command; None if it fails."""
    line = [sys.executable, "-m", "benchmarks.peers", "once", tool, str(folder)]
    if tool == OURS:
        pictures, _, network = _pictures("command", folder)
        line = [sys.executable, "-m", "sida.workflow", "score", pictures[1], "--against", pictures[0], "--json"]
        line += ["--protocol", str(folder / "pair.yaml"), "--extractor-option", f"inception.path={network}"]
    begin = time.perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        return None
    found = json.loads(output.splitlines()[-1])
    value = {"fid": found["values"][0]} if tool == OURS else found["value"]
    cpu = used.ru_utime + used.ru_stime
    return {"cpu": cpu, "wall": time.perf_counter() - begin, "peak_mb": used.ru_maxrss / 1e3, "value": value}


def main(out: Path, rounds: int = 3) -> bool:
    """Runs all works in turns, prints the ratios, and writes the results and the table."""
    from sida.files.atomic import write_json, write_text
    from sida.machine import environment

    missing = [tool for tool in TOOLS if find_spec(tool) is None]
    if missing:
        print(f"  not installed: {', '.join(missing)}; run `make peers`")
        return False
    folder, loads, begin = out.with_suffix(""), [os.getloadavg()[0]], time.perf_counter()
    kept_file, found = folder / "measured.json", dict[str, list[dict[str, Any]]]()
    if kept_file.exists():
        found = json.loads(kept_file.read_text())
    else:
        print("  writing pictures, features and networks", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "benchmarks.peers", "prepare", str(folder)], check=True)
        write_json(kept_file, found)
    servers = {
        tool: subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers", "serve", tool, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1,
        )
        for tool in (OURS, *TOOLS)
    }  # fmt: skip
    for server in servers.values():
        cast("IO[str]", server.stdout).readline()
    for number in range(rounds):
        for key in (f"{work} {tool}" for work in WORKS for tool in (OURS, *WORKS[work][1])):
            if len(found.setdefault(key, [])) > number:
                continue
            work, tool = key.split()
            answer = command(tool, folder) if work == "command" else _asked(servers[tool], work)
            if answer is None:
                print(f"  {key}: FAILED", flush=True)
                continue
            found[key].append(answer)
            write_json(kept_file, found)
            print(f"  round {number + 1}, {key}: {answer['wall']:.2f} s", flush=True)
            loads.append(os.getloadavg()[0])
    for server in servers.values():
        server.communicate()
    results = {work: {tool: found[f"{work} {tool}"] for tool in (OURS, *WORKS[work][1])} for work in WORKS}
    facts = {"load": [min(loads), max(loads)], "environment": environment(), "seconds": time.perf_counter() - begin}
    lines = {work: _line(work, results[work]) for work in WORKS}
    print(f"  load, {os.cpu_count()} cores: {min(loads):.1f} to {max(loads):.1f} (this benchmark included), "
          f"{facts['seconds']:.0f} s")  # fmt: skip
    kept = all(ahead for ahead, _ in lines.values())
    write_json(out, {"benchmark": "peers", "results": results, "kept": kept, **facts})
    write_text(out.with_suffix(".md"), _table(rounds, loads, [row for _, row in lines.values()]))
    print(f"  table: {out.with_suffix('.md')}")
    shutil.rmtree(folder)
    return kept


def _asked(server: Any, work: str) -> dict[str, Any] | None:
    server.stdin.write(f"{work}\n")
    answer: dict[str, Any] | None = json.loads(server.stdout.readline() or "null")
    return answer


def _line(work: str, found: dict[str, list[dict[str, Any]]]) -> tuple[bool, str]:
    """Prints the ratios of a work; whether its bounds are kept, and its row of the table."""
    if not all(found.values()):
        print(f"  {WORKS[work][0]}: MISSED, a tool failed")
        return False, f"| {WORKS[work][0]} | failed | | | |"
    best, middle = (
        {tool: {k: of([r[k] for r in rounds]) for k in ("cpu", "wall", "peak_mb")} for tool, rounds in found.items()}
        for of in (min, statistics.median)
    )
    value = found[OURS][0]["value"]
    print(
        f"  {WORKS[work][0]}: {_spans(best[OURS], middle[OURS])}, {best[OURS]['peak_mb'] / 1e3:.2f} GB, {_text(value)}"
    )
    bound, kept = 1.3 if work == "inception" else 1.2, True
    cells = dict.fromkeys(TOOLS, "–")
    for tool in WORKS[work][1]:
        other, ratios = found[tool][0]["value"], {k: best[tool][k] / best[OURS][k] for k in best[OURS]}
        agrees = _difference(value, other) <= WORKS[work][2]
        ahead = ratios["wall"] >= bound and ratios["peak_mb"] > 1
        kept = kept and ahead and agrees
        state = "ok    " if ahead and agrees else "MISSED"
        shown = f"clock × {ratios['wall']:.2f}, processor × {ratios['cpu']:.2f}, peak memory × {ratios['peak_mb']:.2f}"
        spans = _spans(best[tool], middle[tool])
        print(f"    {state} {tool:<15} {shown}; {spans}, {_text(other)}{'' if agrees else ' DIFFERS'}")
        cells[tool] = f"**{ratios['wall']:.2f}** · {ratios['cpu']:.2f} · {ratios['peak_mb']:.2f}"
    us = f"{best[OURS]['wall']:.2f} / {middle[OURS]['wall']:.2f} s · {best[OURS]['peak_mb'] / 1e3:.2f} GB"
    return kept, f"| {WORKS[work][0]} | {us} | {' | '.join(cells.values())} |"


def _table(rounds: int, loads: list[float], rows: list[str]) -> str:
    """The section of ``docs/measurements.md``."""
    from sida.machine import processor_name

    names = ("clean-fid", "torch-fidelity", "torchmetrics")
    tools = ", ".join(f"{name} {version(name)}" for name in names)
    where = f"{processor_name()}, {platform.system()}, load {min(loads):.1f} to {max(loads):.1f}"
    head = (
        f"`python -m benchmarks peers --rounds {rounds}`, {where}, {datetime.date.today()}; {tools}. All tools run one "
        "network: a nearly free one, or Inception's architecture with random weights.\n"
        "This suite: least and median seconds by the clock, peak memory. Other tools: **clock**, processor time and "
        "peak memory divided by this suite's (the least of the rounds)."
    )
    columns = f"| work | this suite | {' | '.join(names)} |\n|---|---:|---:|---:|---:|"
    return "\n".join([head, "", columns, *rows, ""])


def _spans(best: dict[str, float], middle: dict[str, float]) -> str:
    """Least and median seconds."""
    clock, processor = (f"{best[key]:.2f} / {middle[key]:.2f} s" for key in ("wall", "cpu"))
    return f"clock {clock}, processor {processor} (least / median)"


def _difference(a: Any, b: Any) -> float:
    pairs = (
        [(a[k], b[k]) for k in a if k in b] if isinstance(a, dict) else list(zip(*(np.atleast_1d(v) for v in (a, b))))
    )
    return max(abs(x - y) / max(abs(x), 1e-12) for x, y in pairs)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number:.8g}" for key, number in value.items())
    return ", ".join(f"{number:.10g}" for number in np.atleast_1d(value))


if __name__ == "__main__":
    job, *rest = sys.argv[1:]
    if job == "prepare":
        prepare(Path(rest[0]))
    elif job == "serve":
        serve(rest[0], Path(rest[1]))
    else:
        warnings.simplefilter("ignore")
        print(json.dumps(once("command", rest[0], Path(rest[1]))))
