"""Features of reference data sets in the cache, so that the next generator's measurement does not compute them again.

A file has one extractor's sums and features of one data set. It serves the code, libraries and device that wrote it,
since others differ in last digits; the next one of these replaces it.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from sida.assets.cache import cache_dir
from sida.errors import UserError, say
from sida.eval.features.base import Extractor
from sida.eval.features.pixels import PixelExtractor
from sida.eval.measuring.reference_files import OwnReference, check_weights, read_own, write_own
from sida.files.atomic import sha256_json
from sida.machine import device_name, source_digest

#: Shortest computation whose features are kept, in seconds, and the largest features, in bytes.
_SHORTEST, _LARGEST = 20.0, 1 << 30


@dataclass(frozen=True)
class KeptFeatures:
    """Features of a data set in the cache.

    Attributes:
        name: Name of the data set.
        images_sha256: Digest of its images.
        extractors: Feature networks by name, whose features are summed.
        rows: Names of those whose features are needed themselves.
        ddof: Divisor N − ddof of covariances.
        allow_tf32: Whether TF32 is allowed.
    """

    name: str
    images_sha256: str
    extractors: Mapping[str, Extractor]
    rows: Collection[str]
    ddof: int
    allow_tf32: bool

    def get(self, compute: Callable[[Sequence[str]], OwnReference]) -> OwnReference:
        """Sums and features of all extractors.

        Args:
            compute: Computes those of some extractors; called once with the names of those that the cache does not
                have.
        """
        kept = self._read()
        missing = [name for name in self.extractors if name not in kept]
        start = time.monotonic()
        parts = [*kept.values(), *([compute(missing)] if missing else [])]
        if missing and time.monotonic() - start >= _SHORTEST:
            self._write(parts[-1])
        statistics = {name: sums for part in parts for name, sums in part.statistics.items()}
        features = {name: rows for part in parts for name, rows in part.features.items()}
        extractors = {name: extractor.sha256 for name, extractor in self.extractors.items()}
        return replace(parts[-1], name=self.name, statistics=statistics, features=features, extractors=extractors)

    def _read(self) -> dict[str, OwnReference]:
        """The kept sums and features by extractor."""
        kept = {}
        for name, path in self._paths().items():
            if path.exists():
                try:
                    own = read_own(path, [name])
                    check_weights(path, own, {name: self.extractors[name].sha256})
                except UserError as error:
                    say(f"{error.where}: {error.fault}; these features are computed again")
                    continue
                if own.made_by == _maker() and own.images_sha256 == self.images_sha256:
                    kept[name] = own
        return kept

    def _write(self, own: OwnReference) -> None:
        """Keeps sums and features that are not too large, a file for each extractor."""
        for name, path in self._paths().items():
            if name in own.extractors:
                sums = {name: own.statistics[name]}
                features = {name: own.features[name]} if name in self.rows else {}
                if sum(rows.nbytes for rows in features.values()) <= _LARGEST:
                    digests = {name: own.extractors[name]}
                    part = replace(own, statistics=sums, features=features, extractors=digests, made_by=_maker())
                    # A full disk or a cache of another user costs the time of the next measurement alone.
                    with contextlib.suppress(OSError, UserError):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        write_own(path, part)

    def _paths(self) -> dict[str, Path]:
        """File of each extractor except pixels, which take no longer than a file."""
        paths = {}
        for name, extractor in self.extractors.items():
            if name != PixelExtractor.name:
                device = device_name(str(extractor.device))
                facts = [self.images_sha256, extractor.sha256, name in self.rows, self.ddof, self.allow_tf32, device]
                paths[name] = cache_dir() / "references" / f"{sha256_json(facts)[:32]}.safetensors"
        return paths


def _maker() -> str:
    """Code and libraries that decide the last digits of features."""
    return f"{source_digest()}, torch {torch.__version__}, numpy {np.__version__}"
