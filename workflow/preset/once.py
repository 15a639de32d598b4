"""Functions of a preset whose results are kept, since a preset is never changed."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def once(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that computes each result once; presets are told apart by identity.

    In contrast to :func:`functools.cache`, type checkers know the arguments.
    """
    return cast("Callable[Arguments, Result]", functools.cache(function))
