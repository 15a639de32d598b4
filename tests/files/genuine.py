"""Makes pickles in the layout of the published ones: classes that travel with their own source.

Written for the tests from the format's description. The embedded source would leave a mark if anything executed it.
"""

import contextlib
import io
import pickle
import sys
import types
from pathlib import Path

import torch

MARK = "executed-by-the-reader"
SOURCE = f'''
import pathlib
pathlib.Path("{MARK}").write_text("the embedded source was executed")
raise SystemExit("the embedded source was executed")
'''


class EasyDict(dict):
    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name, value):
        self[name] = value


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the reader called the persistence layer")


@contextlib.contextmanager
def foreign_modules():
    """`dnnlib.util` and `torch_utils.persistence`, present only while a file is written."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    util.EasyDict = EasyDict
    names = {
        "torch_utils": types.ModuleType("torch_utils"),
        "torch_utils.persistence": persistence,
        "dnnlib": types.ModuleType("dnnlib"),
        "dnnlib.util": util,
    }
    _reconstruct_persistent_obj.__module__, EasyDict.__module__ = "torch_utils.persistence", "dnnlib.util"
    sys.modules.update(names)
    try:
        yield
    finally:
        _reconstruct_persistent_obj.__module__ = EasyDict.__module__ = __name__
        for name in names:
            del sys.modules[name]


class GenuinePickler(pickle.Pickler):
    """Pickles the modules of ``sida.networks`` as persistent objects; library modules as usual.

    ``renamed`` maps our class names to those in the file; ``init`` gives (args, kwargs) of the outermost network.
    """

    def __init__(self, stream, protocol, network=None, renamed=None, init=None):
        super().__init__(stream, protocol)
        self.network, self.renamed, self.init = network, renamed or {}, init
        self.states = {}

    def reducer_override(self, obj):
        persistent = isinstance(obj, Twin) or (
            isinstance(obj, torch.nn.Module) and type(obj).__module__.startswith("sida.")
        )
        if not persistent:
            return NotImplemented
        name = obj.class_name if isinstance(obj, Twin) else type(obj).__name__
        # As in the originals, the state is one dictionary however often an object is met.
        if id(obj) not in self.states:
            state = obj.state if isinstance(obj, Twin) else dict(obj.__dict__)
            for key in ("init_config", "rewrite"):
                state.pop(key, None)
            if obj is self.network and self.init is not None:
                state["_init_args"], state["_init_kwargs"] = self.init
            elif not isinstance(obj, Twin):
                state["_init_args"], state["_init_kwargs"] = (), EasyDict()
            self.states[id(obj)] = state
        meta = EasyDict(type="class", version=6, module_src=SOURCE, class_name=self.renamed.get(name, name))
        return _reconstruct_persistent_obj, (EasyDict(meta, state=self.states[id(obj)]),)


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


def reduced(function, *args):
    """A pickle that calls ``function(*args)``; for hostile files."""

    class Call:
        def __reduce__(self):
            return function, args

    return pickle.dumps(Call())
