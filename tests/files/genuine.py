"""Makes pickles in the layout of the published ones: classes that travel with their own source.

Written for the tests from the format's description. The embedded source would leave a mark if anything executed it.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from sida.networks import build_network
from tests.networks.made import SMALL
from tests.training.toy import EDM2
from workflow.rehearsal import EasyDict, OfficialPickler, foreign_modules

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


def reduced(function, *args):
    """A pickle that calls ``function(*args)``; for hostile files."""

    class Call:
        def __reduce__(self):
            return function, args

    return pickle.dumps(Call())


CONFIGS = {"edm": {"class": "EDMPrecond", "kwargs": SMALL}, "edm2": EDM2}


def network(name: str = "edm") -> torch.nn.Module:
    """A small network with seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(CONFIGS[name])


def write_pickles(folder: Path) -> None:
    """The authors' format: plain pickles of two protocols, and both containers of torch.save."""
    net = network().half()
    write_genuine(folder / "two.pkl", net, protocol=2)
    hooked = network("edm2")
    add_hooks(hooked, True)
    kwargs = {key: value for key, value in hooked.init_config["kwargs"].items() if key != "weight_norm"}
    write_genuine(
        folder / "four.pkl", hooked, kwargs, renamed={"EDM2Precond": "Precond", "EDM2UNet": "UNet"}, protocol=4
    )

    class Own(GenuinePickler):
        def __init__(self, stream: Any, protocol: int = 2) -> None:
            super().__init__(stream, protocol, net, None, ((), dict(SMALL)))

    class PickleModule:
        dump = staticmethod(pickle.dump)
        Pickler = Own

    for name, zipped in (("zip", True), ("old", False)):
        with foreign_modules():
            torch.save(
                {"ema": net}, folder / f"{name}.pkl", pickle_module=PickleModule, _use_new_zipfile_serialization=zipped
            )


#: Names and opcodes of pickles, most of them ones that published networks have.
NAMES = (
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch.storage\n_load_from_bytes\n", b"ccollections\nOrderedDict\n",
    b"cbuiltins\ngetattr\n", b"cbuiltins\nset\n", b"cbuiltins\nfrozenset\n", b"cdnnlib.util\nEasyDict\n",
    b"ctorch\nFloatStorage\n", b"ctorch\nHalfStorage\n", b"ctorch\nSize\n", b"ctorch\ndevice\n", b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n", b"c_codecs\nencode\n",
    b"cnumpy._core.numeric\n_frombuffer\n", b"cbuiltins\ncomplex\n", b"cos\nsystem\n", b"cbuiltins\neval\n",
    b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n", b"ctorch.nn.modules.linear\nLinear\n",
)  # fmt: skip
VALUES = (
    b"N", b"\x88", b"K\x00", b"K\x01", b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"]", b"}", b")",
    b"\x8f", b"X\x01\x00\x00\x00a", b"C\x01a", b"G\x7f\xf8" + bytes(6), b"(", b"t", b"R", b"b", b"s", b"u", b"e", b"0",
    b"2", b"\x85", b"\x86", b"\x87", b"q\x00", b"h\x00", b"h\x05", b"\x94", b"\x93", b"\x81", b"\x90", b"\x91", b"\x92",
    b"a", b"Q", b".",
)  # fmt: skip
