"""The comparisons of tensors and arrays, and the bounds of rounding.

Numbers of two computations are near (:func:`assert_near`; pictures: :func:`assert_levels`). Bits are equal of two runs
of one computation (:func:`same_bits`), of a copy (:func:`is_copy`) and of whole numbers (:func:`same_integers`).

A sum in another order has other last digits, and kernels of another processor, batch size or layout add in another
order. That error is one of the largest terms, so bounds are against the largest value, never against each small one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

#: Bounds of rounding: of values of a type, and of gradients of losses in float32, whose terms cancel. Two orders of n
#: terms differ by about √n units in the last place, and networks sum thousands of terms in tens of layers. Each bound
#: is at least ten times what kernels for AVX-512 differ by from the recorded values: 4e-6, 3e-14 and 2e-5.
FLOAT32, FLOAT64, GRADIENT = 5e-5, 1e-12, 2e-4


def relative_error(actual: Any, expected: Any, scale: float | None = None, each: bool = False) -> float:
    """Largest absolute difference divided by the largest magnitude of ``expected``; both have the same NaNs.

    Args:
        actual: Computed values.
        expected: Values of the same shape.
        scale: Magnitude to divide by instead, of terms that cancel or of other values of the same sum.
        each: Divide by each value's own magnitude: formulas of one term, such as levels from 0.002 to 80.
    """
    actual, expected = (np.asarray(x.detach().cpu() if hasattr(x, "detach") else x) for x in (actual, expected))
    assert actual.shape == expected.shape, f"shape {actual.shape} != {expected.shape}"
    nan = np.isnan(expected)
    assert same_integers(np.isnan(actual), nan), "other values are NaN"
    actual, expected = (np.where(nan, 0, values).astype(np.float64) for values in (actual, expected))
    sizes = np.abs(expected) if each else np.asarray(scale or np.abs(expected).max(initial=0))
    return float((np.abs(actual - expected) / np.where(sizes > 0, sizes, 1)).max(initial=0))


def assert_near(
    actual: Any,
    expected: Any,
    bound: float | None = None,
    *,
    scale: float | None = None,
    each: bool = False,
    name: str = "",
) -> None:
    """Asserts that values are equal up to rounding, or up to ``bound``.

    Args:
        actual: Computed values.
        expected: Values of the same shape.
        bound: Of :func:`relative_error`; None: that of the coarser of both types.
        scale: See :func:`relative_error`.
        each: See :func:`relative_error`.
        name: Name of the values in a message.
    """
    is_single = any(str(getattr(values, "dtype", "")).endswith("float32") for values in (actual, expected))
    if bound is None:
        bound = FLOAT32 if is_single else FLOAT64
    error = relative_error(actual, expected, scale, each)
    assert error <= bound, f"{name or 'values'} differ by {error:.2g} of the largest; the bound is {bound:.2g}"


def assert_levels(actual: Any, expected: Any) -> None:
    """Asserts that pictures of two computations are equal but for rounding.

    Args:
        actual: uint8 values.
        expected: uint8 values of the same shape; at most 1 % of them differ, by one level.
    """
    actual, expected = (np.asarray(values) for values in (actual, expected))
    assert (actual.dtype, actual.shape) == (np.uint8, expected.shape) == (expected.dtype, actual.shape)
    levels = np.abs(actual.astype(int) - expected)
    assert levels.max(initial=0) <= 1, f"values differ by {levels.max()} levels"
    assert (levels != 0).mean() < 0.01, f"{(levels != 0).mean():.2%} of the values differ"


def same_bits(run: Any, again: Any) -> bool:
    """Whether two runs of one computation have the same bits: resumed, in shares, in another order, of another seed.

    Args:
        run: Values: a tensor, an array, None, or nested mappings and sequences of them.
        again: Values of the same computation on the same machine. Another way to the same numbers is near them.
    """
    return _equal(run, again)


def is_copy(values: Any, source: Any) -> bool:
    """Whether values are those of their source, from which they were copied, read, cut or cast; none was computed.

    Args:
        values: See :func:`same_bits`.
        source: The same.
    """
    return _equal(values, source)


def same_integers(values: Any, expected: Any) -> bool:
    """Whether whole numbers or truth values are equal.

    Args:
        values: A tensor or an array.
        expected: The same.
    """
    assert not any(np.asarray(part).dtype.kind in "fc" for part in (values, expected)), "these are no whole numbers"
    return _equal(values, expected)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if one is None or other is None:
        return one is other
    if torch.is_tensor(one) and torch.is_tensor(other):
        return torch.equal(one, other)  # noqa: TID251 - these are the helpers
    return np.array_equal(*(x.detach().cpu() if torch.is_tensor(x) else x for x in (one, other)))  # noqa: TID251


def assert_same(actual: Any, expected: Any, bound: float = 1e-9) -> None:
    """Asserts that nested mappings and lists are equal, numbers up to a share of each.

    Args:
        actual: Values as JSON has them.
        expected: The same.
        bound: Largest difference of a number as a share of it.
    """
    ours, theirs = ([*_leaves(values)] for values in (actual, expected))
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    for (path, value), (_, wanted) in zip(ours, theirs):
        is_number = isinstance(wanted, float) and isinstance(value, float)
        assert value == wanted or (is_number and abs(value - wanted) <= bound * abs(wanted)), path


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict | list) and values:
        for key, item in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _leaves(item, f"{path}/{key}")
    else:
        yield path, values
