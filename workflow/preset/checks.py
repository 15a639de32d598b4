"""Checks a whole preset before its first job, so that faults do not stop the run after the trainings."""

import os
from pathlib import Path

from sida import networks
from sida.assets.registry import Asset, find_asset, is_address, load_registry
from sida.config.datasets import dataset_spec
from sida.config.families import NULL_LABEL, check_decoder
from sida.errors import UserError, errors_at, settings_in, suggestion
from sida.eval.features import extractor_entry
from sida.eval.measuring.protocol import Protocol, ReferenceSource
from sida.workflow.preset.networks import NETWORK_FILES
from sida.workflow.preset.preset import Preset
from sida.workflow.preset.product_checks import check_products
from sida.workflow.preset.rows import Row
from sida.workflow.preset.training_checks import check_count, check_trainings


def check_preset(preset: Preset) -> None:
    """Checks protocols, assets, tables, figures and claims of a preset against its sample sheet.

    Only the configuration is read: no data, network or image.

    Raises:
        UserError: The first fault, with its file and key.
    """
    registry, named = load_registry(), {*preset.runs, *(cells.method for cells in preset.runs.values())}
    if unknown := next((name for name in preset.settings.without if name not in named), None):
        fault = f"'{unknown}' is no row and no method of {preset.sheet}{suggestion(unknown, named)}"
        raise UserError(f"{preset.source}: without", fault)
    for path, protocol in {row.protocol_path: row.protocol for row in preset.rows.values()}.items():
        check_count(protocol, protocol.num_samples, f"{path}:")
        _check_protocol(path, protocol, registry)
    for row in preset.rows.values():
        _check_files(preset, row, registry)
        _check_images(row)
    check_trainings(preset)
    check_products(preset)


def _check_protocol(path: str, protocol: Protocol, registry: dict[str, Asset]) -> None:
    for metric in protocol.metrics:
        where = f"{path}: metric '{metric.key}'"
        for asset in _assets(metric.extractor, where):
            with errors_at(f"{where}: extractor '{metric.extractor}'"):
                find_asset(registry, asset)
        if metric.classifies and extractor_entry(metric.extractor).classes == 0:
            raise UserError(
                where, f"extractor '{metric.extractor}' has no classes for kind '{metric.kind}'", "name another"
            )
        for key in metric.references:
            _check_reference(path, key, protocol.sources[key], where, registry)


def _check_reference(path: str, key: str, source: ReferenceSource, where: str, registry: dict[str, Asset]) -> None:
    if source.kind == "dataset":
        if source.fixed and source.spec is None:
            dataset_spec(str(source.dataset), f"{path}: references.{key}")
        return
    if source.asset is None:
        raise UserError(
            where,
            f"its reference '{key}' is a file that only `sida score --reference` can be given",
            "name an asset, or take the metric out of the preset's protocol",
        )
    with errors_at(f"{path}: references.{key}.asset"):
        find_asset(registry, source.asset)


def _assets(extractor: str, where: str) -> tuple[str, ...]:
    """Downloads of a feature network."""
    try:
        return extractor_entry(extractor).assets
    except UserError as error:
        raise UserError(where, error) from None


def _check_files(preset: Preset, row: Row, registry: dict[str, Asset]) -> None:
    """Checks that the networks and images that a row names exist."""
    where, cells, teachers = row.where, row.cells, preset.settings.teachers
    teacher = teachers.get(cells.teacher or "") if cells.trained_here else None
    guide = teachers.get(cells.guide or "")
    files = {"guide": guide.checkpoint if guide else cells.guide, "teacher": teacher.checkpoint if teacher else None}
    if not cells.without_network:
        files["checkpoint"] = cells.checkpoint
    for column, name in files.items():
        # A network of this preset's own results is made before it is read.
        if name in (None, NULL_LABEL) or os.path.exists(name) or name.startswith(f"{preset.results}/"):
            continue
        if not is_address(name) and Path(name).suffix in NETWORK_FILES:
            raise UserError(f"{where}: {column}", f"no such file '{name}'")
        if column == "guide" and name not in registry and not is_address(name):
            near = suggestion(name, teachers)
            raise UserError(where, f"guide: no teacher of {preset.source} and no asset '{name}'{near}")
        with errors_at(f"{where}: {column}"):
            find_asset(registry, name)
    if row.sampler["kind"] == "images" and not os.path.exists(row.sampler["path"]):
        fault = f"checkpoint: no such images '{row.sampler['path']}', and not of the form module:function"
        raise UserError(where, fault)


def _check_images(row: Row) -> None:
    """Checks that a row's decoder fits its network, and that its images fit its protocol."""
    protocol, network = row.protocol, row.architecture
    if network and not row.cells.without_network:
        decoder = row.sampler.get("decoder")
        with settings_in(f"{row.where}: sampler '{row.cells.sampler}'"):
            check_decoder(decoder, networks.network_latents(network) if decoder else None)
    for key in ("resolution", "channels") if not protocol.decodes else ():
        expected, actual = getattr(protocol, key), row.data.get(key)
        if expected and actual and expected != actual:
            raise UserError(
                row.where,
                f"protocol '{protocol.name}' is for {key} {expected}, data set '{row.data['name']}' has {actual}",
                "name another protocol or data set",
            )
