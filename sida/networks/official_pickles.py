"""Writes a network as the authors' training scripts do: a pickle whose classes travel with their source.

The reader is :mod:`sida.networks.official`; rehearsals and tests make files for it.
"""

import contextlib
import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sida.files.atomic import atomic_path

#: Names of the suite's classes in the authors' files.
OFFICIAL_NAMES = {"EDM2Precond": "Precond", "EDM2UNet": "UNet"}


class EasyDict(dict[str, Any]):
    """Stands for ``dnnlib.util.EasyDict`` while a file is written."""


def _reconstruct_persistent_obj(meta: Any) -> Any:
    """Stands for the function of ``torch_utils.persistence``, which a file names; nothing calls it."""
    raise AssertionError("a reader called the persistence layer")


@contextlib.contextmanager
def foreign_modules() -> Iterator[None]:
    """``dnnlib.util`` and ``torch_utils.persistence``, present only while a file is written."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    util.EasyDict = EasyDict  # type: ignore[attr-defined]
    names = {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": persistence}
    names |= {"dnnlib": types.ModuleType("dnnlib"), "dnnlib.util": util}
    _reconstruct_persistent_obj.__module__, EasyDict.__module__ = "torch_utils.persistence", "dnnlib.util"
    sys.modules.update(names)
    try:
        yield
    finally:
        _reconstruct_persistent_obj.__module__ = EasyDict.__module__ = __name__
        for name in names:
            del sys.modules[name]


class OfficialPickler(pickle.Pickler):
    """Pickles the modules of ``sida.networks`` as the authors' persistent objects, library modules as usual.

    Args:
        stream: Stream of the file.
        protocol: Protocol of pickle.
        network: Outermost network, whose constructor arguments are in the file.
        init: Its arguments by position and by name.
        source: Source text that travels with the classes.
        renamed: Names of classes in the file by their names here.
    """

    def __init__(
        self,
        stream: Any,
        protocol: int,
        network: Any,
        init: tuple[tuple[Any, ...], Mapping[str, Any]],
        source: str = "",
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(stream, protocol)
        self.network, self.init, self.source, self.renamed = network, init, source, renamed or {}
        self.states: dict[int, dict[str, Any]] = {}

    def reducer_override(self, obj: Any) -> Any:
        """See :meth:`pickle.Pickler.reducer_override`."""
        state = self.persistent_state(obj)
        if state is None:
            return NotImplemented
        name, own = state
        # As in the originals, the state is one dictionary however often an object is met.
        first = self.states.setdefault(id(obj), own)
        meta = EasyDict(type="class", version=6, module_src=self.source, class_name=self.renamed.get(name, name))
        return _reconstruct_persistent_obj, (EasyDict(meta, state=first),)

    def persistent_state(self, obj: Any) -> tuple[str, dict[str, Any]] | None:
        """Class name and state of an object that the file holds as a persistent one; None for others."""
        import torch

        if not isinstance(obj, torch.nn.Module) or not type(obj).__module__.startswith("sida."):
            return None
        state = {key: value for key, value in obj.__dict__.items() if key not in ("init_config", "rewrite")}
        args, kwargs = self.init if obj is self.network else ((), {})
        return type(obj).__name__, {**state, "_init_args": args, "_init_kwargs": EasyDict(kwargs)}


def write_official(path: Path, network: Any) -> None:
    """Writes a network as the authors' training scripts do: a pickle whose classes travel with their source."""
    kwargs = {key: value for key, value in network.init_config["kwargs"].items() if key != "weight_norm"}
    value = {"ema": network, "loss_fn": None, "augment_pipe": None, "dataset_kwargs": {}}
    with atomic_path(path) as part, open(part, "wb") as stream, foreign_modules():
        OfficialPickler(stream, pickle.DEFAULT_PROTOCOL, network, ((), kwargs), renamed=OFFICIAL_NAMES).dump(value)
