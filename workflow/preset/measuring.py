"""Jobs that measure rows (``sida measure``) and write their images (``sida sample``)."""

from typing import Any

from sida.config.samplers import SAMPLER_KINDS
from workflow.preset.jobs import Job, common_settings, data_files, make_job, needs_of, source_of
from workflow.preset.measuring_needs import add_protocol_needs, drawn_from_data
from workflow.preset.networks import generator, network_path, sampler_guide
from workflow.preset.once import once
from workflow.preset.preset import Preset
from workflow.preset.rows import class_counts, dataset_of, nfe_of, protocol_of, sampler_of
from workflow.preset.trainings import trainings_of


@once
def measurement(preset: Preset, name: str) -> Job:
    """Measurement of a row: the generator, its sampler, and the protocol."""
    row, protocol = preset.runs[name], protocol_of(preset, preset.runs[name])
    network, guide, dataset = generator(preset, row), sampler_guide(preset, row), dataset_of(preset, row)
    spec: dict[str, Any] = {"run": name, "method": row.method}
    spec |= {"network": network_path(preset, network), "guide": network_path(preset, guide)}
    spec |= {"sampler": sampler_of(preset, row), "nfe": nfe_of(preset, row), "dataset": dataset}
    spec |= {"protocol": protocol.content(), **common_settings(preset)}
    opened = drawn_from_data(preset, row) or any(source.kind == "dataset" for source in protocol.sources.values())
    needs = needs_of([network, guide], data_files(preset, dataset) if opened else [])
    if row.method == "external" and row.without_network and (source := source_of(str(row.checkpoint))):
        needs["files"].append(source)
    add_protocol_needs(preset, row, protocol, needs)
    return make_job(preset, "measurements", spec, needs, trainings_of(preset, needs))


def sampling(preset: Preset, name: str) -> Job:
    """Images of a row's trial, ``<row>/trial-<t>``."""
    run, trial = name.rsplit("/trial-", 1)
    row, measurement_job = preset.runs[run], measurement(preset, run)
    protocol, dataset = protocol_of(preset, row), dataset_of(preset, row)
    first, last = protocol.seeds(int(trial))
    classes = protocol.label_dist if dataset.get("label_dim") else "uniform"
    spec = {
        "network": measurement_job.spec["network"],
        "gnet": measurement_job.spec["guide"],
        "sampler": sampler_of(preset, row),
    }
    spec |= {"seeds": f"{first}-{last}", "class_labels": class_counts(preset, row) or classes}
    spec |= {"dataset": dataset if drawn_from_data(preset, row) else None, **common_settings(preset)}
    return make_job(preset, "samples", spec, measurement_job.needs, trainings_of(preset, measurement_job.needs))


def sampled_rows(preset: Preset) -> list[str]:
    """Rows whose images ``sida sample`` can write: rows with a sampler of this package and without a decoder."""
    return [
        name
        for name, row in preset.runs.items()
        if not protocol_of(preset, row).decodes and sampler_of(preset, row)["kind"] in SAMPLER_KINDS
    ]


def measuring_parts(preset: Preset) -> list[tuple[int, int, list[str]]]:
    """Jobs of measuring: first trial, last trial, rows; samplers of many steps have several."""
    trials = preset.trials
    size, slow = preset.settings.trials_per_job or trials, list[str]()
    if size < trials:
        slow = [name for name, row in preset.runs.items() if (nfe_of(preset, row) or 1) > 1]
    quick = list(preset.runs) if not slow else [name for name in preset.runs if name not in {*slow}]
    together = [(0, trials - 1, quick)] if quick else []
    return together + [(first, min(first + size, trials) - 1, slow) for first in range(0, trials, size) if slow]
