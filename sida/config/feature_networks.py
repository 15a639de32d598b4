"""Feature networks: one entry each, with its labels, its extractors for metrics and its backbones for GDD.

A new feature network is an entry of :data:`FEATURE_NETWORKS` and a row of ``config/assets.tsv``, which has the address,
digest and licence of its weights. This module does not import torch, for presets, sheets and plans.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sida.config.registries import RegistryEntry


@dataclass(frozen=True)
class ExtractorEntry(RegistryEntry):
    """An extractor of features for metrics: a network with one way to prepare its input.

    Attributes:
        made_by: ``module:class``; :mod:`eval.features.registry` looks for the module among its own.
        assets: Ids of its downloads in ``config/assets.tsv``; empty for weights of a package.
        classes: Number of its class probabilities; None: unknown.
        gflop: Operations for one picture in float32, in GFLOP, for plans; 0: negligible or not counted.
        varies: Extractor of which this one is a faster variant for processors. The two differ by rounding, as two
            devices do.
        difference: Text that the digest of such a variant has besides the digest of the network's file.
        attributes: Class attributes of this extractor, for a class that several extractors share.
    """

    assets: tuple[str, ...] = ()
    classes: int | None = 0
    gflop: float = 0.0
    varies: str | None = None
    difference: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Any:
        """Imports the class; with :attr:`attributes`, derives a class that has them."""
        cls = super().load()
        return type(cls.__name__, (cls,), {"__doc__": cls.__doc__, **self.attributes}) if self.attributes else cls


@dataclass(frozen=True)
class BackboneEntry(RegistryEntry):
    """A frozen backbone of GDD's discriminator.

    Attributes:
        asset: Id of its weights in ``config/assets.tsv``; None for weights that an installation has.
        gflop: Operations of an iteration in it and in its heads, in GFLOP per image, for plans, without R1.
    """

    asset: str | None = None
    gflop: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A network by whose features generators are measured or trained.

    Attributes:
        labels: Data set whose labels it learned; networks with equal labels count as alike. Empty: no other network
            learned its labels. None: the pixels themselves, without a network.
        also: Names of metrics, losses and backbones that mean the network in a row's exposure and begin otherwise.
        paper_metrics: Metrics of papers that are computed from its features.
        extractors: Its extractors by name. Each name begins with the network's name.
        backbones: Its backbones by name.
    """

    labels: str | None
    also: tuple[str, ...] = ()
    paper_metrics: tuple[str, ...] = ()
    extractors: Mapping[str, ExtractorEntry] = field(default_factory=dict)
    backbones: Mapping[str, BackboneEntry] = field(default_factory=dict)


def _timm(asset: str, model: str, side: int, gflop: float, **attributes: Any) -> ExtractorEntry:
    """A judge of FDr6: features of timm's network ``model`` for pictures of ``side`` × ``side``."""
    attributes |= {"model": model, "side": side}
    return ExtractorEntry("judges:TimmExtractor", (asset,), gflop=gflop, attributes=attributes)


_DINOV2 = ("dinov2-vitl14", "dinov2-code")
_SIX = ("fdr6", "sw_r14")
#: Feature networks by name. Operations of judges of FDr6: 2 for each parameter and token; ConvNeXt's from its authors'
#: table (15.4 multiply-adds at 224).
FEATURE_NETWORKS = {
    "vgg16": FeatureNetwork(
        labels="ImageNet",
        also=("lpips",),
        backbones={"vgg16_bn": BackboneEntry("sida.networks.discriminators:VGG16BN", "backbone-vgg16-bn", 198)},
    ),
    "efficientnet_lite0": FeatureNetwork(
        labels="ImageNet",
        also=("lite0_package",),
        extractors={"efficientnet_lite0": ExtractorEntry("lite:Lite0Extractor", classes=1000, gflop=0.8)},
        backbones={
            "efficientnet_lite0": BackboneEntry(
                "sida.networks.discriminators:EfficientNetLite0", "backbone-efficientnet-lite0", 20.7
            ),
            # The weights of the extractor's package instead of a download; grey and colour pictures.
            "lite0_package": BackboneEntry("sida.networks.lite0:Lite0Backbone", gflop=20.7),
        },
    ),
    "deit": FeatureNetwork(
        labels="ImageNet",
        backbones={
            "deit_base_distilled": BackboneEntry(
                "sida.networks.discriminators:DeiTBaseDistilled", "backbone-deit-base-distilled", 165
            )
        },
    ),
    "inception": FeatureNetwork(
        labels="ImageNet",
        also=("fid", "kid"),
        paper_metrics=("fid", "is", "precision", "recall", *_SIX),
        extractors={
            "inception": ExtractorEntry("inception:InceptionExtractor", ("inception",), classes=1008, gflop=11),
            "inception_clean": ExtractorEntry("inception:InceptionCleanExtractor", ("inception",)),
            "inception_cpu": ExtractorEntry(
                "inception:InceptionCPUExtractor",
                ("inception",),
                classes=1008,
                varies="inception",
                difference="channels last, batch normalisation folded into convolutions",
            ),
        },
    ),
    "convnext": FeatureNetwork(
        labels="ImageNet",
        paper_metrics=("fdr3", *_SIX),
        extractors={
            # ConvNeXt-v2-B, spatial mean of the last map.
            "convnext_fdr": _timm(
                "judge-convnextv2-base", "convnextv2_base.fcmae_ft_in22k_in1k", 224, gflop=31, kwargs={}
            )
        },
    ),
    "dinov2": FeatureNetwork(
        labels="",
        also=("fd_dinov2",),
        paper_metrics=("fd_dinov2", "fdr3", *_SIX),
        extractors={
            "dinov2": ExtractorEntry("dinov2:DinoV2Extractor", _DINOV2, gflop=156),
            "dinov2_pil": ExtractorEntry("dinov2:DinoV2PillowExtractor", _DINOV2),
            # DINOv2 ViT-L/14, class token, at 256 padded to 266.
            "dinov2_fdr": _timm("judge-dinov2-vitl14", "vit_large_patch14_dinov2.lvd142m", 256, gflop=220),
        },
    ),
    "mae": FeatureNetwork(
        labels="",
        paper_metrics=_SIX,
        # MAE ViT-L/16, class token.
        extractors={"mae_fdr": _timm("judge-mae-vitl16", "vit_large_patch16_224.mae", 224, gflop=120)},
    ),
    "siglip2": FeatureNetwork(
        labels="",
        also=("siglip",),
        paper_metrics=_SIX,
        extractors={
            # SigLIP2 SO400M/16, attention pool, at 224 and not at its 256.
            "siglip2_fdr": _timm("judge-siglip2-so400m", "vit_so400m_patch16_siglip_256.v2_webli", 224, gflop=162)
        },
    ),
    "clip": FeatureNetwork(
        labels="",
        paper_metrics=("clip_fid", "fdr3", *_SIX),
        extractors={
            # CLIP ViT-L/14, class token after the norm.
            "clip_fdr": _timm("judge-clip-vitl14", "vit_large_patch14_clip_224.openai", 256, gflop=219),
            "clip_cmmd": ExtractorEntry("judges:ClipCMMD", ("judge-clip-vitl14-336",)),
        },
    ),
    "digits": FeatureNetwork(
        labels="digits", extractors={"digits": ExtractorEntry("digits:DigitsExtractor", classes=10)}
    ),
    "glyphs": FeatureNetwork(labels="", extractors={"glyphs": ExtractorEntry("digits:GlyphsExtractor", classes=10)}),
    "digits_backbone": FeatureNetwork(
        labels="digits",
        extractors={"digits_backbone": ExtractorEntry("digits:DigitsBackboneExtractor")},
        backbones={"digits": BackboneEntry("sida.networks.discriminators:DigitsBackbone", gflop=0.027)},
    ),
    "clothes": FeatureNetwork(
        labels="clothes",
        backbones={"clothes": BackboneEntry("sida.networks.discriminators:ClothesBackbone", gflop=0.19)},
    ),
    "clothes_plain": FeatureNetwork(
        labels="clothes", extractors={"clothes_plain": ExtractorEntry("clothes:PlainExtractor", classes=10)}
    ),
    "clothes_residual": FeatureNetwork(
        labels="clothes", extractors={"clothes_residual": ExtractorEntry("clothes:ResidualExtractor", classes=10)}
    ),
    "pixels": FeatureNetwork(labels=None, extractors={"pixels": ExtractorEntry("pixels:PixelExtractor")}),
}
# network_of finds an extractor's network by this rule.
assert all(name.startswith(key) for key, network in FEATURE_NETWORKS.items() for name in network.extractors)
#: Labels that each network learned, by its name.
LABELS = {name: network.labels for name, network in FEATURE_NETWORKS.items() if network.labels is not None}
#: Backbones of GDD's discriminator by name, and the network of each.
BACKBONES = {name: entry for network in FEATURE_NETWORKS.values() for name, entry in network.backbones.items()}
BACKBONE_NETWORKS = {name: key for key, network in FEATURE_NETWORKS.items() for name in network.backbones}
#: Word for any network that is not in this list.
OTHER = "other"
_ALSO = {name: key for key, network in FEATURE_NETWORKS.items() for name in network.also}


def network_of(name: str) -> str | None:
    """Network of a name: its key in :data:`LABELS` (``vgg16`` of ``VGG16-BN``), or ``other``; None if neither.

    Args:
        name: Name of a network, an extractor, a backbone, or a metric that stands for one.
    """
    text = re.sub(r"[^a-z0-9]+", "_", name.lower())
    if text == OTHER:
        return OTHER
    text = _ALSO.get(text, text)
    # The longest key comes first: 'digits_backbone' is not 'digits'.
    return next((key for key in sorted(LABELS, key=len, reverse=True) if text.startswith(key)), None)


def networks_of_metric(metric: str) -> list[str]:
    """Networks from whose features papers compute a metric, by its key (``fdr3``); empty if unknown."""
    return [name for name, network in FEATURE_NETWORKS.items() if metric in network.paper_metrics]
