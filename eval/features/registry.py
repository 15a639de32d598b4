"""Registry of extractors, a factory, digests, and the output."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sida.assets.cache import ReadOnlyCacheError, recorded, registered, write_record
from sida.config.registries import ExtractorEntry, Registry, entries
from sida.errors import UserError, suggestion
from sida.eval.features.base import Extractor
from sida.files.atomic import sha256_json

if TYPE_CHECKING:
    import torch


#: Extractors by name, which begins with the name of the feature network, and their classes.
EXTRACTORS: Mapping[str, ExtractorEntry] = entries("extractors")
_CLASSES = Registry[type[Extractor]]("extractors", "extractor", "sida.eval.features.base:Extractor")
#: Variants that are faster on a processor, by the extractor that they vary: name, and the words that its digest adds to
#: the digest of the same network's file.
ON_PROCESSOR = {entry.varies: (name, entry.difference) for name, entry in EXTRACTORS.items() if entry.varies}


def variant_digest(sha256: str, words: str) -> str:
    """Digest of a variant of a network: the digest of the network, and words for what differs."""
    return sha256_json([sha256, words])


def extractor_entry(name: str) -> ExtractorEntry:
    """Downloads of an extractor, and the number of its classes, which is unknown of a custom one.

    Raises:
        UserError: No such extractor.
    """
    return EXTRACTORS.get(name) or ExtractorEntry(object=name, assets=extractor_class(name).assets, classes=None)


def registered_digest(name: str) -> str:
    """Digest of an extractor with its registered downloads, without loading it.

    This is the registered digest of the file if the file is the whole network, else the digest that was recorded when
    the extractor was first made here. If neither is known, it is ``asset NAME``, which never equals a digest. It is
    empty for extractors without downloads.
    """
    assets = EXTRACTORS[name].assets if name in EXTRACTORS else ()
    if name in assets:
        return registered(name)
    return recorded(_record_of(name)) or f"asset {assets[0]}" if assets else ""


def _record_of(name: str) -> str:
    """Target of an extractor's own digest in ``assets.lock``."""
    return f"extractors/{name}"


def get_extractor(name: str, device: str | torch.device = "cpu", **options: Any) -> Extractor:
    """Makes an extractor.

    Args:
        name: One of :data:`EXTRACTORS`, or ``module:class``: a subclass of
            :class:`~sida.eval.features.base.Extractor`.
        device: Torch device of the network and of its features.
        **options: Options of the extractor, e.g. ``path`` of the weights.

    Raises:
        UserError: Unknown name, or weights that are missing or broken.
    """
    cls = extractor_class(name)
    option_names = [key for key in inspect.signature(cls).parameters if key != "device"]
    for option in options:
        if option not in option_names:
            raise UserError(f"extractor '{name}'", f"no option '{option}'{suggestion(option, option_names)}")
    extractor = cls(device=device, **options)
    if name not in EXTRACTORS:
        extractor.name = name
        if not hasattr(extractor, "sha256"):
            remedy = "give the digest of everything that decides its output"
            raise UserError(f"extractor '{name}'", "has no sha256", remedy)
    return extractor


def extractor_class(name: str) -> type[Extractor]:
    """Class of an extractor.

    Raises:
        UserError: No such extractor.
    """
    return cast(type[Extractor], _CLASSES.find(name, f"extractor '{name}'"))


@dataclass(frozen=True)
class Features:
    """Output of one feature network for a batch.

    Attributes:
        features: float32 (N, C).
        logits: float32 (N, K), or None for a network without classes.
    """

    features: torch.Tensor
    logits: torch.Tensor | None


def make_extractors(
    names: Sequence[str], device: str | torch.device = "cpu", options: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Extractor]:
    """Makes each named extractor once; ``options`` maps names to keyword arguments such as ``path``."""
    extractors = {name: get_extractor(name, device, **(options or {}).get(name, {})) for name in names}
    for name, extractor in extractors.items():
        if not (options or {}).get(name) and registered_digest(name).startswith("asset "):
            # Without the record, values have no known digest and are not compared with published ones.
            with contextlib.suppress(ReadOnlyCacheError):
                write_record(_record_of(name), {"sha256": extractor.sha256, "size": 0, "url": ""})
    return extractors
