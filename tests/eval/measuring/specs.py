"""Protocols, specs and a generator for the tests of measuring."""

from __future__ import annotations

from typing import Any

import numpy as np
import yaml

from sida.config.named_files import find_file
from sida.data import load_dataset
from sida.sampling import SeedStreams

DIGITS = {"name": "digits", "kind": "digits"}


def content(of: str = "digits", **changes) -> dict:
    """A protocol of the checkout, with changes."""
    return yaml.safe_load(find_file("protocols", of).read_text()) | changes


def small_protocol(**changes) -> dict:
    """The protocol of the digits with three trials of 600 images."""
    return content(name="small", num_samples=600, trials=3, watch=None) | changes


def data_spec(**changes) -> dict:
    """Resampled digits under the small protocol."""
    spec = {"run": "data", "method": "data", "sampler": {"kind": "data"}, "protocol": small_protocol()}
    return spec | {"dataset": DIGITS, "threads": 1} | changes


def metric(key: str, kind: str = "frechet", extractor: str = "digits", reference: str | None = "data", **more) -> dict:
    """A metric of a protocol."""
    return {"key": key, "kind": kind, "extractor": extractor, "reference": reference, **more}


def protocol(*metrics: dict, **changes: Any) -> dict:
    """A protocol of one trial of ten digits with these metrics."""
    common = {"name": "own", "num_samples": 10, "trials": 1, "resolution": 8, "channels": 1}
    return common | {"references": {"data": {"kind": "dataset"}}, "metrics": list(metrics)} | changes


#: Three trials of twenty colour pictures 16×16.
TINY = protocol(
    metric("is", "inception_score", "inception", None, splits=2),
    **{"name": "tiny", "num_samples": 20, "trials": 3, "resolution": 16, "channels": 3, "references": {}},
)


def resampled(seeds):
    """Digits by seed with their classes: a generator without fault."""
    data = load_dataset(DIGITS)
    indices = SeedStreams(seeds).randint(len(data))
    return data.images(indices), data.class_indices[indices]


def noise(seeds):
    """Grey noise 8×8 by seed, as an array."""
    return np.stack([np.random.default_rng(seed).integers(0, 256, (1, 8, 8), np.uint8) for seed in seeds])
