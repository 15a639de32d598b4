"""Files and downloads that measuring a row reads besides its network, by its protocol, data set and sampler."""

from eval.features import extractor_entry
from eval.results.sheet import SheetRow
from workflow.preset.archives import archive_of
from workflow.preset.jobs import code_files
from workflow.preset.preset import Preset
from workflow.preset.rows import class_counts, dataset_named, dataset_of, latents_of, protocol_of, sampler_of


def with_protocol_needs(preset: Preset, row: SheetRow, needs: dict[str, list[str]]) -> dict[str, list[str]]:
    """Adds what a row's protocol reads: downloads, archives, and files of its custom kinds and extractors."""
    protocol = protocol_of(preset, row)
    names = [name for metric in protocol.metrics for name in (metric.kind, metric.extractor)]
    references = [dataset_named(preset, name, where) for where, name in protocol.fixed_datasets().items()]
    needs["downloads"] += downloads(preset, row)
    needs["files"] += [*code_files(names), *(path for spec in references for path in archive_of(preset, spec))]
    return needs


def downloads(preset: Preset, row: SheetRow) -> list[str]:
    """Registered downloads for measuring a row, besides its network: references, extractors, a decoder."""
    protocol = protocol_of(preset, row)
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
