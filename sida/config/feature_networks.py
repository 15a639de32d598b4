"""Feature networks of metrics, discriminators and published generators: their labels, and the backbones of GDD.

A row of ``config/assets.tsv`` has the address, digest and licence of a network's weights. This module does not import
torch, for presets, sheets and plans.
"""

import re
from collections.abc import Mapping

from sida.config.registries import BackboneEntry, FeatureNetwork, entries

#: Feature networks by name, also those that only published generators were trained or measured by.
FEATURE_NETWORKS: Mapping[str, FeatureNetwork] = entries("feature_networks")
#: Backbones of GDD's discriminator by name.
BACKBONES: Mapping[str, BackboneEntry] = entries("backbones")
#: Labels that each network learned, by its name.
LABELS = {name: network.labels for name, network in FEATURE_NETWORKS.items() if network.labels is not None}
#: Word for the exposure of a network that nobody states, in the header of its file and in records of measurements.
UNKNOWN = "unknown"
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
