"""What the choices of a protocol do to the numbers, measured on digits (the tables of docs/protocol.md).

The generator is a stand-in that anybody can run: a real digit of the requested class plus Gaussian noise, as floats.
It is imperfect on purpose, and no training is needed. There are no bounds; the result is a table.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.features import get_extractor
from eval.measuring.protocol import load_protocol
from eval.metrics.frechet import frechet_distance, frechet_infinity
from eval.metrics.inception_score import inception_score
from eval.metrics.precision_recall import precision_recall
from sida.data import load_dataset
from sida.files.atomic import write_json
from sida.provenance import environment
from sida.sampling import SeedStreams, to_uint8

TRIALS, NOISE = 10, 0.15
DATA = load_dataset({"name": "digits", "kind": "digits"})
EXTRACTOR = get_extractor("digits")
Quantise = Callable[[torch.Tensor], torch.Tensor]


def generate(seeds: Sequence[int], label_dist: str = "empirical") -> torch.Tensor:
    """Float images about [-1, 1]: a random real digit of a random class, with noise."""
    streams = SeedStreams(seeds)
    classes = streams.randint(10) if label_dist == "uniform" else DATA.class_indices[streams.randint(len(DATA))]
    picks = streams.randint(10**6)
    members = [torch.nonzero(DATA.class_indices == c).flatten() for c in range(10)]
    indices = torch.stack([members[c][p % len(members[c])] for c, p in zip(classes.tolist(), picks.tolist())])
    return DATA.network_input(DATA.images(indices)) + NOISE * streams.randn((1, 8, 8))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """MicroBatchRunner to the nearest level of (x + 1) · 127.5, as preview grids do."""
    return torch.round((x + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def floored(x: torch.Tensor) -> torch.Tensor:
    """Truncates (x + 1) · 127.5: half a level darker."""
    return ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def jpeg(quality: int) -> Quantise:
    """Saves and reads every image as JPEG."""
    from PIL import Image

    def convert(x: torch.Tensor) -> torch.Tensor:
        result = []
        for image in to_uint8(x)[:, 0].numpy():
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "JPEG", quality=quality)
            result.append(np.asarray(Image.open(stream)))
        return torch.from_numpy(np.stack(result))[:, None]

    return convert


def resized(x: torch.Tensor) -> torch.Tensor:
    """Enlarges to 16×16 and back by bilinear interpolation, as a careless loader may."""
    large = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    return to_uint8(torch.nn.functional.interpolate(large, scale_factor=0.5, mode="bilinear", antialias=True))


class Trials:
    """Features and probabilities of some trials under one way of making images."""

    def __init__(
        self, n: int, quantise: Quantise = to_uint8, label_dist: str = "empirical", first: int = 0, trials: int = TRIALS
    ) -> None:
        self.features, self.probabilities = [], []
        for trial in range(first, first + trials):
            parts = []
            for begin in range(trial * n, (trial + 1) * n, 250):
                seeds = range(begin, min(begin + 250, (trial + 1) * n))
                parts.append(EXTRACTOR.features_and_logits(quantise(generate(seeds, label_dist))))
            self.features.append(torch.cat([features for features, _ in parts]))
            self.probabilities.append(
                torch.softmax(torch.cat([logits for _, logits in parts if logits is not None]), 1)
            )

    def fd(self, ddof: int = 0, reference_ddof: int = 1) -> list[float]:
        """Fréchet distance of every trial to all real images."""
        mean, cov = REAL.mean(0), np.cov(REAL, rowvar=False, ddof=reference_ddof)
        moments = (
            (rows.double().numpy().mean(0), np.cov(rows.double().numpy(), rowvar=False, ddof=ddof))
            for rows in self.features
        )
        return [frechet_distance(mu, sigma, mean, cov) for mu, sigma in moments]

    def score(self, splits: int = 10) -> list[float]:
        """Inception score of every trial."""
        return [inception_score(rows, splits).mean for rows in self.probabilities]

    def pairs(
        self, k: int = 3, dtype: Any = "float32", real: np.ndarray | None = None
    ) -> tuple[list[float], list[float]]:
        """Precision and recall of every trial."""
        reals = torch.from_numpy((REAL if real is None else real).astype(np.float32))
        found = [precision_recall(reals, rows, k, dtype) for rows in self.features]
        return [pair.precision for pair in found], [pair.recall for pair in found]


REAL = EXTRACTOR(DATA.images(range(len(DATA)))).double().numpy()


def main(out: Path) -> bool:
    n = load_protocol("digits").num_samples
    base = Trials(n)
    precision, recall = base.pairs()
    rows: dict[str, list[float]] = {
        f"FD, protocol (n = {n})": base.fd(),
        "FD, generated covariance / (N − 1)": base.fd(ddof=1),
        "FD, reference covariance / N": base.fd(reference_ddof=0),
        "FD, classes uniform": Trials(n, label_dist="uniform").fd(),
        "FD, other seeds (trials 10-19)": Trials(n, first=10).fd(),
        "FD, rounded instead of truncated": Trials(n, rounded).fd(),
        "FD, truncated without the half level": Trials(n, floored).fd(),
        "FD, images resized to 16×16 and back": Trials(n, resized).fd(),
        "FD, images saved as JPEG, quality 95": Trials(n, jpeg(95)).fd(),
        "FD, images saved as JPEG, quality 75": Trials(n, jpeg(75)).fd(),
        "IS, protocol (10 splits)": base.score(),
        "IS, 1 split": base.score(1),
        "Precision, protocol (k = 3, float32)": precision,
        "Recall, protocol (k = 3, float32)": recall,
        "Precision, float16": base.pairs(dtype="float16")[0],
        "Recall, float16": base.pairs(dtype="float16")[1],
        "Precision, k = 5": base.pairs(k=5)[0],
        "Recall, k = 5": base.pairs(k=5)[1],
        "Precision, 500 reference images": base.pairs(real=REAL[:500])[0],
        "Recall, 500 reference images": base.pairs(real=REAL[:500])[1],
    }
    for count in (500, 1000, 5000, 10_000, 20_000, 50_000):
        rows[f"FD, n = {count}"] = Trials(count, trials=TRIALS if count < 10_000 else 3).fd()
    large = Trials(20_000, trials=1).features[0]
    fit = frechet_infinity(large, REAL.mean(0), np.cov(REAL, rowvar=False), smallest=1000)
    rows["FD, extrapolated to n → ∞"] = [fit.value]
    split_std = [inception_score(p, 10).std for p in base.probabilities]
    summary = {
        key: {"mean": statistics.fmean(v), "std": statistics.stdev(v) if len(v) > 1 else None, "trials": len(v)}
        for key, v in rows.items()
    }
    print("| choice | mean | std over trials |\n|---|---|---|")
    for key, value in summary.items():
        std = "" if value["std"] is None else f"{value['std']:.4f}"
        print(f"| {key} | {value['mean']:.4f} | {std} |")
    print(f"\nIS spread over the splits of one run, mean of the runs: {statistics.fmean(split_std):.4f}")
    lowest = [min(rows[f"FD, protocol (n = {n})"][i : i + 3]) for i in range(0, 9, 3)]
    print(f"FD, mean of the minimum of three: {statistics.fmean(lowest):.4f}")
    write_json(
        out,
        {
            "benchmark": "protocol_choices",
            "summary": summary,
            "values": rows,
            "is_split_std": split_std,
            "fd_minimum_of_three": lowest,
            "fd_by_n_for_extrapolation": fit.by_n,
            "environment": environment(),
        },
    )
    return True
