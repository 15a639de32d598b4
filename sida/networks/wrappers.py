"""Names of tensors in checkpoints of other programs, where wrappers put prefixes before a network's names.

DataParallel writes ``module.``, ``torch.compile`` writes ``_orig_mod.`` at any level, FSDP and checkpointing their own;
Lightning has the name of an attribute, such as ``model.``; averages (torch's AveragedModel, ema_pytorch) have counters
beside the weights.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from sida.errors import UserError, one_line

Shape = tuple[int, ...]
OTHER = "name the architecture of this network (--network)"
#: Parts of names that stand for wrappers at any level, and counters of averages.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
_COUNTERS = {"step", "initted", "n_averaged", "num_updates", "decay", "epoch", "global_step"}
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")


class Unwrapped(NamedTuple):
    """Tensors of a network in a file.

    Attributes:
        names: Name in the file of each tensor, by the network's name.
        remark: Prefix that was taken off, and tensors that were left out; empty without both.
    """

    names: dict[str, str]
    remark: str


def unprefixed(
    path: str | os.PathLike[str], landmarks: Iterable[str], tensors: Iterable[str], entry: str, key: str
) -> Unwrapped:
    """Finds all tensors of a network of which a few names are known.

    Args:
        path: The file, for errors.
        landmarks: Names of which one is in the network; the first that the file has under any prefix counts.
        tensors: Names of the file's tensors.
        entry: Key of the file's entry with them, or an empty text.
        key: Prefix to take where several networks have the landmark.

    Returns:
        The tensors under the landmark's prefix by their names behind it; all tensors if there is no landmark.

    Raises:
        UserError: The landmark is there under several prefixes.
    """
    bare = _without_wrappers(path, tensors)
    prefixes = next((found for landmark in landmarks if (found := _prefixes([landmark], bare))), None)
    if prefixes is None:
        _refuse_part(path)
    prefix = _chosen(path, prefixes or [""], prefixes or [], entry, key)
    under = [name for name in bare if name.startswith(prefix) and name.removeprefix(prefix) not in _COUNTERS]
    names = {name.removeprefix(prefix): bare[name] for name in under}
    return Unwrapped(names, _remark(next(iter(names.items()), ("", "")), [name for name in bare if name not in under]))


def unwrapped(
    path: str | os.PathLike[str], expected: Mapping[str, Shape], tensors: Mapping[str, Shape], entry: str, key: str
) -> Unwrapped:
    """Finds a network's tensors by their names without wrappers.

    Args:
        path: The file, for errors.
        expected: Shapes of the network's tensors by name.
        tensors: Shapes of the file's tensors by name.
        entry: Key of the file's entry with them, or an empty text.
        key: Prefix to take where several networks have these names.

    Raises:
        UserError: The file has all names under several prefixes, or under none.
    """
    bare = _without_wrappers(path, tensors)
    complete = _prefixes(list(expected), bare)
    if not complete:
        _refuse(path, expected, bare)
    further = {prefix: _further(prefix, complete, expected, bare) for prefix in complete}
    fitting = [
        prefix
        for prefix, more in further.items()
        if not more and all(tuple(tensors[bare[prefix + name]]) == shape for name, shape in expected.items())
    ]
    prefix = _chosen(path, complete, fitting, entry, key)
    if more := further[prefix]:
        fault = f"has tensor '{one_line(more[0], 80)}', which the architecture does not have ({len(more)} such tensors)"
        raise UserError(path, fault, OTHER)
    others = [name for name in bare if not name.startswith(prefix) or name.removeprefix(prefix) not in expected]
    names = {name: bare[prefix + name] for name in expected}
    return Unwrapped(names, _remark(next(iter(names.items()), ("", "")), others))


def _without_wrappers(path: str | os.PathLike[str], tensors: Iterable[str]) -> dict[str, str]:
    """Names in a file by the names without the parts of wrappers."""
    bare: dict[str, str] = {}
    for name in tensors:
        if bare.setdefault(short := _WRAPPERS.sub("", name), name) != name:
            raise UserError(path, f"holds tensor '{one_line(short, 80)}' with and without a wrapper", "keep one")
    return bare


def _prefixes(expected: Sequence[str], bare: Mapping[str, str]) -> list[str]:
    """Prefixes under which a file has all expected names."""
    first = expected[0] if expected else ""
    prefixes = [name.removesuffix(first) for name in bare if f".{name}".endswith(f".{first}")]
    return [prefix for prefix in prefixes if all(prefix + name in bare for name in expected)]


def _chosen(path: str | os.PathLike[str], complete: list[str], fitting: list[str], entry: str, key: str) -> str:
    """The prefix that the user names, else the one that fits, else the first."""
    if f"{key}." in complete:
        return f"{key}."
    if len(fitting) > 1 or (entry and key):
        prefixes = fitting if len(fitting) > 1 else complete
        keys = (f"{entry}.{prefix}".strip(".") for prefix in prefixes[:8])
        prefix_names = ", ".join(one_line(name, 60) or "(none)" for name in keys)
        fault = f"holds {len(prefixes)} network{'s' * (len(prefixes) > 1)}, by the prefixes {prefix_names}"
        raise UserError(path, fault, "name one with --key")
    return [*fitting, *complete][0]


def _remark(named: tuple[str, str], others: Sequence[str]) -> str:
    """Words for the prefix of a name in the network and the file, with the wrappers, and for tensors left out."""
    wrapper = named[1].removesuffix(named[0])
    parts = [f"prefix '{one_line(wrapper, 80)}' taken off"] if wrapper and named[0] else []
    parts += [f"{len(others)} other tensors left out (such as {one_line(others[0], 80)})"] if others else []
    return "; ".join(parts)


def _further(prefix: str, complete: list[str], expected: Mapping[str, Shape], bare: Mapping[str, str]) -> list[str]:
    """Tensors under a prefix, and under no other network's, that the network has not."""
    inner = tuple(other for other in complete if other != prefix and other.startswith(prefix))
    under = [name for name in bare if name.startswith(prefix) and not name.startswith(inner)]
    return [name for name in under if name.removeprefix(prefix) not in {*expected, *_COUNTERS}]


def _refuse_part(path: str | os.PathLike[str]) -> None:
    if shard := _SHARD.search(os.path.basename(path)):
        fault = f"is part {int(shard[1])} of {int(shard[2])} of the weights"
        raise UserError(path, fault, "load all parts and save their tensors in one file first")


def _refuse(path: str | os.PathLike[str], expected: Mapping[str, Shape], bare: Mapping[str, str]) -> NoReturn:
    """Raises the error of a file that has the network's names under no prefix."""
    _refuse_part(path)
    begins = sorted({name.partition(".")[0] for name in bare})
    missing_names = (name for name in expected if not any(f".{other}".endswith(f".{name}") for other in bare))
    missing = next(missing_names, next(iter(expected)))
    texts = ", ".join(one_line(begin, 40) for begin in begins[:8])
    fault = f"has no tensor '{missing}' of the architecture under any prefix (its names begin with {texts or 'none'})"
    raise UserError(path, fault, f"{OTHER}, or the entry with it (--key)")
