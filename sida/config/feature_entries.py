"""Entries of the registries of feature networks: a network, an extractor for metrics, a backbone for GDD.

The core's are in :mod:`sida.config.feature_networks` and :mod:`sida.eval.features.registry`. No entry imports torch.
"""

from dataclasses import dataclass

from sida.config.registries import RegistryEntry

#: Word for the exposure of a network that nobody states, in the header of its file and in records of measurements.
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A network by whose features generators are measured or trained, here or by papers.

    Attributes:
        labels: Data set whose labels it learned; networks with equal labels count as alike. Empty: no other network
            learned its labels. None: the pixels themselves, without a network.
        also: Names of metrics and losses that mean the network in a row's exposure and begin otherwise.
        paper_metrics: Metrics of papers that are computed from its features.
    """

    labels: str | None
    also: tuple[str, ...] = ()
    paper_metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExtractorEntry(RegistryEntry):
    """An extractor of features for metrics: a network with one way to prepare its input.

    Its name begins with the name of the network.

    Attributes:
        made_by: ``module:class``.
        assets: Ids of its downloads in ``config/assets.tsv``; empty for weights of a package.
        classes: Number of its class probabilities; None: unknown.
        gflop: Operations for one picture in float32, in GFLOP, for plans; 0: negligible or not counted.
        varies: Extractor of which this one is a faster variant for processors. The two differ by rounding, as two
            devices do.
        difference: Text that the digest of such a variant has besides the digest of the network's file.
    """

    assets: tuple[str, ...] = ()
    classes: int | None = 0
    gflop: float = 0.0
    varies: str | None = None
    difference: str = ""


@dataclass(frozen=True)
class BackboneEntry(RegistryEntry):
    """A frozen backbone of GDD's discriminator.

    Attributes:
        network: Name of the feature network.
        asset: Id of its weights in ``config/assets.tsv``; None for weights that an installation has.
        gflop: Operations of an iteration in it and in its heads, in GFLOP per image, for plans, without R1.
    """

    network: str
    asset: str | None = None
    gflop: float = 0.0
