"""Monitors: the evaluation while a student is trained, found by name so that the method does not import the measuring.

``module:factory`` names a callable that makes a monitor from keyword arguments. Its module may also have
``monitor_facts(**the same arguments)``: a JSON value with everything that decides the monitor's numbers, by content. It
is asked without making a monitor, since a finished run needs none. Without it the arguments themselves count, files
among them by their bytes. ``RECORDED_AS`` is the name in digests of a module that has moved since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from sida.io import by_content
from sida.plugins import load_object


def monitor_factory(name: str, where: str) -> Callable[..., Any]:
    """The factory of that name.

    Raises:
        UserError: No such module or factory.
    """
    return cast(Callable[..., Any], load_object(name, f"{where}.monitor", "factory")[1])


def evaluation_facts(evaluation: Mapping[str, Any], dataset: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Everything about an evaluation that decides which network a run keeps.

    Args:
        evaluation: ``{every_kimg, monitor, kwargs}``.
        dataset: Spec of the training data, which is in the run's digest already; not read again for the monitor.
        where: Place named in errors.

    Raises:
        UserError: No such module or factory, or arguments that it does not take.
    """
    module, _ = load_object(evaluation["monitor"], f"{where}.monitor", "factory")
    name = getattr(module, "RECORDED_AS", evaluation["monitor"])
    kwargs = {k: v for k, v in evaluation.get("kwargs", {}).items() if k != "dataset" or v != dataset}
    facts: Callable[..., Any] | None = getattr(module, "monitor_facts", None)
    return {**evaluation, "monitor": name, "kwargs": by_content(kwargs) if facts is None else facts(**kwargs)}
