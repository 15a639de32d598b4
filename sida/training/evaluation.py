"""Evaluation while a student is trained, by a monitor found by name so that the method does not import the measuring.

``module:factory`` names a callable that makes a monitor from keyword arguments. Its module may also have
``monitor_facts(**the same arguments)``: a JSON value with everything that decides the monitor's numbers, by content. It
is asked without making a monitor, since a finished run needs none. Without it the arguments themselves count, files
among them by their bytes. Of a module from outside this package its source counts, too. ``RECORDED_AS`` is the name in
digests of a module that has moved since.

A monitor that can share its work among processes has ``part(generate, number, count)`` and ``join(parts)``, which
together give what calling it gives; one that has not is called by the first process alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sida.config.plugins import code_sha256, is_ours, load_object
from sida.config.samplers import Sampler
from sida.data.dataset import Dataset
from sida.files.atomic import by_content
from sida.sampling import Drawer
from sida.training.interruption import Interruption, StopRequest
from sida.training.ranks import Ranks


class Evaluation:
    """Measures a network now and then while it is trained.

    The monitor is made when it is first needed. Latents are decoded before it sees them, as in a final measurement.

    Args:
        settings: ``{every_kimg, monitor, kwargs}``.
        dataset: Training data; its classes are drawn with their frequencies.
        init_sigma: σ_init of the generator.
        device: Where images are drawn.
        where: Place named in errors.
    """

    def __init__(
        self, settings: Mapping[str, Any], dataset: Dataset, init_sigma: float, device: str, where: str
    ) -> None:
        self.settings, self.where = settings, where
        self.drawer = Drawer(Sampler(kind="one_step", init_sigma=init_sigma), dataset=lambda: dataset, device=device)
        self.classes = "empirical" if dataset.label_dim else "uniform"

    @functools.cached_property
    def monitor(self) -> Callable[..., Mapping[str, Any]]:
        """``monitor(generate) -> record``.

        Raises:
            UserError: No such module or factory.
        """
        _, factory = load_object(self.settings["monitor"], f"{self.where}.monitor", "factory")
        made: Callable[..., Mapping[str, Any]] = factory(**self.settings.get("kwargs", {}))
        return made

    def __call__(self, net: torch.nn.Module, check: Callable[[], None]) -> Mapping[str, Any]:
        """The monitor's record of a network; its key ``selection`` (``fd`` where it has none) names the value that
        chooses which network is kept, the lowest.

        Args:
            net: The averaged network.
            check: Called before each batch; raises to interrupt.
        """
        return self.monitor(self._images(net, check))

    @property
    def divisible(self) -> bool:
        """Whether several processes can share an evaluation."""
        return hasattr(self.monitor, "part") and hasattr(self.monitor, "join")

    def part(self, net: torch.nn.Module, check: Callable[[], None], number: int, count: int) -> Any:
        """Part ``number`` of ``count`` of an evaluation, for :meth:`join`; arguments as of a call."""
        monitor: Any = self.monitor
        return monitor.part(self._images(net, check), number, count)

    def join(self, parts: Sequence[Any]) -> Mapping[str, Any]:
        """The record that a call would have given, from all parts in their order."""
        monitor: Any = self.monitor
        record: Mapping[str, Any] = monitor.join(parts)
        return record

    def _images(self, net: torch.nn.Module, check: Callable[[], None]) -> Callable[[Sequence[int]], tuple[Any, Any]]:
        self.drawer.net = net

        def images(seeds: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
            check()
            (batch,) = self.drawer.draw(seeds, len(seeds), self.classes)
            return batch.images, batch.classes

        return images


def shared_out(
    evaluate: Callable[..., Mapping[str, Any]], net: torch.nn.Module, interruption: Interruption, ranks: Ranks
) -> dict[str, Any] | StopRequest:
    """An evaluation's record, made by all ranks where it can be divided; or the stop request that interrupted it.

    Args:
        evaluate: An :class:`Evaluation`, or any ``evaluate(network, check)``.
        net: The averaged network, the same on all ranks.
        interruption: Says whether this rank is asked to stop.
        ranks: The processes.
    """
    if ranks.world_size == 1 or not getattr(evaluate, "divisible", False):
        return ranks.from_first(lambda: _or_wish(lambda: dict(evaluate(net, interruption.check)), interruption))
    whole: Any = evaluate
    own = _or_wish(lambda: whole.part(net, interruption.check, ranks.rank, ranks.world_size), interruption)
    parts = ranks.gather(own)

    def join() -> dict[str, Any] | StopRequest:
        wishes = [part for part in parts if isinstance(part, StopRequest)]
        return max(wishes) if wishes else dict(whole.join(parts))

    return ranks.from_first(join)


def _or_wish(task: Callable[[], Any], interruption: Interruption) -> Any:
    """The task's result, or the request that interrupted the task."""
    try:
        return task()
    except KeyboardInterrupt:
        return max(interruption.request, StopRequest.MAKE_ROOM)


def evaluation_facts(evaluation: Mapping[str, Any], dataset: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Everything about an evaluation that decides which network a run keeps.

    Args:
        evaluation: ``{every_kimg, monitor, kwargs}``.
        dataset: Spec of the training data, which is in the run's digest already; not read again for the monitor.
        where: Place named in errors.

    Raises:
        UserError: No such module or factory, or arguments that it does not take.
    """
    module, factory = load_object(evaluation["monitor"], f"{where}.monitor", "factory")
    source = {} if is_ours(evaluation["monitor"]) else {"source_sha256": code_sha256(module, factory)}
    name = getattr(module, "RECORDED_AS", evaluation["monitor"])
    kwargs = {k: v for k, v in evaluation.get("kwargs", {}).items() if k != "dataset" or v != dataset}
    facts: Callable[..., Any] | None = getattr(module, "monitor_facts", None)
    points = {key: value for key, value in evaluation.items() if value is not None}
    return {**points, **source, "monitor": name, "kwargs": by_content(kwargs) if facts is None else facts(**kwargs)}
