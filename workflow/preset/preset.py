"""A preset with its sample sheet, read and resolved once: plain data, from which the other modules make jobs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sida.assets.cache import absence
from sida.assets.registry import find_asset, is_address, load_registry
from sida.config.named_files import find_file
from sida.errors import UserError
from sida.eval.claims.claim import Claim, load_claims
from sida.eval.measuring.protocol import Protocol
from sida.eval.results.sheet import SheetRow
from sida.workflow.preset.data_sets import Archives, DataSets
from sida.workflow.preset.rows import Row, Teacher
from sida.workflow.preset.settings import PresetSettings


@dataclass(frozen=True, eq=False)
class Preset:
    """A checked preset; :func:`sida.workflow.preset.load_preset` reads one.

    Attributes:
        source: Files of the preset, as errors name them.
        folders: Folders that are searched first for files that the preset or its sheet names
            (:mod:`sida.config.lookup`).
        settings: Keys of the files; names of files are paths, and recipes of other files are among ``recipes``.
        layouts: Layouts by the names of their products, for ``tables`` and ``figures``.
        rows: Rows of the sheet by name, then their second measurements.
        teachers: Teachers by name.
        protocol: Protocol of rows that name none.
        data: Data sets by name.
        archives: Archives of the data sets.
        imports: Published checkpoints that the preset imports: folder name to asset id, address or path.
        code: Code from outside the package that the files name, with the places.
        taken: Rows that are taken from stored results.
    """

    source: str
    folders: tuple[Path, ...]
    settings: PresetSettings
    layouts: Mapping[str, Mapping[str, Path]]
    rows: Mapping[str, Row]
    teachers: Mapping[str, Teacher]
    protocol: Protocol
    data: DataSets
    archives: Archives
    imports: Mapping[str, str]
    code: Mapping[str, str]
    taken: frozenset[str] = frozenset()

    @functools.cached_property
    def runs(self) -> dict[str, SheetRow]:
        """Cells of all rows by name, as builders of tables, figures and claims take them."""
        return {name: row.cells for name, row in self.rows.items()}

    @property
    def name(self) -> str:
        """Name of the preset."""
        return self.settings.preset

    @property
    def results(self) -> str:
        """Folder of all products, relative to the working folder."""
        return f"results/{self.name}"

    @property
    def sheet(self) -> str:
        """Path of the sample sheet."""
        return self.settings.runs

    @property
    def stored(self) -> Mapping[str, Any]:
        """Stored results that rows are taken from; empty for a preset that is not an extension."""
        return self.settings.stored or {}

    def layout(self, kind: str, name: str) -> Path:
        """Layout of a table or figure (kind ``tables`` or ``figures``), by the name of its product."""
        if name in self.layouts[kind]:
            return self.layouts[kind][name]
        return find_file(kind, name, self.folders, f"{self.source}: {kind}")

    @functools.cached_property
    def trained_teachers(self) -> list[str]:
        """Ids of the teachers that are trained and not downloaded."""
        return [name for name, teacher in self.settings.teachers.items() if teacher.training]

    @functools.cached_property
    def students(self) -> list[SheetRow]:
        """Cells of the rows that are distilled here."""
        return [row for row in self.runs.values() if row.trained_here]

    @functools.cached_property
    def starts(self) -> set[str]:
        """Rows that others start from."""
        return {row.start.run for row in self.rows.values() if row.start}

    @functools.cached_property
    def left_out(self) -> dict[str, str]:
        """Rows that cannot be measured or that ``without`` names: row to reason.

        The checkpoint of a row has no public address and is not in the cache, or the row is :attr:`absent`. Tables list
        these rows as not measured; they return when the file is in the cache (``sida assets list``).
        """
        registry = load_registry() if any(row.checkpoint for row in self.runs.values()) else {}
        missing = {name for name, asset in registry.items() if not asset.urls and not asset.path.exists()}
        rows = {row.run: row.checkpoint for row in self.runs.values() if row.checkpoint in missing}
        unlinked = {run: f"{checkpoint} has no public address" for run, checkpoint in rows.items()}
        return unlinked | dict.fromkeys(self.unwanted, "named by `without`") | self.absent

    @functools.cached_property
    def unwanted(self) -> list[str]:
        """Rows that ``without`` names."""
        without = {*self.settings.without}
        return [row.run for row in self.runs.values() if without & {row.run, row.first, row.method}]

    @functools.cached_property
    def absent(self) -> dict[str, str]:
        """Rows of which no server had a published network at the last attempt: row to reason.

        The network is the row's own, a guide, or one that its training starts from. ``sida assets fetch`` asks again.
        """
        registry = load_registry() if self.imports else {}
        known = {name: source for name, source in self.imports.items() if is_address(source) or source in registry}
        assets = {name: find_asset(registry, source) for name, source in known.items()}
        gone = {name: f"{asset.id}: {answers}" for name, asset in assets.items() if (answers := absence(asset))}
        rows = {}
        for row in self.rows.values() if gone else ():
            links = [network for one in row.lineage() for network in (one.network, one.guide, one.teacher_network)]
            needed = [network.name for network in links if network is not None and network.kind == "imports"]
            if (name := next((name for name in needed if name in gone), None)) and row.run not in self.taken:
                rows[row.run] = gone[name]
        return rows

    @functools.cached_property
    def measurable(self) -> dict[str, SheetRow]:
        """Rows that can be measured here: without :attr:`left_out`, and without rows that an extension does not run."""
        excluded = {*self.left_out, *self.stored.get("waiting", "").split()}
        return {name: row for name, row in self.runs.items() if name not in excluded}

    @functools.cached_property
    def judged(self) -> dict[str, SheetRow]:
        """Rows that claims are about: all but the rows that an extension adds to a study."""
        new_names = self.stored.get("added", "").split()
        return {name: row for name, row in self.runs.items() if name not in new_names}

    @property
    def judged_sheet(self) -> str:
        """Sample sheet of the rows that claims are about."""
        return str(self.stored.get("sheet") or self.sheet)

    @functools.cached_property
    def claims(self) -> list[Claim]:
        """Claims of the preset's file; empty without such a file.

        Raises:
            UserError: A faulty file.
        """
        return load_claims(self.settings.claims).claims if self.settings.claims else []

    @functools.cached_property
    def trials(self) -> int:
        """Number of evaluation trials of the preset's protocols.

        Raises:
            UserError: Protocols differ in it.
        """
        counts = {row.protocol_path: row.protocol.trials for row in self.rows.values()}
        counts[self.settings.protocol] = self.protocol.trials
        if len(set(counts.values())) > 1:
            fault = f"protocols differ in trials: {dict(sorted(counts.items()))}"
            raise UserError(self.sheet, fault, "use one number within a preset")
        return self.protocol.trials
