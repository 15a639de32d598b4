"""Registry of extractors: names, required downloads, a factory, and their output."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.features.base import Extractor
from sida.assets.cache import ReadOnlyCacheError, recorded, registered, write_record
from sida.config.lookup import Registry, RegistryEntry
from sida.errors import UserError, suggestion
from sida.files.atomic import sha256_json

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ExtractorEntry(RegistryEntry):
    """An extractor of this package, with the facts that the start of a workflow reads without importing torch.

    Attributes:
        assets: Ids of its downloads in ``config/assets.tsv``.
        classes: Whether it has class probabilities.
    """

    assets: tuple[str, ...] = ()
    classes: bool = False


_DINOV2 = ("dinov2-vitl14", "dinov2-code")
EXTRACTORS: Registry[ExtractorEntry] = Registry(
    "extractor",
    "eval.features.base:Extractor",
    {
        "digits": ExtractorEntry("eval.features.digits:DigitsExtractor", classes=True),
        "glyphs": ExtractorEntry("eval.features.digits:GlyphsExtractor", classes=True),
        "digits_backbone": ExtractorEntry("eval.features.digits:DigitsBackboneExtractor"),
        "clothes_plain": ExtractorEntry("eval.features.clothes:PlainExtractor", classes=True),
        "clothes_residual": ExtractorEntry("eval.features.clothes:ResidualExtractor", classes=True),
        "pixels": ExtractorEntry("eval.features.pixels:PixelExtractor"),
        "efficientnet_lite0": ExtractorEntry("eval.features.lite:Lite0Extractor", classes=True),
        "inception": ExtractorEntry("eval.features.inception:InceptionExtractor", ("inception",), classes=True),
        "inception_clean": ExtractorEntry("eval.features.inception:InceptionCleanExtractor", ("inception",)),
        "inception_cpu": ExtractorEntry("eval.features.inception:InceptionCPUExtractor", ("inception",), classes=True),
        "dinov2": ExtractorEntry("eval.features.dinov2:DinoV2Extractor", _DINOV2),
        "dinov2_pil": ExtractorEntry("eval.features.dinov2:DinoV2PillowExtractor", _DINOV2),
        **{
            name: ExtractorEntry(f"eval.features.judges:{cls}", (f"judge-{asset}",))
            for name, cls, asset in (
                ("clip_fdr", "ClipFDr", "clip-vitl14"),
                ("clip_cmmd", "ClipCMMD", "clip-vitl14-336"),
                ("mae_fdr", "MaeFDr", "mae-vitl16"),
                ("siglip2_fdr", "Siglip2FDr", "siglip2-so400m"),
                ("dinov2_fdr", "DinoV2FDr", "dinov2-vitl14"),
                ("convnext_fdr", "ConvNeXtFDr", "convnextv2-base"),
            )
        },
    },
)
#: Variants that are faster on a processor, and differ by rounding as two devices do: name, and the words that its
#: digest adds to that of the same network's file.
ON_PROCESSOR = {"inception": ("inception_cpu", "channels last, batch normalisation folded into convolutions")}


def variant_digest(sha256: str, words: str) -> str:
    """Digest of a variant of a network: the digest of the network, and words for what differs."""
    return sha256_json([sha256, words])


def extractor_entry(name: str) -> ExtractorEntry:
    """Downloads of an extractor, and whether it has classes, which is assumed of a custom one.

    Raises:
        UserError: No such extractor.
    """
    return EXTRACTORS.get(name) or ExtractorEntry(name, _class(name).assets, classes=True)


def registered_digest(name: str) -> str:
    """Digest of an extractor with its registered downloads, without loading it.

    It is the registered digest of the file if this is the whole network, else the one recorded when the extractor was
    first made here; ``asset NAME``, which is no digest, if neither is known; empty for extractors without downloads.
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
            :class:`~eval.features.base.Extractor`.
        device: Torch device of the network and of its features.
        **options: Options of the extractor, e.g. ``path`` of the weights.

    Raises:
        UserError: Unknown name, or weights that are missing or broken.
    """
    cls = _class(name)
    known = [key for key in inspect.signature(cls).parameters if key != "device"]
    for option in options:
        if option not in known:
            raise UserError(f"extractor '{name}'", f"no option '{option}'{suggestion(option, known)}")
    extractor = cls(device=device, **options)
    if name not in EXTRACTORS:
        extractor.name = name
        if not hasattr(extractor, "sha256"):
            remedy = "give the digest of everything that decides its output"
            raise UserError(f"extractor '{name}'", "has no sha256", remedy)
    return extractor


def _class(name: str) -> type[Extractor]:
    extractor: type[Extractor] = EXTRACTORS.find(name, f"extractor '{name}'")
    return extractor


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
    made = {name: get_extractor(name, device, **(options or {}).get(name, {})) for name in names}
    for name, extractor in made.items():
        if not (options or {}).get(name) and registered_digest(name).startswith("asset "):
            # A cache that cannot be written keeps no record, and the values no verdict beside published ones.
            with contextlib.suppress(ReadOnlyCacheError):
                write_record(_record_of(name), {"sha256": extractor.sha256, "size": 0, "url": ""})
    return made
