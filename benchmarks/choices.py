"""Effects of a protocol's choices on the FD of the demo's stored SiDA: ``python -m benchmarks choices``.

The page protocol.md prints them; ``choices.csv`` beside this file has those of the network stored in commit b775a879,
one run for each choice.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sida.config.lookup import ROOT
from sida.eval.measuring.measure import Measurer, measure
from sida.eval.measuring.protocol import read_protocol
from sida.eval.measuring.score import score_images
from sida.eval.results.measurements import measurements_text
from sida.eval.results.trial_files import long_rows
from sida.files.atomic import write_text
from sida.workflow.preset import load_preset
from sida.workflow.preset.jobs import measurement

DEMO = ROOT / "studies/demo"
STORED = Path(__file__).with_name("choices.csv")
#: Keys of the protocol that a run changes, and its trials.
RUNS: dict[str, tuple[dict[str, Any], range]] = {
    "default": ({}, range(10)),
    "seeds-later": ({"trials": 20}, range(10, 20)),
    "n-500": ({"num_samples": 500}, range(10)),
    "n-10000": ({"num_samples": 10_000}, range(5)),
    "n-50000": ({"num_samples": 50_000}, range(1)),
    "cov-ddof-1": ({"cov_ddof": 1}, range(10)),
}
#: Metrics with other settings, of the images of the run ``default``.
OTHERS = {
    "recall_half": {"kind": "recall", "extractor": "digits", "reference": "data", "k": 3, "dtype": "float16"},
    "recall_k5": {"kind": "recall", "extractor": "digits", "reference": "data", "k": 5},
    "is_one_split": {"kind": "inception_score", "extractor": "digits", "splits": 1},
}


def resized(image: Image.Image) -> Image.Image:
    """A picture of 8×8 that was enlarged to 16×16 and made small again."""
    return image.resize((16, 16), Image.Resampling.BICUBIC).resize((8, 8), Image.Resampling.BICUBIC)


def compressed(image: Image.Image) -> Image.Image:
    """A picture that was a JPEG of quality 95."""
    image.save(file := io.BytesIO(), "jpeg", quality=95)
    return Image.open(file)


#: Changes of the pictures themselves.
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {"resized": resized, "jpeg-95": compressed}


def rows() -> list[dict[str, Any]]:
    """Lines of all measurements; each is of the stored network of the demo's SiDA."""
    preset = load_preset(DEMO / "preset.yaml")
    spec = dict(measurement(preset, "sida-a1.0").spec)
    spec |= {"network": str(DEMO / "stored/students/sida-a1.0/network.safetensors")}
    digits, records = read_protocol(ROOT / "config/protocols/digits.yaml"), []
    fd = [metric for metric in digits["metrics"] if metric["key"] == "fd"]
    for run, (changes, trials) in RUNS.items():
        metrics = [*digits["metrics"], *({"key": key, **one} for key, one in OTHERS.items())]
        protocol = {**digits, "metrics": metrics if run == "default" else fd, "watch": ["fd"], **changes}
        with tempfile.TemporaryDirectory() as out:
            records += measure({**spec, "run": run, "protocol": protocol}, out, [*trials])
    source = Measurer(spec).source
    images = np.concatenate([batch.images.numpy() for batch in source.stream(0, 25_000, 250)])
    for run, change in CHANGES.items():
        changed = [np.asarray(change(Image.fromarray(picture))) for picture in images[:, 0]]
        with tempfile.TemporaryDirectory() as folder:
            np.savez(file := Path(folder, f"{run}.npz"), np.stack(changed)[..., None])
            score = score_images(file, "digits", allow_duplicates=True)
        records += [{**record, "run": run} for record in score.records]
    return [row for row in long_rows(records) if row["run"] == "default" or row["metric"] == "fd"]


def main(out: Path) -> bool:
    """Measures all choices and writes them; the path of the suite's results is not used."""
    write_text(STORED, measurements_text(rows()))
    return True
