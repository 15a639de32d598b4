"""Plan of a score: its time and memory, by the rate of an earlier score."""

from __future__ import annotations

import contextlib
import resource
import time
from typing import Any

from eval.measuring.measure import Measurer
from sida.assets.cache import cache_dir
from sida.errors import UserError, duration, say
from sida.files.atomic import sha256_json, write_json
from sida.files.text_files import parse_json, read_text
from sida.machine import device_name

#: Least number of images whose rate is kept: fewer are mostly loading.
_ENOUGH = 1000
#: Rates that are kept.
_MOST = 200


class ScorePlan:
    """Time and memory of a score, as one line before its first image is measured; never a guess.

    The rate is that of an earlier score here: of the same images or generator, with the same feature networks, on the
    same device.

    Args:
        measurer: The measurement.
        images: Number of images that are still to be measured.
    """

    def __init__(self, measurer: Measurer, images: int) -> None:
        self._measurer, self._images, self._start = measurer, images, 0.0
        self._file, self._device = cache_dir() / "score-rates.json", device_name(measurer.spec.device)

    def announce(self) -> None:
        """Prints the line at the first call, and starts the clock."""
        if self._start:
            return
        self._start = time.monotonic()
        known = self._kept().get(self._key)
        work = f"[score {self._measurer.spec.run}] plan: {self._images:,} images on {self._device}"
        if known:
            took = duration(self._images / known["rate"])
            say(f"{work}: about {took} and {known['memory_gb']:.1f} GB, measured here: {known['rate']:,.4g} images/s")
        else:
            say(f"{work}: no rate is known for this device; the next line is by its first images")

    def finish(self) -> None:
        """Keeps the rate and the peak of memory for the next score."""
        if self._images < _ENOUGH or not self._start:
            return
        rate = self._images / max(time.monotonic() - self._start, 1e-9)
        kept = {key: value for key, value in self._kept().items() if key != self._key}
        kept = dict(list(kept.items())[1 - _MOST :]) | {self._key: {"rate": rate, "memory_gb": self._memory()}}
        # A cache that cannot be written keeps no rate.
        with contextlib.suppress(UserError, OSError):
            write_json(self._file, kept)

    @property
    def _key(self) -> str:
        """Digest of everything that decides the rate."""
        spec, protocol = self._measurer.spec, self._measurer.protocol
        drawn: Any = {"images": "files", "python": spec.sampler.get("callable")}.get(spec.sampler["kind"])
        drawn = drawn or [getattr(self._measurer.source, "sha256", None), spec.sampler]
        facts = {"device": self._device, "networks": protocol.extractors(), "drawn": drawn}
        return sha256_json(facts | {"size": [protocol.resolution, protocol.channels], "batch": spec.batch_size})[:32]

    def _kept(self) -> dict[str, dict[str, float]]:
        with contextlib.suppress(UserError, OSError, AttributeError):
            found = parse_json(read_text(self._file), str(self._file)) if self._file.is_file() else {}
            return {key: value for key, value in found.items() if isinstance(value, dict) and _is_rate(value)}
        return {}

    def _memory(self) -> float:
        """Peak of this process, in GB: on the card, or resident."""
        if self._measurer.spec.device.startswith("cuda"):
            import torch

            return torch.cuda.max_memory_reserved(self._measurer.spec.device) / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _is_rate(entry: dict[str, Any]) -> bool:
    return all(isinstance(entry.get(key), float) and entry[key] > 0 for key in ("rate", "memory_gb"))
