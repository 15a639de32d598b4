"""Makes pickles in the layout of the published ones.

They carry their classes' own source, written from the format's description; it would leave a mark if it were executed.
"""

import io
import pickle
import types
from pathlib import Path
from typing import Any

import torch

from sida.networks.official_pickles import EasyDict, OfficialPickler, foreign_modules

MARK = "executed-by-the-reader"
SOURCE = f'''
import pathlib
pathlib.Path("{MARK}").write_text("the embedded source was executed")
raise SystemExit("the embedded source was executed")
'''


class GenuinePickler(OfficialPickler):
    """Pickles also the twins of layers; the source of the classes leaves a mark if it runs.

    ``renamed`` maps our class names to those in the file; ``init`` gives (args, kwargs) of the outermost network.
    """

    def __init__(self, stream, protocol, network=None, renamed=None, init=((), {})):
        super().__init__(stream, protocol, network, init, SOURCE, renamed)

    def persistent_state(self, obj):
        return (obj.class_name, obj.state) if isinstance(obj, Twin) else super().persistent_state(obj)


class Twin:
    """The detached copy of a layer that a copied pre-hook stays bound to: shared weights, a frozen training flag."""

    def __init__(self, layer, training):
        self.class_name = type(layer).__name__
        self.state = {"training": training, "_parameters": layer._parameters, "_buffers": layer._buffers}

    def _apply_forced_weight_normalization(self, *args):
        raise AssertionError("the reader called a hook")


def add_hooks(network, training):
    """Gives every magnitude-preserving layer the hook that copies of SiDA's EDM2 generators carry."""
    for layer in network.modules():
        if type(layer).__name__ == "MPConv":
            layer._forward_pre_hooks[0] = Twin(layer, training)._apply_forced_weight_normalization


def write_genuine(path, network, kwargs=None, args=(), renamed=None, protocol=pickle.DEFAULT_PROTOCOL, **extra):
    """Writes ``{"ema": network, "loss_fn": ..., "augment_pipe": None, "dataset_kwargs": {...}}``."""
    kwargs = dict(network.init_config["kwargs"] if kwargs is None else kwargs)
    stream = io.BytesIO()
    with foreign_modules():
        value = dict(
            ema=network, augment_pipe=None, dataset_kwargs=EasyDict(path="cifar10.zip", use_labels=True), **extra
        )
        GenuinePickler(stream, protocol, network, renamed, (tuple(args), EasyDict(kwargs))).dump(value)
    Path(path).write_bytes(stream.getvalue())
    return Path(path)


def write_torch(path: Path, net: torch.nn.Module, zipped: bool, key: str = "ema") -> None:
    """Writes ``{key: net}`` in the container of ``torch.save``, or in the one that it had before version 1.6."""

    class Own(GenuinePickler):
        def __init__(self, stream: Any, protocol: int = 2) -> None:
            super().__init__(stream, protocol, net, None, ((), dict(net.init_config["kwargs"])))

    module = types.SimpleNamespace(__name__="own", dump=pickle.dump, Pickler=Own)
    with foreign_modules():
        torch.save({key: net}, path, pickle_module=module, _use_new_zipfile_serialization=zipped)
