"""Networks and other tensor files: what a stranger may hand over as a checkpoint."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import pickle
import pickletools
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from sida.files.content_hash import HASH_KEY
from sida.files.pickles import read_pickle, read_state_dict
from sida.files.tensors import TENSORS_HASH, read_tensors, write_tensors
from sida.networks import build_network
from sida.networks.file import build_on_meta, check_network_config, load_network, save_network
from sida.networks.official import import_official
from tests.files.genuine import GenuinePickler, add_hooks, foreign_modules, write_genuine
from tests.readers import bombs
from tests.readers.changes import JSON_BOMBS, bomb, json_text, json_value, parsed, tokens, zip_members
from tests.readers.frame import Reader, command

TINY: dict[str, Any] = {
    "img_resolution": 8, "img_channels": 1, "label_dim": 3, "model_type": "SongUNet", "model_channels": 4,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [],
}  # fmt: skip
EDM2 = {
    "img_resolution": 8, "img_channels": 4, "label_dim": 2, "model_channels": 4, "channel_mult": [1], "num_blocks": 1,
    "attn_resolutions": [], "channels_per_head": 4, "logvar_channels": 4,
}  # fmt: skip
CONFIGS = {"edm": {"class": "EDMPrecond", "kwargs": TINY}, "edm2": {"class": "EDM2Precond", "kwargs": EDM2}}
METADATA = {"method": "sid", "nimg": 3000, "dataset": "digits", "parents": {"teacher": "ab" * 32}}


def network(name: str = "edm") -> torch.nn.Module:
    """A small network with seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(CONFIGS[name])


# Genuine files


def write_networks(folder: Path) -> None:
    """Our own format, of two families."""
    for name in CONFIGS:
        path = folder / f"{name}.safetensors"
        save_network(network(name), path, METADATA)
        (folder / f"{name}-unhashed.safetensors").write_bytes(unhashed(path.read_bytes()))


def write_state(folder: Path) -> None:
    """Tensors of several types with a record."""
    tensors = {"a": torch.arange(6).reshape(2, 3), "b": torch.ones(5, dtype=torch.float64), "c": torch.zeros(0, 3)}
    path = folder / "state.safetensors"
    write_tensors(path, tensors, {"format": "x/1", "ranges": [[0, 5]], "name": "n"})
    (folder / "unhashed.safetensors").write_bytes(unhashed(path.read_bytes()))


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
            super().__init__(stream, protocol, net, None, ((), dict(TINY)))

    class PickleModule:
        dump = staticmethod(pickle.dump)
        Pickler = Own

    for name, zipped in (("zip", True), ("old", False)):
        with foreign_modules():
            torch.save(
                {"ema": net}, folder / f"{name}.pkl", pickle_module=PickleModule, _use_new_zipfile_serialization=zipped
            )


def write_weights(folder: Path) -> None:
    """Dictionaries of tensors."""
    weights = collections.OrderedDict(a=torch.ones(3, 2).T, b=torch.zeros(4).bfloat16(), c=torch.tensor(1.0))
    torch.save(weights, folder / "zip.pth")
    torch.save(weights, folder / "old.pth", _use_new_zipfile_serialization=False)


def write_values(folder: Path) -> None:
    """Plain values and arrays, as reference statistics are."""
    value = {
        "fid": {"mu": np.arange(6.0), "sigma": np.asfortranarray(np.eye(6, dtype=np.float32))},
        "many": [np.int64(5), np.array(["a", "bc"]), np.zeros(0), {1, 2}, frozenset("ab"), (None, True, 1.5, 2**40)],
        "bytes": b"x" * 5000, "complex": 1 + 2j,
    }  # fmt: skip
    for protocol in (2, 4):
        (folder / f"{protocol}.pkl").write_bytes(pickle.dumps(value, protocol))


def write_configs(folder: Path) -> None:
    """Architectures as headers hold them."""
    for name in CONFIGS:
        (folder / f"{name}.json").write_text(json.dumps(network(name).init_config))
    adm = {**TINY, "model_type": "DhariwalUNet", "sigma_max": None, "label_dropout": 0.1}
    (folder / "adm.json").write_text(json.dumps({"class": "VEPrecond", "kwargs": {**adm, "sigma_max": 80.0}}))


# Changes that know the formats


def unhashed(data: bytes) -> bytes:
    """A tensor file without the hashes that it carries: with them no change gets any further."""
    value, rest = parted(data)
    record = json.loads(value["__metadata__"]["sida"])
    value["__metadata__"]["sida"] = json.dumps({k: v for k, v in record.items() if k not in (TENSORS_HASH, HASH_KEY)})
    return joined(value, rest)


def parted(data: bytes) -> tuple[Any, bytes]:
    """The JSON of a tensor file's header, and what follows it."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data):
        raise ValueError("no header")
    return parsed(data[8 : 8 + length]), data[8 + length :]


def joined(value: Any, rest: bytes) -> bytes:
    """The opposite of :func:`parted`."""
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text + rest


def header(data: bytes, rng: Random) -> bytes:
    """Changes the JSON of a header, or that of the record inside it; lengths stay right."""
    value, rest = parted(data)
    metadata = value.get("__metadata__") if isinstance(value, dict) else None
    record = metadata.get("sida") if isinstance(metadata, dict) else None
    if isinstance(record, str) and rng.random() < 0.7:
        value["__metadata__"]["sida"] = json.dumps(json_value(json.loads(record), rng))
    else:
        value = json_value(value, rng)
    return joined(value, rest)


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


def opcodes(data: bytes, rng: Random) -> bytes:
    """Opcodes go, come twice, move, or others stand in their place; what is not hit stays a well-formed pickle."""
    places = []
    # Whatever pickletools says of a damaged one: the opcodes before are known.
    with contextlib.suppress(Exception):
        for _, _, place in pickletools.genops(io.BytesIO(data)):
            places.append(place or 0)
    if len(places) < 3:
        raise ValueError("no pickle")
    ends = [*places[1:], places[-1] + 1]
    for _ in range(rng.randint(1, 3)):
        at, other = rng.randrange(len(places)), rng.randrange(len(places))
        piece, moved = data[places[at] : ends[at]], data[places[other] : ends[other]]
        made = rng.choice((b"", piece * 2, moved, moved + piece, rng.choice(VALUES), piece + rng.choice(VALUES)))
        made = rng.choice((made, made, rng.choice(NAMES) + b"(" + piece + b"tR", rng.choice(NAMES)))
        data = data[: places[at]] + made + data[ends[at] :]
        shift = len(made) - len(piece)
        places = places[: at + 1] + [place + shift for place in places[at + 1 :]]
        ends = ends[:at] + [end + shift for end in ends[at:]]
    return data


STRIDED = bomb(lambda rng: bombs.strided(rng.choice((2, 40)), rng.choice((100, 10_000))))
HEADER_BOMBS = bomb(lambda rng: joined({"a": [[]] * rng.choice((10, 10, 1000, 1000, 100_000, 600_000))}, b""))
PICKLED = (opcodes, opcodes, tokens(*NAMES), zip_members(opcodes), STRIDED)


def build(path: Path, own: Path) -> object:
    """What a header's architecture goes through."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        value = None
    return build_on_meta(check_network_config(value, path.name), 500, path.name)


HEADERS = (header, header, header, HEADER_BOMBS)


def info(path: Path, own: Path) -> object:
    """What ``sida info`` prints."""
    return command("sida", "info", path)


READERS = (
    Reader("network file", write_networks, lambda path, own: load_network(path), HEADERS, 0.8, cases=50),
    Reader("sida info, network file", write_networks, info, HEADERS, 0.8, cases=25),
    Reader("architecture", write_configs, build, (*[json_text] * 19, JSON_BOMBS), 0.95, cases=50),
    Reader("tensor file", write_state, lambda path, own: read_tensors(path), HEADERS),
    Reader("official pickle", write_pickles, lambda path, own: import_official(path, own / "o"), PICKLED, cases=50),
    Reader("weights of torch.save", write_weights, lambda path, own: read_state_dict(path), PICKLED),
    Reader("pickle of values", write_values, lambda path, own: read_pickle(path), PICKLED),
)
