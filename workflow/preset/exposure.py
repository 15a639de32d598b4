"""Exposure of rows beyond their sheet and method: judges in options, starts, and the choice of the kept network."""

import dataclasses
import itertools

from eval.results.identity import read_exposure
from eval.results.sheet import SheetRow
from sida.config.feature_networks import OTHER, network_of
from sida.methods.method import Exposure
from sida.methods.registry import METHODS
from workflow.preset.preset import Preset
from workflow.preset.rows import lineage, options_of, protocol_of, recipe_of, resolution_of


def with_exposure(preset: Preset) -> dict[str, SheetRow]:
    """Rows of a preset with their exposure: judges in their options, the exposure of their start, their choice."""
    rows, resolved_names = dict(preset.runs), set[str]()
    for name in preset.runs:
        # A start comes before the rows that inherit from it.
        for link in reversed([*itertools.takewhile(lambda link: link not in resolved_names, lineage(preset, name))]):
            row = rows[link]
            rows[link] = _with_exposure(preset, row, rows.get(row.init or ""))
            resolved_names.add(link)
    return rows


def _with_exposure(preset: Preset, row: SheetRow, start: SheetRow | None) -> SheetRow:
    """A row whose cell ``saw`` has its whole exposure; unchanged where its method or its cell has it already."""
    judges = _judges(preset, row)
    if judges is None or (start is not None and start.exposure is None):
        return dataclasses.replace(row, saw="unknown")
    own_exposure = Exposure(loss=judges)
    if start is not None and start.exposure is not None:
        # The choice of the start's file does not choose this row's.
        own_exposure |= Exposure(start.exposure.loss, start.exposure.start)
    if row.trained_here and row.exposure is not None:
        own_exposure |= Exposure(choice=_selection(preset, row))
    exposure = row.exposure or own_exposure
    if (
        not own_exposure.loss
        and {*own_exposure.start} <= {*exposure.loss, *exposure.start}
        and {*own_exposure.choice} <= {*exposure.choice}
    ):
        return row
    cell = None if row.saw is None else read_exposure(row.saw)
    return dataclasses.replace(row, saw=str(own_exposure | (cell or Exposure())))


def _judges(preset: Preset, row: SheetRow) -> tuple[str, ...] | None:
    """Networks that the options of a row's method name as judges; None if one is unknown."""
    if not (row.trained_here and row.method in METHODS and METHODS[row.method].has_judges):
        return ()
    judges = [name for name in options_of(preset, row).loss_networks(resolution_of(preset, row)) if name != "pixels"]
    networks = [network_of(name) for name in judges]
    # A custom judge can be any network.
    return None if None in networks else tuple(filter(None, networks))


def _selection(preset: Preset, row: SheetRow) -> tuple[str, ...]:
    """Network of the metric by which a training's evaluations choose the file; none without evaluations."""
    protocol = protocol_of(preset, row)
    if not recipe_of(preset, row).get("evaluation") or protocol.selection_key is None:
        return ()
    extractor = protocol.metric(protocol.selection_key).extractor
    return () if extractor == "pixels" else (network_of(extractor) or OTHER,)
