"""Jobs that measure rows (``sida measure``) and write their images (``sida sample``)."""

from typing import Any

from eval.features import extractor_entry
from eval.measuring.protocol import Protocol
from sida.config.samplers import SAMPLER_KINDS
from workflow.preset.jobs import Job, code_files, common_settings, data_files, needs_of, source_of
from workflow.preset.preset import Preset
from workflow.preset.rows import Row


def measurement(preset: Preset, name: str) -> Job:
    """Measurement of a row: the generator, its sampler, and the protocol."""
    row = preset.rows[name]
    network, guide, cells = row.network, row.sampler_guide, row.cells
    spec: dict[str, Any] = {"run": name, "method": cells.method}
    spec |= {"network": network and network.path, "guide": guide and guide.path}
    spec |= {"sampler": row.sampler, "nfe": row.nfe, "dataset": row.data}
    spec |= {"protocol": row.protocol.content(), **common_settings(preset)}
    opened = row.drawn_from_data or any(source.kind == "dataset" for source in row.protocol.sources.values())
    needs = needs_of([network, guide], data_files(preset, row.data) if opened else [])
    if cells.method == "external" and cells.without_network and (source := source_of(str(cells.checkpoint))):
        needs["files"].append(source)
    add_protocol_needs(preset, row, row.protocol, needs)
    return Job("measurements", spec, needs)


def sampling(preset: Preset, name: str) -> Job:
    """Images of a row's trial, ``<row>/trial-<t>``."""
    run, trial = name.rsplit("/trial-", 1)
    row, measured = preset.rows[run], measurement(preset, run)
    first, last = row.protocol.seeds(int(trial))
    classes = row.protocol.label_dist if row.data.get("label_dim") else "uniform"
    spec = {"network": measured.spec["network"], "gnet": measured.spec["guide"], "sampler": row.sampler}
    spec |= {"seeds": f"{first}-{last}", "class_labels": row.class_counts or classes}
    spec |= {"dataset": row.data if row.drawn_from_data else None, **common_settings(preset)}
    return Job("samples", spec, measured.needs)


def add_protocol_needs(preset: Preset, row: Row, protocol: Protocol, needs: dict[str, list[str]]) -> None:
    """Adds what a protocol reads for a row: downloads, archives, and files of its custom kinds and extractors.

    Args:
        preset: The preset.
        row: The row.
        protocol: The row's protocol, or the part of it that is measured.
        needs: Names of inputs by kind, as :func:`~workflow.preset.jobs.needs_of` returns them; changed in place.
    """
    names = [name for metric in protocol.metrics for name in (metric.kind, metric.extractor)]
    references = [preset.data.named(name, where) for where, name in protocol.fixed_datasets().items()]
    needs["downloads"] += downloads_of(row, protocol)
    needs["files"] += [*code_files(names), *(path for spec in references for path in data_files(preset, spec))]


def downloads_of(row: Row, protocol: Protocol) -> list[str]:
    """Registered downloads for measuring a row by a protocol, besides its network: references, extractors, decoder."""
    assets = [source.asset for source in protocol.sources.values()]
    assets += [asset for extractor in protocol.extractors() for asset in extractor_entry(extractor).assets]
    if protocol.decodes and not row.cells.without_network:
        assets += row.latents.assets(row.sampler.get("decoder"))
    if isinstance(row.class_counts, str):
        assets.append(row.class_counts)
    return sorted({asset for asset in assets if asset})


def sampled_rows(preset: Preset) -> list[str]:
    """Rows whose images ``sida sample`` can write: rows with a sampler of this package and without a decoder."""
    return [
        name for name, row in preset.rows.items() if not row.protocol.decodes and row.sampler["kind"] in SAMPLER_KINDS
    ]


def measuring_parts(preset: Preset) -> list[tuple[int, int, list[str]]]:
    """Jobs of measuring: first trial, last trial, rows; samplers of many steps have several."""
    trials = preset.trials
    size, slow = preset.settings.trials_per_job or trials, list[str]()
    if size < trials:
        slow = [name for name, row in preset.rows.items() if (row.nfe or 1) > 1]
    quick = list(preset.rows) if not slow else [name for name in preset.rows if name not in {*slow}]
    together = [(0, trials - 1, quick)] if quick else []
    return together + [(first, min(first + size, trials) - 1, slow) for first in range(0, trials, size) if slow]
