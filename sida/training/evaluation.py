"""Evaluations of a network during its training by a monitor, and their facts for the run's digest.

``module:factory`` in the settings names a callable that makes the monitor from keyword arguments. The digest contains
the value of ``monitor_facts(**arguments)`` of the same module: a JSON value with everything that decides the monitor's
numbers. Without this function the digest contains the arguments, with files by their content, and the source of a
module from outside this package. ``RECORDED_AS`` is a moved module's former name, which digests keep.

A monitor whose work can be divided among processes has ``part(generate, number, count)`` and ``join(parts)``, which
together equal a call of the monitor. Any other monitor is called by rank 0 alone.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from sida.config.lookup import code_sha256, is_ours, load_object
from sida.config.recipe import EvaluationSettings
from sida.config.samplers import Sampler
from sida.config.settings import from_mapping
from sida.data import Dataset
from sida.errors import UserError
from sida.files.atomic import by_content
from sida.sampling import Drawer
from sida.sampling.generate import NotFiniteError
from sida.training.processes import Interruption, Ranks

T = TypeVar("T")


class Evaluation:
    """Measures a network at intervals during its training.

    The monitor is made at its first use. Latents are decoded before the monitor measures them, as in a final
    measurement.

    Args:
        settings: Mapping of :class:`sida.config.recipe.EvaluationSettings`.
        dataset: Training data; images have its classes with its class frequencies.
        sampler: Sampler of the generator.
        device: Device that draws the images.
        where: Place named in errors.
    """

    def __init__(
        self, settings: Mapping[str, Any], dataset: Dataset, sampler: Sampler, device: str, where: str
    ) -> None:
        self.settings, self.where = from_mapping(EvaluationSettings, settings, where), where
        self.drawer = Drawer(sampler, dataset=lambda: dataset, device=device)
        self.classes = "empirical" if dataset.label_dim else "uniform"

    @functools.cached_property
    def monitor(self) -> Any:
        """``monitor(generate) -> record``.

        Raises:
            UserError: The module or factory does not exist.
        """
        _, factory = load_object(self.settings.monitor, f"{self.where}.monitor", "factory")
        return factory(**self.settings.kwargs)

    def __call__(self, net: torch.nn.Module, interruption: Interruption, ranks: Ranks) -> dict[str, Any]:
        """Evaluates a network on all ranks if the monitor can be divided, else on rank 0.

        Args:
            net: Averaged network, the same on all ranks.
            interruption: Stop requests of this rank.
            ranks: Processes of the run.

        Returns:
            The monitor's record. Its key ``selection`` (default ``fd``) names a value; the run keeps the network with
            the lowest.

        Raises:
            KeyboardInterrupt: This rank was asked to end.
            NotFiniteError: An image of any rank has NaN or infinity; raised on all ranks.
        """
        self.drawer.net, monitor = net, self.monitor
        self.drawer.rounded = bool(getattr(monitor, "rounds", False))

        def images(seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
            interruption.request.enforce()
            (batch,) = self.drawer.draw(seeds, len(seeds), self.classes)
            return batch.images, batch.classes

        if ranks.world_size == 1 or not (hasattr(monitor, "part") and hasattr(monitor, "join")):
            record = ranks.from_first(lambda: _attempt(lambda: dict(monitor(images))))
        else:
            parts = ranks.gather(_attempt(lambda: monitor.part(images, ranks.rank, ranks.world_size)))
            errors = [part for part in parts if isinstance(part, NotFiniteError)]
            record = ranks.from_first(lambda: errors[0] if errors else dict(monitor.join(parts)))
        if isinstance(record, NotFiniteError):
            raise record
        return record


def _attempt(task: Callable[[], T]) -> T | NotFiniteError:
    """Result of a task, or the error of an image, which all ranks must learn of."""
    try:
        return task()
    except NotFiniteError as error:
        return error


def evaluation_facts(evaluation: Mapping[str, Any], dataset: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns everything about an evaluation that decides which network a run keeps, for the run's digest.

    Args:
        evaluation: ``{every_kimg, monitor, kwargs}``.
        dataset: Spec of the training data. The run's digest already contains it, so the monitor's copy is left out.
        where: Place named in errors.

    Raises:
        UserError: The module or factory does not exist, or does not accept the arguments.
    """
    module, factory = load_object(evaluation["monitor"], f"{where}.monitor", "factory")
    source = {} if is_ours(evaluation["monitor"]) else {"source_sha256": code_sha256(module, factory)}
    name = getattr(module, "RECORDED_AS", evaluation["monitor"])
    kwargs = {k: v for k, v in evaluation.get("kwargs", {}).items() if k != "dataset" or v != dataset}
    facts: Callable[..., Any] | None = getattr(module, "monitor_facts", None)
    points = {key: value for key, value in evaluation.items() if value is not None}
    try:
        inspect.signature(factory).bind(**evaluation.get("kwargs", {}))
    except TypeError as error:
        raise UserError(f"{where}.kwargs", f"{evaluation['monitor']} does not accept them ({error})") from None
    return {**points, **source, "monitor": name, "kwargs": by_content(kwargs) if facts is None else facts(**kwargs)}
