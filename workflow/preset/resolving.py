"""Resolves the rows of a preset once, and refuses a faulty row when the preset is loaded."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sida import networks
from sida.assets.registry import is_counted
from sida.config.datasets import dataset_spec
from sida.config.families import EDM2_LATENTS, NULL_LABEL, check_guidance, check_guide_images
from sida.config.feature_networks import OTHER, UNKNOWN, network_of
from sida.config.labels import remedy
from sida.config.lookup import load_object
from sida.config.samplers import SAMPLER_KINDS, read_sampler
from sida.config.settings import names_object
from sida.errors import SettingError, UserError, settings_in, suggestion
from sida.eval.measuring.protocol import Protocol, load_protocol
from sida.eval.results.identity import read_exposure
from sida.eval.results.sheet import SheetRow
from sida.methods.method import Exposure, Method
from sida.methods.registry import METHODS, find_method
from sida.workflow.preset.data_sets import DataSets
from sida.workflow.preset.networks import NULL_NETWORK, Network, NetworkFiles
from sida.workflow.preset.rows import Row, Teacher
from sida.workflow.preset.settings import PresetSettings, TeacherEntry


class Resolver:
    """Resolves the rows of a preset and checks what they refer to.

    Args:
        settings: The preset's settings, with paths instead of names of files.
        source: File of the preset, for errors.
        data: Its data sets.
        files: Its network files.
        second_protocols: Paths of second protocols by the name of the first.
    """

    def __init__(
        self,
        settings: PresetSettings,
        source: str,
        data: DataSets,
        files: NetworkFiles,
        second_protocols: Mapping[str, str],
    ) -> None:
        self._settings, self._source, self._data = settings, source, data
        self._files, self._second_protocols = files, second_protocols
        self._protocols: dict[str, Protocol] = {}
        self.teachers = {name: self._teacher(name, entry) for name, entry in settings.teachers.items()}

    def protocol(self, path: str) -> Protocol:
        """The protocol of a file, read once; its fixed references have the specs of the preset's own data sets."""
        if path not in self._protocols:
            protocol, datasets = load_protocol(path), self._settings.datasets
            references = {
                key: {**protocol.references[key], "spec": dataset_spec(reference.dataset, self._source, datasets)}
                for key, reference in protocol.sources.items()
                if reference.fixed and reference.dataset in datasets
            }
            if references:
                protocol = dataclasses.replace(protocol, references=protocol.references | references)
            self._protocols[path] = protocol
        return self._protocols[path]

    def _teacher(self, name: str, entry: TeacherEntry) -> Teacher:
        where = f"{self._source}: teachers.{name}"
        _check_object(str((entry.network or {}).get("class")), f"{where}.network.class", "class")
        data = self._data.named(entry.dataset, f"{where}.dataset" if entry.dataset else where)
        published = entry.checkpoint
        network = self._files.published(published) if published else self._files.made("teachers", name)
        seed = self._settings.seed if entry.seed is None else entry.seed
        return Teacher(name, where, entry, data, seed, network)

    def rows(self, sheet: Iterable[SheetRow]) -> dict[str, Row]:
        """Rows of the sheet, then their second measurements.

        Raises:
            UserError: The first fault, with the row that has it.
        """
        cells = {row.run: row for row in sheet}
        rows: dict[str, Row] = {}
        for run in cells:
            # A start comes before the rows that start from it.
            for link in reversed(self._unresolved(run, cells, rows)):
                rows[link] = self._row(cells[link], cells, rows)
        rows = {run: rows[run] for run in cells}
        for first in [row for row in rows.values() if row.cells.second_protocol is not None]:
            second = self._second(first)
            if second.run in rows:
                where = f"{first.where}: second_protocol"
                raise UserError(where, f"'{second.run}' is a row of its own", "rename or remove it")
            rows[second.run] = second
        return rows

    def _unresolved(self, run: str, cells: Mapping[str, SheetRow], rows: Mapping[str, Row]) -> list[str]:
        """A row and the rows that it starts from, the nearest first, without those that are resolved."""
        chain: dict[str, None] = {}
        while run in cells and run not in rows:
            row = cells[run]
            if run in chain:
                raise UserError(self._where(run), f"init goes in a circle through '{row.init}'")
            chain[run] = None
            run = row.init or "" if row.trained_here else ""
        return [*chain]

    def _where(self, run: str) -> str:
        return f"{self._settings.runs}: run '{run}'"

    def _row(self, row: SheetRow, sheet: Mapping[str, SheetRow], rows: Mapping[str, Row]) -> Row:
        settings, where = self._settings, self._where(row.run)
        path = row.protocol or settings.protocol
        protocol = self.protocol(path)
        # The preset's second protocol depends on the name inside the first one.
        second = row.second_protocol or (None if row.without_network else self._second_protocols.get(protocol.name))
        if second == path:
            raise UserError(f"{where}: second_protocol", f"'{path}' is the row's first protocol", "name another one")
        data = self._data.named(row.dataset, where)
        method = find_method(row.method, f"{where}: method") if row.trained_here else None
        scratch = method is not None and method.start == "scratch"
        self._check_columns(row, method, sheet, where)
        sampler = self._sampler(row, where)
        teacher, recipe = self.teachers.get(row.teacher or ""), settings.recipes.get(row.recipe or "", {})
        described = teacher.entry.network if teacher else None
        architecture = recipe.get("network") if scratch else described
        if not (row.method == "external" and row.without_network):
            self._check_guide(row, sampler, architecture, where)
        nfe = read_sampler(sampler).nfe or None if sampler["kind"] in SAMPLER_KINDS else None
        resolved = Row(
            cells=row,
            where=where,
            protocol_path=path,
            protocol=protocol,
            data=data,
            sampler=sampler,
            nfe=nfe or row.nfe,
            network=self._generator(row),
            guide=self._guide(row.guide),
            architecture=architecture,
            seed=settings.seed if row.seed is None else row.seed,
            class_counts=None if row.without_network else _class_counts(protocol, data, where),
            decoder=None if row.without_network else _decoder(protocol, architecture, sampler, where),
            recipe=recipe,
        )
        if method is not None:
            options_place = f"{self._source}: recipes.{row.recipe}.options"
            counts = self._data.entry(row.dataset, where).get("counts")
            resolved = dataclasses.replace(
                resolved,
                method=method,
                options=method.read_options(recipe.get("options") or {}, options_place),
                training_data=_training_data(data, counts, protocol, method),
                teacher=None if scratch else teacher,
                start=rows[row.init] if row.init else None,
            )
        cells = dataclasses.replace(row, second_protocol=second, saw=_exposure_cell(resolved))
        return dataclasses.replace(resolved, cells=cells)

    def _check_columns(self, row: SheetRow, method: Method | None, sheet: Mapping[str, SheetRow], where: str) -> None:
        """Checks that a row has the columns that its method needs, and none that it does not have.

        Args:
            row: The row.
            method: Method of its training; None without one.
            sheet: All rows by id.
            where: Place named in errors.
        """
        settings = self._settings
        if row.method == "external" and not row.checkpoint:
            fix = "give module:function, stored images, or (with a sampler) a network file"
            raise UserError(where, "column 'checkpoint' is empty", fix)
        scratch = method is not None and method.start == "scratch"
        if scratch and row.teacher is not None:
            raise UserError(where, f"column 'teacher': method '{row.method}' has none", "leave it empty")
        if (method is not None and not scratch) or (row.method == "teacher" and row.checkpoint is None):
            self._check_named("teacher", row.teacher, settings.teachers, where)
        if method is None:
            return
        self._check_named("recipe", row.recipe, settings.recipes, where)
        if row.init is not None and row.init not in sheet:
            raise UserError(where, f"column 'init': no run '{row.init}' in this sheet{suggestion(row.init, sheet)}")
        if row.init is not None and not METHODS.knows(sheet[row.init].method):
            raise UserError(where, f"init '{row.init}' is not a one-step generator")

    def _second(self, first: Row) -> Row:
        """The second measurement of a row's generator."""
        cells = first.cells.under_second()
        path, where = str(cells.protocol), self._where(cells.run)
        protocol = self.protocol(path)
        counts = decoder = None
        if not cells.without_network:
            counts = _class_counts(protocol, first.data, where)
            decoder = _decoder(protocol, first.architecture, first.sampler, where)
        changes: dict[str, Any] = {"protocol": protocol, "class_counts": counts, "decoder": decoder}
        return dataclasses.replace(first, cells=cells, where=where, protocol_path=path, **changes)

    def _check_named(self, column: str, name: str | None, names: Iterable[str], where: str) -> None:
        """Checks that a column names something that the preset defines."""
        if not name:
            raise UserError(where, f"column '{column}' is empty", f"name one of {', '.join(names) or 'none defined'}")
        if name not in names:
            raise UserError(where, f"no {column} '{name}' in {self._source}{suggestion(name, names)}")

    def _sampler(self, row: SheetRow, where: str) -> dict[str, Any]:
        """Settings of a row's sampler; an external row without one is a Python callable or stored images."""
        if row.method == "external" and row.without_network:
            source = str(row.checkpoint)
            return (
                {"kind": "python", "callable": source} if names_object(source) else {"kind": "images", "path": source}
            )
        self._check_named("sampler", row.sampler, self._settings.samplers, where)
        sampler = dict(self._settings.samplers[str(row.sampler)])
        if (row.method == "data") != (sampler["kind"] == "data"):
            raise UserError(where, "method 'data' and a sampler of kind 'data' belong together")
        if row.trained_here and sampler.get("guidance", 1) != 1:
            raise UserError(
                where,
                f"sampler '{row.sampler}' has guidance, but a distilled row has guidance in its recipe only",
                "name another sampler",
            )
        return sampler

    def _check_guide(
        self, row: SheetRow, sampler: Mapping[str, Any], network: Mapping[str, Any] | None, where: str
    ) -> None:
        """Checks that a sampler with guidance has a guiding network, and that it fits the guided one.

        The guide of a training is checked with its other settings (:mod:`sida.workflow.preset.checks`).
        """
        if not row.trained_here:
            try:
                check_guidance(float(sampler.get("guidance", 1)), row.guide)
            except SettingError as error:
                raise error.inside(where if error.where == "guide" else f"{where}: sampler '{row.sampler}'") from None
        if row.guide == NULL_LABEL and network:
            networks.check_null_label(network, f"{where}: guide")
        if row.guide in self.teachers:
            where, guide = f"{where}: guide '{row.guide}'", self.teachers[row.guide].entry.network
            if row.guide == row.teacher and row.checkpoint is None:
                raise UserError(
                    "", f"{where} is the teacher of the row, so guidance has no effect", "name another network"
                )
            if network and guide:
                with settings_in(where):
                    latents = map(networks.network_latents, (network, guide))
                    check_guide_images(network["kwargs"], guide["kwargs"], *latents)

    def _generator(self, row: SheetRow) -> Network | None:
        if row.without_network:
            return None
        if row.checkpoint is not None:
            return self._files.published(row.checkpoint)
        return (
            self.teachers[str(row.teacher)].network
            if row.method == "teacher"
            else self._files.made("students", row.run)
        )

    def _guide(self, name: str | None) -> Network | None:
        """A guiding network: a teacher of the preset, a checkpoint or the null label; None without one."""
        if name is None or name == NULL_LABEL:
            return None if name is None else NULL_NETWORK
        return self.teachers[name].network if name in self.teachers else self._files.published(name)


def _training_data(data: dict[str, Any], counts: Any, protocol: Protocol, method: Method) -> dict[str, Any]:
    """Data of a training: only classes if the data set has ``counts`` and nothing reads its images."""
    references = any(source.kind == "dataset" for source in protocol.sources.values())
    # A reference of the data set's images is measured during the training, so the archive is read in any case.
    if counts is None or references or method.real_images:
        return data
    classes = {key: data[key] for key in ("name", "resolution", "channels", "label_dim", "num_images") if key in data}
    # Latents are stored with mean and standard deviation: two stored channels are one channel of networks.
    classes["channels"] //= 2 if protocol.decodes else 1
    return classes | {"kind": "counts", "counts": counts}


def _class_counts(protocol: Protocol, data: Mapping[str, Any], where: str) -> dict[str, Any] | str | None:
    """Images per class for the class frequencies of a network; missing ones are refused before the training."""
    labels = protocol.content().get("labels")
    if labels is None or not data.get("label_dim"):
        return None
    if isinstance(labels, str) and not is_counted(labels):
        raise UserError(where, f"no class counts '{labels}' for its protocol", remedy(labels))
    return labels


def _decoder(
    protocol: Protocol, network: dict[str, Any] | None, sampler: Mapping[str, Any], where: str
) -> Sequence[str]:
    """Files of the decoder of a network's latents, EDM2's if the preset does not describe it; none for pixels."""
    if not protocol.decodes:
        return ()
    latents = networks.family_of(network, where).latents if network else None
    return (latents or EDM2_LATENTS).assets(sampler.get("decoder"))


def _exposure_cell(row: Row) -> str | None:
    """Cell ``saw`` with a row's whole exposure; the sheet's cell where that or the method has it already."""
    cells, start = row.cells, row.start.cells if row.start else None
    has_judges = row.method is not None and cells.method in METHODS and row.method.has_judges
    judges = _judges(row.options, row.resolution) if has_judges else ()
    if judges is None or (start is not None and start.exposure is None):
        return UNKNOWN
    own_exposure = Exposure(loss=judges)
    if start is not None and start.exposure is not None:
        # The choice of the start's file does not choose this row's.
        own_exposure |= Exposure(start.exposure.loss, start.exposure.start)
    if row.method is not None and cells.exposure is not None:
        own_exposure |= Exposure(choice=_selection(row.recipe, row.protocol))
    exposure = cells.exposure or own_exposure
    if (
        not own_exposure.loss
        and {*own_exposure.start} <= {*exposure.loss, *exposure.start}
        and {*own_exposure.choice} <= {*exposure.choice}
    ):
        return cells.saw
    cell = None if cells.saw is None else read_exposure(cells.saw)
    return str(own_exposure | (cell or Exposure()))


def _judges(options: Any, resolution: int) -> tuple[str, ...] | None:
    """Networks that the options of a method name as judges; None if one is unknown."""
    networks = [network_of(name) for name in options.loss_networks(resolution) if name != "pixels"]
    # A custom judge can be any network.
    return None if None in networks else tuple(filter(None, networks))


def _selection(recipe: Mapping[str, Any], protocol: Protocol) -> tuple[str, ...]:
    """Network of the metric by which a training's evaluations choose the file; none without evaluations."""
    if not recipe.get("evaluation") or protocol.selection_key is None:
        return ()
    extractor = protocol.metric(protocol.selection_key).extractor
    return () if extractor == "pixels" else (network_of(extractor) or OTHER,)


def check_objects(settings: PresetSettings, source: str) -> None:
    """Reads samplers and imports the data sets' functions, so that a wrong one is reported before the first job."""
    for name, sampler in settings.samplers.items():
        read_sampler(sampler, f"{source}: samplers.{name}")
    for name, entry in settings.datasets.items():
        _check_object(entry["kind"], f"{source}: datasets.{name}.kind", "function")


def _check_object(name: str, where: str, kind: str) -> None:
    if names_object(name):
        load_object(name, where, kind)
