"""Small pickles that ask for endless work or memory: refused in one line, soon, and in little memory.

Time is processor time, memory what the process adds at its peak. Each file has less than 3 MB.
"""

from __future__ import annotations

import pickle
import zipfile
from unittest import mock

import pytest

from sida.errors import UserError
from sida.networks import build_network
from sida.unpickle.inert import MAX_STEPS, Budget
from sida.unpickle.pickle_machine import PickleMachine
from sida.unpickle.pickles import AllowList, read_pickle
from sida.unpickle.records import Window
from sida.unpickle.torch_stream import LEGACY_MAGIC, LEGACY_PROTOCOL
from tests.data.test_archive import zip_of as archive
from tests.unpickle.genuine import write_genuine
from tests.unpickle.opcodes import again, bounded, data, kept, long, refused, shared, text, whole

MODULUS = 2**61 - 1  # integers that differ by it have one hash
COLLIDING = [long((index + 1) * MODULUS) for index in range(80_000)]
LONG = "a" * 1_000_000
FAR = "far more objects than any network"


def legacy(keys: bytes, value: bytes = b"N") -> bytes:
    """A file of torch.save before 1.6."""
    streams = [pickle.dumps(part, 2) for part in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True})]
    return b"".join(streams) + b"\x80\x02" + value + b"." + b"\x80\x02" + keys + b"."


def wide_archive(members: int) -> bytes:
    return archive({"a/data.pkl": b"\x80\x02N.", **{f"a/{n}": b"" for n in range(members)}})


SET, FROZEN, ENCODE = b"cbuiltins\nset\n", b"cbuiltins\nfrozenset\n", b"c_codecs\nencode\n"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
SETTINGS, ORDERED, DEVICE = b"cdnnlib.util\nEasyDict\n", b"ccollections\nOrderedDict\n", b"ctorch\ndevice\n"
STREAM, LINEAR = b"ctorch.storage\n_load_from_bytes\n", b"ctorch.nn.modules.linear\nLinear\n)R"


def call(function: bytes, *args: bytes) -> bytes:
    return function + b"(" + b"".join(args) + b"tR"


def listed(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


# A value that is kept at slot 1, and what is made of it many times.
ENDLESS = shared(60)
ONE_LIST = listed(b"K\x01" * 150_000) + kept(1)
PAIRS = listed((text("a") + b"N\x86") * 80_000) + kept(1)
ONE_TEXT = text(LONG) + kept(1)
STORAGE = b"0" + text("storage") + kept(2) + b"0ctorch\nFloatStorage\n" + kept(3) + b"0"
MEMORY = b"(" + again(2) + again(3) + again(1) + b"NK\x00tQ0"
PICKLES = {
    "settings of colliding keys": (
        whole(call(SETTINGS, listed(*(key + b"N\x86" for key in COLLIDING)))),
        "int as a key",
    ),
    "settings of tuples": (whole(call(SETTINGS, listed(b")N\x86"))), "tuple as a key"),
    "a set of colliding numbers": (whole(call(SET, listed(*COLLIDING))), "int as a key"),
    "a frozen set of colliding numbers": (whole(call(FROZEN, listed(*COLLIDING))), "int as a key"),
    "sets of one list": (whole(ONE_LIST, call(SET, again(1)) * 20_000), FAR),
    "frozen sets of one list": (whole(ONE_LIST, call(FROZEN, again(1)) * 20_000), FAR),
    "dictionaries of one list": (whole(PAIRS, call(ORDERED, again(1)) * 9000), FAR),
    "settings of one list": (whole(PAIRS, call(SETTINGS, again(1)) * 9000), FAR),
    "bytes of one text": (whole(ONE_TEXT, call(ENCODE, again(1), text("latin1")) * 30_000), "256 MiB of copies"),
    "sizes of one text": (whole(ONE_TEXT, call(TENSOR, b"NK\x00", again(1), b")")), "impossible sizes"),
    "devices of one text": (whole(ONE_TEXT, listed(call(DEVICE, again(1) * 50) * 6000)), "256 MiB of copies"),
    "an endless encoding": (whole(ENDLESS, call(ENCODE, text("x"), again(60))), "as a tuple"),
    "an endless attribute": (whole(ENDLESS, call(b"cbuiltins\ngetattr\n", LINEAR, again(60))), "getattr for a tuple"),
    "memory with a long name": (archive({"a/data.pkl": whole(ONE_TEXT, STORAGE, MEMORY * 60_000)}), "impossible sizes"),
    "an endless list of memory": (legacy(ENDLESS + b"0" + listed(again(60))), "list of storages"),
    "a long list of memory": (legacy(ONE_LIST), "list of storages"),
    "one archive many times": (
        whole(data(wide_archive(10_000)), kept(1), (call(STREAM, again(1)) + b"0") * 2000),
        "the same nested stream again and again",
    ),
    "an archive of many members": (wide_archive(24_000), None),
    "many sets": (whole(listed(b"\x8f" * 150_000, (b"e(" + b"\x8f" * 150_000) * 18)), FAR),
    "many modules": (whole(listed(LINEAR * 25_000)), None),
}
#: Each takes all steps that there are, as another one here does.
AGAIN = ("frozen sets of one list", "dictionaries of one list", "many sets", "a frozen set of colliding numbers")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in AGAIN else []) for n in PICKLES])
def test_a_small_pickle_takes_little_time_and_memory(name, tmp_path):
    content, reason = PICKLES[name]
    assert len(content) < 3_000_000
    if reason is None:
        assert bounded(tmp_path / "n.pkl", content) is None
    else:
        refused(tmp_path / "n.pkl", content, reason)


def test_the_largest_published_networks_take_an_eighth_of_the_steps(tmp_path):
    """As NCSN++ of EDM, which has most modules, with thin layers."""
    kwargs = {
        "img_resolution": 64, "img_channels": 3, "model_channels": 4, "model_type": "SongUNet",
        "resample_filter": [1, 3, 3, 1], "embedding_type": "fourier", "encoder_type": "residual",
        "channel_mult_noise": 2,
    }  # fmt: skip
    path = write_genuine(tmp_path / "n.pkl", build_network({"class": "EDMPrecond", "kwargs": kwargs}), protocol=2)
    window = Window.of_file(path)
    budget = Budget.of_file(window.length)
    PickleMachine(window, AllowList(budget).resolve, budget).load()
    assert 100_000 < MAX_STEPS - budget.steps < MAX_STEPS / 8


def test_the_directory_of_an_archive_is_bounded_before_it_is_read(tmp_path):
    path = tmp_path / "n.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02N.")
        for index in range(100):
            file.writestr(f"a/{index}{'x' * 60_000}", b"")
    refused(path, path.read_bytes(), "larger than any network's")


@pytest.mark.parametrize(
    ("error", "reason"), [(MemoryError(), "more memory than there is"), (RecursionError(), "nested deeper")]
)
@pytest.mark.parametrize("place", ["pickle_machine.PickleMachine._step", "pickles._plain"])
def test_memory_and_recursion_at_their_end_are_one_line(tmp_path, monkeypatch, error, reason, place):
    (tmp_path / "n.pkl").write_bytes(pickle.dumps({"a": 1}))
    monkeypatch.setattr(f"sida.unpickle.{place}", mock.Mock(side_effect=error))
    with pytest.raises(UserError, match=reason):
        read_pickle(tmp_path / "n.pkl")
