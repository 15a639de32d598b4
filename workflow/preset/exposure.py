"""Exposure of rows beyond their sheet and method: judges in options, starts, and the choice of the kept network."""

import dataclasses

from eval.results.identity import read_exposure
from sida.config.feature_networks import OTHER, network_of
from sida.methods.method import Exposure
from sida.methods.registry import METHODS
from workflow.preset.rows import Row


def with_exposure(row: Row) -> Row:
    """A row whose cell ``saw`` has its whole exposure; unchanged where its method or its cell has it already."""
    cells, start = row.cells, row.start.cells if row.start else None
    judges = _judges(row)
    if judges is None or (start is not None and start.exposure is None):
        return _with_cell(row, "unknown")
    own_exposure = Exposure(loss=judges)
    if start is not None and start.exposure is not None:
        # The choice of the start's file does not choose this row's.
        own_exposure |= Exposure(start.exposure.loss, start.exposure.start)
    if row.method is not None and cells.exposure is not None:
        own_exposure |= Exposure(choice=_selection(row))
    exposure = cells.exposure or own_exposure
    if (
        not own_exposure.loss
        and {*own_exposure.start} <= {*exposure.loss, *exposure.start}
        and {*own_exposure.choice} <= {*exposure.choice}
    ):
        return row
    cell = None if cells.saw is None else read_exposure(cells.saw)
    return _with_cell(row, str(own_exposure | (cell or Exposure())))


def _with_cell(row: Row, saw: str) -> Row:
    return dataclasses.replace(row, cells=dataclasses.replace(row.cells, saw=saw))


def _judges(row: Row) -> tuple[str, ...] | None:
    """Networks that the options of a row's method name as judges; None if one is unknown."""
    if row.method is None or row.cells.method not in METHODS or not row.method.has_judges:
        return ()
    judges = [name for name in row.options.loss_networks(row.resolution) if name != "pixels"]
    networks = [network_of(name) for name in judges]
    # A custom judge can be any network.
    return None if None in networks else tuple(filter(None, networks))


def _selection(row: Row) -> tuple[str, ...]:
    """Network of the metric by which a training's evaluations choose the file; none without evaluations."""
    protocol = row.protocol
    if not row.recipe.get("evaluation") or protocol.selection_key is None:
        return ()
    extractor = protocol.metric(protocol.selection_key).extractor
    return () if extractor == "pixels" else (network_of(extractor) or OTHER,)
