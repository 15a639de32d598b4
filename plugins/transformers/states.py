"""State dicts of SiT, REPA and DiT: the network's arguments by the tensors, and by the arguments of its training.

The files of all three have tensors of the same names, and none describes its architecture.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from sida.errors import SettingError, one_line
from sida.networks.precond import StateReading

#: Depth, width and attention heads of the published sizes (DiT, arXiv:2212.09748, table 1).
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
#: Name of the label table, and the classes of the published networks.
_LABELS, _IMAGENET = "y_embedder.embedding_table.weight", 1000


def read_transformer(
    cls: str,
    trained_as: Mapping[str, tuple[str, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    kwargs: Mapping[str, Any],
    arguments: Mapping[str, Any] | None,
) -> StateReading:
    """How a state dict becomes a network: its tensors say the sizes, the user or the file says classes and heads.

    No shape depends on the heads, and none says whether the last row of the label table is a class; a wrong number
    changes images a little, so neither is guessed. Only a table of 1,001 rows is ImageNet's classes and no class; and
    where the file has arguments of its training and none on classes, the trainings' default counts, a last row for no
    class, and a remark says so. A table without a row for no class gets one of zeros, which no training knows. REPA's
    alignment heads are left out, and its earlier ``decoder_blocks`` follow ``blocks``.

    Args:
        cls: Name of the network's class.
        trained_as: See `TransformerPrecond.trained_as`.
        shapes: Shapes of the tensors, see `Precond.read_state`.
        kwargs: Constructor arguments that the user names.
        arguments: Arguments of the training in the file; None without an entry of them.

    Raises:
        SettingError: See `Precond.read_state`.

    Source: sihyun-yu/REPA:utils.py (``load_legacy_checkpoints``).
    """
    first = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    names, projectors = {}, [name for name in shapes if name.startswith("projectors.")]
    for name in shapes.keys() - {*projectors}:
        part, _, rest = name.partition(".")
        number, _, inner = rest.partition(".")
        legacy = part == "decoder_blocks" and number.isdecimal()
        names[f"blocks.{first + int(number)}.{inner}" if legacy else name] = name
    of = lambda name, rank: shape if len(shape := shapes.get(names.get(name, ""), ())) == rank else (0,) * rank
    width, channels, patch, _ = of("x_embedder.proj.weight", 4)
    tokens, values = of("pos_embed", 3)[1], of("final_layer.linear.weight", 2)[0]
    if not (width and channels and patch and tokens):
        fault = "the file is not a transformer of SiT, REPA or DiT (pos_embed, x_embedder.proj.weight)"
        raise SettingError("network.class", fault, "name another class")
    stated = arguments or {}
    for name, values_read in trained_as.items():
        if str(stated.get(name, values_read[0])).lower() not in values_read:
            fault = f"the file was trained with {name} {one_line(str(stated[name]), 40)}"
            raise SettingError("network.class", fault, f"{cls} is for {' or '.join(values_read)}")
    depth = len({name.split(".")[1] for name in names if name.startswith("blocks.")})
    rows = of(_LABELS, 2)[0]
    classes, labels = _classes_of(rows, kwargs, arguments)
    heads, remark = _heads_of(depth, width, kwargs, stated)
    _check_stated(cls, {"label_dim": classes, "num_heads": heads}, depth, width, rows, kwargs)
    more_rows = max(classes + 1 - rows, 0) if classes else 0
    sizes = {
        "img_resolution": math.isqrt(tokens) * patch,
        "img_channels": channels,
        "label_dim": classes,
        "patch_size": patch,
        "hidden_size": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": of("blocks.0.mlp.fc1.weight", 2)[0] / width,
        "learn_sigma": values == 2 * channels * patch**2,
        **({"label_dropout": 0.0} if more_rows else {}),
    }
    omitted = f"{len(projectors)} tensors of alignment heads (projectors)" if projectors else ""
    zero_rows = {_LABELS: more_rows} if more_rows else {}
    return StateReading({**sizes, **kwargs}, names, omitted, zero_rows, tuple(filter(None, (labels, remark))))


def _classes_of(rows: int, kwargs: Mapping[str, Any], arguments: Mapping[str, Any] | None) -> tuple[int | None, str]:
    """Number of classes of a label table, None if nothing says it, and a remark.

    Raises:
        SettingError: The table has other rows than the named or recorded classes.
    """
    if rows < 2:
        return 0, ""
    stated = arguments or {}
    dropped = next((stated[name] for name in ("class_dropout_prob", "cfg_prob") if name in stated), None)
    own = stated.get("num_classes")
    own = own if type(own) is int else None
    if own is None and isinstance(dropped, int | float):
        own = rows - 1 if dropped else rows
    named = kwargs.get("label_dim", own)
    if named is None:
        if arguments is None and rows != _IMAGENET + 1:
            return None, ""
        default = ", the default of its training; if each row is a class, name label_dim"
        return rows - 1, f"{rows - 1:,} classes and no class{default if rows != _IMAGENET + 1 else ''}"
    if named not in (rows, rows - 1):
        fault = f"{named}, but the label table has {rows} rows: one for each class, and mostly one for no class"
        raise SettingError("network.kwargs.label_dim", fault, f"give {rows - 1}, or {rows} without a row for no class")
    return named, f"label_dim {named} as named; the file's arguments say {own}" if own not in (None, named) else ""


def _heads_of(
    depth: int, width: int, kwargs: Mapping[str, Any], arguments: Mapping[str, Any]
) -> tuple[int | None, str]:
    """Number of attention heads, None if nothing says it, and a remark."""
    size = re.match(r"\w+-(S|B|L|XL)\b", str(arguments.get("model", "")))
    own = arguments.get("num_heads") or (SIZES[size[1]][2] if size and SIZES[size[1]][:2] == (depth, width) else None)
    if "num_heads" in kwargs:
        named = kwargs["num_heads"]
        return named, f"num_heads {named} as named; the file's arguments say {own}" if own not in (None, named) else ""
    return own if type(own) is int else None, ""


def _check_stated(
    cls: str, found: Mapping[str, int | None], depth: int, width: int, rows: int, kwargs: Mapping[str, Any]
) -> None:
    """Asks for all numbers that neither the user nor the file says, in one command.

    Raises:
        SettingError: A number is None.
    """
    published = next((number for *sizes, number in SIZES.values() if sizes == [depth, width]), None)
    known = f"; the published one has {published}" if published else ""
    hints = {
        "label_dim": f"label_dim (its table has {rows} rows, the last mostly of no class)",
        "num_heads": f"num_heads (depth {depth}, width {width}{known})",
    }
    likely = {"label_dim": rows - 1, "num_heads": published or "..."}
    if asked := [name for name, value in found.items() if value is None]:
        named = json.dumps({"class": cls, "kwargs": {**kwargs, **{name: likely[name] for name in asked}}})
        fault = f"the file does not say {' and '.join(hints[name] for name in asked)}"
        raise SettingError("network.kwargs", fault, f"name it: --network '{named}'")
