"""Rows of a preset, resolved: a row has everything that its jobs need, so that none of them asks the preset."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sida.errors import UserError
from sida.eval.measuring.protocol import Protocol
from sida.eval.results.sheet import SheetRow
from sida.methods.method import Method
from sida.workflow.preset.networks import Network
from sida.workflow.preset.settings import TeacherEntry


@dataclass(frozen=True, eq=False)
class Teacher:
    """A teacher of a preset.

    Attributes:
        name: Its id.
        where: Its place in errors.
        entry: Its entry in the preset.
        data: Spec of its data set.
        seed: Seed of its training.
        network: Its network: trained here, or imported from its checkpoint.
    """

    name: str
    where: str
    entry: TeacherEntry
    data: dict[str, Any]
    seed: int
    network: Network


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the sheet with everything that it refers to.

    Attributes:
        cells: Cells of the sheet; ``saw`` has the row's whole exposure.
        where: Place of the row in errors.
        protocol_path: Path of the protocol that it is measured under.
        protocol: This protocol.
        data: Spec of the data set that it is trained on and compared with.
        sampler: Settings of its sampler; of an external row without one: a Python callable or stored images.
        nfe: Network evaluations per image; None if unknown.
        network: The network that it samples from; None for rows without a network.
        guide: Its guiding network, of the training if it is trained here, else of the sampler; None without one.
        architecture: Network ``{class, kwargs}`` of its recipe or teacher; None if the preset does not describe one.
        seed: Training seed.
        class_counts: Images per class for its class frequencies, or the asset with them; None if it needs none.
        decoder: Files of the decoder of its images, none for pixels; None for rows without a network.
        method: Method that trains its generator here; None for other generators.
        recipe: Recipe of its training; empty without one.
        options: Options of its method from the recipe; None if the method has none.
        training_data: Spec of its training's data: only classes if the data set has counts and nothing reads its
            images; None without a training.
        teacher: Teacher of its training; None without one.
        start: Row whose generator its training starts from; None without one.
    """

    cells: SheetRow
    where: str
    protocol_path: str
    protocol: Protocol
    data: dict[str, Any]
    sampler: dict[str, Any]
    nfe: int | None
    network: Network | None
    guide: Network | None
    architecture: dict[str, Any] | None
    seed: int
    class_counts: dict[str, Any] | str | None
    decoder: Sequence[str] | None
    method: Method | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    options: Any = None
    training_data: dict[str, Any] | None = None
    teacher: Teacher | None = None
    # A chain of starts can be longer than Python's stack.
    start: "Row | None" = field(default=None, repr=False)

    @property
    def run(self) -> str:
        """Id of the row."""
        return self.cells.run

    @property
    def sampler_guide(self) -> Network | None:
        """The guiding network of its sampler; a generator that is distilled here uses its guide in training only."""
        return None if self.method is not None else self.guide

    @property
    def teacher_network(self) -> Network | None:
        """Network of the teacher of its training; None without one."""
        return self.teacher.network if self.teacher else None

    @property
    def alike(self) -> tuple[Any, ...]:
        """Key of rows whose trainings have equal settings but for names, α and seed; sheets have hundreds of rows."""
        row = self.cells
        empty = tuple(cell is None for cell in (row.init, row.guide, row.alpha))
        return (row.method, row.recipe, row.teacher, row.dataset, empty)

    @property
    def drawn_from_data(self) -> bool:
        """Whether its images, or their classes, are drawn from its data set."""
        # A data set is not needed without classes, or if they are counted.
        counted = self.protocol.label_dist != "empirical" or self.protocol.labels is not None
        has_classes = bool(self.data.get("label_dim")) and not self.cells.without_network
        return self.cells.method == "data" or (has_classes and not counted)

    @property
    def measured_with_data(self) -> bool:
        """Whether a measurement opens its data set: for images, classes, or a reference that is not fixed."""
        references = self.protocol.used_sources.values()
        return self.drawn_from_data or any(one.kind == "dataset" and not one.fixed for one in references)

    @property
    def resolution(self) -> int:
        """Resolution of its images, by which methods choose judges: of its data set, else of its network.

        Raises:
            UserError: Neither gives it.
        """
        network = self.architecture or {}
        resolution = self.data.get("resolution") or network.get("kwargs", {}).get("img_resolution")
        if resolution is None:
            raise UserError(self.where, f"data set '{self.data['name']}' has no resolution", "add it")
        return int(resolution)

    def lineage(self) -> Iterator["Row"]:
        """Yields the row and all rows that it starts from, the nearest first."""
        row: Row | None = self
        while row is not None:
            yield row
            row = row.start
