"""Files and downloads that measuring a row reads besides its network, by a protocol, its data set and sampler."""

from eval.features import extractor_entry
from eval.measuring.protocol import Protocol
from eval.results.sheet import SheetRow
from workflow.preset.jobs import code_files, data_files
from workflow.preset.preset import Preset
from workflow.preset.rows import class_counts, dataset_named, dataset_of, latents_of, protocol_of, sampler_of


def add_protocol_needs(preset: Preset, row: SheetRow, protocol: Protocol, needs: dict[str, list[str]]) -> None:
    """Adds what a protocol reads for a row: downloads, archives, and files of its custom kinds and extractors.

    Args:
        preset: The preset.
        row: The row.
        protocol: The row's protocol, or the part of it that is measured.
        needs: Names of inputs by kind, as :func:`~workflow.preset.jobs.needs_of` returns them; changed in place.
    """
    names = [name for metric in protocol.metrics for name in (metric.kind, metric.extractor)]
    references = [dataset_named(preset, name, where) for where, name in protocol.fixed_datasets().items()]
    needs["downloads"] += downloads_of(preset, row, protocol)
    needs["files"] += [*code_files(names), *(path for spec in references for path in data_files(preset, spec))]


def downloads_of(preset: Preset, row: SheetRow, protocol: Protocol) -> list[str]:
    """Registered downloads for measuring a row by a protocol, besides its network: references, extractors, decoder."""
    assets = [source.asset for source in protocol.sources.values()]
    assets += [asset for extractor in protocol.extractors() for asset in extractor_entry(extractor).assets]
    if protocol.decodes and not row.without_network:
        assets += latents_of(preset, row).assets(sampler_of(preset, row).get("decoder"))
    if isinstance(counts := class_counts(preset, row), str):
        assets.append(counts)
    return sorted({asset for asset in assets if asset})


def drawn_from_data(preset: Preset, row: SheetRow) -> bool:
    """Whether a row's images, or their classes, are drawn from its data set."""
    protocol, classes = protocol_of(preset, row), bool(dataset_of(preset, row).get("label_dim"))
    # A data set is not needed without classes, or if they are counted.
    counted = protocol.label_dist != "empirical" or protocol.labels is not None
    return row.method == "data" or (classes and not row.without_network and not counted)
