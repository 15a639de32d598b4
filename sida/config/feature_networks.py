"""Feature networks of metrics, discriminators and published generators: their labels, and the backbones of GDD.

A row of ``config/assets.tsv`` has the address, digest and licence of a network's weights. Extractors for metrics are in
:mod:`sida.eval.features.registry`. This module does not import torch, for presets, sheets and plans.
"""

import re

from sida.config.feature_entries import BackboneEntry, FeatureNetwork
from sida.config.registries import Registry

_SIX = ("fdr6", "sw_r14")
#: Feature networks by name, also those that only published generators were trained or measured by.
FEATURE_NETWORKS = Registry(
    "feature network",
    "",
    {
        "vgg16": FeatureNetwork(labels="ImageNet", also=("lpips",)),
        "efficientnet_lite0": FeatureNetwork(labels="ImageNet"),
        "deit": FeatureNetwork(labels="ImageNet"),
        "inception": FeatureNetwork(
            labels="ImageNet", also=("fid", "kid"), paper_metrics=("fid", "is", "precision", "recall", *_SIX)
        ),
        "convnext": FeatureNetwork(labels="ImageNet", paper_metrics=("fdr3", *_SIX)),
        "dinov2": FeatureNetwork(labels="", also=("fd_dinov2",), paper_metrics=("fd_dinov2", "fdr3", *_SIX)),
        "mae": FeatureNetwork(labels="", paper_metrics=_SIX),
        "siglip2": FeatureNetwork(labels="", also=("siglip",), paper_metrics=_SIX),
        "clip": FeatureNetwork(labels="", paper_metrics=("clip_fid", "fdr3", *_SIX)),
        "digits": FeatureNetwork(labels="digits"),
        "glyphs": FeatureNetwork(labels=""),
        "digits_backbone": FeatureNetwork(labels="digits"),
        "pixels": FeatureNetwork(labels=None),
    },
    "feature_networks",
)
#: Labels that each network learned, by its name.
LABELS = {name: network.labels for name, network in FEATURE_NETWORKS.items() if network.labels is not None}
_DISCRIMINATORS = "sida.networks.discriminators"
#: Backbones of GDD's discriminator by name.
BACKBONES = Registry(
    "backbone",
    "",
    {
        "vgg16_bn": BackboneEntry(f"{_DISCRIMINATORS}:VGG16BN", "vgg16", "backbone-vgg16-bn", 198),
        "efficientnet_lite0": BackboneEntry(
            f"{_DISCRIMINATORS}:EfficientNetLite0", "efficientnet_lite0", "backbone-efficientnet-lite0", 20.7
        ),
        "deit_base_distilled": BackboneEntry(
            f"{_DISCRIMINATORS}:DeiTBaseDistilled", "deit", "backbone-deit-base-distilled", 165
        ),
        "digits": BackboneEntry(f"{_DISCRIMINATORS}:DigitsBackbone", "digits_backbone", gflop=0.027),
    },
    "backbones",
)
#: Word for any network that is not in this list.
OTHER = "other"
_ALSO = {name: key for key, network in FEATURE_NETWORKS.items() for name in network.also}
_ALSO |= {name: backbone.network for name, backbone in BACKBONES.items() if name not in LABELS}


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
