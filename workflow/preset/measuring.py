"""Jobs that measure rows (``sida measure``) and write their images (``sida sample``)."""

from typing import Any

from sida.config.samplers import SAMPLER_KINDS
from sida.eval.measuring.protocol import Protocol
from sida.workflow.preset.jobs import Job, code_files, common_settings, data_files, needs_of, source_of
from sida.workflow.preset.preset import Preset


def measurement(preset: Preset, name: str) -> Job:
    """Measurement of a row: the generator, its sampler, and the protocol."""
    row = preset.rows[name]
    network, guide, cells = row.network, row.sampler_guide, row.cells
    spec: dict[str, Any] = {"run": name, "method": cells.method}
    spec |= {"network": network and network.path, "guide": guide and guide.path}
    spec |= {"sampler": row.sampler, "nfe": row.nfe, "dataset": row.data}
    spec |= {"protocol": row.protocol.content(), **common_settings(preset)}
    needs = needs_of([network, guide], data_files(preset, row.data) if row.measured_with_data else [])
    if cells.method == "external" and cells.without_network and (source := source_of(str(cells.checkpoint))):
        needs["files"].append(source)
    needs["downloads"] += sorted(row.protocol.assets(row.decoder))
    needs["files"] += protocol_files(preset, row.protocol)
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


def protocol_files(preset: Preset, protocol: Protocol) -> list[str]:
    """Files that a protocol reads: archives of fixed references, and source files of custom kinds and extractors."""
    names = [name for metric in protocol.metrics for name in (metric.kind, metric.extractor)]
    references = [preset.data.named(name, where) for where, name in protocol.fixed_datasets().items()]
    return [*code_files(names), *(path for spec in references for path in data_files(preset, spec))]


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
